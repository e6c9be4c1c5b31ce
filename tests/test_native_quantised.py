"""Native products of 8 and 4-bit weights: whole numbers beside NumPy's on each processor that runs here, and quantised models."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import runtime_models
from native_graphs import needs_compiler
from onnx import numpy_helper
from quantised_equations import exact_product, relative, rows_product
from test_native_kernels import FLAGS, SOURCES, UNTOUCHED, machines
from test_quantize import CASES, INT8, NEAR, W4, W8, Case, expected, graph_of, inputs_of, operators, quantised

import edgeseq_runtime
from edgeseq_quantize import quantize
from edgeseq_quantize.matrices import block_size
from edgeseq_runtime.backends.native_backend import load_model
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.native.kernels import aligned
from edgeseq_runtime.native.operators import quantised as quantised_operators
from edgeseq_runtime.native.operators.quantised import Integers, packed_integers
from edgeseq_runtime.plan import plan_for_device

WRAPPERS = """
#include "quantised.h"
int panel(void) { return PANEL; }
int tiles(void) { return fits_tiles(&(integer_part){.size = 64, .bits = 8}, 16); }
int64_t room(int64_t rows, int64_t K, int64_t size) { return rounded_bytes(rows, K, size); }
void multiply(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows, int64_t K, int64_t size, int64_t bits,
              char *packed, int64_t N, const float *bias, uint8_t *rounded) {
    integer_product(y, y_stride, x, x_stride, rows, K, size, bits, packed, N, bias, rounded);
}
"""
pytestmark = needs_compiler

PORTABLE = "-DEDGESEQ_PORTABLE"  # the products that a processor without any of the instructions has


def libraries() -> list[tuple[str, ...]]:
    """Compiler and flags."""
    found = [("cc", f"-march={machine}") for machine in machines()]
    found += [("clang", "-march=native")] if shutil.which("clang") else []
    return [*found, ("cc", "-march=native", PORTABLE)]


class Library:
    """The kernels as Python calls them."""

    def __init__(self, path: Path):
        self.library = ctypes.CDLL(str(path))
        self.library.room.restype = ctypes.c_int64
        self.panel = self.library.panel()

    def multiply(self, x, weights, bias=None, packed=None):
        """x (rows, K) with any stride from row to row; y and the memory for rounded rows are between guards."""
        rows, (K, N) = len(x), weights.integers.shape
        room = np.full((rows + 2, N + 3), UNTOUCHED)
        y = room[1:-1, 1 : N + 1]
        held = self.library.room(*map(ctypes.c_int64, (rows, K, weights.size)))
        rounded = aligned(np.full(held + 64, 0xA5, np.uint8))
        packed = packed_integers([weights], self.panel) if packed is None else packed
        padded = None if bias is None else np.append(bias, np.full(-N % self.panel, UNTOUCHED)).astype(np.float32)
        numbers = [ctypes.c_int64(n) for n in (N + 3, x.strides[0] // 4, rows, K, weights.size, weights.bits, N)]
        pointers = [ctypes.c_void_p(one if one is None else one.ctypes.data) for one in (y, x, packed, padded, rounded)]
        self.library.multiply(
            pointers[0], numbers[0], pointers[1], *numbers[1:6], pointers[2], numbers[6], pointers[3], pointers[4]
        )
        assert (rounded[held:] == 0xA5).all()
        for guard in (room[0], room[-1], room[:, 0], room[:, N + 1 :]):
            assert (guard == UNTOUCHED).all()
        return y.copy()


@pytest.fixture(scope="module", params=libraries(), ids=" ".join)
def library(request, tmp_path_factory):
    compiler, *flags = request.param
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler: no program {compiler} on PATH")
    folder = tmp_path_factory.mktemp("quantised")
    (folder / "wrappers.c").write_text(WRAPPERS)
    # Only what is called here is compiled: all else is another test's.
    command = [compiler, *flags, *FLAGS, "-Wno-unused-function", f"-I{SOURCES}", "wrappers.c", "-o", "kernels.so", "-lm"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert not made.stderr
    return Library(folder / "kernels.so")


# ---- whole numbers


class Sizes(NamedTuple):
    """Of a product: K inputs in blocks of `size`."""

    rows: int
    K: int
    N: int
    size: int
    bits: int = 8


SIZES = [
    Sizes(1, 1, 1, 4),
    Sizes(1, 4, 3, 4),
    Sizes(1, 20, 65, 20),
    Sizes(2, 37, 40, 40),
    Sizes(3, 256, 64, 256),
    Sizes(4, 250, 130, 64),
    Sizes(5, 300, 200, 32),
    Sizes(7, 17, 3, 16),
    Sizes(13, 64, 257, 16),
    Sizes(17, 128, 70, 128),
    Sizes(32, 192, 129, 64),
    Sizes(47, 100, 33, 100),
    Sizes(48, 72, 64, 72),
    Sizes(97, 44, 66, 44),
    Sizes(1, 1000, 5, 1000),
    Sizes(1, 16, 1, 16, 4),
    Sizes(1, 300, 65, 64, 4),
    Sizes(6, 250, 130, 256, 4),
    Sizes(16, 64, 64, 64, 4),
    Sizes(50, 37, 20, 16, 4),
]


def drawn_integers(sizes, rng):
    """Weights of the whole range with scales that are powers of two, and rows whose blocks all reach 127: nothing is rounded."""
    low, high = (-128, 127) if sizes.bits == 8 else (-8, 7)
    blocks = -(-sizes.K // sizes.size)
    w = rng.integers(low, high + 1, (sizes.K, sizes.N)).astype(np.int8)
    w[:, 0], w[:, -1] = high, low
    scales = 2.0 ** rng.integers(-3, 4, (blocks, sizes.N)).astype(np.float32)
    x = rng.integers(-127, 128, (sizes.rows, sizes.K))
    x[:, :: sizes.size] = rng.choice([-127, 127], x[:, :: sizes.size].shape)
    return Integers(w, scales.astype(np.float32), sizes.size, sizes.bits), x


def sums_of(weights, x):
    """What the blocks' products add up to, in NumPy's integers."""
    K = len(weights.integers)
    total = np.zeros((len(x), weights.integers.shape[1]))
    for at, start in enumerate(range(0, K, weights.size)):
        block = slice(start, start + weights.size)
        total += (x[:, block].astype(np.int64) @ weights.integers[block].astype(np.int64)) * weights.scales[at].astype(np.float64)
    return total


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_products_are_those_of_whole_numbers(library, sizes):
    rng = np.random.default_rng(7)
    weights, x = drawn_integers(sizes, rng)
    exact = sums_of(weights, x)
    assert np.abs(exact).max() < 2**24  # a float's share of whole numbers and eighths holds them
    wide = np.full((sizes.rows, sizes.K + 5), np.nan, np.float32)
    wide[:, : sizes.K] = x
    np.testing.assert_array_equal(library.multiply(wide[:, : sizes.K], weights), exact)
    bias = rng.integers(-1000, 1000, sizes.N).astype(np.float32)
    np.testing.assert_array_equal(library.multiply(x.astype(np.float32), weights, bias), exact + bias)


def test_whole_tiles_of_rows_may_be_read(library):
    if not library.library.tiles():
        pytest.skip("this processor has no tiles, or the compiler does not know them")
    room = [library.library.room(*map(ctypes.c_int64, (rows, 192, 64))) for rows in range(101)]
    assert {room[rows] for rows in range(4, 17)} == {16 * room[1]}
    assert {room[rows] for rows in range(17, 33)} == {32 * room[1]}
    assert {room[rows] for rows in range(33, 101)} == {48 * room[1]}


@pytest.mark.parametrize("bits", [8, 4])
def test_nothing_saturates(library, bits):
    """Every product as large as it gets, of either sign, in a block that is long."""
    K, low = 4096, -128 if bits == 8 else -8
    weights = Integers(np.full((K, 3), low, np.int8), np.full((1, 3), 2.0**-10, np.float32), K, bits)
    weights.integers[:, 1] = -low - 1
    weights.integers[::2, 2] = -low - 1
    x = np.full((7, K), 127, np.float32)
    x[1] = -127
    x[2, ::2] = -127
    np.testing.assert_array_equal(library.multiply(x, weights), sums_of(weights, x))


def test_rows_are_rounded_to_the_nearest_of_127_steps_of_their_blocks(library):
    rng = np.random.default_rng(11)
    rows, K, N, size = 5, 200, 30, 64
    steps = rng.integers(-126, 127, (rows, K))
    near = steps + rng.uniform(-0.45, 0.45, steps.shape)
    steps[:, ::size] = near[:, ::size] = rng.choice([-127, 127], steps[:, ::size].shape)
    unit = np.exp(rng.uniform(-40, 40, (rows, -(-K // size)))).astype(np.float32)
    x = (near * np.repeat(unit, size, 1)[:, :K]).astype(np.float32)
    weights = Integers(rng.integers(-127, 128, (K, N)).astype(np.int8), np.ones((len(unit[0]), N), np.float32), size)
    exact = sum(
        (steps[:, at * size : (at + 1) * size] @ weights.integers[at * size : (at + 1) * size].astype(int)) * unit[:, at, None]
        for at in range(len(unit[0]))
    )
    greatest = np.abs(exact).max(1, keepdims=True)
    assert (np.abs(library.multiply(x, weights) - exact) < 1e-6 * greatest).all()


@pytest.mark.parametrize(("size", "bits"), [(64, 8), (16, 8), (64, 4), (160, 8), (128, 8)])
def test_a_row_has_the_same_bits_among_others_and_each_time(library, size, bits):
    rng = np.random.default_rng(3)
    K, N = 160, 150
    low, high = (-127, 128) if bits == 8 else (-7, 8)
    scales = rng.uniform(0.001, 0.1, (-(-K // size), N)).astype(np.float32)
    weights = Integers(rng.integers(low, high, (K, N)).astype(np.int8), scales, size, bits)
    packed = packed_integers([weights], library.panel)
    x, bias = rng.standard_normal((101, K)).astype(np.float32), rng.standard_normal(N).astype(np.float32)
    alone = np.concatenate([library.multiply(x[r : r + 1], weights, bias, packed) for r in range(len(x))])
    again = np.concatenate([library.multiply(x[r : r + 1], weights, bias, packed) for r in range(len(x))])
    np.testing.assert_array_equal(again, alone)
    x[50] *= 1e6
    for rows in (*range(1, 20), 47, 48, 49, 64, 101):
        found = library.multiply(x[:rows], weights, bias, packed)
        np.testing.assert_array_equal(
            np.delete(found, 50, 0) if rows > 50 else found, np.delete(alone, 50, 0)[: rows - (rows > 50)]
        )


def test_zeros_denormals_and_what_is_no_number(library):
    rng = np.random.default_rng(5)
    K, N = 96, 70
    weights = Integers(rng.integers(1, 100, (K, N)).astype(np.int8), np.full((2, N), 0.5, np.float32), 64)
    bias = rng.standard_normal(N).astype(np.float32)
    x = np.zeros((8, K), np.float32)
    x[1, 70], x[2, 3], x[3, 4], x[4, 90] = 1e-45, np.nan, np.inf, -np.inf
    x[5, :64], x[6, 10], x[7] = 1, 3e38, 5.0
    with np.errstate(over="ignore"):
        y = library.multiply(x, weights, bias)
    np.testing.assert_array_equal(y[0], bias)
    np.testing.assert_array_equal(y[1], bias)
    tiny = np.full((2, K), 1e-37, np.float32) * rng.integers(0, 2, (2, K))
    np.testing.assert_array_equal(library.multiply(tiny.astype(np.float32), weights), 0)
    small = library.multiply(1e8 * tiny.astype(np.float32), weights)
    np.testing.assert_allclose(small, 0.5 * (1e8 * tiny.astype(np.float64)) @ weights.integers, rtol=1e-5)
    assert np.isnan(y[2:5]).all()
    np.testing.assert_allclose(y[5], bias + 0.5 * weights.integers[:64].sum(0, dtype=int), rtol=1e-6)
    wide = np.float64(3e38) * 0.5 * weights.integers[10]
    np.testing.assert_allclose(y[6][wide < 3.3e38], wide[wide < 3.3e38], rtol=1e-6)
    assert np.isposinf(y[6][wide > 3.5e38]).all()
    np.testing.assert_allclose(y[7], bias + 2.5 * weights.integers.sum(0, dtype=int), rtol=1e-6)


# ---- graphs


def native(model):
    """A graph as the backend opens it."""
    return load_model(model, plan_for_device("native"))


def run(model, drawn):
    return list(native(model).run(drawn).values())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", [W8, W4], ids=["w8", "w4"])
def test_a_cell_computes_what_its_integers_say(name, method):
    case = CASES[name]
    model, drawn = quantised(graph_of(case), method), inputs_of(case)
    product = rows_product(method.bits, 16)  # blocks of 20 units and of 136 features are of 16
    own = expected(case, drawn, of_input=product if case.K > 128 else exact_product, of_state=product)
    for found, value in zip(run(model, drawn), own, strict=True):
        assert found.shape == value.shape
        assert relative(found, value) < NEAR


LSTMS = {
    **{name: case for name, case in CASES.items() if name.startswith("lstm")},
    "odd": Case("LSTM", K=7, H=33),
    "wide": Case("LSTM", K=70, H=65, lengths=True),
    "no bias": Case("LSTM", bias=False),
    "reversed, ragged": Case("LSTM", "reverse", K=9, H=5, lengths=True),
}


@pytest.mark.parametrize("name", LSTMS)
@pytest.mark.parametrize(("T", "B"), [(6, 3), (1, 1), (1, 3), (60, 2)])
def test_an_lstm_computes_what_its_integers_say(name, T, B):
    """A row of input or state is one block, and weights are of 7 bits."""
    case = LSTMS[name]
    model, drawn = quantised(graph_of(case), INT8), inputs_of(case, T=T, B=B)
    assert operators(model) == ["DynamicQuantizeLSTM"]
    own = expected(case, drawn, of_input=rows_product(7, 1000), of_state=rows_product(7, 1000))
    for found, value in zip(run(model, drawn), own, strict=True):
        assert found.shape == value.shape
        assert relative(found, value) < (NEAR if T < 60 else 10 * NEAR)


def test_a_single_step_of_some_of_a_batch_is_theirs_alone():
    case = LSTMS["lstm, both ways, ragged"]
    drawn = inputs_of(case, T=1, B=3) | {"lengths": np.array([0, 1, 1], np.int32)}
    own = expected(case, drawn, of_input=rows_product(7, 1000), of_state=rows_product(7, 1000))
    for found, value in zip(run(quantised(graph_of(case), INT8), drawn), own, strict=True):
        assert relative(found, value) < NEAR


@pytest.mark.parametrize("attributes", [{"activations": ["HardSigmoid", "Tanh", "Softsign"]}, {"peepholes": True}], ids=str)
def test_what_else_an_lstm_has_is_kept(attributes):
    peepholes = attributes.pop("peepholes", False)
    proto = onnx.load_from_string(graph_of(Case("LSTM", attributes=attributes)))
    if peepholes:
        P = np.random.default_rng(0).standard_normal((1, 60)).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(P, "P"))
        proto.graph.node[0].input.append("P")
    model, drawn = proto.SerializeToString(), inputs_of(Case("LSTM"))
    exact, plain = run(model, drawn)[0], run(graph_of(Case("LSTM")), drawn)[0]
    assert relative(run(quantised(model, INT8), drawn)[0], exact) < 0.02 < relative(plain, exact)


@pytest.mark.parametrize("name", ["gru, wide input", "rnn", "lstm, wide input"])
@pytest.mark.parametrize("method", [INT8, W8, W4], ids=["int8", "w8", "w4"])
def test_steps_give_the_bits_of_the_whole_and_members_of_a_batch_do_not_see_each_other(name, method):
    case = CASES[name]
    drawn = inputs_of(case, T=60, B=3)
    model = native(quantised(graph_of(case), method))
    names = [one.name for one in model.specs()[0] if one.name != "x"]
    whole = list(model.run(drawn).values())
    for lengths in ([1] * 60, [7, 53]):
        states, at, pieces = {name: drawn[name] for name in names}, 0, []
        for length in lengths:
            y, *after = model.run({"x": drawn["x"][at : at + length], **states}).values()
            states, at = dict(zip(names, after, strict=True)), at + length
            pieces.append(y)
        np.testing.assert_array_equal(np.concatenate(pieces), whole[0])
        for state, value in zip(states.values(), whole[1:], strict=True):
            np.testing.assert_array_equal(state, value)
    loud = {name: value.copy() for name, value in drawn.items()}
    loud["x"][:, 1:] *= 1e4
    np.testing.assert_array_equal(next(iter(model.run(loud).values()))[:, :, 0], whole[0][:, :, 0])
    alone = {name: np.ascontiguousarray(value[:, :1]) for name, value in drawn.items()}
    np.testing.assert_array_equal(next(iter(model.run(alone).values())), whole[0][:, :, :1])


def linear(K=70, N=9, bits=8, bias=True, body="y = MatMul(x, w)", shape="B,T,{K}"):
    rng = np.random.default_rng(1)
    w, c = rng.standard_normal((K, N)).astype(np.float32), rng.standard_normal(N).astype(np.float32)
    text = f"agraph (float[{shape.format(K=K)}] x) => (float[M,L,{N}] y) {{ {body} }}"
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]>' + text)
    proto.graph.initializer.append(numpy_helper.from_array(w, "w"))
    changed = onnx.load_from_string(quantised(proto.SerializeToString(), W8 if bits == 8 else W4))
    if bias:
        node = next(one for one in changed.graph.node if one.op_type == "MatMulNBits")
        node.input.extend(["", "", "c"])
        changed.graph.initializer.append(numpy_helper.from_array(c, "c"))
    return changed, w, c if bias else 0 * c


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("K", [3, 16, 70, 250])
@pytest.mark.parametrize("N", [1, 9, 130])
def test_a_product_computes_what_its_integers_say(K, N, bits):
    model, w, c = linear(K, N, bits, bias=N != 9)
    x = np.random.default_rng(2).standard_normal((2, 3, K)).astype(np.float32)
    own = rows_product(bits, block_size(K))(x, w.T) + c
    assert relative(run(model.SerializeToString(), {"x": x})[0], own) < 1e-6


@pytest.mark.parametrize(
    ("body", "shape", "turn"),
    [
        ("t = Transpose <perm = [1, 0, 2]> (x) y = MatMul(t, w)", "B,T,{K}", lambda x: x.transpose(1, 0, 2)),
        ("t = Transpose <perm = [1, 2, 0]> (x) y = MatMul(t, w)", "{K},B,T", lambda x: x.transpose(1, 2, 0)),
    ],
)
def test_rows_may_lie_anywhere(body, shape, turn):
    model, w, c = linear(body=body, shape=shape)
    x = np.random.default_rng(2).standard_normal((70, 2, 3) if shape.startswith("{") else (2, 3, 70)).astype(np.float32)
    own = rows_product(8, block_size(70))(turn(x), w.T) + c
    assert relative(run(model.SerializeToString(), {"x": x})[0], own) < 1e-6


def test_where_no_rows_are_to_be_rounded_weights_alone_are():
    model, w, c = linear()
    for node in model.graph.node:
        node.attribute.remove(next(one for one in node.attribute if one.name == "accuracy_level"))
    x = np.random.default_rng(2).standard_normal((2, 3, 70)).astype(np.float32)
    found = run(model.SerializeToString(), {"x": x})[0]
    size = block_size(70)
    blocks = [w[at : at + size] for at in range(0, 70, size)]
    units = [np.abs(one).max(0) / np.float32(127) for one in blocks]
    rounded = np.concatenate([np.rint(one / unit) * unit for one, unit in zip(blocks, units, strict=True)])
    assert relative(found, x.astype(np.float64) @ rounded + c) < 1e-6


def test_threads_share_a_product_and_change_no_bit():
    matrix = linear(K=256, N=1030)[0].SerializeToString()
    layer = quantised(graph_of(Case("LSTM", K=200, H=200)), INT8)
    rows = np.random.default_rng(2).standard_normal((5, 12, 256)).astype(np.float32)
    for model, drawn in ((matrix, {"x": rows}), (layer, inputs_of(Case("LSTM", K=200, H=200), T=30, B=5))):
        one, more = (load_model(model, plan_for_device("native", threads=threads)) for threads in (1, 3))
        expected_outputs = one.run(drawn)
        for _ in range(5):
            for name, value in more.run(drawn).items():
                np.testing.assert_array_equal(value, expected_outputs[name])


@pytest.mark.parametrize(("name", "method", "count"), [("gru, wide input", W8, 2), ("lstm, both ways, ragged", INT8, 2)])
def test_weights_are_packed_once_for_all_sizes(name, method, count, monkeypatch):
    packed = []
    make = quantised_operators.packed_integers
    monkeypatch.setattr(quantised_operators, "packed_integers", lambda *given: packed.append(given) or make(*given))
    model = native(quantised(graph_of(CASES[name]), method))
    for T in (4, 2, 5):
        model.run(inputs_of(CASES[name], T=T))
    assert len(packed) == count


def test_the_same_integers_with_other_scales_are_other_weights():
    layer = onnx.load_from_string(quantised(graph_of(CASES["lstm"]), INT8))
    matrix = linear(bias=False)[0]
    for proto, drawn, inputs in (
        (layer, inputs_of(CASES["lstm"]), (8, 10)),
        (matrix, {"x": inputs_of(Case("LSTM", K=70))["x"]}, (2,)),
    ):
        for position in inputs:
            other = onnx.ModelProto.FromString(proto.SerializeToString())
            node = onnx.NodeProto.FromString(other.graph.node[0].SerializeToString())
            scales = next(one for one in other.graph.initializer if one.name == node.input[position])
            halved = numpy_helper.from_array(numpy_helper.to_array(scales) / 2, "halved")
            other.graph.initializer.append(halved)
            node.input[position] = "halved"
            node.name, node.output[:] = "again", [f"{name}_again" for name in node.output]
            alone = onnx.ModelProto.FromString(other.SerializeToString())
            other.graph.node.append(node)
            for model in (other, alone):
                model.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None))
            del alone.graph.node[:], alone.graph.output[:-1]
            alone.graph.node.append(node)
            both, one = run(other.SerializeToString(), drawn), run(alone.SerializeToString(), drawn)
            np.testing.assert_array_equal(both[-1], one[-1])
            assert relative(both[-1], both[0]) > 0.05


def changed_node(model, change):
    proto = onnx.load_from_string(model) if isinstance(model, bytes) else model
    change(proto)
    return proto.SerializeToString()


def refuse_zero_points(proto):
    proto.graph.node[0].input.extend([""] * (3 - len(proto.graph.node[0].input)))
    proto.graph.node[0].input.append("z")
    proto.graph.initializer.append(numpy_helper.from_array(np.full((9, 5), 128, np.uint8), "z"))


def refuse_another_order(proto):
    proto.graph.node[0].input.extend([""] * (4 - len(proto.graph.node[0].input)))
    proto.graph.node[0].input.append("order")
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(70, dtype=np.int32), "order"))


def blocks_of_12(proto):
    next(one for one in proto.graph.node[0].attribute if one.name == "block_size").i = 12


def more_inputs(proto):
    next(one for one in proto.graph.node[0].attribute if one.name == "K").i = 71


def more_outputs(proto):
    next(one for one in proto.graph.node[0].attribute if one.name == "N").i = 10


def fewer_units(proto):
    held = next(one for one in proto.graph.initializer if one.name == proto.graph.node[0].input[2])
    held.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(held)[:, 1:], held.name))


def many_inputs(proto):
    held = next(one for one in proto.graph.initializer if one.name == proto.graph.node[0].input[1])
    wide = np.pad(numpy_helper.to_array(held), [(0, 0), (0, 1 << 16), (0, 0)])
    held.CopyFrom(numpy_helper.from_array(wide, held.name))


def two_bits(proto):
    next(one for one in proto.graph.node[0].attribute if one.name == "bits").i = 2


def zero_point_of_one(proto):
    zeros = next(one for one in proto.graph.initializer if one.name == proto.graph.node[0].input[9])
    zeros.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(zeros) + 1, zeros.name))


def unsigned_weights(proto):
    held = next(one for one in proto.graph.initializer if one.name == proto.graph.node[0].input[1])
    held.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(held).view(np.uint8), held.name))


def scales_of_double_precision(proto):
    scales = next(one for one in proto.graph.initializer if one.name == proto.graph.node[0].input[2])
    scales.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scales).astype(np.float64), scales.name))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (refuse_zero_points, "about their middle"),
        (refuse_another_order, "in their own order"),
        (two_bits, "8 or 4 bits"),
        (blocks_of_12, "not of 12"),
        (many_inputs, "at most 65536 inputs"),
        (scales_of_double_precision, "scales of float32"),
        (zero_point_of_one, "int8 about zero"),
        (unsigned_weights, "int8 about zero"),
    ],
)
def test_what_the_kernels_do_not_do_is_refused(change, reason):
    is_lstm = change in (zero_point_of_one, unsigned_weights, many_inputs)
    model = quantised(graph_of(CASES["lstm"]), INT8) if is_lstm else linear(bias=False)[0]
    drawn = inputs_of(CASES["lstm"]) if is_lstm else {"x": np.zeros((2, 3, 70), np.float32)}
    with pytest.raises(UsageError, match=reason) as caught:
        run(changed_node(model, change), drawn)
    assert "choose device 'cpu'" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "found"),
    [(more_inputs, r"\[70\].* \[71\]"), (more_outputs, r"size \[\d+\].* \[\d+\]"), (fewer_units, r"\[80\].* \[76\]|\[1, 160\]")],
)
def test_sizes_that_do_not_fit_are_refused(change, found):
    model = quantised(graph_of(CASES["lstm"]), INT8) if change is fewer_units else linear()[0]
    drawn = inputs_of(CASES["lstm"]) if change is fewer_units else {"x": np.zeros((2, 3, 70), np.float32)}
    with pytest.raises(UsageError, match=found):
        run(changed_node(model, change), drawn)


def test_an_operator_of_another_domain_is_named_in_full():
    proto = linear(bias=False)[0]
    proto.graph.node[0].op_type = "MatMulIntegerToFloat"
    with pytest.raises(UsageError, match=r"no operator com\.microsoft\.MatMulIntegerToFloat"):
        native(proto.SerializeToString())
    proto.graph.node[0].op_type = "MatMul"
    with pytest.raises(UsageError, match=r"no operator com\.microsoft\.MatMul "):
        native(proto.SerializeToString())


# ---- bundles


@pytest.mark.parametrize("make", [runtime_models.lstm, runtime_models.gru], ids=["lstm", "gru"])
def test_a_quantised_bundle_passes_its_gate_natively(tmp_path, make):
    path = make(H=64).write(tmp_path / "m.edgeseq")
    report = quantize(path, smallest=1, seconds=0, variants=["int8", "w8"])
    assert "int8" in report.precisions
    for precision in report.precisions:
        parity = edgeseq_runtime.measure_parity(path, device="native", precision=precision)
        assert parity.passed
        assert {one.mode for one in parity.rows} == {"whole", "stream"}
        assert parity.worst("relative") > 1e-4  # it is the quantised graph that ran


def test_a_stream_has_the_bits_of_the_whole(tmp_path):
    path = runtime_models.lstm(H=64).write(tmp_path / "m.edgeseq")
    quantize(path, smallest=1, seconds=0, variants=["int8"])
    session = edgeseq_runtime.load(path, device="native", precision="int8")
    drawn = runtime_models.lstm(H=64).draw({"T": 50, "B": 1}, np.random.default_rng(4))
    stream = session.stream()
    stream.state = {name: drawn[name] for name in stream.state}
    whole = session.run(drawn)
    steps = [stream.step({"x": drawn["x"][t : t + 1]})["y"].copy() for t in range(50)]
    np.testing.assert_array_equal(np.concatenate(steps), whole["y"])
