"""The interpreter of TensorRT's networks on structures made by hand, against NumPy: no TensorRT is needed."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import runtime_models
from blocked_imports import run_python
from hypothesis import given
from hypothesis import strategies as st

from edgeseq_runtime import load_device
from edgeseq_runtime.errors import InputError, UsageError
from edgeseq_runtime.tensorrt_network import Interpreter, Layer, Network, Tensor
from edgeseq_runtime.tensors import TensorSpec

X = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
HALF = X.astype(np.float16)
COUNTS = np.arange(-6, 6, dtype=np.int32).reshape(2, 6)


def tensor(name, rank, dtype="float32"):
    return Tensor(name, dtype, (-1,) * rank)


def constant(name, array):
    array = np.asarray(array)
    made = Tensor(name, str(array.dtype), array.shape)
    return Layer(f"constant {name}", "CONSTANT", (), (made,), {"weights": array.reshape(-1), "shape": array.shape})


def layer(kind, inputs, outputs, group="", /, **settings):
    return Layer(f"the {kind.lower()}", kind, tuple(inputs), tuple(outputs), settings, group)


def evaluated(layers, inputs, outputs):
    """The outputs named, of a network of these layers."""
    declared = [TensorSpec(name, str(array.dtype), ("?",) * array.ndim) for name, array in inputs.items()]
    wanted = [TensorSpec(name, "float32", ()) for name in outputs]
    return Interpreter(Network(tuple(declared), tuple(wanted), tuple(layers)))(inputs)


def single(kind, arrays, *, rank=None, dtype=None, **settings):
    """The first output of one layer on these inputs."""
    named = {f"in{at}": array for at, array in enumerate(arrays)}
    first = arrays[0]
    sources = [tensor(name, array.ndim, str(array.dtype)) for name, array in named.items()]
    out = tensor("out", first.ndim if rank is None else rank, dtype or str(first.dtype))
    return evaluated([layer(kind, sources, [out], **settings)], named, ["out"])["out"]


ACTIVATIONS = {
    "RELU": lambda x: max(x, 0),
    "SIGMOID": lambda x: 1 / (1 + math.exp(-x)),
    "TANH": math.tanh,
    "LEAKY_RELU": lambda x: x if x >= 0 else 0.3 * x,
    "ELU": lambda x: x if x >= 0 else 0.3 * (math.exp(x) - 1),
    "SELU": lambda x: 0.7 * (x if x > 0 else 0.3 * (math.exp(x) - 1)),
    "SOFTSIGN": lambda x: x / (1 + abs(x)),
    "SOFTPLUS": lambda x: 0.3 * math.log(math.exp(0.7 * x) + 1),
    "CLIP": lambda x: max(0.3, min(0.7, x)),
    "HARD_SIGMOID": lambda x: max(0, min(1, 0.3 * x + 0.7)),
    "SCALED_TANH": lambda x: 0.3 * math.tanh(0.7 * x),
    "THRESHOLDED_RELU": lambda x: x if x > 0.3 else 0,
    "GELU_ERF": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "GELU_TANH": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(("x", "tolerance"), [(X, 1e-6), (HALF, 1e-3)], ids=["single", "half"])
def test_activations(name, x, tolerance):
    expected = np.vectorize(ACTIVATIONS[name], otypes=[np.float64])(x.astype(np.float64))
    found = single("ACTIVATION", [x], type=name, alpha=0.3, beta=0.7)
    assert found.dtype == x.dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance / 10)


def test_a_sigmoid_far_from_zero_is_its_limit():
    far = np.array([-1e4, -50, 50, 1e4], np.float32)
    found = single("ACTIVATION", [far], type="SIGMOID", alpha=0.0, beta=0.0)
    np.testing.assert_allclose(found, [0, math.exp(-50), 1, 1], rtol=1e-5, atol=0)


@given(a=st.integers(-50, 50), b=st.integers(-50, 50).filter(bool))
def test_integers_are_divided_towards_zero_or_down(a, b):
    pair = [np.array([a], np.int32), np.array([b], np.int32)]
    assert single("ELEMENTWISE", pair, op="DIV") == int(a / b)
    assert single("ELEMENTWISE", pair, op="FLOOR_DIV") == math.floor(a / b)


@pytest.mark.parametrize(("op", "expected"), [("SUM", [-21, 15]), ("PROD", [720, 0]), ("MAX", [-1, 5]), ("MIN", [-6, 0])])
def test_reductions_keep_the_dtype(op, expected):
    positive = np.abs(COUNTS) if op == "PROD" else COUNTS
    found = single("REDUCE", [positive], rank=1, op=op, axes=0b10, keep_dims=False)
    assert found.tolist() == expected
    assert found.dtype == np.int32


def test_half_precision_is_summed_in_single():
    many = np.ones((4096, 2), np.float16)  # summed in half precision, it would stop at 2048
    assert single("REDUCE", [many], rank=1, op="SUM", axes=1, keep_dims=False).tolist() == [4096, 4096]
    product = single("MATRIX_MULTIPLY", [many[:, :1].T, many[:, :1]], op0="NONE", op1="NONE")
    assert product.tolist() == [[4096]]
    assert product.dtype == np.float16


@pytest.mark.parametrize("first", ["NONE", "TRANSPOSE", "VECTOR"])
@pytest.mark.parametrize("second", ["NONE", "TRANSPOSE", "VECTOR"])
def test_products(first, second):
    random = np.random.default_rng(1)
    a = random.standard_normal({"NONE": (2, 3, 4), "TRANSPOSE": (2, 4, 3), "VECTOR": (2, 4)}[first]).astype(np.float32)
    b = random.standard_normal({"NONE": (2, 4, 5), "TRANSPOSE": (2, 5, 4), "VECTOR": (2, 4)}[second]).astype(np.float32)
    left = {"NONE": "nik", "TRANSPOSE": "nki", "VECTOR": "nk"}[first]
    right = {"NONE": "nkj", "TRANSPOSE": "njk", "VECTOR": "nk"}[second]
    out = "n" + ("i" if "i" in left else "") + ("j" if "j" in right else "")
    found = single("MATRIX_MULTIPLY", [a, b], rank=len(out), op0=first, op1=second)
    np.testing.assert_allclose(found, np.einsum(f"{left},{right}->{out}", a, b), rtol=1e-5, atol=1e-6)


STRIDES = {"start": (1, 0, 2), "shape": (2, 2, 3), "stride": (2, 1, -1)}


def test_slices_within_bounds():
    np.testing.assert_array_equal(single("SLICE", [X], mode="STRICT_BOUNDS", axes=None, **STRIDES), X[1:4:2, :, ::-1])
    with pytest.raises(InputError, match=r"SLICE.*places 3 to 5 of an axis of 4"):
        single("SLICE", [X], mode="STRICT_BOUNDS", start=(3, 0, 0), shape=(3, 2, 3), stride=(1, 1, 1), axes=None)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("WRAP", [2, 3, 0, 1, 2, 3, 0, 1, 2, 3]),
        ("CLAMP", [0, 0, 0, 1, 2, 3, 3, 3, 3, 3]),
        ("FILL", [9, 9, 0, 1, 2, 3, 9, 9, 9, 9]),
        ("REFLECT", [2, 1, 0, 1, 2, 3, 2, 1, 0, 1]),
    ],
)
def test_slices_beyond_the_bounds(mode, expected):
    x, fill = np.arange(4, dtype=np.float32), np.array(9, np.float32)
    sources = [tensor("x", 1), None, None, None, tensor("f", 0)]
    made = layer("SLICE", sources, [tensor("y", 1)], mode=mode, start=(-2,), shape=(10,), stride=(1,), axes=None)
    assert evaluated([made], {"x": x, "f": fill}, ["y"])["y"].tolist() == expected


def test_a_slice_of_the_axes_and_bounds_that_tensors_say():
    given = {name: np.array(values) for name, values in {"s": [2, 1], "n": [1, 3], "p": [1, -1], "a": [-1, 0]}.items()}
    sources = [tensor("x", 3), *(tensor(name, 1, "int64") for name in "snp"), None, tensor("a", 1, "int64")]
    made = layer("SLICE", sources, [tensor("y", 3)], mode="STRICT_BOUNDS", start=None, shape=None, stride=None, axes=None)
    with pytest.raises(InputError, match="SLICE"):
        evaluated([made], {"x": X, **given}, ["y"])  # 1, 0, -1
    given["s"] = np.array([2, 3])
    np.testing.assert_array_equal(evaluated([made], {"x": X, **given}, ["y"])["y"], X[3:0:-1, :, 2:])


def test_a_shuffle_transposes_reshapes_and_transposes():
    settings = {"first_transpose": (2, 0, 1, 3, 4), "second_transpose": (1, 0, 2, 3, 4)}
    found = single("SHUFFLE", [X], rank=2, reshape_dims=(0, -1), zero_is_placeholder=True, **settings)
    np.testing.assert_array_equal(found, X.transpose(2, 0, 1).reshape(3, 8).T)
    empty = single("SHUFFLE", [X[:0]], rank=2, reshape_dims=(0, 6), zero_is_placeholder=False, **settings)
    assert empty.shape == (6, 0)


def test_an_index_from_the_end_needs_a_size_that_tensorrt_knows():
    settings = {"mode": "DEFAULT", "axis": 0, "num_elementwise_dims": 0}
    i, y = Tensor("i", "int64", ()), tensor("y", 2)
    known = layer("GATHER", [Tensor("x", "float32", (4, -1, -1)), i], [y], **settings)
    inputs = {"x": X, "i": np.array(-1)}
    np.testing.assert_array_equal(evaluated([known], inputs, ["y"])["y"], X[-1])
    unknown = layer("GATHER", [tensor("x", 3), i], [y], **settings)
    with pytest.raises(InputError, match=r"GATHER.*TensorRT does not know"):
        evaluated([unknown], inputs, ["y"])
    with pytest.raises(InputError, match=r"GATHER.*indices 4 to 4"):
        evaluated([known], {"x": X, "i": np.array(4)}, ["y"])


def test_gathers_with_a_batch():
    indices = np.array([[1, 1], [0, 1], [1, 0], [0, 0]])
    found = single("GATHER", [X, indices], mode="DEFAULT", axis=1, num_elementwise_dims=1)
    np.testing.assert_array_equal(found, np.stack([X[t][indices[t]] for t in range(4)]))


@pytest.mark.parametrize("average", [True, False], ids=["excluding", "including"])
def test_average_pooling_counts_or_leaves_out_the_padding(average):
    x = np.arange(1, 6, dtype=np.float32).reshape(1, 1, 5)
    given = {"window_size_nd": (3,), "stride_nd": (2,), "pre_padding": (1,), "post_padding": (1,)}
    found = single(
        "POOLING", [x], type="AVERAGE", padding_mode="EXPLICIT_ROUND_DOWN", average_count_excludes_padding=average, **given
    )
    np.testing.assert_allclose(found.ravel(), [1.5, 3, 4.5] if average else [1, 3, 3])


def test_non_zero_gives_places():
    found = single("NON_ZERO", [COUNTS], rank=2, dtype="int64")
    np.testing.assert_array_equal(found, np.argwhere(COUNTS).T)


def test_a_ramp():
    settings = {"operation": "LINSPACE", "alpha": 2.0, "beta": 3.0, "shape": (4,)}
    made = layer("FILL", [], [tensor("y", 1)], **settings)
    assert evaluated([made], {}, ["y"])["y"].tolist() == [2, 5, 8, 11]


def loop(kind="COUNT", *, reverse=False, output="CONCATENATE", next_="sum", limit="trips"):
    """s' = s + x[t] over the rows of x (4, 2, 3), its last state and every state."""
    s, e, total = tensor("s", 2), tensor("e", 2), tensor("sum", 2)
    return [
        layer("TRIP_LIMIT", [Tensor(limit, "int32" if kind == "COUNT" else "bool", ())], [], "L", kind=kind),
        layer("ITERATOR", [tensor("x", 3)], [e], "L", axis=0, reverse=reverse),
        layer("RECURRENCE", [tensor("h", 2), tensor(next_, 2)], [s], "L"),
        layer("ELEMENTWISE", [s, e], [total], op="SUM"),
        layer("LOOP_OUTPUT", [s], [tensor("last", 2)], "L", kind="LAST_VALUE", axis=0),
        layer("LOOP_OUTPUT", [total, Tensor("trips", "int32", ())], [tensor("all", 3)], "L", kind=output, axis=0),
    ]


