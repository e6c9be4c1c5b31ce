"""Where a graph can't be loaded or run at all: the first node that fails, found by halving, or a value before it that is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgeseq_runtime.bisect.align import align
from edgeseq_runtime.bisect.computation import Computation
from edgeseq_runtime.bisect.cut import Spotted
from edgeseq_runtime.bisect.differences import node_differences
from edgeseq_runtime.bisect.divergence import Divergence
from edgeseq_runtime.bisect.graphs import first_nodes
from edgeseq_runtime.bisect.locate import Located, locate
from edgeseq_runtime.bisect.place import Sizes
from edgeseq_runtime.bisect.words import node_text
from edgeseq_runtime.errors import EdgeseqError, InputError, UsageError
from edgeseq_runtime.tensors.spec import Array


def failure(computation: Computation, inputs: Mapping[str, Array]) -> EdgeseqError | None:
    """Why a graph can't be loaded or run on these inputs; None where it can.

    Raises:
        ProviderError: the device is not there, whatever the graph.
    """
    try:
        computation.outputs(inputs)
    except (UsageError, InputError) as error:
        return error
    return None


def locate_failing(
    suspect: Computation, reference: Computation, inputs: Mapping[str, Array], sizes: Sizes, *, cause: str, draw: int
) -> Located:
    """The first value that leaves before the node that fails, or that node."""
    runs, fails = 0, len(suspect.graph.nodes)
    if failure(suspect.with_model(first_nodes(suspect.model, 0)), inputs) is not None:
        return _located(suspect, reference, inputs, sizes, 0, cause, draw)
    while fails - runs > 1:
        middle = (runs + fails) // 2
        if failure(suspect.with_model(first_nodes(suspect.model, middle)), inputs) is None:
            runs = middle
        else:
            fails = middle
    before = suspect.with_model(first_nodes(suspect.model, runs))
    found = locate(before, reference, inputs, sizes, cause=cause, draw=draw) if runs else None
    return found or _located(suspect, reference, inputs, sizes, fails, cause, draw)


def _located(
    suspect: Computation, reference: Computation, inputs: Mapping[str, Array], sizes: Sizes, count: int, cause: str, draw: int
) -> Located:
    """The finding on the last of so many nodes; on the graph's inputs where there is none."""
    level = align(suspect.graph, reference.graph)
    node = suspect.graph.nodes[count - 1] if count else None
    pair = next((pair for pair in level.pairs if pair.at == count - 1), None)
    # The graph as a whole may fail where none of its nodes does: a type that it declares for a value is not the value's.
    error = failure(suspect.with_model(first_nodes(suspect.model, count)), inputs) or failure(suspect, inputs)
    divergence = Divergence(
        cause=cause,
        node=node.name if node else "",
        op=node.op if node else "",
        path=node_text(node) if node else "the graph's inputs",
        value=next(filter(None, node.outputs), "") if node else ", ".join(suspect.graph.inputs),
        kind="error",
        found=_message(error),
        sizes=dict(sizes.sizes),
        draw=draw,
        inputs_equal=node is not None,
        differences=tuple(node_differences(pair, level)) if pair is not None and cause == "graph" else (),
    )
    return Located(divergence, None if pair is None else Spotted(level, pair, ()), suspect, reference, inputs)


def _message(error: EdgeseqError | None) -> str:
    """The backend's message without where in its source it comes from."""
    text = str(error).partition("[ONNXRuntimeError]")[2] or str(error)
    return re.sub(r"\S+\.(cc|h):\d+ .*?\) ", "", text.lstrip(" :0123456789")).strip()
