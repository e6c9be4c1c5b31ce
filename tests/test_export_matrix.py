"""Every recurrent case exported once, then run at other sizes with ragged lengths and held to PyTorch's float64."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
from float64_reference import DRAWS, pooled_distances
from recurrent_cases import CASES, Case

import edgeseq_runtime
from edgeseq_export import ExportNotice, export

RECURRENT = ("LSTM", "GRU", "RNN", "Scan", "Loop")


def exported(case: Case, path, sizes=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportNotice)
        return export(
            case.module(),
            case.inputs(sizes or case.sizes[0]),
            path,
            axes=case.axes,
            state=case.state,
            outputs=case.outputs,
        )


def graph_inputs(inputs, session):
    return {spec.name: inputs[spec.name].numpy().astype(spec.dtype) for spec in session.inputs}


def recurrent_census(model: onnx.ModelProto) -> dict[str, int]:
    operators = [node.op_type for node in model.graph.node]
    return {name: operators.count(name) for name in RECURRENT if name in operators}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_exported_graph_is_the_module_at_every_size(case, tmp_path):
    path = exported(case, tmp_path / "case.edgeseq")
    model = onnx.load_from_string(edgeseq_runtime.open_bundle(path).model())
    assert recurrent_census(model) == case.census
    assert (model.opset_import[0].version, len(model.opset_import), model.ir_version) == (20, 1, 10)
    session = edgeseq_runtime.load(path)
    for sizes in case.sizes[1:]:
        for short in (False, True) if case.has_lengths else (False,):
            draws = [case.inputs(sizes, seed, short) for seed in range(DRAWS)]
            results = [session.run(graph_inputs(x, session)) for x in draws]
            found = [[result[name] for name in case.outputs] for result in results]
            for name, measured in zip(case.outputs, pooled_distances(case.module(), draws, found), strict=True):
                assert measured.k <= 4, (name, sizes, short, measured)
                assert measured.k999 <= 8, (name, sizes, short, measured)


@pytest.mark.parametrize("case", CASES[::25], ids=lambda case: case.id)
def test_the_graph_does_not_depend_on_the_examples_sizes(case, tmp_path):
    small = exported(case, tmp_path / "small.edgeseq", case.sizes[0])
    large = exported(case, tmp_path / "large.edgeseq", case.sizes[4])
    small_model, large_model = (onnx.load_from_string(edgeseq_runtime.open_bundle(p).model()) for p in (small, large))
    assert [n.op_type for n in small_model.graph.node] == [n.op_type for n in large_model.graph.node]
    assert small_model.SerializeToString(deterministic=True) == large_model.SerializeToString(deterministic=True)


def test_a_census_is_counted_on_the_graph_and_not_taken_from_the_manifest(tmp_path):
    case = next(c for c in CASES if c.id == "bare-lstm")
    model = onnx.load_from_string(edgeseq_runtime.open_bundle(exported(case, tmp_path / "a.edgeseq")).model())
    del model.graph.node[-1]
    model.graph.node.extend([onnx.helper.make_node("LSTM", ["x", "w", "r"], ["extra"], hidden_size=1)])
    assert recurrent_census(model) != case.census


def test_float32_outputs_of_a_float64_module_are_close_to_its_own(tmp_path):
    case = next(c for c in CASES if c.id == "float64-lstm")
    session = edgeseq_runtime.load(exported(case, tmp_path / "a.edgeseq"))
    inputs = case.inputs(case.sizes[2])
    result = session.run(graph_inputs(inputs, session))["y"]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, case.module()(**inputs).detach().numpy(), atol=1e-6)
