"""Sizes that the forecast foretells, against those that ONNX Runtime makes; work, against formulas and PyTorch's own counter."""

import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import runtime_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from low_precision_models import halved, quantised
from onnx import TensorProto, helper, numpy_helper
from test_report_graph import scan_model
from torch.utils.flop_counter import FlopCounterMode

from edgeseq_export import ExportNotice, export
from edgeseq_runtime.bundle import open_bundle
from edgeseq_runtime.errors import BadModel
from edgeseq_runtime.forecast.calculating import RECURRENT_GATES
from edgeseq_runtime.forecast.operators import RULES
from edgeseq_runtime.forecast.sizes import sized_graph
from edgeseq_runtime.forecast.work import peak_bytes, work_of
from edgeseq_runtime.onnx_wire import read_model

F = np.float32
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}


def everything(model, inputs):
    """Every value of a model's own graph, by ONNX Runtime as it stands."""
    proto = onnx.load_from_string(model)
    declared = {output.name for output in proto.graph.output}
    for name in {name for node in proto.graph.node for name in node.output if name} - declared:
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


def compare(model, inputs, contents=None, unknown=()):
    """How many values were compared; every one must have the foretold size and type, and content where that was foretold."""
    axes = {}
    for spec in read_model(model).graph.inputs:
        axes.update({name: size for name, size in zip(spec.shape, inputs[spec.name].shape, strict=True) if isinstance(name, str)})
    sized = sized_graph(read_model(model).graph, axes, contents)
    made = everything(model, inputs)
    for name, array in made.items():
        value = sized.values[name]
        if name in unknown:
            assert value.shape is None
            continue
        assert (value.shape, value.dtype) == (np.shape(array), np.asarray(array).dtype.name), name
        if value.numbers is not None:
            np.testing.assert_array_equal(value.numbers, array, err_msg=name)
    return len(made)


def graph_of(nodes, inputs, constants, outputs):
    """A model of some nodes; every dimension of its inputs has a name."""
    declared = [
        helper.make_tensor_value_info(name, TYPES[array.dtype.name], [f"{name}{axis}" for axis in range(array.ndim)])
        for name, array in inputs.items()
    ]
    kept = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", declared, [onnx.ValueInfoProto(name=name) for name in outputs], kept)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)])
    made.ir_version = 10
    return made.SerializeToString()


def words(text):
    return text.split()


