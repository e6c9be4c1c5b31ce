"""The parts of the bisection: bytes against the `onnx` package, values in bodies against equations, the rule, the reproduction."""

from __future__ import annotations

import shutil

import msgspec
import numpy as np
import onnx
import pytest
from bisect_models import FAULTS, export_model, harmed
from blocked_imports import NOT_ON_A_BOARD, run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeseq_runtime import find_divergence
from edgeseq_runtime.bisect import graphs
from edgeseq_runtime.bisect.computation import Computation
from edgeseq_runtime.bisect.divergence import bars
from edgeseq_runtime.bisect.expose import Value, expose, nudge, nudged
from edgeseq_runtime.bisect.optimised import locate_optimised
from edgeseq_runtime.bisect.place import Sizes
from edgeseq_runtime.bisect.reproduction import write_reproduction
from edgeseq_runtime.bisect.rule import Difference
from edgeseq_runtime.bundle import open_bundle
from edgeseq_runtime.errors import BadModel, UsageError
from edgeseq_runtime.plan import plan_for_device
from edgeseq_runtime.protobuf import bytes_field, number_field, parse, serialise

BARE = (*NOT_ON_A_BOARD, "edgeseq_runtime", "msgspec", "safetensors", "typer", "rich", "scipy")  # NumPy and ONNX Runtime are left


def make_model(nodes, inputs, outputs, constants):
    def values(names):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in names.items()]

    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", values(inputs), values(outputs), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def tensor(name, shape=None, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def nested(gain=0.5):
    """Rows of a grid, each read from left to right: h[i, j] = tanh(x[i, j] + gain * h[i, j-1] + h of the row above, summed)."""
    inner = helper.make_graph(
        [
            helper.make_node("Mul", ["h", "gain"], ["held"], name="hold"),
            helper.make_node("Add", ["held", "cell"], ["partial"], name="add"),
            helper.make_node("Add", ["partial", "above"], ["whole"], name="from_above"),
            helper.make_node("Tanh", ["whole"], ["next"], name="squash"),
        ],
        "inner",
        [tensor("h", ["B"]), tensor("cell", ["B"])],
        [tensor("next", ["B"])],
    )
    outer = helper.make_graph(
        [helper.make_node("Scan", ["above", "row"], ["below"], name="columns", body=inner, num_scan_inputs=1)],
        "outer",
        [tensor("above", ["B"]), tensor("row", [4, "B"])],
        [tensor("below", ["B"])],
    )
    nodes = [helper.make_node("Scan", ["start", "x"], ["y"], name="rows", body=outer, num_scan_inputs=1)]
    return make_model(nodes, {"start": ["B"], "x": ["R", 4, "B"]}, {"y": ["B"]}, {"gain": np.float32(gain)})


def grid_equations(start, x, gain=0.5):
    """Every `held` and every `next`, by row and column."""
    above = start.astype(np.float64)
    held, following = [], []
    for row in x.astype(np.float64):
        h = above
        for cell in row:
            held.append(gain * h)
            h = np.tanh(gain * h + cell + above)
            following.append(h)
        above = h
    return (np.array(values).reshape(*x.shape[:2], -1) for values in (held, following))


def loop(factor=2.0):
    """z doubled until it exceeds 100: a Loop that ends by its condition, and shows every value on its way."""
    inside = helper.make_graph(
        [
            helper.make_node("Mul", ["z", "factor"], ["doubled"], name="double"),
            helper.make_node("ReduceMax", ["doubled"], ["largest"], keepdims=0, name="largest"),
            helper.make_node("Less", ["largest", "limit"], ["more"], name="enough"),
            helper.make_node("Identity", ["doubled"], ["shown"], name="show"),
        ],
        "inside",
        [tensor("i", [], TensorProto.INT64), tensor("before", [], TensorProto.BOOL), tensor("z", ["B"])],
        [tensor("more", [], TensorProto.BOOL), tensor("doubled", ["B"]), tensor("shown", ["B"])],
    )
    nodes = [helper.make_node("Loop", ["", "always", "x"], ["y", "all"], name="until", body=inside)]
    constants = {"always": np.array(True), "factor": np.float32(factor), "limit": np.float32(100)}
    return make_model(nodes, {"x": ["B"]}, {"y": ["B"], "all": ["T", "B"]}, constants)


