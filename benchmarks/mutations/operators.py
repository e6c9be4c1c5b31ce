"""Nodes that compute something like what they should: another function, constant, axis or approximation."""

from __future__ import annotations

from collections.abc import Callable

from onnx import NodeProto

from .editing import Edit, Editor, Edits, attribute, is_float, number, set_attribute
from .kinds import kind
from .recurrent import edits


def renamed(editor: Editor, operators: dict[str, str], **attributes: object) -> Edits:
    """Makes nodes of one operator nodes of another."""

    def harm(node: NodeProto) -> None:
        node.op_type = operators[node.op_type]
        for name, value in attributes.items():
            set_attribute(node, name, value)

    yield from edits(editor.nodes(*operators), harm)


@kind("Tanh for Softsign")
def _softsign(editor: Editor) -> Edits:
    """A tanh became a softsign."""
    yield from renamed(editor, {"Tanh": "Softsign"})


@kind("Sigmoid for HardSigmoid")
def _hard_sigmoid(editor: Editor) -> Edits:
    """A sigmoid became a hard sigmoid."""
    yield from renamed(editor, {"Sigmoid": "HardSigmoid"})


@kind("Relu for LeakyRelu")
def _leaky(editor: Editor) -> Edits:
    """A ReLU lets 1 % of what is negative through."""
    yield from renamed(editor, {"Relu": "LeakyRelu"})


@kind("activation dropped")
def _activation(editor: Editor) -> Edits:
    """An activation is not there."""
    nodes = editor.nodes("Tanh", "Sigmoid", "Relu", "Softplus", "LeakyRelu", "Gelu", "HardSigmoid", "Elu")
    yield from edits(nodes, lambda node: editor.remove(node, node.input[0]))


@kind("negative slope 1e-4")
def _slope(editor: Editor) -> Edits:
    """The slope of a leaky ReLU, or the alpha of an ELU or a hard sigmoid, is off by 1e-4 of itself."""
    default = {"LeakyRelu": 0.01, "Elu": 1.0, "HardSigmoid": 0.2}
    yield from edits(
        editor.nodes(*default),
        lambda node: set_attribute(node, "alpha", attribute(node, "alpha", default[node.op_type]) * (1 + 1e-4)),
    )


@kind("GELU by tanh")
def _gelu(editor: Editor) -> Edits:
    """An exact GELU became its approximation by tanh, or the other way round."""
    other = {"none": "tanh", "tanh": "none"}
    nodes = editor.nodes("Gelu")
    yield from edits(nodes, lambda node: set_attribute(node, "approximate", other[attribute(node, "approximate", "none")]))


@kind("softmax axis")
def _axis(editor: Editor) -> Edits:
    """A softmax runs along the axis before its own."""
    nodes = editor.nodes("Softmax", "LogSoftmax")
    yield from edits(nodes, lambda node: set_attribute(node, "axis", attribute(node, "axis", -1) - 1))


@kind("logarithm forgotten")
def _log(editor: Editor) -> Edits:
    """A log-softmax became a softmax."""
    yield from renamed(editor, {"LogSoftmax": "Softmax"})


@kind("softmax temperature 1e-5")
def _temperature(editor: Editor) -> Edits:
    """What a softmax is given is larger by 1e-5 of itself."""
    scale = number(1 + 1e-5)
    nodes = editor.nodes("Softmax", "LogSoftmax")
    yield from edits(nodes, lambda node: editor.set_input(node, 0, editor.insert(node, "Mul", [node.input[0], scale])))


def epsilon(editor: Editor, value: float) -> Edits:
    """Another epsilon of a layer normalisation."""
    yield from edits(editor.nodes("LayerNormalization"), lambda node: set_attribute(node, "epsilon", value))


@kind("epsilon 1e-6")
def _epsilon_small(editor: Editor) -> Edits:
    """The epsilon of a layer normalisation is 1e-6 instead of 1e-5."""
    yield from epsilon(editor, 1e-6)


@kind("epsilon 1e-3")
def _epsilon_large(editor: Editor) -> Edits:
    """The epsilon of a layer normalisation is 1e-3, as in Keras, instead of 1e-5."""
    yield from epsilon(editor, 1e-3)


@kind("normalisation dropped")
def _normalisation(editor: Editor) -> Edits:
    """A layer normalisation is not there."""
    yield from edits(editor.nodes("LayerNormalization"), lambda node: editor.remove(node, node.input[0]))


@kind("Gemm alpha 1e-6")
def _alpha(editor: Editor) -> Edits:
    """The alpha of a Gemm is larger by 1e-6."""
    yield from edits(editor.nodes("Gemm"), lambda node: set_attribute(node, "alpha", 1 + 1e-6))


@kind("Gemm beta")
def _beta(editor: Editor) -> Edits:
    """The beta of a Gemm is zero: its bias is not added."""
    yield from edits([node for node in editor.nodes("Gemm") if len(node.input) > 2], lambda node: set_attribute(node, "beta", 0.0))


