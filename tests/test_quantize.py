"""Quantised variants: the rewritten graphs against NumPy's integers, what is written and what is refused, and the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import runtime_models
from blocked_imports import run_python
from native_graphs import needs_compiler
from onnx import TensorProto, helper, numpy_helper
from quantised_equations import Weights, exact_product, layer, relative, rows_product, tensor_product
from test_parity_suite import edgeseq

import edgeseq_runtime
from edgeseq_quantize import GATE, VARIANTS, quantising, quantize, speed
from edgeseq_quantize.command import gate_of
from edgeseq_quantize.layers import Method, find_layers, quantise_layers
from edgeseq_quantize.matrices import block_size, in_blocks, in_seven_bits
from edgeseq_runtime.bundle import RelativeGate, open_bundle, with_precision
from edgeseq_runtime.errors import InputError, StreamError, UsageError

INT8, W8, W4 = Method(8, True), Method(8, False), Method(4, False)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
# Rounded activations can fall on either side of a half by the last bit of float32; one such step is 1/127 of one product.
NEAR = 2e-4


class Case(NamedTuple):
    """One recurrent node."""

    op: str
    direction: str = "forward"
    K: int = 5
    H: int = 20
    lengths: bool = False
    states: bool = True
    bias: bool = True
    attributes: dict[str, object] = {}  # noqa: RUF012

    @property
    def ways(self):
        return {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[self.direction]


CASES = {
    "gru": Case("GRU", attributes={"linear_before_reset": 1}),
    "gru, wide input": Case("GRU", K=136, attributes={"linear_before_reset": 1}),
    "gru, reset first": Case("GRU", attributes={"linear_before_reset": 0}),
    "gru, both ways, ragged": Case("GRU", "bidirectional", lengths=True, attributes={"linear_before_reset": 1}),
    "gru, reversed, ragged": Case("GRU", "reverse", lengths=True, states=False, attributes={"linear_before_reset": 1}),
    "gru, no state, no bias": Case("GRU", states=False, bias=False, attributes={"linear_before_reset": 1}),
    "rnn": Case("RNN"),
    "rnn, relu, both ways": Case("RNN", "bidirectional", states=False, attributes={"activations": ["Relu", "Tanh"]}),
    "rnn, wide input, ragged": Case("RNN", K=136, lengths=True),
    "lstm": Case("LSTM"),
    "lstm, wide input": Case("LSTM", K=136),
    "lstm, both ways, ragged": Case("LSTM", "bidirectional", lengths=True),
    "lstm, reversed": Case("LSTM", "reverse", states=False),
}


def weights_of(case):
    rng = np.random.default_rng(3)
    directions, rows, H = len(case.ways), GATES[case.op] * case.H, case.H
    shapes = ((directions, rows, case.K), (directions, rows, H), (directions, 2 * rows))
    W, R, b = (rng.normal(0, 1 / np.sqrt(shape[-1] if len(shape) == 3 else H), shape).astype(np.float32) for shape in shapes)
    return Weights(W, R, b if case.bias else 0 * b)


def graph_of(case):
    """A model with the one node, and all of its outputs."""
    weights, directions, H = weights_of(case), len(case.ways), case.H
    names = ["h", "c"][: 2 if case.op == "LSTM" else 1]
    inputs = ["x", "W", "R", "b" if case.bias else "", "lengths" if case.lengths else "", *(names if case.states else [])]
    outputs = ["Y", *(f"{name}_last" for name in names)]
    node = helper.make_node(case.op, inputs, outputs, hidden_size=H, direction=case.direction, **case.attributes)
    declared = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "B", case.K])]
    if case.lengths:
        declared.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"]))
    if case.states:
        declared += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [directions, "B", H]) for name in names]
    shapes = {"Y": ["T", directions, "B", H], **{name: [directions, "B", H] for name in outputs[1:]}}
    graph = helper.make_graph(
        [node],
        "g",
        declared,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(value, name) for name, value in zip("WRb", weights, strict=True) if name != "b" or case.bias],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def inputs_of(case, T=6, B=3):
    rng = np.random.default_rng(5)
    drawn = {"x": rng.standard_normal((T, B, case.K)).astype(np.float32)}
    if case.lengths:
        drawn["lengths"] = np.array([T, 1, T // 2 + 1][:B], np.int32)
    if case.states:
        names = ["h", "c"][: 2 if case.op == "LSTM" else 1]
        drawn |= {name: np.tanh(rng.standard_normal((len(case.ways), B, case.H))).astype(np.float32) for name in names}
    return drawn


def expected(case, drawn, **products):
    return layer(
        case.op,
        weights_of(case),
        drawn["x"],
        ways=case.ways,
        lengths=drawn.get("lengths"),
        states=[drawn[name] for name in ("h", "c") if name in drawn],
        reset_first=case.attributes.get("linear_before_reset") == 0,
        activations=case.attributes.get("activations", ["Tanh"]),
        **products,
    )


def run(model, inputs, **entries):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def operators(model):
    graph = onnx.load_from_string(model).graph
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [node.op_type for one in (graph, *bodies) for node in one.node]


def quantised(model, method):
    return quantise_layers(model, [one.name for one in find_layers(model, method) if not one.refusal], method)


# What the rewritten graphs compute.


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", [W8, W4], ids=["w8", "w4"])
def test_a_cell_computes_what_its_integers_say(name, method):
    case = CASES[name]
    model, drawn = quantised(graph_of(case), method), inputs_of(case)
    # 20 units fill no block well, so theirs are of 16; 136 features fill one of 8 * 17 rows no better than of 16 either.
    product = rows_product(method.bits, 16)
    own = expected(case, drawn, of_input=product if case.K > 128 else exact_product, of_state=product)
    assert case.op not in operators(model)
    for found, value in zip(run(model, drawn), own, strict=True):
        assert found.shape == value.shape
        assert relative(found, value) < NEAR


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("lstm")])
def test_an_lstm_operator_computes_what_its_integers_say(name):
    case = CASES[name]
    model, drawn = quantised(graph_of(case), INT8), inputs_of(case)
    assert operators(model) == ["DynamicQuantizeLSTM"]
    own = expected(case, drawn, of_input=tensor_product, of_state=tensor_product)
    # What the operator holds as the state of a sequence that has ended has a share in the scale of the others' states.
    near = 20 * NEAR if case.lengths else NEAR
    for found, value in zip(run(model, drawn), own, strict=True):
        assert relative(found, value) < near


@pytest.mark.parametrize("name", CASES)
def test_eight_bits_are_near_and_four_are_nearer_than_none(name):
    case = CASES[name]
    model, drawn = graph_of(case), inputs_of(case)
    exact = expected(case, drawn)[0]
    assert relative(run(model, drawn)[0], exact) < 1e-6
    assert 1e-5 < relative(run(quantised(model, W8), drawn)[0], exact) < 0.01
    assert 0.005 < relative(run(quantised(model, W4), drawn)[0], exact) < 0.15


def test_one_step_and_one_sequence_give_the_same_cells():
    case = CASES["gru"]
    model = quantised(graph_of(case), W8)
    drawn = inputs_of(case, T=1, B=1)
    for found, value in zip(run(model, drawn), expected(case, drawn, of_state=rows_product(8, 16)), strict=True):
        assert relative(found, value) < NEAR


@pytest.mark.parametrize("bits", [8, 4])
def test_members_of_a_batch_do_not_see_each_other(bits):
    case = CASES["gru, wide input"]
    model, drawn = quantised(graph_of(case), Method(bits, False)), inputs_of(case)
    loud = {name: value.copy() for name, value in drawn.items()}
    loud["x"][:, 1:] *= 1e4
    np.testing.assert_array_equal(run(model, drawn)[0][:, :, 0], run(model, loud)[0][:, :, 0])


LINEAR = """agraph (float[B,{K}] x, float[{N}] b) => (float[B,{N}] y) {{ {body} }}"""


@pytest.mark.parametrize(
    ("body", "transposed", "bias"),
    [
        ("y = MatMul(x, w)", False, None),
        ("y = Gemm <transB = 1> (x, w)", True, None),
        ("y = Gemm <transB = 1> (x, w, c)", True, "c"),
        ("y = Gemm(x, w, b)", False, "b"),
    ],
)
@pytest.mark.parametrize("bits", [8, 4])
def test_a_product_computes_what_its_integers_say(body, transposed, bias, bits):
    K, N, rng = 70, 9, np.random.default_rng(1)
    w, c, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((N, K), (N,), (4, K)))
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]>' + LINEAR.format(K=K, N=N, body=body))
    tensors = {"w": np.ascontiguousarray(w if transposed else w.T), "c": c}
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tensors.items() if name in body)
    model = quantised(proto.SerializeToString(), Method(bits, False))
    assert "MatMulNBits" in operators(model)
    assert not {"MatMul", "Gemm"} & set(operators(model))
    drawn = {"x": x, "b": 2 * c}
    assert block_size(K) == 32 or block_size(K) == 16
    own = rows_product(bits, block_size(K))(x, w) + {None: 0, "c": c, "b": 2 * c}[bias]
    assert relative(run(model, drawn)[0], own) < NEAR


def test_the_rest_of_the_graph_is_as_it_was():
    model = runtime_models.lstm().onnx
    before, after = onnx.load_from_string(model), onnx.load_from_string(quantised(model, INT8))
    assert [one.name for one in after.graph.input] == [one.name for one in before.graph.input]
    assert list(after.graph.output) == list(before.graph.output)
    assert [node.op_type for node in after.graph.node] == ["DynamicQuantizeLSTM", "Squeeze"]
    read = {name for node in after.graph.node for name in node.input}
    assert {tensor.name for tensor in after.graph.initializer} <= read
    assert quantise_layers(model, [], INT8) == onnx.load_from_string(model).SerializeToString(deterministic=True)


SCAN = """agraph (float[T,B,40] x, float[B,40] h) => (float[B,40] last, float[T,B,40] y) {
    last, y = Scan <num_scan_inputs = 1, body = step (float[B,40] s, float[B,40] e) => (float[B,40] t, float[B,40] u) {
        product = MatMul(s, w)
        sum = Add(product, e)
        t = Tanh(sum)
        u = Identity(t)
    }> (h, x)
}"""


def test_a_product_inside_a_loop_is_quantised_too():
    rng = np.random.default_rng(2)
    w = (rng.standard_normal((40, 40)) / 6).astype(np.float32)
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]>' + SCAN)
    proto.graph.initializer.append(numpy_helper.from_array(w, "w"))
    model = quantised(proto.SerializeToString(), W8)
    assert sorted(operators(model)) == ["Add", "Identity", "MatMulNBits", "Scan", "Tanh"]
    drawn = {"x": rng.standard_normal((7, 2, 40)).astype(np.float32), "h": np.zeros((2, 40), np.float32)}
    product, h, y = rows_product(8, block_size(40)), drawn["h"], []
    for x in drawn["x"]:
        h = np.tanh(product(h, w.T) + x)
        y.append(h)
    assert relative(run(model, drawn)[1], np.stack(y)) < NEAR


# Integers.


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("K", [3, 16, 37, 256, 300])
def test_blocks_hold_every_weight_to_half_a_step(bits, K):
    matrix = np.random.default_rng(K).standard_normal((K, 5)).astype(np.float32)
    matrix[:, 2] = 0
    blocks = in_blocks(matrix, bits)
    integers = blocks.integers.astype(int)
    if bits == 4:
        integers = np.stack([integers & 15, integers >> 4], axis=-1).reshape(*integers.shape[:2], -1)
    assert integers.shape == (5, -(-K // blocks.size), blocks.size)
    back = ((integers - 2 ** (bits - 1)) * blocks.scales[..., None]).reshape(5, -1)[:, :K].T
    unit = np.repeat(blocks.scales, blocks.size, axis=1)[:, :K].T
    assert (np.abs(back - matrix) <= 0.5001 * unit).all()
    assert not back[:, 2].any()


def test_seven_bits_hold_every_weight_to_half_a_step_and_no_pair_of_products_saturates():
    matrix = np.random.default_rng(0).standard_normal((40, 7)).astype(np.float32)
    columns = in_seven_bits(matrix)
    assert columns.scales.shape == (7,)
    assert (np.abs(columns.integers * columns.scales - matrix) <= 0.5001 * columns.scales).all()
    assert np.abs(columns.integers.astype(int)).max() == 63
    assert 2 * 255 * 63 < 2**15


@pytest.mark.parametrize(("K", "size"), [(1, 16), (16, 16), (64, 64), (256, 256), (1024, 256), (300, 64), (48, 16), (250, 256)])
def test_a_block_is_as_large_as_its_rows_fill(K, size):
    assert block_size(K) == size
    assert -(-K // size) * size <= max(16, 1.25 * K)


# Which layers can be quantised.


@pytest.mark.parametrize(
    ("case", "method", "reason"),
    [
        (Case("GRU", attributes={"clip": 1.0}), W8, "it clips"),
        (Case("GRU", attributes={"activations": ["HardSigmoid", "Tanh"]}), W8, "its activations are HardSigmoid, Tanh"),
        (Case("RNN", attributes={"activations": ["Softsign"]}), W8, "its activations are Softsign"),
        (Case("LSTM", attributes={"input_forget": 1}), W8, "couples"),
        (Case("LSTM", attributes={"activations": ["HardSigmoid", "Tanh", "Tanh"]}), INT8, ""),
        (Case("LSTM"), INT8, ""),
    ],
)
def test_a_layer_that_would_change_its_meaning_is_refused(case, method, reason):
    (found,) = find_layers(graph_of(case), method)
    assert reason in found.refusal
    assert bool(found.refusal) == bool(reason)
    assert (found.name, found.operator, found.weights) == ("Y", case.op, GATES[case.op] * 20 * 20)


def test_weights_that_are_computed_or_shared_stay():
    proto = onnx.load_from_string(graph_of(CASES["gru"]))
    proto.graph.node.insert(0, helper.make_node("Identity", ["R"], ["computed"]))
    proto.graph.node[1].input[2] = "computed"
    assert find_layers(proto.SerializeToString(), W8) == ()
    proto = onnx.load_from_string(graph_of(CASES["gru"]))
    again = onnx.NodeProto.FromString(proto.graph.node[0].SerializeToString())
    again.output[:] = ["Z", "Z_last"]
    proto.graph.node.append(again)
    assert {one.refusal for one in find_layers(proto.SerializeToString(), W8)} == {"its weights are another node's too"}


@pytest.mark.parametrize("attributes", [{"activations": ["HardSigmoid", "Tanh", "Tanh"]}, {"clip": 0.5}])
def test_the_lstm_operator_keeps_attributes(attributes):
    case = Case("LSTM", attributes=attributes)
    model, drawn = graph_of(case), inputs_of(case)
    exact, found = run(model, drawn)[0], run(quantised(model, INT8), drawn)[0]
    plain = run(graph_of(Case("LSTM")), drawn)[0]
    assert relative(found, exact) < 0.02 < relative(plain, exact)


def test_peepholes_are_kept_by_the_operator_and_refused_by_the_scan():
    proto = onnx.load_from_string(graph_of(Case("LSTM")))
    P = np.random.default_rng(0).standard_normal((1, 60)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(P, "P"))
    proto.graph.node[0].input.append("P")
    model, drawn = proto.SerializeToString(), inputs_of(Case("LSTM"))
    assert find_layers(model, W8)[0].refusal == "it has peepholes"
    exact = run(model, drawn)[0]
    assert relative(run(quantised(model, INT8), drawn)[0], exact) < 0.02 < relative(run(graph_of(Case("LSTM")), drawn)[0], exact)


# Bundles.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("quantize")
    runtime_models.lstm(H=32).write(root / "lstm.edgeseq")
    runtime_models.gru(H=32, lengths=True).write(root / "gru.edgeseq")
    return root


def tried(path, tmp_path, **options):
    return quantize(path, out=tmp_path / "out.edgeseq", **{"smallest": 1, "seconds": 0, **options})


LOOSE = RelativeGate(relative=0.3, relative999=2, unequal=1)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_variants_that_hold_are_in_the_bundle_and_pass_there(folder, tmp_path, name):
    report = tried(folder / f"{name}.edgeseq", tmp_path, gate=RelativeGate(0.05, 0.4, 0.05))
    assert report.precisions == (("int8", "w8", "fp16") if name == "lstm" else ("int8", "w4"))
    bundle = open_bundle(tmp_path / "out.edgeseq")
    assert set(bundle.manifest.precisions) == {"fp32", *report.precisions}
    assert bundle.model() == open_bundle(folder / f"{name}.edgeseq").model()
    for precision in report.precisions:
        row = report.row(precision)
        assert row.bytes == len(bundle.model(precision)) < 0.9 * len(bundle.model())
        assert bundle.manifest.gate(precision) == row.gate
        parity = edgeseq_runtime.measure_parity(tmp_path / "out.edgeseq", precision=precision)
        assert parity.passed
        assert {one.mode for one in parity.rows} == {"whole", "stream"}
        assert parity.worst("relative") == pytest.approx(row.relative)
        assert bundle.manifest.provenance[f"{precision}.made by"] == "edgeseq quantize"
    assert bundle.manifest.provenance["int8.quantised"] == f"{name.upper()} 'Y'"
    if name == "gru":
        assert report.row("w8").reason == "it is the same as int8"
        # Its one layer has lengths, and stays as it is.
        assert report.row("fp16").reason == "it is not smaller than fp32, and was not timed"


@needs_compiler
def test_variants_are_tried_on_the_device_that_is_named(folder, tmp_path):
    report = tried(folder / "lstm.edgeseq", tmp_path, gate=RelativeGate(0.05, 0.4, 0.05), device="native")
    assert report.device == "native"
    assert "native" in report.versions
    parity = edgeseq_runtime.measure_parity(tmp_path / "out.edgeseq", device="native", precision="int8")
    assert parity.worst("relative") == pytest.approx(report.row("int8").relative)
    here = edgeseq_runtime.measure_parity(tmp_path / "out.edgeseq", precision="int8")
    assert here.worst("relative") != parity.worst("relative")  # each rounds activations in its own way
    # The kernels have no half precision: what is for GPUs is computed by ONNX Runtime.
    assert report.row("fp16").verdict == "written"


def test_the_default_gate_is_two_percent(folder, tmp_path):
    assert GATE.relative == 0.02
    report = tried(folder / "gru.edgeseq", tmp_path, variants=["int8", "w4"])
    assert report.row("int8").gate == GATE
    assert report.row("w4").verdict == "refused"
    assert report.row("w4").relative > 0.02


def test_one_that_misses_the_gate_is_not_written_and_its_layers_are_shown(folder, tmp_path):
    report = tried(folder / "lstm.edgeseq", tmp_path, variants=["int8"], gate=RelativeGate(1e-4, 1e-3, 0))
    row = report.row("int8")
    assert (row.verdict, report.written) == ("refused", "")
    assert "relative" in row.reason
    assert "exceeds 0.0001" in row.reason
    assert [one.relative > 1e-4 for one in row.layers] == [True]
    assert not (tmp_path / "out.edgeseq").exists()


def test_whole_sequences_and_streams_are_both_held_to_the_gate(tmp_path):
    path = runtime_models.lstm(H=32).write(tmp_path / "m.edgeseq", ({"T": 20, "B": 2},))
    tried(path, tmp_path, variants=["int8"], gate=LOOSE)
    parity = edgeseq_runtime.measure_parity(tmp_path / "out.edgeseq", precision="int8")
    worst = {mode: max(row.relative for row in parity.rows if row.mode == mode) for mode in ("whole", "stream")}
    assert worst["whole"] != worst["stream"]
    between = RelativeGate(sum(worst.values()) / 2, 2, 1)
    row = tried(path, tmp_path, variants=["int8"], gate=between).row("int8")
    assert row.verdict == "refused"
    assert f", {max(worst, key=worst.get)}, " in row.reason


def test_where_nothing_can_be_gated_nothing_is_written(tmp_path):
    model = runtime_models.lstm(H=32)
    proto = onnx.load_from_string(model.onnx)
    del proto.graph.output[0]  # y, whose first steps could be compared however chaotic the rest is

    def equations(inputs, dtype):
        return {name: value for name, value in model.equations(inputs, dtype).items() if name != "y"}

    states = replace(model, onnx=proto.SerializeToString(), outputs=model.outputs[1:], equations=equations)
    path = states.write(tmp_path / "m.edgeseq", horizon={spec.name: 0 for spec in states.outputs})
    row = tried(path, tmp_path, variants=["int8"], gate=LOOSE).row("int8")
    assert (row.verdict, row.reason) == ("refused", "no reference value could be gated")


def two_layers(path, K=3, H=32):
    """A GRU whose output is multiplied by a matrix with one huge column in front of a small readout: 4 bits lose the rest there."""
    model = runtime_models.gru(K, H)
    proto = onnx.load_from_string(model.onnx)
    rng = np.random.default_rng(9)
    w = rng.standard_normal((H, 4)).astype(np.float32)
    w[0] *= 3000
    proto.graph.initializer.append(numpy_helper.from_array(w, "readout"))
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(H, dtype=np.float32).clip(0, 1), "but_the_first"))
    proto.graph.node.append(helper.make_node("Mul", ["y", "but_the_first"], ["rest"]))
    proto.graph.node.append(helper.make_node("MatMul", ["rest", "readout"], ["z"]))
    spec = msgspec.structs.replace(model.outputs[0], name="z", shape=("T", "B", 4))
    proto.graph.output.append(runtime_models.value_info(spec))

    def equations(inputs, dtype):
        found = model.equations(inputs, dtype)
        rest = found["y"] * np.arange(H).clip(0, 1).astype(dtype)
        return {**found, "z": rest @ w.astype(dtype)}

    made = runtime_models.Model("two", proto.SerializeToString(), equations, model.inputs, (*model.outputs, spec), model.state)
    return made.write(path)


def test_the_worst_layer_goes_back_to_fp32_where_that_is_enough(tmp_path):
    report = tried(two_layers(tmp_path / "two.edgeseq"), tmp_path, variants=["int8"])
    row = report.row("int8")
    assert row.verdict == "written"
    worst, other = row.layers
    assert (worst.operator, worst.quantised, worst.reason) == ("MatMul", False, "breaks the gate")
    assert (other.operator, other.quantised, other.reason) == ("GRU", True, "")
    assert worst.relative > GATE.relative > other.relative > 0
    assert row.relative == pytest.approx(other.relative)
    bundle = open_bundle(tmp_path / "out.edgeseq")
    assert bundle.manifest.provenance["int8.in fp32"] == "MatMul 'z'"
    assert operators(bundle.model("int8")).count("MatMulNBits") == 1


def test_small_layers_stay_and_where_nothing_is_left_that_is_said(folder, tmp_path):
    report = tried(folder / "gru.edgeseq", tmp_path, variants=["int8"], smallest=4096)
    assert report.row("int8").verdict == "skipped"
    assert "GRU: fewer weights than 4096" in report.row("int8").reason
    assert report.precisions == ()
    assert tried(folder / "gru.edgeseq", tmp_path, variants=["int8"], smallest=3072).precisions == ("int8",)


def test_in_place_and_again_gives_the_same_bytes(folder, tmp_path):
    (tmp_path / "m.edgeseq").write_bytes((folder / "gru.edgeseq").read_bytes())
    first = quantize(tmp_path / "m.edgeseq", smallest=1, seconds=0)
    once = (tmp_path / "m.edgeseq").read_bytes()
    assert first.written == str(tmp_path / "m.edgeseq")
    quantize(tmp_path / "m.edgeseq", smallest=1, seconds=0)
    assert (tmp_path / "m.edgeseq").read_bytes() == once


def test_what_the_bundle_has_already_stays_where_the_new_one_is_refused(folder, tmp_path):
    tried(folder / "lstm.edgeseq", tmp_path, variants=["w4"], gate=LOOSE)
    once = open_bundle(tmp_path / "out.edgeseq").model("w4")
    again = quantize(tmp_path / "out.edgeseq", variants=["int8", "w4"], smallest=1, seconds=0, gate=RelativeGate(0.04, 0.3, 0))
    assert again.precisions == ("int8",)
    assert again.row("w4").reason.endswith("; the w4 that the bundle already has stays as it is")
    assert open_bundle(tmp_path / "out.edgeseq").model("w4") == once
    assert open_bundle(tmp_path / "out.edgeseq").manifest.gate("w4") == LOOSE


def test_a_bundle_that_can_not_be_written_is_as_it_was(folder, tmp_path):
    before = (folder / "gru.edgeseq").read_bytes()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="nothing was written"):
        quantize(folder / "gru.edgeseq", out=tmp_path / "file" / "m.edgeseq", smallest=1, seconds=0)
    assert (folder / "gru.edgeseq").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_several_variants_are_there_together_or_not_at_all(folder, tmp_path, monkeypatch):
    def fails_at_w8(bundle, precision, model, gate, path, **options):
        # Trials go to folders of their own, with no provenance.
        if precision == "w8" and options:
            raise UsageError("the disk is full")
        return with_precision(bundle, precision, model, gate, path, **options)

    monkeypatch.setattr(quantising, "with_precision", fails_at_w8)
    with pytest.raises(UsageError, match="the disk is full"):
        tried(folder / "lstm.edgeseq", tmp_path, variants=["int8", "w8"], gate=LOOSE)
    assert list(tmp_path.iterdir()) == []


def test_a_gain_is_how_many_times_as_fast_as_the_first():
    calls = {"first": lambda: sum(range(40_000)), "quick": lambda: sum(range(400)), "slow": lambda: sum(range(400_000))}
    times = speed._interleaved(calls, 0.02)
    assert times["first"].gain == 1
    assert times["quick"].gain > 2
    assert times["slow"].gain < 0.5
    assert times["quick"].median < times["first"].median < times["slow"].median


def test_a_metric_decides_too(folder, tmp_path):
    def falls(session):
        return {"fp32": 1.0, "int8": 0.996, "w8": 0.994}[session.plan.precision]

    report = tried(folder / "lstm.edgeseq", tmp_path, variants=["int8", "w8"], gate=LOOSE, metric=falls)
    assert report.precisions == ("int8",)
    assert report.row("int8").metric.loss == pytest.approx(0.004)
    assert report.row("w8").reason.startswith("metric falls: ")
    assert tried(folder / "lstm.edgeseq", tmp_path, variants=["w8"], gate=LOOSE, metric=falls, max_loss=0.01).precisions == ("w8",)


def test_inputs_of_the_users_own_are_held_to_the_gate(folder, tmp_path):
    rng = np.random.default_rng(0)
    usual = {"x": rng.standard_normal((30, 1, 3)).astype(np.float32)}
    # One loud step sets the scale of all the others.
    odd = {"x": usual["x"] * np.where(np.arange(30) == 3, 1e4, 1).astype(np.float32)[:, None, None]}
    good = tried(folder / "lstm.edgeseq", tmp_path, variants=["int8"], gate=RelativeGate(0.05, 0.4, 0), calibration=[usual])
    assert good.precisions == ("int8",)
    assert 0 < good.row("int8").calibration < 0.05
    bad = tried(folder / "lstm.edgeseq", tmp_path, variants=["int8"], gate=RelativeGate(0.05, 0.4, 0), calibration=[usual, odd])
    assert bad.precisions == ()
    assert "on calibration inputs 2: relative" in bad.row("int8").reason
    with pytest.raises(InputError):
        tried(folder / "lstm.edgeseq", tmp_path, variants=["int8"], calibration=[{"u": usual["x"]}])


def test_rows_by_themselves_can_be_pooled_and_the_operators_scale_can_not(folder, tmp_path):
    tried(folder / "lstm.edgeseq", tmp_path, variants=["int8", "w8"], gate=LOOSE)
    with edgeseq_runtime.load(tmp_path / "out.edgeseq", precision="w8").pool() as pool:
        pool.join().step({"x": np.ones((1, 1, 3), np.float32)})
    with pytest.raises(StreamError, match="Quantisation at run time"):
        edgeseq_runtime.load(tmp_path / "out.edgeseq", precision="int8").pool().close()


@pytest.mark.parametrize(("precision", "near"), [("int8", 0.02), ("w8", 1e-5)])
def test_a_stream_gives_what_the_whole_gives(folder, tmp_path, precision, near):
    tried(folder / "lstm.edgeseq", tmp_path, variants=["int8", "w8"], gate=LOOSE)
    session = edgeseq_runtime.load(tmp_path / "out.edgeseq", precision=precision)
    x = np.random.default_rng(1).standard_normal((40, 1, 3)).astype(np.float32)
    stream = session.stream()
    pieces = [stream.step({"x": x[t : t + 1]})["y"].copy() for t in range(40)]
    whole = session.run({"x": x})["y"]
    assert relative(np.concatenate(pieces), whole) < near
    # Another member of the batch has a share in the operator's scale, and none in that of a row.
    beside = session.run({"x": np.concatenate([x, 3 * x[::-1]], axis=1)})["y"][:, :1]
    assert (relative(beside, whole) < 1e-5) == (precision == "w8")


def test_it_needs_no_pytorch(folder, tmp_path):
    done = run_python(
        f"""