def computation(model, **options):
    plan = msgspec.structs.replace(plan_for_device("cpu"), session_options=options.pop("session_options", {}))
    return Computation(model.SerializeToString(), plan, optimise=options.pop("optimise", False))


# Bytes.


def test_a_model_is_written_back_byte_for_byte(tmp_path):
    data = open_bundle(export_model("normalised", tmp_path / "model.edgeseq")).model()
    assert serialise(parse(data)) == data
    graph = graphs.read_graph(data)
    assert serialise(graphs.replaced_nodes(graph, {})) == onnx.load_from_string(data).graph.SerializeToString()
    assert graphs.with_graph(data, serialise(graph.fields)) == data
    for cut in (1, 9, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(BadModel):
            graphs.read_graph(data[:cut])
    with pytest.raises(BadModel, match="no graph"):
        graphs.read_graph(b"")


@given(number=st.integers(1, 2**20), value=st.integers(-(2**63), 2**63 - 1), text=st.text())
@settings(max_examples=50, deadline=None)
def test_fields_are_read_as_they_were_made(number, value, text):
    data = serialise([number_field(number, value), bytes_field(number + 1, text)])
    fields = parse(data)
    assert [field.number for field in fields] == [number, number + 1]
    assert graphs.integers_of(fields, number) == (value,)
    assert graphs.text_of(fields, number + 1) == text


def test_nodes_are_those_that_onnx_reads(tmp_path):
    data = open_bundle(export_model("packed", tmp_path / "model.edgeseq")).model()
    expected = onnx.load_from_string(data).graph
    found = graphs.read_graph(data)
    assert [n.op for n in found.nodes] == [n.op_type for n in expected.node]
    assert [n.name for n in found.nodes] == [n.name for n in expected.node]
    assert [n.inputs for n in found.nodes] == [tuple(n.input) for n in expected.node]
    assert [n.outputs for n in found.nodes] == [tuple(n.output) for n in expected.node]
    assert (found.inputs, found.outputs) == (tuple(i.name for i in expected.input), tuple(o.name for o in expected.output))
    for mine, yours in zip(found.nodes, expected.node, strict=True):
        for attribute in yours.attribute:
            value = helper.get_attribute_value(attribute)
            plain = value.decode() if isinstance(value, bytes) else tuple(value) if isinstance(value, list) else value
            assert mine.attributes[attribute.name].plain == plain
    for constant in expected.initializer:
        np.testing.assert_array_equal(graphs.tensor_array(found.tensors[constant.name]), numpy_helper.to_array(constant))


DTYPES = ("float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "int64", "uint32", "uint64", "bool")


@pytest.mark.parametrize("dtype", DTYPES)
def test_constants_of_every_type(dtype):
    array = np.array([[0, 1, 2], [3, 100, 1]]).astype(dtype)
    raw = numpy_helper.from_array(array, "name")
    plain = helper.make_tensor("name", raw.data_type, array.shape, array.reshape(-1).tolist())
    assert not plain.HasField("raw_data")
    for proto in (raw, plain):
        found = graphs.tensor_array(memoryview(proto.SerializeToString()))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, array)
    written = TensorProto.FromString(graphs.tensor_bytes("name", array))
    np.testing.assert_array_equal(numpy_helper.to_array(written), array)
    assert written.name == "name"


def test_negative_integers_and_types_that_numpy_lacks():
    proto = helper.make_tensor("n", TensorProto.INT32, [2], [-5, 7])
    np.testing.assert_array_equal(graphs.tensor_array(memoryview(proto.SerializeToString())), [-5, 7])
    for kind in (TensorProto.BFLOAT16, TensorProto.STRING):
        proto = TensorProto(data_type=kind, dims=[0])
        assert graphs.tensor_array(memoryview(proto.SerializeToString())) is None


# Values in bodies.


def test_every_value_of_a_body_in_a_body():
    rng = np.random.default_rng(0)
    start, x = rng.standard_normal(3).astype(np.float32), rng.standard_normal((5, 4, 3)).astype(np.float32)
    wanted = [Value((0, 0), "held"), Value((0, 0), "next"), Value((0, 0), "h"), Value((0,), "below")]
    exposed = expose(nested().SerializeToString(), wanted)
    onnx.checker.check_model(onnx.load_from_string(graphs.with_graph(exposed.model, typed(exposed.model))))
    found = computation(nested()).values(wanted, {"start": start, "x": x})
    held, following = grid_equations(start, x)
    np.testing.assert_allclose(found[wanted[0]].array, held, atol=1e-6)
    np.testing.assert_allclose(found[wanted[1]].array, following, atol=1e-6)
    np.testing.assert_allclose(found[wanted[2]].array, held / 0.5, atol=1e-6)
    np.testing.assert_allclose(found[wanted[3]].array, following[:, -1], atol=1e-6)


def typed(model):
    """The graph with the outputs that were added left out: they have no type, which the checker asks for."""
    graph = onnx.load_from_string(model).graph
    named = [output for output in graph.output if output.HasField("type")]
    del graph.output[:]
    graph.output.extend(named)
    return graph.SerializeToString()


def test_every_value_of_a_loop():
    x = np.array([1.5, 0.25, 3], np.float32)
    wanted = [Value((0,), "z"), Value((0,), "doubled"), Value((0,), "more"), Value((0,), "i")]
    found = computation(loop()).values(wanted, {"x": x})
    steps = 6  # 3 * 2**6 = 192
    np.testing.assert_array_equal(found[wanted[0]].array, x * 2.0 ** np.arange(steps)[:, None])
    np.testing.assert_array_equal(found[wanted[1]].array, x * 2.0 ** np.arange(1, steps + 1)[:, None])
    np.testing.assert_array_equal(found[wanted[2]].array, [True] * (steps - 1) + [False])
    np.testing.assert_array_equal(found[wanted[3]].array, np.arange(steps))


def save(folder, **models):
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")


def test_a_fault_in_a_body_in_a_body(tmp_path):
    """One column later than its row's first the state is not zero any more; the first row starts from a state of zeros."""
    save(tmp_path, good=nested(), bad=nested(0.75))
    inputs = {"start": np.zeros(3, np.float32), "x": np.ones((5, 4, 3), np.float32)}
    found = find_divergence(tmp_path / "bad.onnx", against=tmp_path / "good.onnx", inputs=inputs)
    assert found.path == "Scan 'rows' / body / Scan 'columns' / body / Mul 'hold'"
    assert (found.iteration, found.step) == (1, 0)
    assert "differs in 1 of 1 elements, by up to 0.25" in found.differences[0]


def test_a_fault_in_a_loop_that_ends_sooner(tmp_path):
    save(tmp_path, good=loop(), bad=loop(4.0))
    inputs = {"x": np.array([1.5, 0.25, 3], np.float32)}
    folder = tmp_path / "reproduction"
    found = find_divergence(tmp_path / "bad.onnx", against=tmp_path / "good.onnx", inputs=inputs, reproduction=folder)
    assert (found.path, found.iteration) == ("Loop 'until' / body / Mul 'double'", 0)
    assert reproduce(folder).returncode == 1


# The rule.


def test_what_counts_as_having_left():
    rng = np.random.default_rng(0)
    value = rng.standard_normal(1000).astype(np.float32)
    eps = np.finfo(np.float32).eps
    assert not Difference(value, value).kind
    assert not Difference(value * np.float32(1 + 7 * eps), value).left
    assert Difference(value * np.float32(1 + 9 * eps), value).left
    # Where nudging moves the value further, more is allowed: four times as far as it moves.
    moved = (value * np.float32(1 + 10 * eps),)
    assert not Difference(value * np.float32(1 + 39 * eps), value, moved).left
    assert Difference(value * np.float32(1 + 43 * eps), value, moved).left
    # A nudged value that is no number explains nothing.
    assert Difference(value * np.float32(1 + 9 * eps), value, (np.full_like(value, np.nan),)).left
    assert Difference(np.where(value > 2, np.nan, value).astype(np.float32), value).kind == "nan"
    assert not Difference(np.array([np.nan, np.inf, 1]), np.array([np.nan, np.inf, 1])).kind
    assert Difference(value[:5], value).kind == "shape"
    assert Difference(value.astype(np.float64), value).kind == "dtype"
    assert Difference(np.array([1, 2]), np.array([1, 3])).left
    assert not Difference(np.array([], np.float32), np.array([], np.float32)).left


def test_nudging_moves_floats_by_one_unit_in_the_last_place():
    rng = np.random.default_rng(0)
    value = np.array([1.5, -3.25, 1e-20, 0, np.inf, np.nan, 2], np.float32)
    moved = nudge(value, rng)
    for at in (0, 1, 2):
        assert moved[at] in (np.nextafter(value[at], np.float32(np.inf)), np.nextafter(value[at], np.float32(-np.inf)))
    np.testing.assert_array_equal(moved[3:], value[3:])
    assert nudge(np.array([1, 2]), rng).tolist() == [1, 2]
    model = onnx.load_from_string(nudged(nested().SerializeToString(), rng))
    gain = numpy_helper.to_array(model.graph.initializer[0])
    assert gain != 0.5
    assert abs(gain - 0.5) < 1e-7


def test_bars_show_growth():
    assert bars((0.0, 1e-6, 1e-3, 1.0)) == " ▁▄█"
    assert bars((np.inf, 1.0)) == "██"
    assert len(bars(tuple(range(1, 1000)))) == 40


# Only where ONNX Runtime optimises.


def casts():
    """A value rounded to float16 and back, which an option of ONNX Runtime takes for superfluous."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["product"], name="product"),
        helper.make_node("Cast", ["product"], ["half"], name="down", to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["rounded"], name="up", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["rounded", "V"], ["second"], name="second"),
        helper.make_node("Tanh", ["second"], ["y"], name="squash"),
    ]
    constants = {"W": rng.standard_normal((6, 8)).astype(np.float32), "V": rng.standard_normal((8, 8)).astype(np.float32)}
    return make_model(nodes, {"x": ["T", "B", 6]}, {"y": ["T", "B", 8]}, constants)


def test_a_fault_of_the_optimiser(tmp_path):
    options = {"optimization.enable_cast_chain_elimination": "1"}
    graph = casts()
    inputs = {"x": np.random.default_rng(1).standard_normal((7, 3, 6)).astype(np.float32)}
    sizes = Sizes({"T": 7, "B": 3}, "T", "B")
    plain = computation(graph)
    assert locate_optimised(computation(graph, optimise=True), plain, inputs, sizes) is None
    located = locate_optimised(computation(graph, optimise=True, session_options=options), plain, inputs, sizes)
    found = located.divergence
    assert (found.cause, found.node, found.step) == ("optimisation", "up", 0)
    assert found.last_good == "'half' of Cast 'down'"
    folder = write_reproduction(tmp_path / "reproduction", located)
    assert [node.name for node in onnx.load(folder / "suspect.onnx").graph.node] == ["down", "up"]
    assert reproduce(folder).returncode == 1


def clipped():
    """An LSTM whose clip ONNX Runtime applies to the gates and TensorRT's importer to the cell too."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"], name="before"),
        helper.make_node("LSTM", ["t", "W", "R"], ["y"], name="clipped", hidden_size=8, clip=0.5),
        helper.make_node("Tanh", ["y"], ["z"], name="after"),
    ]
    constants = {"W": rng.standard_normal((1, 32, 6)), "R": rng.standard_normal((1, 32, 8))}
    constants = {name: (2 * array).astype(np.float32) for name, array in constants.items()}
    return make_model(nodes, {"x": ["T", "B", 6]}, {"z": ["T", 1, "B", 8]}, constants)


