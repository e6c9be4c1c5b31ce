"""Device "native": what cuts, joins, chooses and goes over axes, on views of every kind, beside NumPy and PyTorch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from native_graphs import Drawn, computed, near, needs_compiler, node

from edgeseq_runtime.errors import InputError, UsageError
from edgeseq_runtime.native.operators.reducing import REDUCE

pytestmark = needs_compiler
DTYPES = ("float32", "int64", "int32", "bool")


def whole(*numbers):
    return np.array(numbers, np.int64)


def test_shapes_and_sizes_are_constants():
    x = np.zeros((2, 3, 4), np.float32)
    nodes = [
        node("Shape", "x", "all"),
        node("Shape", "x", "some", start=1, end=-1),
        node("Size", "x", "count"),
        node("Gather", "all one", "three"),
        node("Reshape", "x flat", "r"),
        node("ConstantOfShape", "all", "zeros"),
        node("Range", "zero count two", "numbers"),
    ]
    constants = {"one": whole(1)[0], "flat": whole(0, -1), "zero": whole(0)[0], "two": whole(2)[0]}
    names = ["all", "some", "count", "three", "r", "zeros", "numbers"]
    found = dict(zip(names, computed(nodes, {"x": x}, names, constants), strict=True))
    assert {name: found[name].tolist() for name in ("all", "some", "count", "three")} == {
        "all": [2, 3, 4],
        "some": [3],
        "count": 24,
        "three": 3,
    }
    assert (found["r"].shape, found["zeros"].shape, found["zeros"].dtype) == ((2, 12), (2, 3, 4), np.float32)
    assert found["numbers"].tolist() == list(range(0, 24, 2))


@pytest.mark.parametrize("seed", range(40))
def test_slices(seed):
    drawn = Drawn(seed)
    rng = drawn.rng
    x = drawn.values(rng.integers(1, 7, rng.integers(1, 5)), DTYPES[seed % 4])
    drawn.add("x", x)
    axes = rng.permutation(x.ndim)[: rng.integers(1, x.ndim + 1)].tolist()
    bounds = rng.integers(-9, 10, (2, len(axes)))
    steps = rng.choice([-3, -2, -1, 1, 2, 3], len(axes))
    if seed % 5 == 0:
        bounds[1] = np.where(steps > 0, np.iinfo(np.int64).max, np.iinfo(np.int64).min)
    expected = x
    for axis, start, end, step in zip(axes, *bounds.tolist(), steps.tolist(), strict=True):
        length = x.shape[axis]
        first, last = (one + length if one < 0 else one for one in (start, end))
        first = min(max(first, 0), length if step > 0 else length - 1)
        last = min(max(last, 0 if step > 0 else -1), length)
        expected = expected.take(range(first, last, step), axis)
    signed = whole(*(axis - x.ndim if rng.integers(2) else axis for axis in axes))
    for name, array in (("s", bounds[0]), ("e", bounds[1]), ("a", signed), ("t", steps.astype(np.int64))):
        drawn.constant(name, array)
    (y,) = drawn.computed([node("Slice", "x s e a t", "y")], ["y"])
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("seed", range(24))
def test_joining_and_splitting(seed):
    drawn = Drawn(50 + seed)
    rng = drawn.rng
    dims = rng.integers(1, 5, rng.integers(1, 5)).tolist()
    axis = int(rng.integers(len(dims)))
    sizes = rng.integers(0 if seed % 4 == 0 else 1, 4, rng.integers(1, 5)).tolist()
    parts = [drawn.values([size if one == axis else other for one, other in enumerate(dims)], DTYPES[seed % 4]) for size in sizes]
    for index, part in enumerate(parts):
        if index % 3 == 2:
            drawn.constant(f"p{index}", part)
        else:
            drawn.add(f"p{index}", part)
    drawn.constant("sizes", whole(*sizes))
    named = [f"q{index}" for index in range(len(sizes))]
    nodes = [
        node("Concat", " ".join(f"p{index}" for index in range(len(sizes))), "y", axis=axis - len(dims) if seed % 2 else axis),
        node("Split", "y sizes", " ".join(named), axis=axis),
    ]
    y, *again = drawn.computed(nodes, ["y", *named])
    np.testing.assert_array_equal(y, np.concatenate(parts, axis))
    for one, part in zip(again, parts, strict=True):
        np.testing.assert_array_equal(one, part)


@pytest.mark.parametrize("seed", range(30))
def test_reshaping_repeating_and_widening(seed):
    drawn = Drawn(100 + seed)
    rng = drawn.rng
    x = drawn.values(rng.choice([1, 2, 3], rng.integers(1, 5)), DTYPES[seed % 4])
    drawn.add("x", x)
    repeats = rng.integers(1, 4, x.ndim)
    wide = [size if size > 1 else 4 for size in x.shape]
    asked = [1 if rng.integers(2) else size for size in wide]
    for name, numbers in (("repeats", repeats), ("wide", [2, *asked]), ("flat", [-1]), ("ends", [0, -2])):
        drawn.constant(name, whole(*numbers))
    nodes = [
        node("Tile", "x repeats", "tiled"),
        node("Expand", "x wide", "widened"),
        node("Reshape", "widened flat", "flattened"),
        node("Unsqueeze", "x ends", "deeper"),
        node("Squeeze", "deeper ends", "back"),
        node("Squeeze", "deeper", "least"),
        node("Flatten", "x", "matrix", axis=int(rng.integers(-x.ndim, x.ndim + 1))),
    ]
    names = ["tiled", "widened", "flattened", "deeper", "back", "least", "matrix"]
    found = dict(zip(names, drawn.computed(nodes, names), strict=True))
    widened = np.broadcast_to(x, np.broadcast_shapes(x.shape, (2, *asked)))
    deeper = np.expand_dims(x, (0, -2))
    axis = nodes[-1].attribute[0].i % x.ndim if nodes[-1].attribute[0].i < 0 else nodes[-1].attribute[0].i
    matrix = x.reshape(int(np.prod(x.shape[:axis])), -1)
    expected = (np.tile(x, repeats), widened, widened.ravel(), deeper, x, np.squeeze(x), matrix)
    for name, one in zip(names, expected, strict=True):
        np.testing.assert_array_equal(found[name], one, err_msg=name)
        assert found[name].shape == one.shape


def test_more_axes_than_the_library_counts_are_refused():
    x = np.arange(4**5, dtype=np.float32).reshape((4,) * 5)
    with pytest.raises(UsageError, match="at most 8 axes at once, and here are 10"):
        computed([node("Tile", "x two", "y")], {"x": x}, ["y"], {"two": whole(2, 2, 2, 2, 2)})
    x = x[:2, :2, :2, :2]
    (y,) = computed([node("Tile", "x two", "y")], {"x": x[..., 0]}, ["y"], {"two": whole(2, 2, 2, 2)})
    np.testing.assert_array_equal(y, np.tile(x[..., 0], (2, 2, 2, 2)))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("seed", range(12))
def test_pads(mode, seed):
    drawn = Drawn(150 + seed)
    rng = drawn.rng
    x = drawn.values(rng.integers(3, 6, 1 + seed % 3), DTYPES[seed % 4])
    drawn.add("x", x)
    axes = sorted(rng.permutation(x.ndim)[: rng.integers(1, x.ndim + 1)].tolist())
    amounts = rng.integers(-1 if mode == "constant" else 0, 3, (2, len(axes)))
    drawn.constant("pads", amounts.ravel())
    drawn.constant("axes", whole(*axes))
    fill = drawn.values((), x.dtype.name) if mode == "constant" and seed % 2 else None
    if fill is not None:
        drawn.constant("fill", fill)
    (y,) = drawn.computed([node("Pad", f"x pads {'-' if fill is None else 'fill'} axes", "y", mode=mode)], ["y"])
    widths, inner = [(0, 0)] * x.ndim, x
    for axis, before, after in zip(axes, *amounts.tolist(), strict=True):
        widths[axis] = (max(before, 0), max(after, 0))
        inner = inner[(*(slice(None) for _ in range(axis)), slice(max(-before, 0), inner.shape[axis] + min(after, 0)))]
    expected = np.pad(inner, widths, mode, **({} if fill is None else {"constant_values": fill}))
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("seed", range(32))
def test_gathers(seed):
    drawn = Drawn(200 + seed)
    rng = drawn.rng
    x = drawn.values(rng.integers(1, 6, rng.integers(1, 5)), DTYPES[seed % 4])
    axis = int(rng.integers(x.ndim))
    indices = rng.integers(-x.shape[axis], x.shape[axis], rng.integers(0, 4, rng.integers(0, 3))).astype(
        ("int64", "int32")[seed % 2]
    )
    drawn.add("x", x)
    if seed % 3:
        drawn.add("i", indices)
    else:
        drawn.constant("i", indices)
    (y,) = drawn.computed([node("Gather", "x i", "y", axis=axis - x.ndim if seed % 5 == 0 else axis)], ["y"])
    np.testing.assert_array_equal(y, np.take(x, indices, axis))
    assert y.shape == np.take(x, indices, axis).shape


@pytest.mark.parametrize("seed", range(32))
def test_elements_gathered_and_scattered(seed):
    drawn = Drawn(250 + seed)
    rng = drawn.rng
    x = drawn.values(rng.integers(1, 6, rng.integers(1, 5)), DTYPES[seed % 4])
    axis = int(rng.integers(x.ndim))
    length = x.shape[axis]
    shape = [
        int(rng.integers(1, length + 1)) if one == axis else int(rng.integers(1, size + 1)) for one, size in enumerate(x.shape)
    ]
    # Each index once along the axis, so that it does not matter in which order they are written.
    order = np.argsort(rng.random((*shape[:axis], length, *shape[axis + 1 :])), axis)
    indices = order.take(range(shape[axis]), axis) - length * rng.integers(0, 2, shape)
    if seed % 4 == 3:  # the same along the last axis, as an expanded index is
        indices = np.repeat(indices[..., :1], shape[-1], -1) if axis != x.ndim - 1 else indices
    updates = drawn.values(shape, x.dtype.name)
    for name, array in (("x", x), ("i", indices.astype(np.int64)), ("u", updates)):
        drawn.add(name, array)
    nodes = [
        node("GatherElements", "x i", "g", axis=axis),
        node("ScatterElements", "x i u", "s", axis=axis),
        node("Identity", "x", "kept"),
    ]
    gathered, scattered, kept = drawn.computed(nodes, ["g", "s", "kept"])
    cut = x[tuple(slice(None) if one == axis else slice(size) for one, size in enumerate(shape))]
    positive = np.where(indices < 0, indices + length, indices)
    np.testing.assert_array_equal(gathered, np.take_along_axis(cut, positive, axis))
    expected = x.copy()
    part = expected[tuple(slice(None) if one == axis else slice(size) for one, size in enumerate(shape))]
    np.put_along_axis(part, positive, updates, axis)
    np.testing.assert_array_equal(scattered, expected)
    np.testing.assert_array_equal(kept, x)


@pytest.mark.parametrize("op", ["Gather", "GatherElements", "ScatterElements"])
@pytest.mark.parametrize("bad", [3, -4])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("views", [0, 2])
def test_an_index_out_of_range_is_refused_and_names_the_node(op, bad, dtype, views):
    drawn = Drawn(13)
    for name, array in (
        ("x", drawn.values((3, 2), dtype)),
        ("i", whole(0, 2, bad, 1).reshape(2, 2)),
        ("u", drawn.values((2, 2), dtype)),
    ):
        drawn.add(name, array, views=views)
    nodes = [node(op, "x i u" if op == "ScatterElements" else "x i", "y", name="chooser", axis=0), node("Identity", "y", "z")]
    with pytest.raises(InputError, match=f"can't compute {op} 'chooser' on these inputs: an index is out of range"):
        drawn.computed(nodes, ["z"])


@pytest.mark.parametrize("bad", [3, -4])
def test_a_constant_index_out_of_range_is_refused(bad):
    with pytest.raises(UsageError, match=f"can't take index {bad} of 3"):
        computed([node("Gather", "x i", "y")], {"x": np.zeros((3, 2), np.float32)}, ["y"], {"i": whole(bad)[0]})


NUMPY = {
    "ReduceSum": np.sum,
    "ReduceMean": np.mean,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSumSquare": lambda x, *rest, **more: np.sum(np.square(x), *rest, **more),
    "ReduceL2": lambda x, *rest, **more: np.sqrt(np.sum(np.square(x), *rest, **more)),
    "ReduceL1": lambda x, *rest, **more: np.sum(np.abs(x), *rest, **more),
    "ReduceLogSumExp": lambda x, *rest, **more: np.log(np.sum(np.exp(x), *rest, **more)),
}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("op", REDUCE)
def test_reductions(op, seed):
    drawn = Drawn(300 + seed)
    rng = drawn.rng
    dtype = (
        "float32" if seed % 3 or op not in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd") else ("int64", "int32")[seed % 2]
    )
    x = drawn.values(rng.choice([1, 2, 5, 33], rng.integers(1, 4)), dtype)
    x = np.where(x == 0, 1, x) % 3 + 1 if dtype != "float32" and op == "ReduceProd" else x
    x = x.astype(dtype)[:2] if op == "ReduceProd" else x
    drawn.add("x", x)
    axes = rng.permutation(x.ndim)[: rng.integers(0, x.ndim + 1)].tolist()
    keep, named = int(seed % 2), bool(axes) or seed % 4 == 0
    if named:
        drawn.constant("axes", whole(*(axis - x.ndim if rng.integers(2) else axis for axis in axes)))
    nothing = seed % 4 == 0 and not axes
    (y,) = drawn.computed([node(op, "x axes" if named else "x", "y", keepdims=keep, noop_with_empty_axes=int(nothing))], ["y"])
    wide = x.astype(np.float64) if dtype == "float32" else x
    expected = wide if nothing else np.asarray(NUMPY[op](wide, axis=tuple(axes) or None, keepdims=bool(keep)))
    if dtype == "float32":
        near(y, expected, np.abs(wide).max() * 4 if "Prod" not in op else 0.0, x.size if "Prod" in op else 8.0)
    else:
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, expected.astype(dtype))


def test_extremes_of_what_is_no_number_and_of_infinities():
    x = np.float32([[1, np.nan, 3], [-np.inf, 2, np.inf], [-np.inf, -np.inf, -np.inf]])
    nodes = [node("ReduceMax", "x a", "most"), node("ReduceMin", "x a", "least"), node("ReduceLogSumExp", "x a", "logs")]
    nodes += [node("Transpose", "x", "t"), node("ReduceMax", "t b", "most_t"), node("ReduceMin", "t b", "least_t")]
    constants = {"a": whole(1), "b": whole(0)}
    found = computed(nodes, {"x": x}, ["most", "least", "most_t", "least_t", "logs"], constants)
    for one, expected in zip(found[:4], (x.max(1), x.min(1)) * 2, strict=True):
        np.testing.assert_array_equal(one.ravel(), expected)
    assert found[4].ravel()[1:].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("n", [1, 3, 16, 40])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax(op, n, axis):
    drawn = Drawn(14)
    dims = [2, 3, 4]
    dims[axis] = n
    x = drawn.values(dims) * 20
    x[(0,) * 3] = 1e4
    x[(-1,) * 3] = -np.inf if n > 1 else -1e4
    drawn.add("x", x)
    (y,) = drawn.computed([node(op, "x", "y", axis=axis)], ["y"])
    function = torch.softmax if op == "Softmax" else torch.log_softmax
    expected = function(torch.from_numpy(x).double(), axis).numpy()
    # The difference to the greatest is rounded to float32 before its power is taken.
    apart = np.where(np.isinf(x), 0, x.max(axis, keepdims=True) - x)
    near(y, expected, (1 if op == "LogSoftmax" else expected) * (1 + apart), 6.0)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("keep", [0, 1])
def test_where_extremes_are(op, last, axis, keep):
    drawn = Drawn(15)
    x = np.round(drawn.values((5, 18, 3)))  # with equals
    drawn.add("x", x)
    (y,) = drawn.computed([node(op, "x", "y", axis=axis, keepdims=keep, select_last_index=last)], ["y"])
    function = np.argmax if op == "ArgMax" else np.argmin
    expected = x.shape[axis] - 1 - function(np.flip(x, axis), axis) if last else function(x, axis)
    np.testing.assert_array_equal(y, np.expand_dims(expected, axis) if keep else expected)


@pytest.mark.parametrize("dtype", ["float32", "int64", "int32"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_running_sums(reverse, axis, dtype):
    drawn = Drawn(16)
    x = np.round(drawn.values((3, 4, 5), dtype) * 4).astype(dtype)  # sums of these are exact
    drawn.add("x", x)
    drawn.constant("axis", whole(axis)[0])
    (y,) = drawn.computed([node("CumSum", "x axis", "y", reverse=reverse)], ["y"])
    expected = np.flip(np.cumsum(np.flip(x, axis), axis), axis) if reverse else np.cumsum(x, axis)
    np.testing.assert_array_equal(y, expected.astype(dtype))
    assert y.dtype == dtype


@pytest.mark.parametrize("axis", [-1, 1, 0])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_layer_normalization(axis, bias, shared):
    drawn = Drawn(17)
    x = drawn.values((3, 5, 19)) + 2
    x[0, 0] = 7  # no deviation at all
    drawn.add("x", x)
    drawn.constant("scale", drawn.values(x.shape[axis:]) if not shared else np.float32([1.5]))
    drawn.constant("bias", drawn.values(x.shape[-1:]))
    (y,) = drawn.computed([node("LayerNormalization", "x scale bias" if bias else "x scale", "y", axis=axis, epsilon=1e-3)], ["y"])
    over = tuple(range(axis % 3, 3))
    wide = x.astype(np.float64)
    normal = (wide - wide.mean(over, keepdims=True)) / np.sqrt(wide.var(over, keepdims=True) + np.float32(1e-3))
    expected = normal * drawn.constants["scale"] + (drawn.constants["bias"] if bias else 0)
    near(y, expected, 4.0, 16.0)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (node("Pad", "x two", "y", mode="reflect"), "don't pad an axis of 2 by 'reflect' with 2 before and 2 after"),
        (node("Reshape", "x seven", "y"), r"gives \[2, 3\] the shape \[7\]"),
        (node("ScatterElements", "x i x", "y", reduction="add"), "don't scatter by 'add'"),
        (node("CumSum", "x zero", "y", exclusive=1), "don't sum up exclusively"),
    ],
)
def test_what_can_not_be_done_is_refused_and_says_so(of, message):
    constants = {"two": whole(2, 0, 2, 0), "seven": whole(7), "i": whole(0, 0, 0, 1, 1, 1).reshape(2, 3), "zero": whole(0)[0]}
    with pytest.raises(UsageError, match=message):
        computed([of], {"x": np.ones((2, 3), np.float32)}, ["y"], constants)


@pytest.mark.parametrize(
    "of", [node("Reshape", "x n", "y"), node("Expand", "x n", "y"), node("Tile", "x n", "y"), node("ReduceSum", "x n", "y")]
)
def test_a_size_that_depends_on_computed_contents_is_refused(of):
    with pytest.raises(InputError, match=f"need to know .* beforehand.*{of.op_type}"):
        computed([node("Cast", "s", "n", to=7), of], {"x": np.ones(4, np.float32), "s": np.float32([4])}, ["y"])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("largest", [0, 1])
def test_the_greatest_and_the_smallest(largest, seed):
    """Of equals the first comes first, as ONNX has it."""
    drawn = Drawn(400 + seed)
    x = np.round(drawn.values(drawn.rng.integers(1, 9, 1 + seed % 3)) * 2)
    axis = int(drawn.rng.integers(x.ndim))
    k = int(drawn.rng.integers(1, x.shape[axis] + 1))
    drawn.add("x", x)
    drawn.constant("k", whole(k))
    values, places = drawn.computed(
        [node("TopK", "x k", "v p", axis=axis - x.ndim if seed % 2 else axis, largest=largest)], ["v", "p"]
    )
    order = np.argsort(-x if largest else x, axis, kind="stable").take(range(k), axis)
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(values, np.take_along_axis(x, order, axis))
    assert (values.dtype, places.dtype) == (np.float32, np.int64)
