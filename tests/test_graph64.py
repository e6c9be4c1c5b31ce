"""Graphs evaluated in float64: against the ONNX package's own cases, ONNX Runtime, and PyTorch."""

from __future__ import annotations

import importlib
import pkgutil
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnx.backend.test.case import node as node_cases
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from edgeseq_export.graph64 import FailedNode, UnknownOperator, evaluate_graph64
from edgeseq_export.graph64.evaluator import OPERATORS

FLOAT = TensorProto.FLOAT
PLAIN = (np.float32, np.float64, np.int32, np.int64, np.bool_)


SLOW = {"Cast", "CastLike"}  # hundreds of cases, nearly all of types that no export has


@pytest.fixture(scope="module")
def cases():
    """Name -> the ONNX package's case of a known operator, in plain types. Importing an operator's module makes its cases."""
    wanted = {name.lower() for name in set(OPERATORS) - SLOW}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(node_cases.__path__):
            if module.name.replace("_", "").removesuffix("op") in wanted or module.name.replace("_", "") in wanted:
                importlib.import_module(f"{node_cases.__name__}.{module.name}")
    return {case.name: case for case in node_cases._NodeTestCases if is_plain(case)}


def is_plain(case):
    """Whether every operator is known, every type is one that exports have, and the case is no function written out."""
    arrays = [array for values in case.data_sets[0] for array in values]
    return (
        all(node.op_type in OPERATORS and not node.domain for node in case.model.graph.node)
        and all(isinstance(array, (np.ndarray, np.generic)) and array.dtype in PLAIN for array in arrays)
        and not case.name.endswith("_expanded")
        and {opset.domain for opset in case.model.opset_import} == {""}
    )


# Forms of known operators that no exporter of a recurrent network writes, and maxima of nothing: refused, with the reason.
REFUSED = {
    "test_averagepool_2d_ceil",
    "test_averagepool_2d_ceil_last_window_starts_on_pad",
    "test_averagepool_2d_dilations",
    "test_averagepool_3d_dilations_small",
    "test_averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_True",
    "test_averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True",
    "test_batchnorm_example_training_mode",
    "test_batchnorm_epsilon_training_mode",
    "test_convtranspose_output_shape",
    "test_convtranspose_kernel_shape",
    "test_convtranspose_autopad_same",
    "test_maxpool_with_argmax_2d_precomputed_pads",
    "test_maxpool_with_argmax_2d_precomputed_strides",
    "test_reduce_log_sum_exp_empty_set",
    "test_reduce_max_empty_set",
    "test_reduce_max_empty_set_bool",
    "test_reduce_min_empty_set",
    "test_training_dropout",
    "test_training_dropout_default",
    "test_training_dropout_default_mask",
    "test_training_dropout_mask",
}


def evaluated(model, *inputs):
    """The outputs of a model, in their order."""
    graph = model.graph
    run = evaluate_graph64(model.SerializeToString(), [value.name for value in graph.output])
    found = run(dict(zip([value.name for value in graph.input], inputs, strict=True)))
    return [found[value.name] for value in graph.output]


@pytest.mark.slow
def test_the_cases_of_the_onnx_package(cases):
    assert len(cases) > 500
    wrong = {}
    for name in sorted(set(cases) - REFUSED):
        for inputs, expected in cases[name].data_sets:
            try:
                for got, array in zip(evaluated(cases[name].model, *inputs), expected, strict=True):
                    assert got.shape == array.shape
                    assert got.dtype == (np.float64 if array.dtype == np.float32 else array.dtype)
                    np.testing.assert_allclose(got, array, rtol=1e-5, atol=1e-6)
            except (AssertionError, FailedNode, UnknownOperator) as error:
                wrong[name] = str(error)[:300]
    assert wrong == {}


@pytest.mark.slow
def test_forms_that_are_not_evaluated_are_refused(cases):
    for name in sorted(REFUSED):
        with pytest.raises((UnknownOperator, FailedNode), match="evaluated in float64"):
            evaluated(cases[name].model, *cases[name].data_sets[0][0])


@pytest.mark.slow
def test_nearly_every_operator_has_a_case(cases):
    asked = {node.op_type for name in set(cases) - REFUSED for node in cases[name].model.graph.node}
    assert set(OPERATORS) - asked <= SLOW