START = np.ones((2, 3), np.float32)


@pytest.mark.parametrize("trips", [0, 1, 3, 4])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("output", ["CONCATENATE", "REVERSE"])
def test_a_loop_of_so_many_rounds(trips, reverse, output):
    steps = (X[::-1] if reverse else X)[:trips]
    sums = START + np.cumsum(steps, 0, dtype=np.float32)
    found = evaluated(
        loop(reverse=reverse, output=output), {"x": X, "h": START, "trips": np.array(trips, np.int32)}, ["last", "all"]
    )
    np.testing.assert_allclose(found["last"], sums[-1] if trips else START, rtol=1e-5, atol=1e-6)
    assert found["all"].shape[0] == trips
    if trips:
        np.testing.assert_allclose(found["all"], sums if output == "CONCATENATE" else sums[::-1], rtol=1e-5, atol=1e-6)


def test_a_loop_ends_where_its_condition_fails():
    body = [
        *loop("WHILE", limit="small"),
        layer("REDUCE", [tensor("s", 2)], [tensor("largest", 0)], op="MAX", axes=3, keep_dims=False),
        constant("limit", np.float32(2.5)),
        layer("ELEMENTWISE", [tensor("largest", 0), tensor("limit", 0)], [Tensor("small", "bool", ())], op="LESS"),
    ]
    x = np.ones((4, 2, 3), np.float32)
    found = evaluated(body, {"x": x, "h": START, "trips": np.array(4, np.int32)}, ["last", "all"])
    assert found["last"].tolist() == [[3] * 3] * 2
    assert found["all"][:, 0, 0].tolist() == [2, 3, 0, 0]  # an engine's output has the length asked for
    with pytest.raises(InputError, match=r"ITERATOR.*has 1 items"):
        evaluated(body, {"x": x[:1], "h": START, "trips": np.array(4, np.int32)}, ["last"])


