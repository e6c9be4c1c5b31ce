"""Device "native": functions of one, two and three elements over views of every kind, beside NumPy and PyTorch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from native_graphs import Drawn, computed, near, needs_compiler, node

from edgeseq_runtime.errors import InputError, UsageError
from edgeseq_runtime.native.operators.elementwise import BINARY, COMPARE, UNARY

pytestmark = needs_compiler
F = torch.nn.functional
SPECIAL = np.float32([0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, 1.5, 2.5, -2.5, 1e-30, -1e-30, 1e-40, 80, -80, 3e38, 7])
FUNCTIONS = {
    "Exp": torch.exp,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Relu": torch.relu,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Log": torch.log,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sign": torch.sign,
    "LeakyRelu": lambda x: F.leaky_relu(x, 0.3),
    "Elu": lambda x: F.elu(x, 0.7),
    "Selu": F.selu,
    "ThresholdedRelu": lambda x: torch.where((x > 0.8) | x.isnan(), x, 0.0),
    "HardSigmoid": lambda x: (x * 0.3 + 0.4).clamp(0, 1),
    "HardSwish": F.hardswish,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Gelu": F.gelu,
}
ATTRIBUTES = {
    "LeakyRelu": {"alpha": 0.3},
    "Elu": {"alpha": 0.7},
    "ThresholdedRelu": {"alpha": 0.8},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
}
# Where a result is a small difference of larger numbers: what an error is measured by.
SIZES = {
    "Sin": 1.0,
    "Cos": 1.0,
    "Log": 1.0,
    "Softplus": 1.0,
    "Gelu": 1.0,
    "HardSigmoid": 1.0,
    "HardSwish": 1.0,
    "Selu": 1.0,
    "Elu": 1.0,
}


@pytest.mark.parametrize("op", [*UNARY, "Gelu"])
def test_a_function_of_one_element(op):
    drawn = Drawn(1)
    x = drawn.values((3, 7, 37)) * 3
    drawn.add("x", x)
    (y,) = drawn.computed([node(op, "x", "y", **ATTRIBUTES.get(op, {}))], ["y"])
    near(y, FUNCTIONS[op](torch.from_numpy(x).double()).numpy(), SIZES.get(op, 0.0))


@pytest.mark.parametrize("op", [*UNARY, "Gelu"])
def test_a_function_of_what_is_special(op):
    """Infinities go where they should, NaN stays NaN, and numbers that float32 can't hold become infinities."""
    few = SPECIAL[~np.isinf(SPECIAL)] if op in ("HardSwish", "Gelu") else SPECIAL  # there infinity times zero, by definition
    few = few[~np.isnan(few)] if op == "Sign" else few  # ONNX does not say what that is
    (y,) = computed([node(op, "x", "y", **ATTRIBUTES.get(op, {}))], {"x": few}, ["y"])
    with np.errstate(over="ignore"):
        expected = FUNCTIONS[op](torch.from_numpy(few).double()).numpy().astype(np.float32)
    near(y, expected, SIZES.get(op, 0.0))
    if op in ("Neg", "Abs", "Tanh", "Floor", "Ceil", "Round", "Sin", "Erf", "Softsign"):  # zeros have signs
        np.testing.assert_array_equal(np.signbit(y[few == 0]), np.signbit(expected[few == 0]))


def test_gelu_by_tanh():
    x = np.linspace(-5, 5, 1001, dtype=np.float32)
    (y,) = computed([node("Gelu", "x", "y", approximate="tanh")], {"x": x}, ["y"])
    near(y, F.gelu(torch.from_numpy(x).double(), approximate="tanh").numpy(), 1.0)


BOTH = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Min": np.minimum,
    "Max": np.maximum,
    "Mod": np.fmod,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
}
WHOLE = {**BOTH, "Mod": np.mod, "Div": lambda a, b: np.trunc(a / b).astype(a.dtype)}
LOGIC = ("And", "Or", "Xor")


def test_every_function_of_two_is_here():
    assert {*BOTH, "Pow"} == {*BINARY, *COMPARE}
    assert {*FUNCTIONS} == {*UNARY, "Gelu"}