def model_of(nodes, inputs, outputs, initializers=()):
    """A model of opset 20 whose inputs and outputs have no shape."""
    values = [[helper.make_tensor_value_info(name, kind, None) for name, kind in each.items()] for each in (inputs, outputs)]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in dict(initializers).items()]
    graph = helper.make_graph(nodes, "g", *values, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_an_unknown_operator_is_named():
    model = model_of([helper.make_node("Det", ["x"], ["y"])], {"x": FLOAT}, {"y": FLOAT})
    with pytest.raises(UnknownOperator, match=r"no equations for Det$"):
        evaluate_graph64(model.SerializeToString(), ["y"])


def test_a_node_that_does_not_fit_is_named():
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"], "product")], {"x": FLOAT}, {"y": FLOAT}, {"w": np.eye(3)})
    with pytest.raises(FailedNode, match="MatMul node 'product' can't be evaluated in float64"):
        evaluated(model, np.ones((2, 2)))


def test_constants_and_casts_are_widened_and_keep_their_float32_value():
    tenth = np.float32(0.1)
    nodes = [
        helper.make_node("Constant", [], ["a"], value_float=0.1),
        helper.make_node("Constant", [], ["b"], value=onnx.numpy_helper.from_array(np.full(2, tenth))),
        helper.make_node("ConstantOfShape", ["n"], ["c"], value=onnx.numpy_helper.from_array(np.full(1, tenth))),
        helper.make_node("Sum", ["a", "b", "c", "x"], ["s"]),
        helper.make_node("Cast", ["s"], ["y"], to=FLOAT),
        helper.make_node("Cast", ["y"], ["i"], to=TensorProto.INT32),
    ]
    x = np.array([1.0, -7.0]) / 3
    y, i = evaluated(model_of(nodes, {"x": FLOAT}, {"y": FLOAT, "i": TensorProto.INT32}, {"n": np.array([2])}), x)
    np.testing.assert_array_equal(y, float(tenth) + float(tenth) + float(tenth) + x)
    assert i.tolist() == [0, -2]
    assert i.dtype == np.int32


@pytest.mark.parametrize("going", [4, 0])
def test_a_loop_captures_what_is_outside_and_collects(going):
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["h", "factor"], ["grown"]),
            helper.make_node("Less", ["step", "stop"], ["more"]),
            helper.make_node("Identity", ["grown"], ["piece"]),
        ],
        "body",
        [helper.make_tensor_value_info(n, k, []) for n, k in (("step", TensorProto.INT64), ("on", TensorProto.BOOL))]
        + [helper.make_tensor_value_info("h", FLOAT, [2])],
        [helper.make_tensor_value_info("more", TensorProto.BOOL, [])]
        + [helper.make_tensor_value_info(name, FLOAT, [2]) for name in ("grown", "piece")],
    )
    loop = helper.make_node("Loop", ["most", "", "start"], ["end", "pieces"], body=body)
    weights = {"most": np.array(going), "stop": np.array(1), "factor": np.array(3, np.float32)}
    end, pieces = evaluated(model_of([loop], {"start": FLOAT}, {"end": FLOAT, "pieces": FLOAT}, weights), np.array([1.0, 0.1]))
    steps = min(going, 2)  # the third sees that step 1 was not less than 1
    np.testing.assert_allclose(end, np.array([1.0, 0.1]) * 3.0**steps, rtol=1e-15)
    assert pieces.shape == (steps, 2)


def test_both_branches_of_an_if():
    def branch(name, op):
        return helper.make_graph([helper.make_node(op, ["x"], [name])], name, [], [helper.make_tensor_value_info(name, FLOAT, [2])])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("a", "Neg"), else_branch=branch("b", "Exp"))
    model = model_of([node], {"c": TensorProto.BOOL, "x": FLOAT}, {"y": FLOAT})
    x = np.array([0.3, 2.0])
    np.testing.assert_array_equal(evaluated(model, np.array(True), x)[0], -x)
    np.testing.assert_array_equal(evaluated(model, np.array(False), x)[0], np.exp(x))


