"""The native kernels by themselves, compiled for several processors, beside NumPy and PyTorch in float64 and ONNX Runtime."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

import edgeseq_runtime.native
from edgeseq_runtime.native.compiled import FLAGS

SOURCES = Path(edgeseq_runtime.native.__file__).parent
WARNINGS = ("-Wall", "-Wextra", "-Wno-unused-function")
WRAPPERS = """
#include "recurrent.h"
int panel(void) { return PANEL; }
void apply(int which, float *y, const float *x, int64_t n) {
    (which == 0 ? exp_all : which == 1 ? sigmoid_all : tanh_all)(y, x, n);
}
void multiply(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows, int64_t K, const float *packed, int64_t N,
              const float *bias, int onto, int64_t threads) {
    gather_crew(threads);
    if (onto) product_onto(y, y_stride, x, x_stride, rows, K, packed, N);
    else product(y, y_stride, x, x_stride, rows, K, packed, N, bias);
    dismiss_crew();
}
int64_t scratch(int gates, int64_t T, int64_t B, int64_t I, int64_t H) {
    return (gates == 4 ? lstm_scratch : gates == 3 ? gru_scratch : rnn_scratch)(T, B, I, H);
}
void recur_with(int gates, const recurrence *of) { (gates == 4 ? lstm : gates == 3 ? gru : rnn)(of); }
"""

EXP, SIGMOID, TANH = range(3)
ACTIVATIONS = (
    "Sigmoid", "Tanh", "Relu", "HardSigmoid", "Affine", "LeakyRelu", "Elu", "Softsign", "Softplus", "ScaledTanh", "ThresholdedRelu",
)  # fmt: skip
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
UNTOUCHED = np.float32(-12345.0)


def machines() -> list[str]:
    """What of -march this machine runs: its own, and older ones of its kind."""
    if platform.machine() != "x86_64":
        return ["native"]
    flags = set(Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split())
    return ["native", "x86-64", *(["haswell"] if {"avx2", "fma", "bmi2"} <= flags else [])]


def cases() -> list[tuple[str, str]]:
    """Compiler and -march."""
    return [("cc", machine) for machine in machines()] + ([("clang", "native")] if shutil.which("clang") else [])


class Activation(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("alpha", ctypes.c_float), ("beta", ctypes.c_float)]


class Recurrence(ctypes.Structure):
    """recurrent.h's struct."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("T", "B", "I", "H", "backwards", "linear_before_reset")),
        *((name, ctypes.c_void_p) for name in ("x", "w", "bias", "r", "r_hidden", "recurrent_bias", "peepholes", "lengths")),
        *((name, ctypes.c_void_p) for name in ("h0", "c0", "y")),
        *((name, ctypes.c_int64) for name in ("y_step", "y_row")),
        *((name, ctypes.c_void_p) for name in ("h_end", "c_end", "scratch")),
        *((name, Activation) for name in ("f", "g", "h")),
    ]


class Layer(NamedTuple):
    """One direction of a node, in ONNX's own layout: W (G H, F), R (G H, H), bias (2 G H), peepholes (3 H)."""

    kind: str
    W: np.ndarray
    R: np.ndarray
    bias: np.ndarray
    peepholes: np.ndarray | None = None
    activations: tuple[str, ...] = ()
    alpha: float = 0.0
    beta: float = 0.0
    backwards: bool = False
    linear_before_reset: int = 0

    @property
    def functions(self) -> tuple[str, ...]:
        return self.activations or USUAL[self.kind]


def address(array):
    return None if array is None else array.ctypes.data


def aligned(size):
    """Zeros at an address that 64 divides."""
    room = np.zeros(size + 16, np.float32)
    start = -room.ctypes.data // 4 % 16
    return room[start : start + size]