def broadcast_pair(drawn, dtype):
    """Two arrays that broadcast to one shape of up to five axes."""
    shape = drawn.rng.integers(1, 5, drawn.rng.integers(0, 6)).tolist()
    if shape and drawn.rng.integers(2):
        shape[-1] = 19  # longer than a vector, and no multiple of one
    found = []
    for _ in range(2):
        own = [
            1 if drawn.rng.integers(4) == 0 else size
            for size in shape[int(drawn.rng.integers(len(shape) + 1)) if drawn.rng.integers(3) == 0 else 0 :]
        ]
        array = drawn.values(own, dtype)
        if own and drawn.rng.integers(3) == 0:  # the same along an axis, so that it can be an expanded view
            axis = int(drawn.rng.integers(len(own)))
            array = np.repeat(array.take([0], axis), own[axis], axis)
        found.append(array)
    return found


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dtype", ["float32", "int64", "int32", "bool"])
def test_functions_of_two_broadcast_over_views(dtype, seed):
    drawn = Drawn(seed)
    a, b = broadcast_pair(drawn, dtype)
    if dtype != "bool":
        b = np.where(b == 0, 3, b).astype(dtype)
    drawn.add("a", a)
    drawn.add("b", b)
    kinds = [op for op in BOTH if (op in LOGIC) == (dtype == "bool") or (dtype == "bool" and op == "Equal")]
    nodes = [node(op, "a b", op, **({"fmod": 1} if op == "Mod" and dtype == "float32" else {})) for op in kinds]
    for op, found in zip(kinds, drawn.computed(nodes, kinds), strict=True):
        expected = np.asarray((BOTH if dtype == "float32" else WHOLE)[op](a, b))
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected, err_msg=op)


@pytest.mark.parametrize("seed", range(20))
def test_where_over_views(seed):
    drawn = Drawn(100 + seed)
    dtype = ("float32", "int64", "int32", "bool")[seed % 4]
    a, b = broadcast_pair(drawn, dtype)
    shape = np.broadcast_shapes(a.shape, b.shape)
    own = [1 if drawn.rng.integers(3) == 0 else size for size in shape]
    condition = drawn.values(own, "bool")
    for name, array in (("c", condition), ("a", a), ("b", b)):
        drawn.add(name, array)
    (found,) = drawn.computed([node("Where", "c a b", "y")], ["y"])
    np.testing.assert_array_equal(found, np.where(condition, a, b))
    assert found.dtype == dtype


def test_the_sum_of_several_and_of_one():
    arrays = {name: Drawn(3).values(shape) for name, shape in (("a", (4, 1)), ("b", (3,)), ("c", (2, 1, 1)))}
    found = computed(
        [node("Max", "a b c", "most"), node("Min", "a b c", "least"), node("Max", "b", "one")], arrays, ["most", "least", "one"]
    )
    a, b, c = arrays.values()
    np.testing.assert_array_equal(found[0], np.maximum(np.maximum(a, b), c))
    np.testing.assert_array_equal(found[1], np.minimum(np.minimum(a, b), c))
    np.testing.assert_array_equal(found[2], b)


def test_minima_and_maxima_keep_what_is_no_number():
    pairs = np.array([[np.nan, 1, 2, -np.inf, 5], [1, np.nan, 3, np.inf, 5]], np.float32)
    least, most = computed(
        [node("Min", "a b", "least"), node("Max", "a b", "most")], {"a": pairs[0], "b": pairs[1]}, ["least", "most"]
    )
    np.testing.assert_array_equal(least, np.minimum(*pairs))
    np.testing.assert_array_equal(most, np.maximum(*pairs))


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_whole_numbers_are_divided_towards_zero_and_their_remainders_have_the_divisors_sign(dtype):
    least = np.iinfo(dtype).min
    a, b = np.array([7, -7, 7, -7, 6, least, least, 0], dtype), np.array([2, 2, -2, -2, 3, -1, 1, -5], dtype)
    quotient, remainder = computed([node("Div", "a b", "q"), node("Mod", "a b", "r")], {"a": a, "b": b}, ["q", "r"])
    np.testing.assert_array_equal(quotient, np.array([3, -3, -3, 3, 2, least, least, 0], dtype))
    np.testing.assert_array_equal(remainder, np.array([1, 1, -1, -1, 0, 0, 0, 0], dtype))


@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_a_division_of_whole_numbers_by_zero_is_refused_and_names_the_node(op, dtype):
    a = np.arange(6).reshape(2, 3).astype(dtype)
    nodes = [node("Add", "a a", "c"), node(op, "c b", "y", name="the_divider"), node("Sub", "y a", "z")]
    for b in (np.array([1, 2, 0], dtype), np.array([[1], [0]], dtype)):
        with pytest.raises(InputError, match=f"{op} 'the_divider' .*division of integers by zero"):
            computed(nodes, {"a": a, "b": b}, ["z"])
    with pytest.raises(InputError, match="division of integers by zero"):
        computed(
            [node(op, "k l", "m"), node("Add", "a m", "z")], {"a": a}, ["z"], {"k": np.array(3, dtype), "l": np.array(0, dtype)}
        )
    (y,) = computed([node("Div", "a b", "y")], {"a": np.float32([1, -1, 0]), "b": np.zeros(3, np.float32)}, ["y"])
    np.testing.assert_array_equal(y, np.float32([np.inf, -np.inf, np.nan]))


