"""What the model is: its tensors, and its graph as a drawing."""

from __future__ import annotations

from collections.abc import Iterator

from edgeseq_runtime.onnx_wire import Graph
from edgeseq_runtime.report.diagram import diagram_of
from edgeseq_runtime.report.drawing import drawing
from edgeseq_runtime.report.markup import Child, Html, element, joined
from edgeseq_runtime.report.measured import Report
from edgeseq_runtime.report.sources import weights_in
from edgeseq_runtime.report.tables import facts, table
from edgeseq_runtime.tensors import TensorSpec

MOST = 20_000  # nodes of a graph to draw, bodies included


def section(report: Report) -> Html:
    """Facts, tensors, drawing."""
    parts: list[Child] = [facts(_facts(report)), _tensors(report)]
    if report.model is None:
        return joined([*parts, element("p", f"The graph can't be drawn: {report.model_problem}.")])
    nodes = _count(report.model.graph)
    if nodes > MOST:
        return joined([*parts, element("p", f"The graph has {nodes:,} nodes: too many to draw.")])
    key = element(
        "ul",
        [element("li", element("span", class_=f"swatch {kind}", aria_hidden="true"), text) for kind, text in (
            ("recurrent", "recurrent node"), ("simple", "other nodes, chains of them in one box"), ("input", "input or output"),
        )],
        class_="legend",
    )  # fmt: skip
    diagram = diagram_of(report.model.graph)
    hidden = f" {diagram.hidden} more that compute constants and sizes alone are not drawn." if diagram.hidden else ""
    note = f"From inputs at the top to outputs at the bottom: {diagram.nodes - diagram.hidden} nodes.{hidden}"
    return joined([*parts, element("h3", "Graph"), element("p", note), key, drawing(diagram, "graph of the model")])


def _facts(report: Report) -> Iterator[tuple[str, Child]]:
    manifest = report.bundle.manifest
    yield "recurrent nodes", ", ".join(f"{count} {op}" for op, count in manifest.census.items()) or "none"
    if report.model:
        yield "nodes", f"{_count(report.model.graph):,}"
        yield "weights", f"{weights_in(report.model.graph):,}"
        yield "opset", ", ".join(f"{version} {domain}".strip() for domain, version in report.model.opsets.items())
    if manifest.chunk > 1:
        yield "streams in", f"multiples of {manifest.chunk} time steps"
    if manifest.text:
        yield "reads text", f"{len(manifest.text.symbols)} symbols, as input {manifest.text.input}"
    if manifest.generation:
        yield "writes tokens", f"{manifest.generation.form} {manifest.generation.search}".strip()


def _count(graph: Graph) -> int:
    """Nodes, those in bodies included."""
    return len(graph.nodes) + sum(_count(body) for node in graph.nodes for body in node.graphs.values())


def _tensors(report: Report) -> Html:
    interface = report.interface
    continued = {output: name for name, output in interface.state.items()}
    rows = [("in", spec, _role(report, spec)) for spec in interface.inputs]
    rows += [("out", spec, f"continues {continued[spec.name]}" if spec.name in continued else "") for spec in interface.outputs]
    return table(
        "Inputs, outputs and state; a named size varies",
        ("tensor", "way", "dtype", "shape", "role"),
        [
            (element("bdi", spec.name), way, spec.dtype, f"[{', '.join(map(str, spec.shape))}]", role)
            for way, spec, role in rows
        ],
    )  # fmt: skip


def _role(report: Report, spec: TensorSpec) -> str:
    interface = report.interface
    if spec.name in interface.state:
        return f"state, continued by {interface.state[spec.name]}"
    return f"lengths along {interface.lengths[spec.name]}" if spec.name in interface.lengths else ""