def test_a_loop_in_a_loop():
    """s' = s + 3 x[t]: the inner loop adds x[t] three times."""
    q, more = tensor("q", 2), tensor("more", 2)
    inner = [
        constant("three", np.int32(3)),
        layer("TRIP_LIMIT", [Tensor("three", "int32", ())], [], "M", kind="COUNT"),
        layer("RECURRENCE", [tensor("s", 2), more], [q], "M"),
        layer("ELEMENTWISE", [q, tensor("e", 2)], [more], op="SUM"),
        layer("LOOP_OUTPUT", [q], [tensor("thrice", 2)], "M", kind="LAST_VALUE", axis=0),
    ]
    found = evaluated([*inner, *loop(next_="thrice")], {"x": X, "h": START, "trips": np.array(4, np.int32)}, ["last"])
    np.testing.assert_allclose(found["last"], START + 3 * X.sum(0), rtol=1e-5)


def test_an_inner_loop_whose_rounds_the_outer_one_counts():
    """s' = t rounds of adding 1 to h, the t of the outer loop's row: only the number of rounds depends on the outer loop."""
    e, q, more = Tensor("e", "int32", ()), tensor("q", 2), tensor("more", 2)
    s, total = tensor("s", 2), tensor("sum", 2)
    layers = [
        layer("TRIP_LIMIT", [Tensor("trips", "int32", ())], [], "L", kind="COUNT"),
        layer("ITERATOR", [Tensor("n", "int32", (-1,))], [e], "L", axis=0, reverse=False),
        layer("TRIP_LIMIT", [e], [], "M", kind="COUNT"),
        constant("one", np.ones((1, 1), np.float32)),
        layer("RECURRENCE", [tensor("h", 2), more], [q], "M"),
        layer("ELEMENTWISE", [q, Tensor("one", "float32", (1, 1))], [more], op="SUM"),
        layer("LOOP_OUTPUT", [q], [tensor("counted", 2)], "M", kind="LAST_VALUE", axis=0),
        layer("RECURRENCE", [tensor("h", 2), total], [s], "L"),
        layer("ELEMENTWISE", [s, tensor("counted", 2)], [total], op="SUM"),
        layer("LOOP_OUTPUT", [s], [tensor("last", 2)], "L", kind="LAST_VALUE", axis=0),
    ]
    found = evaluated(layers, {"h": START, "n": np.array([2, 0, 3], np.int32), "trips": np.array(3, np.int32)}, ["last"])
    assert found["last"].tolist() == [[1 + 3 + 1 + 4] * 3] * 2


