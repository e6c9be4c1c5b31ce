"""Device "native": products, convolutions, pools and recurrent layers as nodes, beside float64 and, for layers, ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from native_graphs import Drawn, computed, model_of, near, needs_compiler, node, opened

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.native.operators.recurrent import ACTIVATIONS, GATES

pytestmark = needs_compiler
F = torch.nn.functional


def double(array):
    return torch.from_numpy(np.ascontiguousarray(array)).double()


@pytest.mark.parametrize("seed", range(60))
def test_products_of_what_is_computed(seed):
    """Every layout of the factors: any axes turned, cut, repeated, of one axis or more, broadcast over the outer ones."""
    drawn = Drawn(seed)
    M, K, N = (int(one) for one in drawn.rng.choice([1, 2, 3, 5, 16, 17, 35], 3))
    outer = drawn.rng.integers(1, 4, drawn.rng.integers(0, 3)).tolist()
    own = [
        [1 if drawn.rng.integers(3) == 0 else size for size in outer[int(drawn.rng.integers(len(outer) + 1)) :]] for _ in range(2)
    ]
    a, b = drawn.values([*own[0], M, K]), drawn.values([*own[1], K, N])
    a = a[(*(0 for _ in own[0]), 0)] if seed % 7 == 0 else a
    b = b[(*(0 for _ in own[1]), slice(None), 0)] if seed % 11 == 0 else b
    drawn.add("a", a)
    drawn.add("b", b)
    (y,) = drawn.computed([node("MatMul", "a b", "y")], ["y"])
    near(y, np.matmul(a.astype(np.float64), b), np.matmul(np.abs(a), np.abs(b)), K + 2)


@pytest.mark.parametrize("seed", range(40))
def test_products_with_constant_weights(seed):
    """The other factor in any layout: its rows may be evenly spaced, or not."""
    drawn = Drawn(100 + seed)
    K, N = (int(one) for one in drawn.rng.choice([1, 2, 7, 16, 33, 300], 2))
    a = drawn.values([*drawn.rng.integers(1, 6, drawn.rng.integers(0, 4)).tolist(), K])
    w = drawn.values([1, K, N] if seed % 5 == 0 and a.ndim > 2 else [K, N])
    drawn.add("a", a, views=seed % 4)
    name = drawn.constant("w", w)
    if seed % 3 == 0:  # turned before it is used
        drawn.constant("w", np.ascontiguousarray(np.swapaxes(w, -1, -2)))
        drawn.nodes.append(node("Transpose", "w", "w_turned", perm=[*range(w.ndim - 2), w.ndim - 1, w.ndim - 2]))
        name = "w_turned"
    (y,) = drawn.computed([node("MatMul", f"a {name}", "y")], ["y"])
    near(y, np.matmul(a.astype(np.float64), w), np.matmul(np.abs(a), np.abs(w)), K + 2)


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_go_backwards_or_are_one_number_again_and_again(rows):
    drawn = Drawn(9)
    x, one, w = drawn.values((rows, 6)), drawn.values((rows, 1)), drawn.values((6, 5))
    ends = {"s": [-1], "e": [-9], "a": [1], "t": [-1], "wide": [rows, 6]}
    nodes = [node("Slice", "x s e a t", "back"), node("Expand", "one wide", "same")]
    nodes += [node("MatMul", "back w", "y"), node("MatMul", "same w", "z"), node("Gemm", "back w", "g")]
    found = computed(
        nodes, {"x": x, "one": one}, ["y", "z", "g"], {"w": w, **{name: np.array(held) for name, held in ends.items()}}
    )
    expected = x[:, ::-1].astype(np.float64) @ w
    for product, reference in zip(found, (expected, np.repeat(one, 6, 1).astype(np.float64) @ w, expected), strict=True):
        near(product, reference, 4.0, 8.0)


def test_products_with_several_constant_matrices_and_with_a_constant_first():
    drawn = Drawn(8)
    x, w = drawn.values((2, 3, 4, 5)), drawn.values((3, 5, 6))
    (y,) = computed([node("MatMul", "x w", "y")], {"x": x}, ["y"], {"w": w})
    near(y, x.astype(np.float64) @ w, np.abs(x) @ np.abs(w), 8)
    (z,) = computed([node("MatMul", "w y", "z")], {"y": y}, ["z"], {"w": drawn.values((7, 4))})
    assert z.shape == (2, 3, 7, 6)
    (one,) = computed([node("MatMul", "v w", "y")], {"v": x[0, 0, 0]}, ["y"], {"w": w[0][None]})  # rank 1 by rank 3
    near(one, x[0, 0, 0].astype(np.float64) @ w[0][None], 4.0)


def test_a_product_over_nothing_is_zero():
    x = np.zeros((3, 0), np.float32)
    (y,) = computed([node("MatMul", "x w", "y")], {"x": x}, ["y"], {"w": np.zeros((0, 4), np.float32)})
    np.testing.assert_array_equal(y, np.zeros((3, 4), np.float32))
    (z,) = computed([node("MatMul", "x w", "z")], {"x": x, "w": np.zeros((0, 4), np.float32)}, ["z"])
    np.testing.assert_array_equal(z, np.zeros((3, 4), np.float32))


@pytest.mark.parametrize("third", ["-", "row", "whole", "column", "one"])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(("turn_a", "turn_b"), [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 1.0), (1.0, -2.0), (0.25, 0.5)])
def test_gemm(alpha, beta, turn_a, turn_b, constant, third):
    drawn = Drawn(9)
    a, b = drawn.values((4, 7)), drawn.values((7, 5))
    c = drawn.values({"-": (), "row": (5,), "whole": (4, 5), "column": (4, 1), "one": ()}[third])
    given = {"a": a.T.copy() if turn_a else a}
    held = {"b": b.T.copy() if turn_b else b, "c": c}
    gemm = node("Gemm", f"a b {'-' if third == '-' else 'c'}", "y", transA=turn_a, transB=turn_b, alpha=alpha, beta=beta)
    expected = alpha * (a.astype(np.float64) @ b) + (0 if third == "-" else beta * c.astype(np.float64))
    if constant:
        (y,) = computed([gemm], given, ["y"], held)
    else:
        (y,) = computed([gemm], {**given, **held}, ["y"])
    near(y, expected, 4.0, 8.0)


@pytest.mark.parametrize("seed", range(60))
def test_convolutions(seed):
    drawn = Drawn(200 + seed)
    rng = drawn.rng
    rank = 1 + seed % 3 if seed % 6 == 5 else 1 + seed % 2
    groups = int(rng.choice([1, 1, 2, 3]))
    kernel, strides, dilations = (rng.integers(1, high, rank).tolist() for high in (4, 4, 3))
    pads = rng.integers(0, 3, 2 * rank).tolist()
    sizes = [(size - 1) * apart + 1 + int(rng.integers(0, 6)) for size, apart in zip(kernel, dilations, strict=True)]
    C, outputs = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
    x = drawn.values([int(rng.integers(1, 4)), C, *sizes])
    w = drawn.values([outputs, C // groups, *kernel])
    drawn.add("x", x)
    drawn.constant("w", w)
    bias = drawn.values([outputs]) if seed % 2 else None
    if bias is not None:
        drawn.constant("b", bias)
    conv = node(
        "Conv",
        "x w b" if seed % 2 else "x w",
        "y",
        group=groups,
        strides=strides,
        dilations=dilations,
        pads=pads,
        kernel_shape=kernel,
    )
    (y,) = drawn.computed([conv, node("Relu", "y", "z")], ["y"])
    wide = F.pad(double(x), [amount for axis in reversed(range(rank)) for amount in (pads[axis], pads[rank + axis])])
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    expected = function(wide, double(w), None if bias is None else double(bias), strides, 0, dilations, groups).numpy()
    near(y, expected, 8.0, 8.0)


@pytest.mark.parametrize("kind", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("size", [1, 5, 8])
def test_convolutions_that_pad_themselves(kind, size):
    drawn = Drawn(10)
    x, w = drawn.values((1, 2, size)), drawn.values((3, 2, 4 if size > 3 or kind != "VALID" else 1))
    taps, stride = w.shape[2], 2
    (y,) = computed([node("Conv", "x w", "y", auto_pad=kind, strides=[stride])], {"x": x}, ["y"], {"w": w})
    needed = max((-(-size // stride) - 1) * stride + taps - size, 0) if kind != "VALID" else 0
    before = needed // 2 if kind == "SAME_UPPER" else needed - needed // 2
    near(y, F.conv1d(F.pad(double(x), (before, needed - before)), double(w), stride=stride).numpy(), 4.0, 8.0)


def test_a_convolution_of_computed_weights_is_refused():
    with pytest.raises(UsageError, match=r"convolutions of constant weights alone \(node Conv 'filter'\)"):
        computed(
            [node("Conv", "x w", "y", name="filter")],
            {"x": np.ones((1, 1, 4), np.float32), "w": np.ones((1, 1, 2), np.float32)},
            ["y"],
        )


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools(op, seed):
    drawn = Drawn(300 + seed)
    rng = drawn.rng
    rank = 1 + seed % 2
    kernel = rng.integers(2, 4, rank).tolist()
    strides, dilations = rng.integers(1, 4, rank).tolist(), rng.integers(1, 3, rank).tolist()
    half = [int(rng.integers(0, size // 2 + 1)) for size in kernel]
    x = drawn.values([2, 3, *((size - 1) * 2 + 1 + int(rng.integers(0, 5)) for size in kernel)]) - 5  # padding must not win
    drawn.add("x", x)
    own = {"dilations": dilations} if op == "MaxPool" else {"count_include_pad": 1}
    pool = node(
        op, "x", "y", kernel_shape=kernel, strides=strides, pads=half * 2, **own
    )  # fmt: skip
    (y,) = drawn.computed([pool], ["y"])
    if op == "MaxPool":
        function = (F.max_pool1d, F.max_pool2d)[rank - 1]
        np.testing.assert_array_equal(y, function(double(x), kernel, strides, half, dilations).numpy().astype(np.float32))
    else:
        function = (F.avg_pool1d, F.avg_pool2d)[rank - 1]
        near(y, function(double(x), kernel, strides, half, count_include_pad=True).numpy(), 6.0)


PARAMETERS = {  # of activations: alpha, and beta
    "Sigmoid": (),
    "Tanh": (),
    "Relu": (),
    "HardSigmoid": (0.3, 0.4),
    "LeakyRelu": (0.2,),
    "Elu": (0.7,),
    "Softsign": (),
    "Softplus": (),
    "ScaledTanh": (0.8, 0.6),
    "ThresholdedRelu": (0.4,),
    "Affine": (0.5, 0.1),
}


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("op", GATES)
def test_recurrent_layers(op, seed):
    """All that a node can be told, against ONNX Runtime's own kernels."""
    drawn = Drawn(400 + seed)
    rng = drawn.rng
    T, B, K, H = (int(rng.choice(sizes)) for sizes in ((1, 2, 9), (1, 2, 5), (1, 3, 20), (1, 4, 17, 33)))
    way = ("forward", "reverse", "bidirectional")[seed % 3]
    D, G = (2 if way == "bidirectional" else 1), GATES[op]
    drawn.add("x", drawn.values((T, B, K)))
    drawn.constant("w", drawn.values((D, G * H, K)) * np.float32(0.5))
    drawn.constant("r", drawn.values((D, G * H, H)) * np.float32(0.5 / H**0.5))
    names = ["x", "w", "r", *("-" for _ in range(5 if op == "LSTM" else 3))]
    if seed % 4:
        names[3] = drawn.constant("b", drawn.values((D, 2 * G * H)) * 0.5)
    if rng.integers(2):
        names[4] = "lengths"
        drawn.given["lengths"] = np.maximum(rng.integers(1, T + 1, B), np.arange(B) == 0).astype(np.int32)
    if rng.integers(2):
        names[5] = "h"
        drawn.add("h", drawn.values((D, B, H)))
    if op == "LSTM" and rng.integers(2):
        names[6] = "c"
        drawn.add("c", drawn.values((D, B, H)))
    if op == "LSTM" and rng.integers(2):
        names[7] = drawn.constant("p", drawn.values((D, 3 * H)) * 0.5)
    told = {"direction": way, "hidden_size": H}
    if op == "GRU":
        told["linear_before_reset"] = int(rng.integers(2))
    if rng.integers(2):
        kinds = [str(one) for one in rng.choice(sorted(PARAMETERS), D * {"LSTM": 3, "GRU": 2, "RNN": 1}[op])]
        if op != "RNN":  # gates above 1 would let the state grow without end
            kinds[:: len(kinds) // D] = [str(one) for one in rng.choice(["Sigmoid", "HardSigmoid"], D)]
        told["activations"] = kinds
        alphas = [PARAMETERS[kind][0] for kind in kinds if len(PARAMETERS[kind]) > 0]
        betas = [PARAMETERS[kind][1] for kind in kinds if len(PARAMETERS[kind]) > 1]
        told |= ({"activation_alpha": alphas} if alphas else {}) | ({"activation_beta": betas} if betas else {})
    outputs = ["y", "y_h", "y_c"][: 3 if op == "LSTM" else 2]
    layer = node(op, " ".join(names), " ".join(outputs), **told)
    found = drawn.computed([layer], outputs)
    model = model_of([*drawn.nodes, layer], drawn.given, outputs, drawn.constants)
    reference = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, drawn.given)
    for one, other in zip(found, reference, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def test_every_activation_is_here():
    assert set(PARAMETERS) == set(ACTIVATIONS)


def test_parameters_of_activations_go_to_those_that_have_them():
    """In the order of the activations, alphas and betas apart: ONNX's operator page."""
    drawn = Drawn(11)
    H = 3
    x, w, r = drawn.values((4, 2, 2)), drawn.values((2, H, 2)), drawn.values((2, H, H))
    told = {"activations": ["Tanh", "Affine"], "activation_alpha": [0.5], "activation_beta": [0.25], "direction": "bidirectional"}
    (y,) = computed([node("RNN", "x w r", "y", hidden_size=H, **told)], {"x": x}, ["y"], {"w": w, "r": r})
    expected = np.zeros((4, 2, 2, H))
    for d, times in enumerate((range(4), range(3, -1, -1))):
        h = np.zeros((2, H))
        for t in times:
            total = x[t].astype(np.float64) @ w[d].T + h @ r[d].T
            h = np.tanh(total) if d == 0 else 0.5 * total + 0.25
            expected[t, d] = h
    near(y, expected, 4.0, 20.0)


@pytest.mark.parametrize(("attribute", "value"), [("layout", 1), ("input_forget", 1), ("clip", 1.0)])
def test_what_a_layer_is_told_and_can_not_do_is_refused(attribute, value):
    drawn = Drawn(12)
    layer = node("LSTM", "x w r", "y", hidden_size=2, name="the_layer", **{attribute: value})
    with pytest.raises(UsageError, match=r"no layout=1, clip or input_forget .*the_layer"):
        computed([layer], {"x": drawn.values((2, 1, 3))}, ["y"], {"w": drawn.values((1, 8, 3)), "r": drawn.values((1, 8, 2))})


def test_programs_of_several_sizes_share_packed_weights():
    drawn = Drawn(13)
    w = drawn.values((40, 50))
    model = opened(model_of([node("MatMul", "x w", "y")], {"x": np.ones((1, 1), np.float32)}, ["y"], {"w": w}))
    for rows in (1, 2, 3):
        x = drawn.values((rows, 40))
        near(model.run({"x": x})["y"], x.astype(np.float64) @ w, np.abs(x) @ np.abs(w), 8)
    assert len({one.ctypes.data for program in model.programs._made.values() for one in program.kept if one.size >= w.size}) == 1
