"""What TensorRT's importer makes of ONNX graphs, evaluated in NumPy, against ONNX Runtime and, where the two differ, equations."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from tensorrt_graphs import by_onnxruntime, by_tensorrt, graph_bytes, node

from edgeseq_runtime.errors import InputError, UsageError

pytest.importorskip("tensorrt_rtx", reason='needs TensorRT\'s importer, no GPU: pip install "edgeseq[tensorrt-rtx]"')
pytestmark = pytest.mark.tensorrt

T, B, I, H = 5, 2, 3, 4  # noqa: E741
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = draw(T, B, I)
POSITIVE = np.abs(X) + 0.1
WHOLE = np.random.default_rng(3).integers(-9, 10, (T, B, I))
NON_ZERO = np.where(WHOLE == 0, 4, WHOLE)
FLAGS = X > 0


def ints(*values):
    return np.array(values, np.int64)


# name: nodes that end in y, inputs, constants
OPERATORS = {
    **{op: ([node(op, ["x"], ["y"])], {"x": X}, {}) for op in ("Abs", "Neg", "Round", "Exp", "Sin", "Cos", "Tanh", "Relu")},
    **{op: ([node(op, ["x"], ["y"])], {"x": X}, {}) for op in ("Elu", "Celu", "LeakyRelu", "Sigmoid", "Softsign", "Softplus")},
    **{op: ([node(op, ["x"], ["y"])], {"x": X}, {}) for op in ("Erf", "Gelu", "Mish", "HardSwish", "Floor", "Ceil", "Sign")},
    "Gelu(tanh)": ([node("Gelu", ["x"], ["y"], approximate="tanh")], {"x": X}, {}),
    "Selu(1.5, 0.9)": ([node("Selu", ["x"], ["y"], alpha=1.5, gamma=0.9)], {"x": X}, {}),
    "LeakyRelu(0.3)": ([node("LeakyRelu", ["x"], ["y"], alpha=0.3)], {"x": X}, {}),
    "ThresholdedRelu(0.3)": ([node("ThresholdedRelu", ["x"], ["y"], alpha=0.3)], {"x": X}, {}),
    "Not": ([node("Not", ["x"], ["y"])], {"x": FLAGS}, {}),
    **{op: ([node(op, ["x"], ["y"])], {"x": POSITIVE}, {}) for op in ("Log", "Sqrt", "Reciprocal", "HardSigmoid")},
    **{op: ([node(op, ["x", "b"], ["y"])], {"x": X}, {"b": draw(I, seed=1)}) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")},
    **{op: ([node(op, ["x", "b"], ["y"])], {"x": X}, {"b": draw(B, 1, seed=1)}) for op in ("Greater", "Less", "GreaterOrEqual")},
    **{
        f"{op}(int)": ([node(op, ["x", "b"], ["y"])], {"x": WHOLE, "b": NON_ZERO}, {})
        for op in ("Add", "Mul", "Div", "Equal", "Max")
    },
    "Mod(int)": ([node("Mod", ["x", "b"], ["y"])], {"x": WHOLE, "b": NON_ZERO}, {}),
    "Pow": ([node("Pow", ["x", "b"], ["y"])], {"x": POSITIVE}, {"b": np.float32(1.7)}),
    "PRelu": ([node("PRelu", ["x", "s"], ["y"])], {"x": X}, {"s": draw(I, seed=1)}),
    "Where": ([node("Where", ["f", "x", "b"], ["y"])], {"f": FLAGS, "x": X}, {"b": np.float32(2)}),
    "And": ([node("And", ["f", "g"], ["y"])], {"f": FLAGS, "g": WHOLE > 0}, {}),
    "Xor": ([node("Xor", ["f", "g"], ["y"])], {"f": FLAGS, "g": WHOLE > 0}, {}),
    "Clip": ([node("Clip", ["x", "low", "high"], ["y"])], {"x": X}, {"low": np.float32(-0.4), "high": np.float32(0.7)}),
    "Cast(down)": ([node("Cast", ["x"], ["y"], to=onnx.TensorProto.INT64)], {"x": 3 * X}, {}),
    "Cast(bool)": ([node("Cast", ["x"], ["y"], to=onnx.TensorProto.BOOL)], {"x": WHOLE}, {}),
    "Cast(half)": ([node("Cast", ["x"], ["y"], to=onnx.TensorProto.FLOAT16)], {"x": X}, {}),
    **{
        f"{op}({axes}, {keep})": ([node(op, ["x", "a"], ["y"], keepdims=keep)], {"x": X}, {"a": ints(*axes)})
        for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceLogSumExp")
        for axes, keep in (((0,), 1), ((-1, 1), 0))
    },
    **{f"Softmax({axis})": ([node("Softmax", ["x"], ["y"], axis=axis)], {"x": X}, {}) for axis in (0, 1, -1)},
    "LogSoftmax": ([node("LogSoftmax", ["x"], ["y"], axis=-1)], {"x": X}, {}),
    "ArgMax": ([node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)], {"x": X}, {}),
    "ArgMin": ([node("ArgMin", ["x"], ["y"], axis=-1)], {"x": X}, {}),
    "TopK": ([node("TopK", ["x", "k"], ["y", "i"], axis=2)], {"x": X}, {"k": ints(2)}),
    "TopK(smallest)": ([node("TopK", ["x", "k"], ["v", "y"], axis=2, largest=0)], {"x": X}, {"k": ints(2)}),
    "CumSum": ([node("CumSum", ["x", "a"], ["y"])], {"x": X}, {"a": ints(0)}),
    "CumSum(exclusive, reverse)": ([node("CumSum", ["x", "a"], ["y"], exclusive=1, reverse=1)], {"x": X}, {"a": ints(0)}),
    "LayerNormalization": (
        [node("LayerNormalization", ["x", "s", "b"], ["y"], axis=-1, epsilon=1e-3)],
        {"x": X},
        {"s": draw(I, seed=1), "b": draw(I, seed=2)},
    ),
    "InstanceNormalization": (
        [node("InstanceNormalization", ["x", "s", "b"], ["y"])],
        {"x": draw(2, 4, 6)},
        {"s": draw(4, seed=1), "b": draw(4, seed=2)},
    ),
    "GroupNormalization": (
        [node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)],
        {"x": draw(2, 4, 6)},
        {"s": draw(2, seed=1), "b": draw(2, seed=2)},
    ),
    "BatchNormalization": (
        [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])],
        {"x": draw(2, 4, 6, 3)},
        {"s": draw(4, seed=1), "b": draw(4, seed=2), "m": draw(4, seed=3), "v": np.abs(draw(4, seed=4))},
    ),
    "MatMul": ([node("MatMul", ["x", "w"], ["y"])], {"x": X}, {"w": draw(I, H, seed=1)}),
    "MatMul(batched)": ([node("MatMul", ["x", "w"], ["y"])], {"x": X, "w": draw(T, I, H, seed=1)}, {}),
    "MatMul(vector)": ([node("MatMul", ["x", "w"], ["y"])], {"x": X}, {"w": draw(I, seed=1)}),
    "Gemm": (
        [node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5, beta=2.0)],
        {"x": draw(B, I)},
        {"w": draw(H, I, seed=1), "b": draw(H, seed=2)},
    ),
    "Einsum": ([node("Einsum", ["x", "w"], ["y"], equation="tbi,sbi->bts")], {"x": X, "w": draw(4, B, I, seed=1)}, {}),
    "Transpose": ([node("Transpose", ["x"], ["y"], perm=[2, 0, 1])], {"x": X}, {}),
    "Reshape": ([node("Reshape", ["x", "s"], ["y"])], {"x": X}, {"s": ints(0, -1)}),
    "Flatten": ([node("Flatten", ["x"], ["y"], axis=2)], {"x": X}, {}),
    "Squeeze": ([node("Squeeze", ["x", "a"], ["y"])], {"x": X[:1]}, {"a": ints(0)}),
    "Unsqueeze": ([node("Unsqueeze", ["x", "a"], ["y"])], {"x": X}, {"a": ints(-1, 1)}),
    "Shape": ([node("Shape", ["x"], ["y"], start=1)], {"x": X}, {}),
    "Concat": ([node("Concat", ["x", "b", "x"], ["y"], axis=1)], {"x": X, "b": draw(T, 1, I, seed=1)}, {}),
    "Split": ([node("Split", ["x", "s"], ["a", "y"], axis=0)], {"x": X}, {"s": ints(2, 3)}),
    "Expand": ([node("Expand", ["x", "s"], ["y"])], {"x": X[:, :1]}, {"s": ints(1, 6, 1)}),
    "Tile": ([node("Tile", ["x", "r"], ["y"])], {"x": X}, {"r": ints(1, 3, 2)}),
    "Slice": (
        [node("Slice", ["x", "s", "e", "a", "p"], ["y"])],
        {"x": X},
        {"s": ints(-4, 0), "e": ints(2**62, 2), "a": ints(0, 2), "p": ints(2, 1)},
    ),
    "Slice(backwards)": (
        [node("Slice", ["x", "s", "e", "a", "p"], ["y"])],
        {"x": X},
        {"s": ints(-1), "e": ints(-(2**62)), "a": ints(0), "p": ints(-1)},
    ),
    **{
        f"Pad({mode})": ([node("Pad", ["x", "p"], ["y"], mode=mode)], {"x": X}, {"p": ints(2, 0, 1, 1, 0, 2)})
        for mode in ("constant", "edge", "reflect", "wrap")
    },
    "Pad(value)": ([node("Pad", ["x", "p", "v"], ["y"])], {"x": X}, {"p": ints(2, 0, 0, 0, 0, 1), "v": np.float32(3)}),
    "Gather": ([node("Gather", ["x", "i"], ["y"], axis=1)], {"x": X}, {"i": ints(1, 0, 0, 1).reshape(2, 2)}),
    "GatherElements": ([node("GatherElements", ["x", "i"], ["y"], axis=0)], {"x": X}, {"i": np.abs(WHOLE)[:2] % T}),
    "GatherND": ([node("GatherND", ["x", "i"], ["y"])], {"x": X}, {"i": ints(4, 1, 0, 0, 2, 1).reshape(3, 2)}),
    "GatherND(batch)": ([node("GatherND", ["x", "i"], ["y"], batch_dims=1)], {"x": X}, {"i": ints(1, 0, 0, 1, 1).reshape(5, 1)}),
    "ScatterElements": (
        [node("ScatterElements", ["x", "i", "u"], ["y"], axis=0)],
        {"x": X},
        {"i": np.array([[[1, 2, 0], [3, 0, 4]]]), "u": draw(1, B, I, seed=1)},
    ),
    "ScatterND": (
        [node("ScatterND", ["x", "i", "u"], ["y"])],
        {"x": X},
        {"i": ints(4, 0, 1).reshape(3, 1), "u": draw(3, B, I, seed=1)},
    ),
    "OneHot": ([node("OneHot", ["i", "d", "v"], ["y"], axis=1)], {"i": np.abs(WHOLE[:, :, 0])}, {"d": ints(7), "v": draw(2)}),
    "Range": ([node("Range", ["a", "n", "s"], ["y"])], {"n": np.array(17)}, {"a": np.array(2), "s": np.array(3)}),
    "ConstantOfShape": (
        [node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["y"], value=helper.make_tensor("v", 1, [1], [2.5]))],
        {"x": X},
        {},
    ),
    "Trilu": ([node("Trilu", ["x"], ["y"], upper=0)], {"x": draw(2, 5, 5)}, {}),
    "ReverseSequence": (
        [node("ReverseSequence", ["x", "n"], ["y"], time_axis=0, batch_axis=1)],
        {"x": X, "n": ints(3, 5)},
        {},
    ),
    "Conv": (
        [node("Conv", ["x", "w", "b"], ["y"], dilations=[2], strides=[2], pads=[3, 1])],
        {"x": draw(2, 4, 11)},
        {"w": draw(6, 4, 3, seed=1), "b": draw(6, seed=2)},
    ),
    "Conv(groups)": ([node("Conv", ["x", "w"], ["y"], group=2)], {"x": draw(2, 4, 9, 7)}, {"w": draw(6, 2, 3, 2, seed=1)}),
    "MaxPool": ([node("MaxPool", ["x"], ["y"], kernel_shape=[3], strides=[2], pads=[1, 1])], {"x": draw(2, 4, 11)}, {}),
    **{
        f"AveragePool({count})": (
            [node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=count)],
            {"x": draw(2, 4, 9, 7)},
            {},
        )
        for count in (0, 1)
    },
    "GlobalAveragePool": ([node("GlobalAveragePool", ["x"], ["y"])], {"x": draw(2, 4, 9, 7)}, {}),
}
# Sizes that TensorRT must know when it parses: of channels, and where a shape is made of them.
STATIC = ("Conv", "Conv(groups)", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "Squeeze", "TopK", "PRelu")


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_what_onnx_runtime_computes(name):
    nodes, inputs, constants = OPERATORS[name]
    outputs = {"y": "float32"}
    plain = onnx.load_from_string(graph_bytes(nodes, inputs, outputs, constants))
    del plain.graph.output[:]
    typed = onnx.shape_inference.infer_shapes(plain)
    dtype = next((v.type.tensor_type.elem_type for v in typed.graph.value_info if v.name == "y"), onnx.TensorProto.FLOAT)
    model = graph_bytes(nodes, inputs, {"y": helper.tensor_dtype_to_np_dtype(dtype)}, constants, dynamic=name not in STATIC)
    expected, found = by_onnxruntime(model, inputs)["y"], by_tensorrt(model, inputs)["y"]
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, **CLOSE)


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}


def recurrent(op, attributes, *, directions=1, lengths=None, states=False, bias=True, peepholes=False, seed=0):
    """A graph of one recurrent node, and its inputs."""
    gates = GATES[op]
    constants = {
        "W": draw(directions, gates * H, I, seed=seed + 1),
        "R": draw(directions, gates * H, H, seed=seed + 2),
        "b": draw(directions, 2 * gates * H, seed=seed + 3),
        "P": draw(directions, 3 * H, seed=seed + 4),
    }
    inputs = {"x": draw(T, B, I, seed=seed)}
    names = ["x", "W", "R", "b" if bias else "", "", "", "", ""]
    if lengths is not None:
        inputs["lengths"], names[4] = np.array(lengths, np.int32), "lengths"
    for at, state in enumerate(("h0", "c0")[: STATES[op]] if states else ()):
        inputs[state], names[5 + at] = draw(directions, B, H, seed=seed + 5 + at), state
    if peepholes:
        names[7] = "P"
    ends = ("h", "c")[: STATES[op]]
    made = node(op, names[: 8 if op == "LSTM" else 6], ["y", *ends], hidden_size=H, **attributes)
    used = {name: array for name, array in constants.items() if name in names}
    return graph_bytes([made], inputs, dict.fromkeys(("y", *ends), "float32"), used), inputs, constants


@settings(max_examples=40, deadline=None)
@given(
    op=st.sampled_from(sorted(GATES)),
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    lengths=st.none() | st.lists(st.integers(1, T), min_size=B, max_size=B),
    states=st.booleans(),
    bias=st.booleans(),
    peepholes=st.booleans(),
    before=st.sampled_from([0, 1]),
    seed=st.integers(0, 1000),
)
def test_a_recurrent_node_is_what_onnx_runtime_computes(op, direction, lengths, states, bias, peepholes, before, seed):
    attributes = {"direction": direction, **({"linear_before_reset": before} if op == "GRU" else {})}
    directions = 2 if direction == "bidirectional" else 1
    if op == "RNN":
        attributes["activations"] = ["Relu"] * directions if before else ["Tanh"] * directions
    model, inputs, _ = recurrent(
        op,
        attributes,
        directions=directions,
        lengths=lengths,
        states=states,
        bias=bias,
        peepholes=peepholes and op == "LSTM",
        seed=seed,
    )
    expected, found = by_onnxruntime(model, inputs), by_tensorrt(model, inputs)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], err_msg=name, rtol=1e-4, atol=1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def clipped_lstm(x, W, R, gate, cell):
    """ONNX's LSTM in float64, its gates clipped before their activations, and its cell before the output's tanh."""
    h = c = np.zeros((B, H))
    y = []
    for frame in x.astype(np.float64):
        i, o, f, g = np.split(np.clip(frame @ W[0].T + h @ R[0].T, -gate, gate), 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(np.clip(c, -cell, cell))
        y.append(h)
    return {"y": np.stack(y)[:, np.newaxis], "h": h[np.newaxis], "c": c[np.newaxis]}


def test_clip_also_clips_the_cell():
    model, inputs, weights = recurrent("LSTM", {"clip": 0.3}, bias=False)
    gates_alone = clipped_lstm(inputs["x"], weights["W"], weights["R"], 0.3, np.inf)
    cell_too = clipped_lstm(inputs["x"], weights["W"], weights["R"], 0.3, 0.3)
    expected, found = by_onnxruntime(model, inputs), by_tensorrt(model, inputs)
    for name in ("y", "h", "c"):
        np.testing.assert_allclose(expected[name], gates_alone[name], **CLOSE)
        np.testing.assert_allclose(found[name], cell_too[name], **CLOSE)
    assert np.abs(found["y"] - expected["y"]).max() > 1e-3


@pytest.mark.parametrize("op", ["GRU", "RNN"])
def test_clip_of_other_nodes_is_as_in_onnx_runtime(op):
    model, inputs, _ = recurrent(op, {"clip": 0.3, **({"activations": ["Tanh"]} if op == "RNN" else {})})
    np.testing.assert_allclose(by_tensorrt(model, inputs)["y"], by_onnxruntime(model, inputs)["y"], **CLOSE)


def test_layout_1_is_ignored():
    batch_first, inputs, _ = recurrent("LSTM", {"layout": 1})
    time_major, _, _ = recurrent("LSTM", {"layout": 0})
    found = by_tensorrt(batch_first, inputs)
    for name, expected in by_onnxruntime(time_major, inputs).items():
        np.testing.assert_allclose(found[name], expected, **CLOSE)
    meant = onnx.reference.ReferenceEvaluator(batch_first).run(None, inputs)[0]
    assert meant.shape == (T, B, 1, H)  # T sequences of B steps
    assert found["y"].shape == (T, 1, B, H)


def test_softplus_without_its_constants_is_zero_everywhere():
    model, inputs, _ = recurrent("RNN", {"activations": ["Softplus"]})
    assert not by_tensorrt(model, inputs)["y"].any()
    assert (by_onnxruntime(model, inputs)["y"] > 0.01).all()


def test_thresholded_relu_without_its_constant_has_another_threshold():
    model, inputs, weights = recurrent("RNN", {"activations": ["ThresholdedRelu"]}, bias=False)
    first = inputs["x"][0] @ weights["W"][0].T
    assert ((first > 0) & (first < 1)).any()
    np.testing.assert_allclose(by_tensorrt(model, inputs)["y"][0, 0], np.where(first > 1, first, 0), **CLOSE)
    np.testing.assert_allclose(by_onnxruntime(model, inputs)["y"][0, 0], np.where(first > 0, first, 0), **CLOSE)


def test_scaled_tanh_without_its_constants_is_tanh():
    model, inputs, weights = recurrent("RNN", {"activations": ["ScaledTanh"]}, bias=False)
    first = inputs["x"][0] @ weights["W"][0].T
    np.testing.assert_allclose(by_tensorrt(model, inputs)["y"][0, 0], np.tanh(first), **CLOSE)
    assert not by_onnxruntime(model, inputs)["y"].any()


def test_selu_without_its_constants_has_rounded_ones():
    model = graph_bytes([node("Selu", ["x"], ["y"])], {"x": X}, {"y": "float32"})
    rounded = 1.0507 * np.where(X > 0, X, 1.6732 * np.expm1(X.astype(np.float64)))
    found = by_tensorrt(model, {"x": X})["y"]
    np.testing.assert_allclose(found, rounded, rtol=1e-6)
    assert np.abs(found / by_onnxruntime(model, {"x": X})["y"] - 1).max() > 3e-5


def test_an_index_from_the_end_of_a_dynamic_axis_is_refused_as_undefined():
    last = {"i": np.array(-1)}
    gather = [node("Gather", ["x", "i"], ["y"], axis=0)]
    known = graph_bytes(gather, {"x": X}, {"y": "float32"}, last, dynamic=False)
    assert np.array_equal(by_tensorrt(known, {"x": X})["y"], X[-1])
    with pytest.raises(InputError, match=r"GATHER.*index -1 into an axis whose size TensorRT does not know"):
        by_tensorrt(graph_bytes(gather, {"x": X}, {"y": "float32"}, last), {"x": X})


@pytest.mark.parametrize("op", sorted(GATES))
def test_a_node_with_lengths_is_not_parsed_in_half_precision(op):
    weights = {"W": draw(1, GATES[op] * H, I), "R": draw(1, GATES[op] * H, H)}
    half = {name: array.astype(np.float16) for name, array in weights.items()}
    inputs = {"x": X.astype(np.float16), "n": np.array([T, 2], np.int32)}
    attributes = {"activations": ["Tanh"]} if op == "RNN" else {}
    with pytest.raises(UsageError, match="has Half and Float"):
        by_tensorrt(
            graph_bytes([node(op, ["x", "W", "R", "", "n"], ["y"], hidden_size=H, **attributes)], inputs, {"y": "float16"}, half),
            inputs,
        )


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (node("LSTM", ["x", "W", "R"], ["y"], hidden_size=H, input_forget=1), "inputForget"),
        (node("RNN", ["x", "W", "R"], ["y"], hidden_size=H, activations=["Affine"]), "Affine"),
        (node("RNN", ["x", "W", "R"], ["y"], hidden_size=H, activations=["Tanh", "Tanh"]), "checkRNN"),
        (node("NonZero", ["x"], ["y"]), "NonZero"),
        (node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"]), "DynamicQuantizeLinear"),
        (node("Compress", ["x", "f"], ["y"]), "Compress"),
    ],
    ids=["input_forget", "Affine", "two activations", "NonZero", "DynamicQuantizeLinear", "Compress"],
)
def test_what_cannot_be_parsed_is_refused_with_the_parser_s_reason(made, message):
    gates = GATES.get(made.op_type, 1)
    weights = {"W": draw(1, gates * H, I), "R": draw(1, gates * H, H), "f": np.array([True])}
    with pytest.raises(UsageError, match=f"can't parse the model: .*{message}"):
        by_tensorrt(graph_bytes([made], {"x": X}, {"y": "float32"}, weights), {"x": X})


FLOW = {
    "Scan": """agraph (float[T,B,3] x, float[B,3] h) => (float[a,b] last, float[T,b,3] y) {
        last, y = Scan <num_scan_inputs = 1, body = step (float[B,3] s, float[B,3] e) => (float[B,3] t, float[B,3] u) {
            sum = Add(s, e)
            t = Tanh(sum)
            u = Neg(t)
        }> (h, x)
    }""",
    "Scan(backwards)": """agraph (float[T,B,3] x, float[B,3] h) => (float[a,b] last, float[T,b,3] y) {
        last, y = Scan <num_scan_inputs = 1, scan_input_directions = [1], scan_output_directions = [1],
                body = step (float[B,3] s, float[B,3] e) => (float[B,3] t, float[B,3] u) {
            sum = Add(s, e)
            t = Tanh(sum)
            u = Identity(t)
        }> (h, x)
    }""",
    "Scan(two states, invariant)": """agraph (float[T,B,3] x, float[B,3] h) => (float[a,b] last, float[c,d] other, float[T,b,3] y) {
        w = Exp(h)
        last, other, y = Scan <num_scan_inputs = 1,
                body = step (float[B,3] s, float[B,3] q, float[B,3] e) => (float[B,3] t, float[B,3] r, float[B,3] u) {
            scaled = Mul(w, e)
            sum = Add(s, scaled)
            t = Tanh(sum)
            r = Sub(q, s)
            u = Add(q, t)
        }> (h, h, x)
    }""",
    "Loop(trips of the input's size)": """agraph (float[T,B,3] x, float[B,3] h) => (float[a,b] last, float[c,d,3] y) {
        shape = Shape <start = 0, end = 1> (x)
        zero = Constant <value_ints = [0]> ()
        trips = Squeeze(shape, zero)
        yes = Constant <value = bool {1}> ()
        last, y = Loop (trips, yes, h) <body = step (int64 i, bool c, float[B,3] s) => (bool d, float[B,3] t, float[B,3] u) {
            d = Identity(c)
            e = Gather <axis = 0> (x, i)
            sum = Add(s, e)
            t = Tanh(sum)
            u = Neg(t)
        }>
    }""",
    "Loop(while)": """agraph (float[T,B,3] x, float[B,3] h) => (float[a,b] last) {
        most = Constant <value = int64 {50}> ()
        limit = Constant <value = float {20.0}> ()
        yes = Constant <value = bool {1}> ()
        last = Loop (most, yes, h) <body = step (int64 i, bool c, float[B,3] s) => (bool d, float[B,3] t) {
            two = Constant <value = float {2.0}> ()
            t = Mul(s, two)
            size = Abs(t)
            axes = Constant <value_ints = [0, 1]> ()
            largest = ReduceMax <keepdims = 0> (size, axes)
            d = Less(largest, limit)
        }>
    }""",
    "Loop(in a Scan)": """agraph (float[T,B,3] x, float[B,3] h) => (float[a,b] last, float[T,b,3] y) {
        trips = Constant <value = int64 {3}> ()
        yes = Constant <value = bool {1}> ()
        last, y = Scan <num_scan_inputs = 1, body = outer (float[B,3] s, float[B,3] e) => (float[B,3] t, float[B,3] u) {
            t = Loop (trips, yes, s) <body = inner (int64 i, bool c, float[B,3] q) => (bool d, float[B,3] r) {
                d = Identity(c)
                sum = Add(q, e)
                r = Tanh(sum)
            }>
            u = Neg(t)
        }> (h, x)
    }""",
    "If": """agraph (float[T,B,3] x, float[B,3] h) => (float[a,b] last) {
        zero = Constant <value = float {0.0}> ()
        axes = Constant <value_ints = [0, 1]> ()
        sum = ReduceSum <keepdims = 0> (h, axes)
        positive = Greater(sum, zero)
        last = If (positive) <
            then_branch = yes () => (float[B,3] p) { e = Exp(h)
                p = Neg(e) },
            else_branch = no () => (float[B,3] q) { q = Abs(h) }
        >
    }""",
    "If(in a Scan)": """agraph (float[T,B,3] x, float[B,3] h) => (float[a,b] last, float[T,b,3] y) {
        zero = Constant <value = float {0.0}> ()
        axes = Constant <value_ints = [0, 1]> ()
        last, y = Scan <num_scan_inputs = 1, body = step (float[B,3] s, float[B,3] e) => (float[B,3] t, float[B,3] u) {
            sum = ReduceSum <keepdims = 0> (e, axes)
            positive = Greater(sum, zero)
            t = If (positive) <
                then_branch = yes () => (float[B,3] p) { p = Add(s, e) },
                else_branch = no () => (float[B,3] q) { q = Mul(s, e) }
            >
            u = Tanh(t)
        }> (h, x)
    }""",
}


def flow(name, prefix=""):
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>{prefix}{FLOW[name]}').SerializeToString()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", FLOW)
def test_loops_and_branches_are_what_onnx_runtime_computes(name, seed):
    inputs = {"x": draw(1 + 3 * seed, B, 3, seed=seed), "h": draw(B, 3, seed=50 + seed)}
    model = flow(name)
    expected, found = by_onnxruntime(model, inputs), by_tensorrt(model, inputs)
    for output in expected:
        np.testing.assert_allclose(found[output], expected[output], err_msg=output, **CLOSE)


def test_both_branches_are_taken_over_the_seeds():
    assert {bool(draw(B, 3, seed=50 + seed).sum() > 0) for seed in range(4)} == {True, False}


def test_a_graph_s_input_used_as_a_condition_has_another_name_in_the_network():
    text = """agraph (float[B,3] h, bool go) => (float[a,b] last) {
        most = Constant <value = int64 {3}> ()
        last = Loop (most, go, h) <body = step (int64 i, bool c, float[B,3] s) => (bool d, float[B,3] t) {
            d = Identity(c)
            t = Tanh(s)
        }>
    }"""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>{text}').SerializeToString()
    from edgeseq_runtime.backends.tensorrt_network_backend import parse_network

    # The name of the body's own condition: an engine has no input "go".
    assert [spec.name for spec in parse_network(model).inputs] == ["h", "c"]