X = np.arange(24, dtype=F).reshape(2, 3, 4) / 24 + F(0.1)
I = np.array  # noqa: E741
# (operator, inputs that are data, inputs that are constants, attributes, outputs); data come first.
CASES = [
    *((op, [X], [], {}, 1) for op in words("Abs Ceil Cos Elu Erf Exp Floor HardSigmoid HardSwish Identity LeakyRelu Log")),
    *((op, [X], [], {}, 1) for op in words("Neg Relu Selu Sigmoid Sign Sin Softmax LogSoftmax Softplus Softsign Sqrt Tan")),
    *((op, [X], [], {}, 1) for op in words("Tanh Reciprocal Round ThresholdedRelu Mish Celu Gelu Sinh Cosh Acos Asin")),
    *((op, [X], [], {}, 1) for op in words("Atan IsNaN IsInf Hardmax")),
    *((op, [X, X[:1, :, :1]], [], {}, 1) for op in words("Add Sub Mul Div Pow Max Min Sum Mean PRelu")),
    ("Mod", [X, X[:1]], [], {"fmod": 1}, 1),
    *((op, [X, X[0]], [], {}, 1) for op in words("Equal Greater GreaterOrEqual Less LessOrEqual")),
    *((op, [X > 0.5, X[0] > 0.5], [], {}, 1) for op in words("And Or Xor")),
    ("Not", [X > 0.5], [], {}, 1),
    ("Clip", [X], [F(0), F(1)], {}, 1),
    ("Trilu", [X], [], {}, 1),
    ("CumSum", [X], [I(1)], {}, 1),
    ("Where", [X > 0.5, X, X[0]], [], {}, 1),
    ("Cast", [X], [], {"to": TensorProto.INT32}, 1),
    ("Dropout", [X], [], {}, 1),
    ("ReverseSequence", [X], [I([2, 1, 2])], {}, 1),
    ("InstanceNormalization", [X], [np.ones(3, F), np.ones(3, F)], {}, 1),
    ("BatchNormalization", [X], [np.ones(3, F)] * 4, {}, 1),
    ("LayerNormalization", [X], [np.ones(4, F)], {}, 3),
    ("LayerNormalization", [X], [np.ones((3, 4), F)], {"axis": -2}, 3),
    *((op, [X], [I([1])], {}, 1) for op in words("ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2")),
    *((op, [X], [I([-1, 0])], {"keepdims": 0}, 1) for op in words("ReduceLogSum ReduceLogSumExp ReduceSumSquare")),
    ("ReduceSum", [X], [], {}, 1),
    ("ReduceSum", [X], [], {"noop_with_empty_axes": 1}, 1),
    ("ReduceMax", [X.astype(np.int64)], [I([2])], {"keepdims": 0}, 1),
    ("ArgMax", [X], [], {"axis": 1, "keepdims": 0}, 1),
    ("ArgMin", [X], [], {"axis": -1}, 1),
    ("MatMul", [X, np.ones((4, 5), F)], [], {}, 1),
    ("MatMul", [X, np.ones(4, F)], [], {}, 1),
    ("MatMul", [np.ones(3, F), X], [], {}, 1),
    ("MatMul", [np.ones((5, 1, 3, 2), F), np.ones((6, 2, 4), F)], [], {}, 1),
    ("Gemm", [X[0], np.ones((5, 4), F)], [], {"transB": 1}, 1),
    ("Gemm", [X[0], np.ones((3, 5), F)], [], {"transA": 1}, 1),
    ("Einsum", [X, np.ones((4, 5), F)], [], {"equation": "abc, cd -> adb"}, 1),
    ("Conv", [np.ones((2, 4, 11), F), np.ones((6, 2, 3), F)], [], {"group": 2, "strides": [2], "pads": [1, 2], "dilations": [2]},
     1),
    ("Conv", [np.ones((2, 4, 11, 7), F), np.ones((6, 4, 3, 2), F)], [], {}, 1),
    (
        "ConvTranspose",
        [np.ones((2, 4, 5), F), np.ones((4, 3, 3), F)],
        [],
        {"group": 2, "strides": [2], "pads": [1, 0], "output_padding": [1], "dilations": [2]},
        1,
    ),
    ("MaxPool", [np.ones((2, 4, 12), F)], [], {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}, 1),
    ("AveragePool", [np.ones((2, 4, 11), F)], [], {"kernel_shape": [2], "pads": [1, 0]}, 1),
    ("GlobalAveragePool", [np.ones((2, 4, 11), F)], [], {}, 1),
    ("GlobalMaxPool", [np.ones((2, 4, 11), F)], [], {}, 1),
    ("Transpose", [X], [], {"perm": [2, 0, 1]}, 1),
    ("Transpose", [X], [], {}, 1),
    ("Reshape", [X], [I([0, -1])], {}, 1),
    ("Reshape", [X], [I([4, 1, -1, 2])], {}, 1),
    ("Reshape", [X[:0]], [I([0, 12])], {"allowzero": 1}, 1),
    ("Flatten", [X], [], {"axis": 2}, 1),
    ("Squeeze", [X[:1]], [I([0])], {}, 1),
    ("Squeeze", [X[:1, :1]], [], {}, 1),
    ("Unsqueeze", [X], [I([-1, 0])], {}, 1),
    ("Slice", [X], [I([1]), I([100]), I([2]), I([2])], {}, 1),
    ("Slice", [X], [I([-1, -1]), I([-(2**63) + 1, 0]), I([1, 2]), I([-1, -2])], {}, 1),
    ("Slice", [X], [I([0, 1]), I([1, -1])], {}, 1),
    ("Concat", [X, X[:, :1]], [], {"axis": -2}, 1),
    ("Split", [X], [I([1, 3])], {"axis": 2}, 2),
    ("Split", [X], [], {"axis": 1, "num_outputs": 2}, 2),
    ("Gather", [X], [I([[0, 1], [2, 0]])], {"axis": 1}, 1),
    ("Gather", [X], [I(0)], {}, 1),
    ("GatherElements", [X], [I([[[0, 1]]])], {"axis": 2}, 1),
    ("GatherND", [X], [I([[0, 1], [1, 2]])], {}, 1),
    ("GatherND", [X], [I([[0], [2]])], {"batch_dims": 1}, 1),
    ("ScatterElements", [X], [I([[[0]]]), np.ones((1, 1, 1), F)], {"axis": 1}, 1),
    ("ScatterND", [X], [I([[0]]), np.ones((1, 3, 4), F)], {}, 1),
    ("Pad", [X], [I([1, 0, 2, 0, 0, 3])], {}, 1),
    ("Pad", [X], [I([1, 2]), F(0), I([-1])], {}, 1),
    ("Expand", [X[:, :1]], [I([5, 1, 3, 1])], {}, 1),
    ("Tile", [X], [I([2, 1, 3])], {}, 1),
    ("TopK", [X], [I([2])], {}, 2),
    ("TopK", [X], [I([1])], {"axis": 0}, 2),
    ("OneHot", [np.array([[1, 2]])], [I(5), I([0, 1], F)], {}, 1),
    ("OneHot", [np.array([[1, 2]])], [I([5]), I([0, 1], F)], {"axis": 0}, 1),
    ("Shape", [X], [], {"start": 1}, 1),
    ("Shape", [X], [], {"start": -2, "end": -1}, 1),
    ("Size", [X], [], {}, 1),
    ("DynamicQuantizeLinear", [X], [], {}, 3),
    ("LpNormalization", [X], [], {}, 1),
    *((op, [np.ones((5, 2, 3), F), np.ones((1, g * 4, 3), F), np.ones((1, g * 4, 4), F)], [], {"hidden_size": 4}, outputs)
      for op, g, outputs in (("LSTM", 4, 3), ("GRU", 3, 2), ("RNN", 1, 2))),
    ("GRU", [np.ones((5, 2, 3), F), np.ones((2, 12, 3), F), np.ones((2, 12, 4), F)], [],
     {"hidden_size": 4, "direction": "bidirectional"}, 2),
]  # fmt: skip
# Which have no case of their own: integers, other domains, and what ONNX Runtime has no float kernel for.
WITHOUT = {
    "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "ConstantOfShape", "ConvInteger", "DequantizeLinear",
    "DynamicQuantizeLSTM", "GroupNormalization", "MatMulInteger", "MatMulNBits", "Range",
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_an_operator_makes_the_size_foretold(case):
    op, data, constants, attributes, outputs = case
    inputs = {f"d{index}": np.asarray(array) for index, array in enumerate(data)}
    kept = {f"c{index}": array for index, array in enumerate(constants)}
    names = [*inputs, *kept]
    if op == "Clip":
        names = [names[0], *kept]
    made = [f"o{index}" for index in range(outputs)]
    node = helper.make_node(op, names, made, **attributes)
    assert compare(graph_of([node], inputs, kept, made), inputs) == outputs


def test_every_operator_has_a_case():
    assert {case[0] for case in CASES} | WITHOUT == set(RULES)
    assert not {case[0] for case in CASES} & WITHOUT


def test_sizes_that_are_computed_with_are_followed():
    x = X
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["T"]),
        helper.make_node("Mul", ["T", "two"], ["T2"]),
        helper.make_node("Div", ["T2", "minus"], ["d"]),  # -7 / 4 rounds towards zero
        helper.make_node("Mod", ["T2", "four"], ["m"]),
        helper.make_node("Neg", ["d"], ["n"]),
        helper.make_node("Sub", ["T2", "one"], ["less"]),
        helper.make_node("Max", ["T", "four"], ["big"]),
        helper.make_node("Min", ["T", "four"], ["small"]),
        helper.make_node("Equal", ["T", "four"], ["same"]),
        helper.make_node("Where", ["same", "one", "four"], ["chosen"]),
        helper.make_node("Concat", ["T", "chosen"], ["shape"], axis=0),
        helper.make_node("Cast", ["shape"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Floor", ["float"], ["floor"]),
        helper.make_node("ReduceProd", ["shape"], ["all"], keepdims=0),
        helper.make_node("Unsqueeze", ["all", "zero"], ["all1"]),
        helper.make_node("Slice", ["s", "two", "far"], ["tail"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ConstantOfShape", ["shape"], ["sevens"], value=numpy_helper.from_array(np.array([7]), "v")),
        helper.make_node("Expand", ["zeros", "s4"], ["wide"]),
        helper.make_node("Range", ["start", "all", "step"], ["range"]),
        helper.make_node("Reshape", ["range", "shape"], ["grid"]),
        helper.make_node("Squeeze", ["T", "zero"], ["t"]),
        helper.make_node("Less", ["d", "T"], ["less_than"]),
        helper.make_node("Not", ["less_than"], ["not_less"]),
    ]
    constants = {
        "one": I([1]), "two": I([2]), "four": I([4]), "minus": I([-4]), "zero": I([0]), "far": I([9]), "s4": I([3, 3, 4]),
        "start": I(0), "step": I(1),
    }  # fmt: skip
    assert compare(graph_of(nodes, {"x": x}, constants, ["grid"]), {"x": x}) == 25


MODELS = {
    "lstm": runtime_models.lstm(),
    "gru with lengths": runtime_models.gru(lengths=True),
    "rnn both ways": runtime_models.bidirectional_rnn(),
    "strided": runtime_models.strided_gru(),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sizes", [{"T": 4, "B": 1}, {"T": 12, "B": 3}], ids=str)
def test_a_model_has_the_sizes_foretold(name, sizes):
    model = MODELS[name]
    inputs = model.draw(sizes, np.random.default_rng(0))
    assert compare(model.onnx, inputs, {name: inputs[name] for name in model.lengths}) >= 1


@pytest.mark.parametrize(
    ("lower", "operator", "recurrent"),
    [(quantised, "DynamicQuantizeLSTM", ("int8", 4 * 8 * 8)), (halved, "LSTM", ("float16", 2 * 4 * 8 * 8))],
)
def test_a_model_of_lower_precision_has_the_sizes_foretold(lower, operator, recurrent):
    inputs = MODELS["lstm"].draw({"T": 5, "B": 2}, np.random.default_rng(0))
    model = lower(MODELS["lstm"].onnx)
    assert compare(model, inputs) >= 4
    work = work_of(sized_graph(read_model(model).graph, {"T": 5, "B": 2}))
    assert (work.by_operator, work.uncounted) == ({operator: 2 * 5 * 2 * 4 * 8 * (3 + 8)}, {})
    assert [(weight.dtype, weight.bytes) for weight, times in work.reads.items() if times == 5] == [recurrent]


def test_a_scan_and_a_branch_have_the_sizes_foretold():
    x = np.ones((5, 2, 4), F)
    assert compare(scan_model(), {"x": x}) == 7
    sized = sized_graph(read_model(scan_model()).graph, {"T": 5, "B": 2})
    (scan,) = (placed for placed in sized.nodes if placed.node.op == "Scan")
    assert [body.times for body in scan.bodies] == [5]
    work = work_of(sized)
    assert work.by_operator == {"MatMul": 5 * 2 * 2 * 4 * 4}
    assert {weight.name: times for weight, times in work.reads.items() if weight.name.endswith("R")} == {"Scan 4/R": 5}
    assert {weight.name: times for weight, times in work.reads.items() if weight.name == "outer"} == {"outer": 5}


@pytest.mark.parametrize(("reads", "writes"), [(0, 0), (1, 1), (-1, 0), (2, -1)])
def test_a_scan_runs_along_any_axis(reads, writes):
    step = helper.make_graph(
        [helper.make_node("ReduceSum", ["x_t", "axes"], ["s"], keepdims=0), helper.make_node("Add", ["h", "s"], ["h_out"]),
         helper.make_node("Exp", ["x_t"], ["y_t"])],
        "step",
        [helper.make_tensor_value_info("h", TensorProto.FLOAT, []), helper.make_tensor_value_info("x_t", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("h_out", TensorProto.FLOAT, []), onnx.ValueInfoProto(name="y_t")],
    )  # fmt: skip
    given = {"num_scan_inputs": 1, "scan_input_axes": [reads], "scan_output_axes": [writes]}
    node = helper.make_node("Scan", ["h0", "x"], ["h_end", "y"], body=step, **given)
    model = graph_of([node], {"x": X, "h0": F(0).reshape(())}, {"axes": I([0, 1])}, ["h_end", "y"])
    assert compare(model, {"x": X, "h0": np.array(0, F)}) == 2


def loop_model(limit):
    """x is doubled some times over, a product each time; `limit` None: for as long as the data say."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "W"], ["h_out"]),
            helper.make_node("Identity", ["going"], ["going_out"])
            if limit
            else helper.make_node("Less", ["number", "seven"], ["going_out"]),
            helper.make_node("Identity", ["h_out"], ["y"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, ["B", 4]),
        ],
        [
            helper.make_tensor_value_info("going_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h_out", TensorProto.FLOAT, ["B", 4]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4]),
        ],
    )
    nodes = [helper.make_node("Loop", ["limit", "yes", "x"], ["last", "all"], body=body)]
    constants = {"limit": I(limit or 9), "yes": I(True), "W": np.eye(4, dtype=F), "seven": I(2)}
    return graph_of(nodes, {"x": np.ones((3, 4), F)}, constants, ["last", "all"])


def test_a_loop_is_counted_as_often_as_it_runs():
    x = {"x": np.ones((3, 4), F)}
    assert compare(loop_model(6), x) == 2
    work = work_of(sized_graph(read_model(loop_model(6)).graph, {"x0": 3, "x1": 4}))
    assert (work.operations, work.uncounted, work.loops, work.unsized) == (6 * 2 * 3 * 4 * 4, {}, 0, 0)
    assert {weight.name: times for weight, times in work.reads.items()} == {"W": 6}


def test_a_loop_that_the_data_end_is_counted_once_and_said():
    compare(loop_model(None), {"x": np.ones((3, 4), F)}, unknown=["all"])
    work = work_of(sized_graph(read_model(loop_model(None)).graph, {"x0": 3, "x1": 4}))
    assert (work.operations, work.uncounted, work.loops, work.unsized) == (2 * 3 * 4 * 4, {}, 1, 1)


def test_of_two_branches_the_one_with_less_work_is_counted():
    branches = {
        name: helper.make_graph(
            [helper.make_node("MatMul", ["x", weight], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", 1, None)],
        )
        for name, weight in (("then", "narrow"), ("else", "wide"))
    }
    node = helper.make_node("If", ["flag"], ["y"], then_branch=branches["then"], else_branch=branches["else"])
    inputs = {"x": np.ones((3, 4), F), "flag": I(True)}
    model = graph_of([node], inputs, {"narrow": np.ones((4, 2), F), "wide": np.ones((4, 8), F)}, ["y"])
    work = work_of(sized_graph(read_model(model).graph, {"x0": 3, "x1": 4}))
    assert work.operations == 2 * 3 * 4 * 2
    known = graph_of([node], {"x": inputs["x"]}, {"flag": I([0]), "narrow": np.ones((4, 2), F), "wide": np.ones((4, 8), F)}, ["y"])
    assert work_of(sized_graph(read_model(known).graph, {"x0": 3, "x1": 4})).operations == 2 * 3 * 4 * 8


def test_an_operator_that_is_not_known_is_named():
    node = helper.make_node("Attention", ["x"], ["y"], domain="com.microsoft")
    relu = helper.make_node("Relu", ["y"], ["z"])
    model = graph_of([node, relu], {"x": X}, {}, ["z"])
    assert work_of(sized_graph(read_model(model).graph, {"x0": 2, "x1": 3, "x2": 4})).uncounted == {"Attention": 1}


def test_rows_looked_up_are_read_and_the_table_is_not():
    node = helper.make_node("Gather", ["table", "ids"], ["rows"])
    model = graph_of([node], {"ids": I([[1, 2, 3]])}, {"table": np.ones((100, 8), F)}, ["rows"])
    work = work_of(sized_graph(read_model(model).graph, {"ids0": 5, "ids1": 2}))
    assert (work.looked_up, work.reads, [weight.bytes for weight in work.tables]) == (5 * 2 * 8 * 4, {}, [3200])
    assert work.interface == 5 * 2 * 8 + 5 * 2 * 8 * 4


def test_rows_looked_up_in_a_loop_are_read_at_each_step():
    step = helper.make_graph(
        [helper.make_node("Gather", ["table", "id"], ["row"]), helper.make_node("Add", ["h", "row"], ["h_out"])],
        "step",
        [helper.make_tensor_value_info("h", TensorProto.FLOAT, [8]), helper.make_tensor_value_info("id", TensorProto.INT64, [])],
        [helper.make_tensor_value_info("h_out", TensorProto.FLOAT, [8])],
    )
    node = helper.make_node("Scan", ["h0", "ids"], ["h_end"], body=step, num_scan_inputs=1)
    inputs = {"ids": I([3, 1, 4, 1, 5]), "h0": np.ones(8, F)}
    model = graph_of([node], inputs, {"table": np.ones((100, 8), F)}, ["h_end"])
    assert compare(model, inputs) == 1
    assert work_of(sized_graph(read_model(model).graph, {"ids0": 5, "h00": 8})).looked_up == 5 * 8 * 4


def test_a_weight_that_is_transposed_before_use_is_one_weight():
    nodes = [helper.make_node("Transpose", ["W"], ["Wt"]), helper.make_node("MatMul", ["x", "Wt"], ["y"])]
    work = work_of(
        sized_graph(read_model(graph_of(nodes, {"x": X[0]}, {"W": np.ones((5, 4), F)}, ["y"])).graph, {"x0": 3, "x1": 4})
    )
    assert {weight.name: times for weight, times in work.reads.items()} == {"W": 1}
    assert work.operations == 2 * 3 * 4 * 5


def test_a_weight_that_two_nodes_share_is_read_once():
    nodes = [helper.make_node("MatMul", ["x", "W"], ["a"]), helper.make_node("MatMul", ["a", "W"], ["y"])]
    work = work_of(
        sized_graph(read_model(graph_of(nodes, {"x": X[0]}, {"W": np.ones((4, 4), F)}, ["y"])).graph, {"x0": 3, "x1": 4})
    )
    assert {weight.name: times for weight, times in work.reads.items()} == {"W": 1}
    assert work.operations == 2 * (2 * 3 * 4 * 4)


def test_what_a_loop_holds_is_alive_beside_what_is_around_it():
    x = np.ones((3, 4), F)
    sized = sized_graph(read_model(loop_model(6)).graph, {"x0": 3, "x1": 4})
    outside = x.nbytes + x.nbytes + 6 * x.nbytes  # x, last, all
    inside = 8 + 1 + 2 * x.nbytes  # the step's number, its condition, h and h_out: y comes when h is gone
    assert peak_bytes(sized) == outside + inside


def test_bytes_alive_at_once_by_hand():
    nodes = [
        helper.make_node("Concat", ["x", "x", "x"], ["wide"], axis=0),
        helper.make_node("Relu", ["wide"], ["r"]),
        helper.make_node("ReduceSum", ["r"], ["y"]),
    ]
    sized = sized_graph(read_model(graph_of(nodes, {"x": X[0]}, {}, ["y"])).graph, {"x0": 3, "x1": 4})
    assert peak_bytes(sized) == (36 + 36) * 4  # x is gone by then; the sum comes when `wide` is gone


@pytest.mark.parametrize("op", [op for op in RECURRENT_GATES if op != "DynamicQuantizeLSTM"])
def test_a_recurrent_node_reads_its_recurrent_weights_at_each_step(op):
    T, B, K, H, D, gates = 7, 3, 5, 4, 2, RECURRENT_GATES[op]
    inputs = {"x": np.ones((T, B, K), F)}
    constants = {"W": np.ones((D, gates * H, K), F), "R": np.ones((D, gates * H, H), F)}
    node = helper.make_node(op, ["x", "W", "R"], ["y"], hidden_size=H, direction="bidirectional")
    work = work_of(sized_graph(read_model(graph_of([node], inputs, constants, ["y"])).graph, {"x0": T, "x1": B, "x2": K}))
    assert work.operations == 2 * D * T * B * gates * H * (K + H)
    assert {weight.name: times for weight, times in work.reads.items()} == {"W": 1, "R": T}


class Tower(torch.nn.Module):
    """Products of every kind that PyTorch's counter counts, none of them recurrent."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(5, 6, 3, stride=2, groups=1)
        self.grouped = torch.nn.Conv1d(6, 8, 3, groups=2, padding=1)
        self.mixed = torch.nn.Linear(8, 7)
        self.out = torch.nn.Linear(7, 3, bias=False)

    def forward(self, x):
        y = self.grouped(torch.relu(self.conv(x))).transpose(1, 2)
        y = torch.tanh(self.mixed(y))
        return self.out(y) + torch.softmax(y @ y.transpose(1, 2), -1).sum(-1, keepdim=True)


def test_products_are_counted_as_pytorch_counts_them(tmp_path):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportNotice)
        path = export(Tower().eval(), {"x": torch.randn(2, 5, 21)}, tmp_path / "t.edgeseq", axes={"x": ("B", None, None)})
    graph = read_model(open_bundle(path).model()).graph
    for B in (1, 4):
        with FlopCounterMode(display=False) as counter:
            Tower().eval()(torch.randn(B, 5, 21))
        assert work_of(sized_graph(graph, {"B": B})).operations == counter.get_total_flops()


@settings(max_examples=30, deadline=None)
@given(T=st.integers(1, 40), B=st.integers(1, 6), name=st.sampled_from(["lstm", "rnn both ways", "gru with lengths"]))
def test_work_grows_with_time_and_batch(T, B, name):
    graph = read_model(MODELS[name].onnx).graph
    one, longer, wider = (work_of(sized_graph(graph, {"T": t, "B": b})) for t, b in ((T, B), (T + 1, B), (T, B + 1)))
    unit = work_of(sized_graph(graph, {"T": 1, "B": 1})).operations
    assert one.operations == unit * T * B
    assert longer.peak > one.peak
    assert wider.peak > one.peak
    assert longer.interface > one.interface
    assert sum(w.bytes * n for w, n in longer.reads.items()) > sum(w.bytes * n for w, n in one.reads.items())
    assert wider.reads == one.reads


def test_an_axis_without_a_size_is_refused():
    with pytest.raises(BadModel, match=r"input 'x' has the shape \('T', 'B', 3\), and sizes are given for \['T'\]"):
        sized_graph(read_model(MODELS["lstm"].onnx).graph, {"T": 3})
