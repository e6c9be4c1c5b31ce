"""Float32 graphs rewritten in half precision: what is in float16 then, and what it computes, in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import runtime_models
from hypothesis import given
from hypothesis import strategies as st

from edgeseq_quantize.half import in_half, rounded_to_half

HEADER = '<ir_version: 10, opset_import: ["" : 20]>'
SCAN = """agraph (float[T,B,3] x, float[B,3] h) => (float[B,3] last, float[T,B,3] y) <float scale = {0.3}> {
    last, y = Scan <num_scan_inputs = 1, body = step (float[B,3] s, float[B,3] e) => (float[B,3] t, float[B,3] u) {
        one = Constant <value_float = 1.5> ()
        product = Mul(s, scale)
        sum = Add(product, e)
        t = Tanh(sum)
        u = Add(t, one)
    }> (h, x)
}"""
MIXED = """agraph (float[T,B] x, int64[B] n, bool[B] f) => (float[T,B] y, int64[B] m, float[B] z) {
    shape = Shape(x)
    ones = ConstantOfShape(shape)
    filled = ConstantOfShape <value = float[1] {2.5}> (shape)
    whole = Cast <to = 1> (n)
    scaled = Mul(x, whole)
    sum = Add(scaled, ones)
    y = Add(sum, filled)
    m = Add(n, n)
    z = Cast <to = 1> (f)
}"""


def parsed(text):
    return onnx.parser.parse_model(HEADER + text).SerializeToString()


def run(model, inputs):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


def interface(model):
    graph = onnx.load_from_string(model).graph
    return [(value.name, value.type.tensor_type.elem_type) for value in (*graph.input, *graph.output)]


def initializers(model):
    return {one.name: onnx.numpy_helper.to_array(one).dtype for one in onnx.load_from_string(model).graph.initializer}


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


CASES = {
    "scan": (parsed(SCAN), {"x": draw(9, 2, 3), "h": draw(2, 3)}),
    "mixed": (parsed(MIXED), {"x": draw(4, 2), "n": np.array([3, -7]), "f": np.array([True, False])}),
    "lstm": (runtime_models.lstm().onnx, {"x": draw(9, 2, 3), "h": draw(1, 2, 8), "c": draw(1, 2, 8)}),
    "gru with lengths": (
        runtime_models.gru(lengths=True).onnx,
        {"x": draw(9, 2, 3), "h": draw(1, 2, 8), "lengths": np.array([9, 4], np.int32)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_interface_stays_and_the_values_are_near(name):
    model, inputs = CASES[name]
    half = in_half(model)
    onnx.checker.check_model(half)
    assert interface(half) == interface(model)
    expected, found = run(model, inputs), run(half, inputs)
    for output, value in expected.items():
        assert found[output].dtype == value.dtype
        np.testing.assert_allclose(found[output], value, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("name", ["scan", "lstm"])
def test_it_is_half_precision_that_is_computed(name):
    model, inputs = CASES[name]
    expected, found = run(model, inputs), run(in_half(model), inputs)
    assert max(np.abs(found[output] - value).max() for output, value in expected.items()) > 1e-5
    assert {dtype for dtype in initializers(in_half(model)).values() if dtype.kind == "f"} == {np.dtype(np.float16)}


def test_a_recurrent_node_with_lengths_keeps_its_precision():
    model, inputs = CASES["gru with lengths"]
    half = in_half(model)
    assert initializers(half)["R"] == np.float32
    np.testing.assert_array_equal(run(half, inputs)["y"], run(model, inputs)["y"].astype(np.float16).astype(np.float32))


def test_weights_that_another_node_reads_are_cast():
    proto = onnx.load_from_string(CASES["gru with lengths"][0])
    proto.graph.node.append(onnx.helper.make_node("ReduceSum", ["R"], ["z"], keepdims=0))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, []))
    half = in_half(proto.SerializeToString())
    assert initializers(half)["R"] == np.float16
    run(half, CASES["gru with lengths"][1])


@given(st.floats(width=32, allow_nan=False))
def test_no_number_becomes_infinite_or_zero(number):
    rounded = float(rounded_to_half(np.array([number], np.float32))[0])
    assert np.isfinite(rounded) == np.isfinite(number)
    assert (rounded == 0) == (number == 0)
    assert np.sign(rounded) == np.sign(number)
    if 2.0**-14 <= abs(number) <= 65504:
        assert abs(rounded - number) <= 2.0**-11 * abs(number)