def test_a_scan_runs_backwards_and_along_other_axes():
    body = helper.make_graph(
        [helper.make_node("Add", ["h", "x"], ["sum"]), helper.make_node("Mul", ["sum", "x"], ["piece"])],
        "body",
        [helper.make_tensor_value_info(name, FLOAT, [3]) for name in ("h", "x")],
        [helper.make_tensor_value_info(name, FLOAT, [3]) for name in ("sum", "piece")],
    )
    directions = {"scan_input_directions": [1], "scan_output_directions": [1], "scan_input_axes": [1], "scan_output_axes": [1]}
    scan = helper.make_node("Scan", ["h0", "xs"], ["end", "pieces"], body=body, num_scan_inputs=1, **directions)
    h0, xs = np.random.default_rng(0).normal(size=3), np.random.default_rng(1).normal(size=(3, 5))
    end, pieces = evaluated(model_of([scan], {"h0": FLOAT, "xs": FLOAT}, {"end": FLOAT, "pieces": FLOAT}), h0, xs)
    sums = h0[:, None] + np.cumsum(xs[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(end, sums[:, 0], rtol=1e-14)
    np.testing.assert_allclose(pieces, sums * xs, rtol=1e-14)


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
T, B, I, H = 7, 3, 5, 4  # noqa: E741


def recurrent(op, direction, random, given, **attributes):
    """A recurrent node with biases, lengths, states and, for an LSTM, peepholes where they are `given`; and its inputs."""
    D, G = 2 if direction == "bidirectional" else 1, GATES[op]
    shapes = {"W": (D, G * H, I), "R": (D, G * H, H), "b": (D, 2 * G * H), "h0": (D, B, H), "c0": (D, B, H), "P": (D, 3 * H)}
    inputs = {"x": random.normal(size=(T, B, I)), **{name: random.normal(size=shape) for name, shape in shapes.items()}}
    inputs = {name: array.astype(np.float32) for name, array in inputs.items()} | {"lengths": np.array([T, 2, 4], np.int32)}
    names = ["x", "W", "R", "b", "lengths", "h0", *(["c0", "P"] if op == "LSTM" else [])]
    names = [name if name in {"x", "W", "R", *given} else "" for name in names]
    outputs = ["y", "h", *(["c"] if op == "LSTM" else [])]
    node = helper.make_node(op, names, outputs, hidden_size=H, direction=direction, **attributes)
    kinds = {name: TensorProto.INT32 if name == "lengths" else FLOAT for name in names if name}
    return model_of([node], kinds, dict.fromkeys(outputs, FLOAT)), [inputs[name] for name in kinds]


FORMS = [
    ("LSTM", {}),
    (
        "LSTM",
        {"activations": ["HardSigmoid", "Softsign", "ScaledTanh"], "activation_alpha": [0.15, 0.9], "activation_beta": [0.45, 0.7]},
    ),
    ("LSTM", {"activations": ["Sigmoid", "Affine", "Elu"], "activation_alpha": [0.8, 0.6], "activation_beta": [0.1]}),
    ("LSTM", {"input_forget": 1}),
    ("GRU", {"linear_before_reset": 0}),
    ("GRU", {"linear_before_reset": 1}),
    (
        "GRU",
        {
            "linear_before_reset": 1,
            "activations": ["HardSigmoid", "LeakyRelu"],
            "activation_alpha": [0.3, 0.2],
            "activation_beta": [0.4],
        },
    ),
    ("RNN", {}),
    ("RNN", {"activations": ["Relu"]}),
    ("RNN", {"activations": ["ThresholdedRelu"], "activation_alpha": [0.3]}),
    ("RNN", {"activations": ["Softplus"], "clip": 0.8}),
]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "attributes"), FORMS, ids=str)
def test_recurrent_nodes_are_those_of_onnx_runtime(op, attributes, direction):
    if direction == "bidirectional":
        attributes = {name: value * 2 if isinstance(value, list) else value for name, value in attributes.items()}
    for given in ((), ("b", "lengths", "h0", "c0", "P")):
        model, inputs = recurrent(op, direction, np.random.default_rng(3), given, **attributes)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = session.run(None, dict(zip([value.name for value in model.graph.input], inputs, strict=True)))
        for got, array in zip(evaluated(model, *inputs), expected, strict=True):
            assert got.dtype == np.float64
            np.testing.assert_allclose(got, array, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_nodes_are_pytorchs_to_the_last_places_of_float64(kind):
    torch.manual_seed(0)
    layer = kind(I, H, bidirectional=True).double()
    op, G = kind.__name__, GATES[kind.__name__]
    order = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2], "RNN": [0]}[op]  # PyTorch's gates i, f, g, o and r, z, n in ONNX's order

    def stacked(name):
        parts = [getattr(layer, name + end).detach().numpy() for end in ("_l0", "_l0_reverse")]
        return np.stack([part.reshape(G, H, *part.shape[1:])[order].reshape(part.shape) for part in parts])

    x, states = torch.randn(T, B, I).double(), [torch.randn(2, B, H).double() for _ in range(2 if op == "LSTM" else 1)]
    lengths = torch.tensor([T, 2, 4])
    with torch.no_grad():
        packed, last = layer(pack_padded_sequence(x, lengths, enforce_sorted=False), tuple(states) if op == "LSTM" else states[0])
        y, _ = pad_packed_sequence(packed)
    model, _ = recurrent(
        op,
        "bidirectional",
        np.random.default_rng(0),
        ("b", "lengths", "h0", "c0"),
        **({"linear_before_reset": 1} if op == "GRU" else {}),
    )
    biases = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1)
    found = evaluated(
        model, x.numpy(), stacked("weight_ih"), stacked("weight_hh"), biases, lengths.numpy(), *(s.numpy() for s in states)
    )
    expected = [y.reshape(T, B, 2, H).transpose(1, 2), *(last if op == "LSTM" else [last])]
    for got, array in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, array.numpy(), rtol=1e-12, atol=1e-14)


def test_large_products_and_convolutions_are_those_of_pytorch():
    torch.manual_seed(0)
    for conv in (nn.Conv1d(6, 8, 3, 2, 2, 2, 2), nn.Conv2d(6, 9, (3, 2), (2, 1), (1, 0), groups=3), nn.Conv1d(6, 6, 5, groups=6)):
        conv = conv.double()
        x = torch.randn(3, 6, *(40, 33)[: conv.weight.ndim - 2]).double()
        settings = {"strides": conv.stride, "pads": conv.padding * 2, "dilations": conv.dilation, "group": conv.groups}
        node = helper.make_node("Conv", ["x", "w", "b"], ["y"], **settings)
        model = model_of([node], dict.fromkeys("xwb", TensorProto.DOUBLE), {"y": TensorProto.DOUBLE})
        (y,) = evaluated(model, x.numpy(), conv.weight.detach().numpy(), conv.bias.detach().numpy())
        np.testing.assert_allclose(y, conv(x).detach().numpy(), rtol=1e-12, atol=1e-13)
