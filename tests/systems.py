"""What the test of every system checks of its export: the nodes, the dynamic axes, and parity with its equations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch

import edgeseq_runtime
from edgeseq_export import ExportRequest, export_request
from edgeseq_runtime.tensors import distance

Arrays = dict[str, np.ndarray]
DRAWS = 32


def nodes(graph: onnx.GraphProto) -> int:
    """Nodes of a graph and of the bodies inside it."""
    bodies = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return len(graph.node) + sum(nodes(body) for body in bodies)


def scan_outputs_without_rank(graph: onnx.GraphProto) -> list[str]:
    """Outputs of bodies of Scans that declare no shape: ONNX Runtime 1.23 runs none of which it can't infer the rank either."""
    bodies = [a.g for node in graph.node if node.op_type == "Scan" for a in node.attribute if a.name == "body"]
    return [value.name for body in bodies for value in body.output if not value.type.tensor_type.HasField("shape")]


def checked_export(
    request: ExportRequest, folder, *, census: Mapping[str, int], longer: Mapping[str, torch.Tensor] | None = None
) -> edgeseq_runtime.Session:
    """A session on the exported bundle: the census is `census`, every named axis is dynamic, the bundle's own parity passes, and
    every body of a Scan declares the ranks of its outputs.

    `longer` are example inputs of another T: an export from them has as many nodes.
    """
    path = export_request(request, folder / f"{request.bundle_name}.edgeseq")
    bundle = edgeseq_runtime.open_bundle(path)
    assert dict(bundle.manifest.census) == dict(census)
    assert scan_outputs_without_rank(onnx.load_from_string(bundle.model()).graph) == []
    session = edgeseq_runtime.load(path)
    for spec in session.inputs:
        named = [(at, axis) for at, axis in enumerate(request.input_axes(spec.name)) if axis is not None]
        assert all(spec.shape[at] == axis for at, axis in named), spec
    report = edgeseq_runtime.measure_parity(path)
    assert report.passed, report
    if longer is not None:
        other = export_request(replace(request, inputs=longer), folder / "longer.edgeseq")
        graphs = [onnx.load_from_string(edgeseq_runtime.open_bundle(p).model()).graph for p in (path, other)]
        assert nodes(graphs[0]) == nodes(graphs[1])
    return session


def assert_parity(
    session: edgeseq_runtime.Session,
    model: torch.nn.Module,
    equations: Callable[[Arrays], Arrays],
    drawn: Callable[[int], Arrays],
    *,
    draws: int = DRAWS,
) -> None:
    """k <= 4 and k999 <= 8 of every output, pooled over draws, against the equations in float64.

    Args:
        session: of the export of `model`.
        model: takes the inputs by name as tensors; its outputs come in the session's order.
        equations: the outputs by name, in float64, computed independently of `model`.
        drawn: input arrays by name for a seed, all of one size.
    """
    found, torch32, exact = ({spec.name: [] for spec in session.outputs} for _ in range(3))
    for seed in range(draws):
        inputs = drawn(seed)
        with torch.no_grad():
            outputs = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        truth, result = equations(inputs), session.run(inputs)
        for (name, pooled), output in zip(torch32.items(), outputs, strict=True):
            pooled.append(output.numpy())
            found[name].append(result[name])
            exact[name].append(truth[name])
    for name in found:
        measured = distance(*(np.stack(pooled[name]) for pooled in (found, torch32, exact)))
        assert measured.k <= 4, (name, measured)
        assert measured.k999 <= 8, (name, measured)


def float64_of(module: torch.nn.Module) -> Arrays:
    """Every parameter and buffer by name, as float64 arrays for equations in NumPy."""
    return {name: tensor.detach().numpy().astype(np.float64) for name, tensor in module.state_dict().items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(x):
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