def conditional():
    """y = x[8] where c, which x need not have, else -x."""
    c, x, y = Tensor("c", "bool", ()), tensor("x", 3), tensor("y", 3)
    bounds = {"start": (8, 0, 0), "shape": (1, 2, 3), "stride": (1, 1, 1), "axes": None}
    return [
        layer("CONDITION", [c], [], "C"),
        layer("CONDITIONAL_INPUT", [x], [tensor("inside", 3)], "C"),
        layer("SLICE", [tensor("inside", 3)], [tensor("then", 3)], mode="STRICT_BOUNDS", **bounds),
        layer("UNARY", [tensor("inside", 3)], [tensor("else", 3)], op="NEG"),
        layer("CONDITIONAL_OUTPUT", [tensor("then", 3), tensor("else", 3)], [y], "C"),
    ]


def test_the_branch_that_is_not_chosen_is_not_computed():
    np.testing.assert_array_equal(evaluated(conditional(), {"c": np.array(False), "x": X}, ["y"])["y"], -X)
    nine = np.concatenate([X, X, X])
    np.testing.assert_array_equal(evaluated(conditional(), {"c": np.array(True), "x": nine}, ["y"])["y"], nine[8:9])
    with pytest.raises(InputError, match="SLICE"):
        evaluated(conditional(), {"c": np.array(True), "x": X}, ["y"])


