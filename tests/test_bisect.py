"""Where and when a graph goes wrong: for each fault planted in a real export, the node and the step are those of the fault."""

from __future__ import annotations

import json

import bisect_models
import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from bisect_models import FAULTS, STEPS, example, export_model, harmed
from onnx import helper, numpy_helper
from test_cli import edgeseq

import edgeseq_runtime
from edgeseq_runtime import find_divergence
from edgeseq_runtime.bundle import open_bundle
from edgeseq_runtime.device import load_device
from edgeseq_runtime.errors import ProviderError, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bisect")


@pytest.fixture(scope="module")
def bundles(folder):
    """Each model's bundle, exported when it is first asked for."""
    made = {}

    def bundle(name):
        if name not in made:
            made[name] = export_model(name, folder / f"{name.replace(' ', '-')}.edgeseq")
        return made[name]

    return bundle


@pytest.fixture(scope="module")
def faulty(folder, bundles):
    """Each fault's bundle, and the node that it is in."""
    made = {}

    def fault(name):
        if name not in made:
            nodes = []
            target = folder / f"faulty-{len(made)}.edgeseq"
            harmed(bundles(FAULTS[name].model), lambda graph: nodes.append(FAULTS[name].apply(graph)), target)
            made[name] = target, nodes[0]
        return made[name]

    return fault


@pytest.mark.parametrize("name", FAULTS)
def test_names_the_node_and_the_step(name, faulty, bundles):
    fault = FAULTS[name]
    path, node = faulty(name)
    found = find_divergence(path, against=bundles(fault.model))
    assert found.cause == "graph"
    assert found.node == node, found.lines()
    assert found.path.endswith(f"'{node}'")
    assert (" / body / " in found.path) == (node in body_nodes(path))
    assert found.kind == "value"
    assert found.sizes["T"] == STEPS == found.steps
    step = fault.step
    if step is None:
        lengths = example(path)["lengths"]
        step = int(lengths.min()) - (name == "lengths one less")
        # One row is padded, so the other is right but for its last step.
        assert name != "lengths ignored" or found.row == int(lengths.argmin())
    assert found.step == step, found.lines()
    assert found.backwards == fault.backwards
    assert any(fault.says in line for line in found.differences), found.differences
    assert len(found.growth) == STEPS
    ran = found.growth[::-1] if fault.backwards else found.growth
    first = STEPS - 1 - step if fault.backwards else step
    assert not any(ran[:first])
    assert ran[first] > 0
    assert found.error > found.allowed
    # Where the wiring can be told from the graphs, nothing is put down to rounding.
    assert found.allowed == 0 or fault.says.startswith(("operator", "'")), found.lines()


def body_nodes(path):
    graph = onnx.load_from_string(open_bundle(path).model()).graph
    return [node.name for outer in graph.node for a in outer.attribute if a.type == onnx.AttributeProto.GRAPH for node in a.g.node]


def test_nothing_is_found_where_nothing_is_wrong(bundles):
    for name in bisect_models.MODELS:
        assert find_divergence(bundles(name)) is None
        assert find_divergence(bundles(name), against=bundles(name)) is None
        assert find_divergence(bundles(name), against=bundles(name), rounding=True) is None


def test_a_value_that_is_no_number(bundles, folder):
    nodes = []
    path = harmed(bundles("packed"), lambda graph: nodes.append(bisect_models.not_a_number(graph)), folder / "nan.edgeseq")
    found = find_divergence(path, against=bundles("packed"))
    assert (found.node, found.kind, found.step) == (nodes[0], "nan", 0)
    T, B = example(path)["lengths"].max(), 2
    assert f"{T * B} of {T * B * 3} elements are no number" in found.found
    assert found.to_json()["error"] is None


def test_a_shape_that_is_wrong(bundles, folder):
    """Trimmed to max(lengths) in PyTorch; here to one step less."""
    nodes = []

    def edit(graph):
        node = bisect_models.the(graph, "Slice")
        graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last"))
        node.input[2] = "last"
        nodes.append(node.name)

    path = harmed(bundles("packed"), edit, folder / "shape.edgeseq")
    found = find_divergence(path, against=bundles("packed"))
    assert (found.node, found.kind, found.step, found.row) == (nodes[0], "shape", None, None)
    assert "shape (6, 2, 16); the reference's is (7, 2, 16)" in found.found


