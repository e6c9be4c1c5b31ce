"""What a rule has to say about a model on a device, and where the rule comes from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from edgeseq_runtime.onnx_wire import Graph, Node

OBSERVED, READ = "observed", "read"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One rule, applied."""

    rule: str
    subject: str  # a node; empty where it is about the whole model
    text: str
    remedy: str
    kind: str  # "observed" when the rule was seen to hold, "read" when a source says so
    source: str


class Found(NamedTuple):
    """A node of a graph, or of a graph inside a node."""

    node: Node
    where: str  # nodes it is inside of: "main" for the model's own graph
    graph: Graph
    inside: tuple[str, ...]  # operators of those nodes

    @property
    def subject(self) -> str:
        name = self.node.name or next((output for output in self.node.outputs if output), "")
        return f"{self.node.op} '{name}'" + (f" in {self.where}" if self.where != "main" else "")


def nodes_of(graph: Graph, where: str = "main", inside: tuple[str, ...] = ()) -> Iterator[Found]:
    """Every node, those of loops and branches included."""
    for node in graph.nodes:
        yield Found(node, where, graph, inside)
        for body in node.graphs.values():
            name = f"{node.op} '{node.name or next(iter(node.outputs), '')}'"
            yield from nodes_of(body, name if where == "main" else f"{where}/{name}", (*inside, node.op))