class Kernels:
    """The library as Python calls it."""

    def __init__(self, path: Path):
        self.library = ctypes.CDLL(str(path))
        array, flag, number = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
        self.library.apply.argtypes = (flag, array, array, number)
        self.library.multiply.argtypes = (
            array, number, array, number, number, number, array, number, array, flag, number,
        )  # fmt: skip
        self.library.scratch.argtypes, self.library.scratch.restype = (flag, *[number] * 4), number
        self.panel = self.library.panel()

    def pack(self, weights):
        """(K, N) -> (panels, K, panel)."""
        K, N = weights.shape
        panels = -(-N // self.panel)
        packed = aligned(panels * K * self.panel).reshape(panels, K, self.panel)
        for n in range(N):
            packed[n // self.panel, :, n % self.panel] = weights[:, n]
        return packed

    def pad(self, bias):
        padded = aligned(-(-bias.size // self.panel) * self.panel)
        padded[: bias.size] = bias
        return padded

    def apply(self, which, x):
        y = np.full(x.size + 8, UNTOUCHED)
        self.library.apply(which, address(y), address(x), x.size)
        assert (y[x.size :] == UNTOUCHED).all()
        return y[: x.size]

    def multiply(self, x, weights, bias=None, onto=None, threads=1):
        """x (rows, K) with any stride from row to row; y is at an odd address, between guards."""
        (rows, K), N = x.shape, weights.shape[1]
        room = np.full((rows + 2, N + 3), UNTOUCHED)
        y = room[1:-1, 1 : N + 1]
        if onto is not None:
            y[:] = onto
        packed, padded = self.pack(weights), None if bias is None else self.pad(bias)
        product = (address(x), x.strides[0] // 4, rows, K, address(packed), N, address(padded))
        self.library.multiply(address(y), N + 3, *product, onto is not None, threads)
        assert (room[0] == UNTOUCHED).all()
        assert (room[-1] == UNTOUCHED).all()
        assert (room[:, 0] == UNTOUCHED).all()
        assert (room[:, N + 1 :] == UNTOUCHED).all()
        return y.copy()

    def recur(self, layer, x, h0=None, c0=None, lengths=None, directions=1, direction=0, with_y=True):
        """Y (T, B, H), h_end and c_end (B, H), the states written over those that were given."""
        (T, B, F), (H, gates) = x.shape, (layer.R.shape[1], GATES[layer.kind])
        of_input, of_state = layer.bias.reshape(2, gates * H).copy()
        recurrent_bias, r_hidden, r = None, None, self.pack(layer.R.T)
        if layer.kind == "GRU" and layer.linear_before_reset:
            recurrent_bias = self.pad(np.concatenate([np.zeros(2 * H, np.float32), of_state[2 * H :]]))
            of_state[2 * H :] = 0
        elif layer.kind == "GRU":
            r, r_hidden = self.pack(layer.R[: 2 * H].T), self.pack(layer.R[2 * H :].T)
        w, bias = self.pack(layer.W.T), self.pad(of_input + of_state)
        size = self.library.scratch(gates, T, B, F, H)
        scratch = aligned(size + 16)
        scratch[:size], scratch[size:] = np.nan, UNTOUCHED  # what lies there from before must not matter
        room = np.full((T, directions, B, H), UNTOUCHED)
        h = np.full((B, H), UNTOUCHED) if h0 is None else h0.copy()
        c = np.full((B, H), UNTOUCHED) if c0 is None else c0.copy()
        functions = [Activation(ACTIVATIONS.index(name), layer.alpha, layer.beta) for name in layer.functions]
        arguments = Recurrence(
            T, B, F, H, layer.backwards, layer.linear_before_reset,
            *map(address, (x, w, bias, r, r_hidden, recurrent_bias, layer.peepholes, lengths)),
            None if h0 is None else address(h), None if c0 is None else address(c),
            address(room[:, direction]) if with_y else None, directions * B * H, H, address(h), address(c), address(scratch),
            *functions,
        )  # fmt: skip
        self.library.recur_with(gates, ctypes.byref(arguments))
        assert (scratch[size:] == UNTOUCHED).all()
        assert (np.delete(room, direction, 1) == UNTOUCHED).all()
        return room[:, direction], h, c


@pytest.fixture(scope="module", params=cases(), ids=" ".join)
def kernels(request, tmp_path_factory):
    compiler, machine = request.param
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler: no program {compiler} on PATH")
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "wrappers.c").write_text(WRAPPERS)
    command = [compiler, f"-march={machine}", *FLAGS, *WARNINGS, f"-I{SOURCES}", "wrappers.c", "-o", "kernels.so", "-lm"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert not made.stderr
    return Kernels(folder / "kernels.so")


# ---- exp, sigmoid, tanh


def all_over():
    """Floats of every exponent and both signs, denormals and the ends among them, and dense grids where the functions bend."""
    everywhere = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    ends = ((-105, 89), (-20, 20), (-1, 1), (0.1, 0.3), (0.1, 0.3), (-88.8, -86))
    grids = [np.linspace(*end, 300_001 + i, dtype=np.float32) for i, end in enumerate(ends)]
    return np.concatenate([everywhere[np.isfinite(everywhere)], *grids])


def in_last_places(y, exact):
    """The distance from y to exact, in units of float32's last place there; a denormal's for less than the least normal float."""
    exponent = np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-126)))
    return np.abs(y.astype(np.float64) - exact) / 2.0 ** (exponent - 23)


@pytest.mark.parametrize(("which", "most"), [(EXP, 0.95), (SIGMOID, 2.0), (TANH, 2.0)], ids=["exp", "sigmoid", "tanh"])
def test_functions_are_right_to_the_last_places(kernels, which, most):
    x = all_over()
    wide = x.astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        growth, decay = np.exp(wide), np.exp(-np.abs(wide))
    exact = {EXP: growth, SIGMOID: np.where(wide < 0, decay, 1) / (1 + decay), TANH: np.tanh(wide)}[which]
    y = kernels.apply(which, x)
    beyond = exact > np.finfo(np.float32).max
    assert np.isposinf(y[beyond]).all()
    assert in_last_places(y[~beyond], exact[~beyond]).max() <= most


def test_functions_at_zeros_infinities_and_nan(kernels):
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 89, -200, 20, -20, 1e-45, -1e-45], np.float32)
    tiny = np.float32(1e-45)
    expected = {
        EXP: [1, 1, np.inf, 0, np.nan, np.nan, np.inf, 0, np.float32(np.exp(20.0)), np.float32(np.exp(-20.0)), 1, 1],
        SIGMOID: [0.5, 0.5, 1, 0, np.nan, np.nan, 1, 0, 1, np.float32(1 / (1 + np.exp(20.0))), 0.5, 0.5],
        TANH: [0.0, -0.0, 1, -1, np.nan, np.nan, 1, -1, 1, -1, tiny, -tiny],
    }
    for which, values in expected.items():
        for repeat in (1, 7):  # as the rest of a vector, and as whole ones
            y = kernels.apply(which, np.tile(x, repeat))
            wanted = np.tile(np.array(values, np.float32), repeat)
            np.testing.assert_array_max_ulp(y[~np.isnan(wanted)], wanted[~np.isnan(wanted)], 1)
            np.testing.assert_array_equal(np.isnan(y), np.isnan(wanted))
            np.testing.assert_array_equal(np.signbit(y)[~np.isnan(wanted)], np.signbit(wanted)[~np.isnan(wanted)])
            exact = np.isin(np.abs(wanted), [0, 1, 0.5, np.inf, tiny])
            np.testing.assert_array_equal(y[exact], wanted[exact])