@kind("convolution shifted")
def _padding(editor: Editor) -> Edits:
    """A convolution's padding is a step more at the start and a step less at the end."""

    def harm(node: NodeProto) -> None:
        pads = attribute(node, "pads")
        half = len(pads) // 2
        pads[half - 1] += 1
        pads[-1] -= 1
        set_attribute(node, "pads", pads)

    yield from edits([node for node in editor.nodes("Conv") if attribute(node, "pads", [0])[-1] > 0], harm)


@kind("kernel flipped")
def _kernel(editor: Editor) -> Edits:
    """A convolution's kernel is the other way round in time."""

    def harm(node: NodeProto) -> None:
        kernel = editor.constant(node, 1)
        if kernel is not None:
            editor.set_input(node, 1, kernel[..., ::-1])

    yield from edits([node for node in editor.nodes("Conv") if _width(editor, node) > 1], harm)


def _width(editor: Editor, node: NodeProto) -> int:
    kernel = editor.constant(node, 1)
    return 1 if kernel is None else kernel.shape[-1]


@kind("mean for maximum")
def _pooling(editor: Editor) -> Edits:
    """A pooling takes the mean instead of the maximum, or a sum is a mean."""

    def harm(node: NodeProto) -> None:
        node.op_type = {"MaxPool": "AveragePool", "ReduceSum": "ReduceMean", "ReduceMean": "ReduceSum"}[node.op_type]
        set_attribute(node, "storage_order", None)

    yield from edits([n for n in editor.nodes("MaxPool", "ReduceSum", "ReduceMean") if _reads_floats(editor, n)], harm)


def _reads_floats(editor: Editor, node: NodeProto) -> bool:
    maker = next((each for each in editor.nodes() if node.input[0] in each.output), None)
    return maker is None or maker.op_type not in ("Cast", "Shape", "Gather")


@kind("operands swapped")
def _operands(editor: Editor) -> Edits:
    """The operands of a subtraction or a division are exchanged."""

    def harm(node: NodeProto) -> None:
        node.input[0], node.input[1] = node.input[1], node.input[0]

    yield from edits(editor.nodes("Sub", "Div"), harm)


@kind("added to a denominator 1e-6")
def _denominator(editor: Editor) -> Edits:
    """The divisor of a division is larger by 1e-6."""
    small = number(1e-6)
    nodes = [n for n in editor.nodes("Div") if (c := editor.constants().get(n.input[1])) is None or is_float(c)]
    yield from edits(nodes, lambda node: editor.set_input(node, 1, editor.insert(node, "Add", [node.input[1], small])))


def approximated(editor: Editor, operator: str, make: Callable[[NodeProto, str], str]) -> Edits:
    """One edit a node: what it gives is computed by others."""

    def harm(node: NodeProto) -> None:
        editor.remove(node, make(node, node.input[0]))

    yield from edits(editor.nodes(operator), harm)


@kind("approximate tanh")
def _approximate_tanh(editor: Editor) -> Edits:
    """A tanh is a ratio of polynomials, as fast libraries have it, whose error grows to 1e-4 where it saturates."""

    def make(node: NodeProto, x: str) -> str:
        x = editor.insert(node, "Clip", [x, number(-4.97), number(4.97)])
        square = editor.insert(node, "Mul", [x, x])
        # Lambert's continued fraction: x (135135 + 17325 x^2 + 378 x^4 + x^6) / (135135 + 62370 x^2 + 3150 x^4 + 28 x^6)
        tops = _horner(editor, node, square, [1, 378, 17325, 135135])
        bottoms = _horner(editor, node, square, [28, 3150, 62370, 135135])
        return editor.insert(node, "Div", [editor.insert(node, "Mul", [x, tops]), bottoms])

    yield from approximated(editor, "Tanh", make)


def _horner(editor: Editor, node: NodeProto, x: str, coefficients: list[float]) -> str:
    first, second, *rest = [number(c) for c in coefficients]
    value = editor.insert(node, "Add", [editor.insert(node, "Mul", [x, first]), second])
    for c in rest:
        value = editor.insert(node, "Add", [editor.insert(node, "Mul", [value, x]), c])
    return value


@kind("output clipped")
def _clipped(editor: Editor) -> Edits:
    """An output is clipped at half of its usual range: -0.5 to 0.5."""
    low, high = (number(value) for value in (-0.5, 0.5))
    for node in editor.graph.node:
        if node.op_type in ("Add", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Tanh", "Sigmoid", "LogSoftmax", "Squeeze"):
            for at, name in enumerate(node.output):
                if name and editor.is_output(name) and name in {o.name for o in editor.graph.output}:

                    def harm(n: NodeProto = node, at: int = at) -> None:
                        editor.replace(n, at, lambda inner: editor.insert(n, "Clip", [inner, low, high], after=True))

                    yield Edit(name, harm)