def test_a_branch_of_constants_that_cannot_be_computed_fails_only_where_it_is_chosen():
    layers = [one for one in conditional() if one.kind != "CONDITIONAL_INPUT"]
    made = [constant("few", X), layer("UNARY", [tensor("x", 3)], [tensor("else", 3)], op="NEG")]
    few = [tensor("few", 3)]
    changed = [layer("SLICE", few, [tensor("then", 3)], **one.settings) if one.kind == "SLICE" else one for one in layers]
    changed = [*made, *(one for one in changed if one.kind != "UNARY")]
    np.testing.assert_array_equal(evaluated(changed, {"c": np.array(False), "x": X}, ["y"])["y"], -X)
    with pytest.raises(InputError, match="SLICE"):
        evaluated(changed, {"c": np.array(True), "x": X}, ["y"])


def test_an_assertion_is_held_to():
    holds = [constant("yes", np.array([True])), layer("ASSERTION", [Tensor("yes", "bool", (1,))], [], message="must be")]
    output = layer("UNARY", [tensor("x", 3)], [tensor("y", 3)], op="ABS")
    np.testing.assert_array_equal(evaluated([*holds, output], {"x": X}, ["y"])["y"], np.abs(X))
    with pytest.raises(InputError, match="TensorRT asserts: must be"):
        evaluated([constant("yes", np.array([False])), holds[1], output], {"x": X}, ["y"])


def test_what_is_not_interpreted_is_named():
    with pytest.raises(UsageError, match=r"layer 'the resize' \(RESIZE\), which is not interpreted here; known are .*'SHUFFLE'"):
        evaluated([layer("RESIZE", [tensor("x", 3)], [tensor("y", 3)])], {"x": X}, ["y"])
    with pytest.raises(UsageError, match=r"layer 'the unary' \(UNARY\).* has op ZETA, which is not interpreted here"):
        evaluated([layer("UNARY", [tensor("x", 3)], [tensor("y", 3)], op="ZETA")], {"x": X}, ["y"])


@pytest.mark.parametrize("declared", [tensor("y", 3, "float16"), tensor("y", 2), Tensor("y", "float32", (4, 9, -1))])
def test_what_tensorrt_declares_is_held_to(declared):
    with pytest.raises(InputError, match=r"'the unary' \(UNARY\).* gives float32\[4, 2, 3\], and TensorRT declares"):
        evaluated([layer("UNARY", [tensor("x", 3)], [declared], op="NEG")], {"x": X}, ["y"])


def test_outputs_are_the_caller_s_own():
    network = Network((TensorSpec("x", "float32", ("T", "B", 3)),), (TensorSpec("x", "float32", ("T", "B", 3)),), ())
    x = X.copy()
    out = Interpreter(network)({"x": x})["x"]
    out[:] = 0
    np.testing.assert_array_equal(x, X)


def test_calls_from_several_threads_do_not_meet():
    spec = [TensorSpec(name, "float32", ("?",) * 3) for name in ("x", "h", "trips")]
    interpreter = Interpreter(Network(tuple(spec), (TensorSpec("last", "float32", ()),), tuple(loop())))
    wrong = []

    def work(start):
        for _ in range(50):
            h = np.full((2, 3), start, np.float32)
            last = interpreter({"x": X, "h": h, "trips": np.array(4, np.int32)})["last"]
            if not np.allclose(last, h + X.sum(0), rtol=1e-5):
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_device_is_listed_and_says_what_it_is_not():
    device = load_device("tensorrt-network")
    assert device.backend == "tensorrt-network"
    assert any(hazard.rule == "no-engine-is-run" for hazard in device.hazards)


def test_where_tensorrt_is_missing_the_error_says_what_to_install(tmp_path):
    path = runtime_models.gru().write(tmp_path / "gru.edgeseq", [{"T": 2, "B": 1}])
    finished = run_python(
        f"import edgeseq_runtime; edgeseq_runtime.load({str(path)!r}, device='tensorrt-network')", blocked=["tensorrt_rtx"]
    )
    assert "ProviderError: device 'tensorrt-network' needs TensorRT's importer" in finished.stderr
    assert 'pip install "edgeseq[tensorrt-rtx]"' in finished.stderr