def test_powers():
    x = np.abs(Drawn(4).values((3, 5))) + 0.1
    exponents = {"two": np.float32(2), "half": np.float32(0.5), "each": np.float32([1, 2, -1, 3, 0]), "whole": np.int64(3)}
    found = computed(
        [node("Pow", f"x {name}", name + "_y") for name in exponents], {"x": x}, [f"{name}_y" for name in exponents], exponents
    )
    for one, exponent in zip(found, exponents.values(), strict=True):
        near(one, np.power(x.astype(np.float64), exponent))
    k = np.arange(-4, 5)
    np.testing.assert_array_equal(computed([node("Pow", "k two", "y")], {"k": k}, ["y"], {"two": np.int64(2)})[0], k**2)
    with pytest.raises(UsageError, match="power of 2 alone"):
        computed([node("Pow", "k three", "y")], {"k": k}, ["y"], {"three": np.int64(3)})


@pytest.mark.parametrize("to", ["float32", "int64", "int32", "bool"])
@pytest.mark.parametrize("of", ["float32", "int64", "int32", "bool"])
def test_casts(of, to):
    number = {"float32": 1, "int64": 7, "int32": 6, "bool": 9}[to]
    x = {"float32": np.float32([[0, -0.9, 1.9, -3], [0.2, 5, 100, -0.0]]), "bool": np.array([[True, False], [False, True]])}.get(
        of, np.array([[0, 1, -1], [1 << 20, 7, 256]], of)
    )
    drawn = Drawn(5)
    drawn.add("x", x)
    (y,) = drawn.computed([node("Cast", "x", "y", to=number)], ["y"])
    assert y.dtype == to
    np.testing.assert_array_equal(y, x.astype(to))


def test_what_is_no_number_is_true():
    (y,) = computed([node("Cast", "x", "y", to=9)], {"x": np.float32([np.nan, 0, np.inf])}, ["y"])
    assert y.tolist() == [True, False, True]


def test_a_cast_to_another_dtype_is_refused():
    with pytest.raises(UsageError, match=r"don't cast to float16 \(node Cast 'caster'\)"):
        computed([node("Cast", "x", "y", to=10, name="caster")], {"x": np.float32([1])}, ["y"])


@pytest.mark.parametrize("bounds", [("-", "high"), ("low", "-"), ("low", "high"), ("high", "low")])
def test_clips_by_constants_and_by_what_is_computed(bounds):
    x = Drawn(6).values((4, 9))
    values = {"low": np.float32(-0.5), "high": np.float32(0.8)}
    low, high = (values.get(name) for name in bounds)
    expected = x if low is None else np.maximum(x, low)
    expected = expected if high is None else np.minimum(expected, high)
    nodes = [node("Clip", "x " + " ".join(bounds), "y")]
    used = {name: one for name, one in values.items() if name in bounds}
    np.testing.assert_array_equal(computed(nodes, {"x": x}, ["y"], used)[0], expected)
    np.testing.assert_array_equal(computed(nodes, {"x": x, **used}, ["y"])[0], expected)
    (kept,) = computed(nodes, {"x": np.float32([np.nan])}, ["y"], used)
    assert np.isnan(kept[0])


def test_clips_of_whole_numbers():
    k = np.arange(-5, 6)
    (y,) = computed([node("Clip", "k low high", "y")], {"k": k}, ["y"], {"low": np.int64(-2), "high": np.int64(3)})
    np.testing.assert_array_equal(y, np.clip(k, -2, 3))


def test_a_product_and_its_bias_in_any_order_and_shape():
    """The next node's constant becomes the product's bias only where that is the same."""
    drawn = Drawn(7)
    x, w = drawn.values((4, 3, 5)), drawn.values((5, 6))
    product = x.astype(np.float64) @ w
    shapes = {"row": (6,), "one": (1,), "wide": (1, 6), "deep": (1, 1, 1, 6), "each": (3, 6), "column": (3, 1), "scalar": ()}
    for name, shape in shapes.items():
        bias = drawn.values(shape)
        for order in ("p b", "b p"):
            nodes = [node("MatMul", "x w", "p"), node("Add", order, "y")]
            (y,) = computed(nodes, {"x": x}, ["y"], {"w": w, "b": bias})
            near(y, product + bias, 4.0)
            assert y.shape == (product + bias).shape, name
        (y, p) = computed(nodes, {"x": x}, ["y", "p"], {"w": w, "b": bias})  # the product is wanted too
        near(y, product + bias, 4.0)
        near(p, product, 4.0)
    twice = [node("MatMul", "x w", "p"), node("Add", "p b", "y"), node("Add", "p c", "z"), node("Add", "y z", "s")]
    (s,) = computed(twice, {"x": x}, ["s"], {"w": w, "b": np.ones(6, np.float32), "c": np.full(6, 2, np.float32)})
    near(s, 2 * product + 3, 8.0)
    chain = [node("MatMul", "x w", "p"), node("Add", "p b", "y"), node("Add", "y c", "z")]
    (z,) = computed(chain, {"x": x}, ["z"], {"w": w, "b": np.ones(6, np.float32), "c": np.full(6, 2, np.float32)})
    near(z, product + 3, 8.0)