def test_functions_write_over_their_input_and_end_anywhere(kernels):
    for n in (*range(1, 36), 100):
        x = np.linspace(-4, 4, n, dtype=np.float32)
        for which in (EXP, SIGMOID, TANH):
            y = kernels.apply(which, x)
            over = x.copy()
            kernels.library.apply(which, address(over), address(over), n)
            np.testing.assert_array_max_ulp(over, y, 2)
            assert np.isfinite(y).all()


# ---- products

SIZES = [
    (1, 1, 1),
    (1, 3, 17),
    (2, 40, 64),
    (3, 5, 65),
    (5, 257, 130),
    (7, 64, 3),
    (8, 513, 33),
    (13, 2, 200),
    (97, 31, 49),
    (200, 300, 80),
]


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bound(x, weights, start):
    """The most that rounding can make of a sum of products in any order."""
    terms = np.abs(x).astype(np.float64) @ np.abs(weights).astype(np.float64) + np.abs(start)
    return terms * (x.shape[1] + 2) * 2.0**-24


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products(kernels, size):
    rows, K, N = size
    x, weights, bias, before = drawn(rows, K + 5)[:, 2 : K + 2], drawn(K, N, seed=1), drawn(N, seed=2), drawn(rows, N, seed=3)
    exact = x.astype(np.float64) @ weights.astype(np.float64)
    for start, given in ((0, {}), (bias, {"bias": bias}), (before, {"onto": before})):
        y = kernels.multiply(x, weights, **given)
        assert (np.abs(y - (exact + start)) <= bound(x, weights, start)).all()


@pytest.mark.parametrize(("K", "N"), [(1, 1), (40, 17), (300, 70), (515, 40), (31, 160)])
def test_a_row_has_the_same_bits_among_many(kernels, K, N):
    x, weights, bias = drawn(211, K), drawn(K, N, seed=1), drawn(N, seed=2)
    alone = np.concatenate([kernels.multiply(row[None], weights, bias) for row in x])
    for rows in (*range(2, 15), 96, 97, 100, 211):
        np.testing.assert_array_equal(kernels.multiply(x[:rows], weights, bias), alone[:rows])