def test_what_another_device_reads_otherwise(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    save(tmp_path, clipped=clipped())
    inputs = {"x": 2 * np.random.default_rng(1).standard_normal((7, 3, 6)).astype(np.float32)}
    given = {"device": "tensorrt-network", "inputs": inputs}
    found = find_divergence(tmp_path / "clipped.onnx", **given)
    assert (found.cause, found.node, found.value) == ("device", "clipped", "y")
    assert found.allowed > 0
    with pytest.raises(UsageError, match="runs with ONNX Runtime alone"):
        find_divergence(tmp_path / "clipped.onnx", **given, reproduction=tmp_path / "reproduction")
    assert find_divergence(tmp_path / "clipped.onnx", inputs=inputs) is None


# The reproduction.


def reproduce(folder, *arguments):
    """The script, in a process that has NumPy and ONNX Runtime alone."""
    script = str(folder / "reproduce.py")
    code = f"import runpy, sys\nsys.argv = {[script, *arguments]!r}\nrunpy.run_path({script!r}, run_name='__main__')\n"
    done = run_python(code, blocked=BARE)
    assert done.returncode in (0, 1), done.stderr
    return done


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduction")
    return {name: export_model(name, folder / f"{name}.edgeseq") for name in ("packed", "normalised")}


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("gates swapped", ["LSTM"]),
        ("lengths one less", ["Sub", "Max", "LSTM"]),
        ("epsilon in a body", ["LayerNormalization"]),
        ("state lost at step 5", ["Where", "Gemm"]),
        ("states exchanged", ["Scan"]),
    ],
)
def test_a_reproduction_runs_alone(name, operators, bundles, tmp_path):
    good = bundles[FAULTS[name].model]
    bad = harmed(good, FAULTS[name].apply, tmp_path / "bad.edgeseq")
    folder = tmp_path / "made" / "reproduction"
    found = find_divergence(bad, against=good, reproduction=folder)
    assert found.node in (folder / "README.md").read_text()
    nodes = onnx.load(folder / "suspect.onnx").graph.node
    assert [node.op_type for node in nodes if node.op_type != "Identity"] == operators
    done = reproduce(folder)
    assert (done.returncode, "they differ" in done.stdout, done.stderr) == (1, True, "")
    assert "not what it was" not in done.stdout
    shutil.copy(folder / "reference.onnx", folder / "suspect.onnx")
    done = reproduce(folder, "--provider", "CPUExecutionProvider")
    assert (done.returncode, "they are equal" in done.stdout) == (0, True)
    # Were it another reference, it would be said.
    arrays = dict(np.load(folder / "outputs.npz"))
    np.savez(folder / "outputs.npz", **{key: array + 1 for key, array in arrays.items()})
    assert "not what it was" in reproduce(folder).stdout


def test_a_reproduction_is_written_whole_or_not_at_all(bundles, tmp_path, monkeypatch):
    bad = harmed(bundles["packed"], FAULTS["one bias"].apply, tmp_path / "bad.edgeseq")
    folder = tmp_path / "there"
    folder.mkdir()
    find_divergence(bad, against=bundles["packed"], reproduction=folder)  # empty: taken
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(UsageError, match="not an empty folder"):
        find_divergence(bad, against=bundles["packed"], reproduction=folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == kept

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UsageError, match="No space left on device; nothing was written"):
        find_divergence(bad, against=bundles["packed"], reproduction=tmp_path / "new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad.edgeseq", "there"]