import edgeseq_quantize
report = edgeseq_quantize.quantize({str(folder / "gru.edgeseq")!r}, out={str(tmp_path / "q.edgeseq")!r}, smallest=1, seconds=0)
assert report.precisions == ("int8",), report
""",
        blocked=("torch", "edgeseq_export", "onnxscript"),
    )
    assert done.returncode == 0, done.stderr


def test_times_are_of_all_models_in_turns(folder, tmp_path):
    report = tried(folder / "lstm.edgeseq", tmp_path, seconds=0.02, gate=LOOSE)
    for row in report.rows:
        timed = row.name != "fp16"
        assert math.isfinite(row.step) == math.isfinite(row.sequence_gain) == timed
    assert (report.row("fp32").step_gain, report.row("fp32").sequence_gain) == (1, 1)
    assert min(report.row("fp32").sequence, report.row("fp32").step) > 0


def test_wrong_requests_are_refused(folder, tmp_path):
    with pytest.raises(UsageError, match=f"no variant 'int2'; there are: {', '.join(VARIANTS)}"):
        tried(folder / "gru.edgeseq", tmp_path, variants=["int2"])
    with pytest.raises(UsageError, match="smallest 0"):
        tried(folder / "gru.edgeseq", tmp_path, smallest=0)
    with pytest.raises(UsageError, match="seconds -1"):
        tried(folder / "gru.edgeseq", tmp_path, seconds=-1)


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("relative=0.02", GATE),
        ("relative=0.1, relative999=0.3,unequal=0", RelativeGate(0.1, 0.3, 0)),
        ("relative999=1", None),
        ("relative=x", None),
        ("relative=-1", None),
        ("relative=0.1,other=1", None),
        ("0.02", None),
    ],
)
def test_a_gate_is_read_or_refused(text, gate):
    if gate is None:
        with pytest.raises(UsageError, match="is no gate; write relative="):
            gate_of(text)
    else:
        assert gate_of(text) == gate


# What plans say of them.


def rules(path, precision, device):
    forecast = edgeseq_runtime.make_forecast(open_bundle(path), device, precision=precision)
    return {found.rule: found for found in forecast.findings}


def test_a_plan_says_what_runs_where(folder, tmp_path):
    tried(folder / "lstm.edgeseq", tmp_path, variants=["int8", "w8"], gate=LOOSE)
    path = tmp_path / "out.edgeseq"
    assert rules(path, "w8", "cpu-x86_64")["operator: 8-bit weights"].subject == "1 MatMulNBits"
    assert "1.22" in rules(path, "w8", "cuda")["operator: 8-bit weights"].text
    assert "operator: 8-bit weights" not in rules(path, "int8", "cpu-x86_64")
    assert "no kernel" in rules(path, "int8", "cuda")["on the CPU: domain"].text
    for precision in ("int8", "w8"):
        assert "domain 'com.microsoft'" in rules(path, precision, "tensorrt")["tensorrt: domain"].text
    assert "operator: 8-bit weights" not in rules(path, "w8", "tensorrt")


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["int8", "w8", "w4"])
def test_tensorrts_importer_refuses_what_the_plan_says_it_does(folder, tmp_path, precision):
    tried(folder / "lstm.edgeseq", tmp_path, variants=[precision], gate=LOOSE)
    with pytest.raises(UsageError, match="can't parse the model"):
        edgeseq_runtime.load(tmp_path / "out.edgeseq", precision=precision, device="tensorrt-network")


# The command.


def test_the_command_shows_one_table_and_says_what_it_wrote(folder, tmp_path):
    out = tmp_path / "q.edgeseq"
    command = ("quantize", folder / "gru.edgeseq", "-o", out, "--smallest", "1", "--seconds", "0.02")
    done = edgeseq(*command, "--gate", "relative=0.02")
    lines = done.stdout.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.split() and line.split()[0] in ("fp32", *VARIANTS)}
    assert (rows["int8"][-1], rows["w8"][-1], rows["w4"][-1]) == ("written", "skipped", "refused")
    assert any(line.startswith("w4: refused: ") and "exceeds 0.02" in line for line in lines)
    assert any(line.startswith("GRU 'Y'") for line in lines)
    assert f"written: int8 into {out}" in done.stdout
    assert set(open_bundle(out).manifest.precisions) == {"fp32", "int8"}


def test_the_commands_exit_code_and_json(folder, tmp_path):
    npz, out = tmp_path / "in.npz", tmp_path / "q.edgeseq"
    np.savez(npz, x=np.ones((4, 1, 3), np.float32))
    common = ("quantize", folder / "lstm.edgeseq", "-o", out, "--smallest", "1", "--seconds", "0", "--json")
    refused = edgeseq(*common, "--variants", "int8,w4", "--gate", "relative=0.04", "--calibration", npz, code=1)
    rows = {row["name"]: row for row in json.loads(refused.stdout)["rows"]}
    assert (rows["int8"]["verdict"], rows["w4"]["verdict"]) == ("written", "refused")
    assert rows["int8"]["step"] is None
    assert rows["int8"]["calibration"] > 0
    wrong = edgeseq(*common, "--gate", "loose", code=2)
    assert "'loose' is no gate" in wrong.stderr