@pytest.mark.parametrize("rows", [1, 7, 200])
def test_threads_share_outputs_and_change_no_bit(kernels, rows):
    x, weights, before = drawn(rows, 300), drawn(300, 650, seed=1), drawn(rows, 650, seed=3)
    alone = kernels.multiply(x, weights, onto=before)
    for threads in (2, 3, 5):
        for _ in range(3):  # there and back through the weights
            np.testing.assert_array_equal(kernels.multiply(x, weights, onto=before, threads=threads), alone)


def test_two_products_are_one_of_both_inputs(kernels):
    """A state's product goes on where the inputs' ended: to the bit, while no input is left over from the partial sums."""
    x, h, weights, bias = drawn(5, 24), drawn(5, 16, seed=4), drawn(40, 100, seed=1), drawn(100, seed=2)
    both = kernels.multiply(np.concatenate([x, h], 1), weights, bias)
    parts = kernels.multiply(h, weights[24:], onto=kernels.multiply(x, weights[:24], bias))
    exact = np.concatenate([x, h], 1).astype(np.float64) @ weights + bias
    assert np.abs(parts - both).max() <= 4e-6
    assert np.abs(parts - exact).max() <= 1e-5


def test_what_is_not_finite_stays_in_its_row_and_output(kernels):
    x, weights = drawn(9, 20), drawn(20, 21, seed=1)
    x[4, 3], weights[7, 20] = np.nan, np.inf
    y = kernels.multiply(x, weights)
    assert np.isnan(y[4]).all()
    assert np.isfinite(np.delete(y, 4, 0)[:, :20]).all()
    assert np.isinf(np.delete(y, 4, 0)[:, 20]).all()


# ---- recurrent layers


def made(kind, F, H, peepholes=False, **more):
    rng, gates = np.random.default_rng(F + 7 * H), GATES[kind]
    shapes = {"W": (gates * H, F), "R": (gates * H, H), "bias": (2 * gates * H,)}
    arrays = {name: rng.uniform(-1.5, 1.5, shape).astype(np.float32) / np.float32(np.sqrt(H)) for name, shape in shapes.items()}
    return Layer(kind, **arrays, peepholes=drawn(3 * H, seed=5) if peepholes else None, **more)


def states(layer, B):
    H = layer.R.shape[1]
    return {"h0": drawn(B, H, seed=6) * np.float32(0.5), **({"c0": drawn(B, H, seed=7)} if layer.kind == "LSTM" else {})}