def test_a_graph_that_can_not_be_run(bundles, folder):
    """A size frozen in a Reshape: every case with another size fails, and the node that fails is named."""
    nodes = []

    def edit(graph):
        node = bisect_models.the(graph, "Reshape", 1)
        graph.initializer.append(numpy_helper.from_array(np.array([3, 3, 16]), "frozen"))
        node.input[1] = "frozen"
        nodes.append(node.name)

    path = harmed(bundles("packed"), edit, folder / "frozen.edgeseq")
    found = find_divergence(path, against=bundles("packed"), reproduction=folder / "frozen")
    assert (found.node, found.kind) == (nodes[0], "error")
    assert "frozen" in " ".join(found.differences)
    assert "Reshape" in found.found


def test_an_input_that_is_refused(bundles, folder):
    def edit(graph):
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3

    path = harmed(bundles("packed"), edit, folder / "refused.edgeseq")
    found = find_divergence(path, against=bundles("packed"))
    assert (found.path, found.kind, found.node) == ("the graph's inputs", "error", "")
    assert "invalid dimensions for input: x" in found.found


# Graphs whose names say nothing, or that another program has rewritten.


def renamed(graph):
    """Every value and node under another name, but for the graph's inputs and outputs; the names say something else elsewhere."""
    kept = {value.name for value in (*graph.input, *graph.output)}
    names = [name for node in graph.node for name in node.output if name and name not in kept]
    names += [tensor.name for tensor in graph.initializer]
    new = dict(zip(names, names[3:] + names[:3], strict=True))
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = new[tensor.name]
    for at, node in enumerate(graph.node):
        node.name = f"renamed_{at}"
    del graph.value_info[:]


def test_a_graph_with_other_names(bundles, folder):
    same = harmed(bundles("packed"), renamed, folder / "renamed.edgeseq")
    assert find_divergence(same, against=bundles("packed")) is None
    positions = []

    def edit(graph):
        name = bisect_models.one_bias(graph)
        positions.append([node.name for node in graph.node].index(name))
        renamed(graph)

    path = harmed(bundles("packed"), edit, folder / "renamed-faulty.edgeseq")
    found = find_divergence(path, against=bundles("packed"))
    assert (found.node, found.step) == (f"renamed_{positions[0]}", 0)
    assert any("differs in 1 of 128 elements" in line for line in found.differences)