def by_onnxruntime(layer, x, h0=None, c0=None, lengths=None):
    """Y (T, B, H) and the states at the end, of ONNX Runtime's layer."""
    feeds = {"X": x, "W": layer.W[None], "R": layer.R[None], "Bias": layer.bias[None], "L": lengths}
    feeds |= {"H": None if h0 is None else h0[None]}
    if layer.kind == "LSTM":
        feeds |= {"C": None if c0 is None else c0[None], "P": None if layer.peepholes is None else layer.peepholes[None]}
    outputs = ["Y", "Y_h", "Y_c"][: 3 if layer.kind == "LSTM" else 2]
    attributes = {"hidden_size": layer.R.shape[1], "activations": list(layer.functions), "direction": "forward"}
    if layer.backwards:
        attributes["direction"] = "reverse"
    if layer.alpha or layer.beta:
        attributes |= {
            "activation_alpha": [layer.alpha] * len(layer.functions),
            "activation_beta": [layer.beta] * len(layer.functions),
        }
    if layer.kind == "GRU":
        attributes["linear_before_reset"] = layer.linear_before_reset
    node = helper.make_node(layer.kind, [name if value is not None else "" for name, value in feeds.items()], outputs, **attributes)
    feeds = {name: value for name, value in feeds.items() if value is not None}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT32 if name == "L" else TensorProto.FLOAT, value.shape)
        for name, value in feeds.items()
    ]
    graph = helper.make_graph([node], "layer", inputs, [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, *ends = session.run(None, feeds)
    return [y[:, 0], *(end[0] for end in ends)]


def assert_agree(found, expected, most=5e-6):
    for ours, theirs in zip(found, expected, strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=most * max(1.0, np.abs(theirs).max()))


KINDS = [
    ("LSTM", {}),
    ("LSTM", {"peepholes": True}),
    ("GRU", {"linear_before_reset": 0}),
    ("GRU", {"linear_before_reset": 1}),
    ("RNN", {}),
]
SHAPES = [(1, 1, 5, 1), (4, 2, 3, 3), (9, 3, 20, 17), (60, 1, 7, 40), (3, 50, 4, 16), (2, 1, 128, 128)]


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize(("kind", "form"), KINDS, ids=str)
def test_layers_are_those_of_onnxruntime(kernels, kind, form, backwards):
    for T, B, F, H in SHAPES:
        layer, x = made(kind, F, H, backwards=backwards, **form), drawn(T, B, F)
        for given in ({}, states(layer, B)):
            assert_agree(kernels.recur(layer, x, **given), by_onnxruntime(layer, x, **given))


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize(("kind", "form"), KINDS, ids=str)
def test_each_sequence_has_its_length(kernels, kind, form, backwards):
    for T, B in ((6, 5), (40, 3), (1, 2)):
        layer, x = made(kind, 6, 19, backwards=backwards, **form), drawn(T, B, 6)
        lengths = np.random.default_rng(T).integers(1, T + 1, B).astype(np.int32)
        lengths[B // 2] = T
        given = {"lengths": lengths, **states(layer, B)}
        found = kernels.recur(layer, x, **given)
        assert_agree(found, by_onnxruntime(layer, x, **given))
        assert all((found[0][length:, b] == 0).all() for b, length in enumerate(lengths))


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_layers_are_pytorchs_in_float64(kernels, kind, backwards):
    T, B, F, H = 50, 3, 11, 33
    layer, x = made(kind, F, H, backwards=backwards, linear_before_reset=1), drawn(T, B, F)
    module = getattr(torch.nn, kind)(F, H).double()
    order = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}[kind]  # of ONNX's gates, as PyTorch has them
    of_input, of_state = layer.bias.reshape(2, -1)
    for name, value in (("weight_ih_l0", layer.W), ("weight_hh_l0", layer.R), ("bias_ih_l0", of_input), ("bias_hh_l0", of_state)):
        gates = value.reshape(len(order), H, -1)[order].reshape(value.shape)
        getattr(module, name).data = torch.from_numpy(gates).double()
    given = states(layer, B)
    carried = tuple(torch.from_numpy(value).double()[None] for value in given.values())
    inputs = torch.from_numpy(x).double()
    with torch.no_grad():
        y, ends = module(inputs.flip(0) if backwards else inputs, carried if kind == "LSTM" else carried[0])
    y = y.flip(0) if backwards else y
    expected = [y.numpy(), *(end[0].numpy() for end in (ends if kind == "LSTM" else (ends,)))]
    assert_agree(kernels.recur(layer, x, **given), expected, most=1.5e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_in_every_place(kernels, activation):
    alpha, beta = {"HardSigmoid": (0.2, 0.5), "ThresholdedRelu": (0.1, 0.0)}.get(activation, (0.75, 0.4))
    for kind, form in KINDS:
        for place in range(len(USUAL[kind])):
            names = tuple(activation if i == place else "Sigmoid" for i in range(len(USUAL[kind])))
            layer, x = made(kind, 5, 19, activations=names, alpha=alpha, beta=beta, **form), drawn(3, 2, 5)
            given = states(layer, 2)
            assert_agree(kernels.recur(layer, x, **given), by_onnxruntime(layer, x, **given), most=2e-5)


@pytest.mark.parametrize(("kind", "form"), KINDS, ids=str)
def test_a_stream_has_the_bits_of_the_whole_sequence_and_a_batch_those_of_its_sequences(kernels, kind, form):
    T, B, F, H = 53, 4, 9, 21
    layer, x = made(kind, F, H, **form), drawn(T, B, F)
    whole, *ends = kernels.recur(layer, x, **states(layer, B))
    given = states(layer, B)
    for t in range(T):
        y, *now = kernels.recur(layer, x[t : t + 1], **given)
        np.testing.assert_array_equal(y[0], whole[t])
        given = dict(zip(given, now, strict=False))
    for b in range(B):
        alone, *_ = kernels.recur(
            layer, x[:, b : b + 1].copy(), **{name: value[b : b + 1] for name, value in states(layer, B).items()}
        )
        np.testing.assert_array_equal(alone[:, 0], whole[:, b])
    np.testing.assert_array_equal(given["h0"], ends[0])


@pytest.mark.parametrize(("kind", "form"), KINDS, ids=str)
def test_one_direction_leaves_the_other_alone_and_outputs_can_be_left_out(kernels, kind, form):
    layer, x = made(kind, 4, 10, **form), drawn(5, 2, 4)
    y, *ends = kernels.recur(layer, x)
    second, *_ = kernels.recur(layer, x, directions=2, direction=1)
    np.testing.assert_array_equal(second, y)
    none, *same = kernels.recur(layer, x, with_y=False)
    assert (none == UNTOUCHED).all()
    np.testing.assert_array_equal(same[0], ends[0])