def primitives(scale):
    """A normalisation and a GELU written out, and a GRU after them: what ONNX Runtime's optimiser fuses."""
    random = np.random.default_rng(0)
    weights = {"W": (1, 12, 4), "R": (1, 12, 4), "bias": (4,)}
    constants = {name: random.standard_normal(shape).astype(np.float32) for name, shape in weights.items()}
    numbers = {"two": 2, "epsilon": 1e-5, "root": np.sqrt(2), "one": 1, "half": 0.5}
    constants |= {name: np.array(value, np.float32) for name, value in numbers.items()}
    constants |= {"scale": np.array([1, 2, 3, scale], np.float32), "last": np.array([-1])}
    nodes = [
        ("ReduceMean", ["x", "last"], "mean"), ("Sub", ["x", "mean"], "centred"), ("Pow", ["centred", "two"], "squares"),
        ("ReduceMean", ["squares", "last"], "variance"), ("Add", ["variance", "epsilon"], "more"), ("Sqrt", ["more"], "deviation"),
        ("Div", ["centred", "deviation"], "unit"), ("Mul", ["unit", "scale"], "scaled"), ("Add", ["scaled", "bias"], "normal"),
        ("Div", ["normal", "root"], "ratio"), ("Erf", ["ratio"], "erf"), ("Add", ["erf", "one"], "sum"),
        ("Mul", ["normal", "sum"], "product"), ("Mul", ["product", "half"], "gelu"), ("GRU", ["gelu", "W", "R"], "y"),
    ]  # fmt: skip
    made = [helper.make_node(op, inputs, [output], name=f"{op} {output}") for op, inputs, output in nodes]
    made[-1].attribute.append(helper.make_attribute("hidden_size", 4))
    graph = helper.make_graph(
        made,
        "primitives",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["T", "B", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["T", 1, "B", 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def optimised(model, path):
    """The graph as ONNX Runtime's own optimiser writes it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return path


def test_a_graph_that_an_optimiser_rewrote(tmp_path):
    onnx.save(primitives(4), tmp_path / "original.onnx")
    inputs = {"x": np.random.default_rng(1).standard_normal((7, 3, 4)).astype(np.float32)}
    fused = optimised(primitives(4), tmp_path / "fused.onnx")
    assert [node.op_type for node in onnx.load(fused).graph.node] == ["LayerNormalization", "Gelu", "GRU"]
    compared = {"against": tmp_path / "original.onnx", "inputs": inputs}
    assert find_divergence(fused, **compared) is None
    assert find_divergence(fused, **compared, rounding=True).value == "normal"
    found = find_divergence(optimised(primitives(4 + 1e-4), tmp_path / "faulty.onnx"), **compared)
    assert (found.op, found.value, found.kind) == ("LayerNormalization", "normal", "value")
    assert found.allowed < found.error < 1e-4


def test_a_faithful_rewriting_is_named_only_on_request(bundles, folder):
    """y * 0.1 / 0.1 is rounded otherwise than y: no fault, and with `rounding` the place where bits first differ."""

    def edit(graph):
        graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "tenth"))
        last = graph.node[-1]
        last.output[0] = "whole"
        graph.node.append(helper.make_node("Mul", ["whole", "tenth"], ["part"], name="times"))
        graph.node.append(helper.make_node("Div", ["part", "tenth"], ["y"], name="divided"))

    path = harmed(bundles("skip"), edit, folder / "tenths.edgeseq")
    assert find_divergence(path, against=bundles("skip")) is None
    found = find_divergence(path, against=bundles("skip"), rounding=True)
    assert (found.node, found.value) == ("divided", "y")
    assert 0 < found.error < found.allowed


# What is told where there is nothing to compare with.


def test_without_the_original_the_output_the_step_and_the_row(faulty):
    path, _ = faulty("state lost at step 5")
    found = find_divergence(path)
    assert (found.cause, found.node, found.value, found.step) == ("model", "", "y", 5)
    assert found.growth[4] < 1e-5 < found.growth[5]
    assert any("--against" in line for line in found.differences)


@pytest.mark.parametrize("short", [0, 1, 2])
def test_the_worst_row_is_the_one_that_is_padded(short, faulty, bundles):
    path, _ = faulty("lengths ignored")
    lengths = np.full(3, 9, np.int32)
    lengths[short] = 4
    x = np.random.default_rng(0).standard_normal((9, 3, 6)).astype(np.float32)
    found = find_divergence(path, against=bundles("packed"), inputs={"x": x, "lengths": lengths})
    assert (found.row, found.step, found.steps) == (short, 4, 9)


def test_inputs_of_ones_own(faulty, bundles, tmp_path):
    path, node = faulty("one bias")
    suspect = tmp_path / "suspect.onnx"
    suspect.write_bytes(open_bundle(path).model())
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((9, 2, 6)).astype(np.float32), "lengths": np.array([9, 4], np.int32)}
    assert find_divergence(suspect, against=bundles("packed"), inputs=inputs).node == node
    assert find_divergence(path, against=bundles("packed"), inputs=inputs).sizes == {"T": 9, "B": 2}
    with pytest.raises(UsageError, match="holds no inputs"):
        find_divergence(suspect)
    with pytest.raises(UsageError, match="take different inputs"):
        find_divergence(path, against=bundles("skip"))


# The program.


def test_the_program_says_where(faulty, bundles, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path, node = faulty("epsilon in a body")
    good = bundles("normalised")
    folder = tmp_path / "reproduction"
    shown = edgeseq("parity", path, "--against", good, "--reproduction", folder, code=1)
    assert f"'{node}'" in shown.stdout
    assert "FAIL" in shown.stdout
    assert f"step        0 of 0..{STEPS - 1}" in shown.stdout
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md", "inputs.npz", "outputs.npz", "reference.onnx", "reproduce.py", "suspect.onnx",
    ]  # fmt: skip
    data = json.loads(edgeseq("parity", path, "--against", good, "--json", code=1).stdout)
    assert (data["where"]["node"], data["where"]["step"], data["where"]["cause"]) == (node, 0, "graph")
    assert data["passed"] is False
    data = json.loads(edgeseq("parity", path, "--json", code=1).stdout)
    assert (data["where"]["cause"], data["where"]["node"]) == ("model", "")
    assert "where" not in json.loads(edgeseq("parity", good, "--json").stdout)


def test_the_program_refuses_what_it_can_not_do(faulty, bundles, tmp_path):
    path, _ = faulty("epsilon in a body")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    assert "no such file" in edgeseq("parity", path, "--against", tmp_path / "absent", code=2).stderr
    assert "not an empty folder" in edgeseq("parity", path, "--reproduction", tmp_path / "full", code=2).stderr
    assert (tmp_path / "full" / "file").read_text() == "kept"
    assert "one bundle" in edgeseq("parity", path, path, "--against", path, code=2).stderr
    assert "different inputs" in edgeseq("parity", path, "--against", bundles("packed"), code=2).stderr


def test_a_device_that_is_not_there(bundles):
    with pytest.raises(ProviderError):
        find_divergence(bundles("skip"), device=msgspec.structs.replace(load_device("cpu"), backend="none"))


def test_the_name_in_the_package():
    assert edgeseq_runtime.find_divergence is find_divergence
    assert edgeseq_runtime.Divergence.__name__ == "Divergence"
