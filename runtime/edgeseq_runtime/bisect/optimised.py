"""Where a graph computes something else once ONNX Runtime has optimised it: values looked at one at a time.

To look at many values at once would keep them from being fused, and hide the fault. So one value is looked at by itself, and the
place where they go wrong is found by halving: a dozen runs for a thousand nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from edgeseq_runtime.bisect import graphs
from edgeseq_runtime.bisect.align import Pair, align
from edgeseq_runtime.bisect.computation import Computation, Seen
from edgeseq_runtime.bisect.cut import Spotted
from edgeseq_runtime.bisect.divergence import Divergence
from edgeseq_runtime.bisect.expose import Value, nudge, nudged
from edgeseq_runtime.bisect.locate import Located
from edgeseq_runtime.bisect.place import Sizes, spot_in_graph
from edgeseq_runtime.bisect.rule import NUDGES, Difference, relative
from edgeseq_runtime.bisect.words import found_text, node_text, relative_scale
from edgeseq_runtime.tensors.spec import Array


class _Look(NamedTuple):
    """One graph optimised and not, on one set of inputs."""

    optimised: Computation
    plain: Computation
    inputs: Mapping[str, Array]
    reference: dict[str, Seen]
    nudged: list[dict[str, Seen]]

    def difference(self, name: str) -> Difference | None:
        """How a value that is looked at by itself differs; None where it can't be shown."""
        seen = self.optimised.values([Value((), name)], self.inputs).get(Value((), name))
        if seen is None or name not in self.reference:
            return None
        return Difference(seen.array, self.reference[name].array, [run[name].array for run in self.nudged if name in run])

    def left(self, name: str) -> bool:
        """Whether it has left."""
        difference = self.difference(name)
        return difference is not None and difference.left


def locate_optimised(
    optimised: Computation, plain: Computation, inputs: Mapping[str, Array], sizes: Sizes, *, draw: int = 0
) -> Located | None:
    """The first value that leaves where the graph is optimised; None where every output is right.

    Args:
        optimised: the graph as it is run.
        plain: the same graph, not optimised.
        inputs: of the graph.
        sizes: what is known of them.
        draw: of the reference case that the inputs are from.

    Raises:
        UsageError: the backend can't load the graph.
        InputError: it can't compute it on these inputs.
    """
    outputs, expected = optimised.outputs(inputs), plain.outputs(inputs)
    unequal = [name for name, array in outputs.items() if Difference(array, expected[name]).kind]
    if not unequal:
        return None
    names = [name for node in plain.graph.nodes for name in node.outputs if name]
    look = _Look(optimised, plain, inputs, _values(plain, names, inputs), _nudged_values(plain, names, inputs))
    wrong = [name for name in unequal if name in look.reference and _output_left(look, name, outputs[name])]
    if not wrong:
        return None
    first = _first_wrong(look, min(wrong, key=names.index), names)
    return _located(look, first, sizes, draw)


def _output_left(look: _Look, name: str, array: Array) -> bool:
    moved = [run[name].array for run in look.nudged if name in run]
    return Difference(array, look.reference[name].array, moved).left


def _values(plain: Computation, names: list[str], inputs: Mapping[str, Array]) -> dict[str, Seen]:
    return {value.name: seen for value, seen in plain.values([Value((), name) for name in names], inputs).items()}


def _nudged_values(plain: Computation, names: list[str], inputs: Mapping[str, Array]) -> list[dict[str, Seen]]:
    runs = []
    for seed in range(NUDGES):
        random = np.random.default_rng(seed)
        moved = {name: nudge(array, random) for name, array in inputs.items()}
        runs.append(_values(plain.with_model(nudged(plain.model, random)), names, moved))
    return runs


def _first_wrong(look: _Look, output: str, names: list[str]) -> str:
    """A value that has left and whose node reads none that has: found by halving, and then by going back."""
    makers = {name: node for node in look.plain.graph.nodes for name in node.outputs if name}
    above = _ancestors(output, makers)
    line = [name for name in names if name in above]
    good, bad = -1, line.index(output)
    while bad - good > 1:
        middle = (good + bad) // 2
        if look.left(line[middle]):
            bad = middle
        else:
            good = middle
    found = line[bad]
    while (before := next((name for name in graphs.reads(makers[found]) if name in makers and look.left(name)), None)) is not None:
        found = before
    return found


def _ancestors(name: str, makers: Mapping[str, graphs.Node]) -> set[str]:
    found: set[str] = set()
    left = [name]
    while left:
        one = left.pop()
        if one in makers and one not in found:
            found.add(one)
            left += graphs.reads(makers[one])
    return found


def _located(look: _Look, name: str, sizes: Sizes, draw: int) -> Located:
    level = align(look.plain.graph, look.plain.graph)
    pair = next(pair for pair in level.pairs if name in pair.suspect.outputs)
    # An output of the graph may leave only where nothing else is looked at: then as it is.
    difference = look.difference(name)
    if difference is None or not difference.kind:
        difference = Difference(look.optimised.outputs(look.inputs)[name], look.reference[name].array)
    kind = difference.kind
    spot = spot_in_graph(difference, pair, name, look.reference[name].axes, sizes, exact=False)
    divergence = Divergence(
        cause="optimisation",
        node=pair.suspect.name,
        op=pair.suspect.op,
        path=node_text(pair.suspect),
        value=name,
        kind=kind,
        found=found_text(difference, 0, ()),
        sizes=dict(sizes.sizes),
        draw=draw,
        error=relative(difference) if kind == "value" else float("inf"),
        allowed=relative_scale(difference),
        last_good=_last_good(look, pair),
        differences=("none between the graphs: ONNX Runtime's graph optimisation changes what is computed here",),
        **spot._asdict(),
    )
    return Located(divergence, Spotted(level, pair, ()), look.optimised, look.plain, look.inputs)


def _last_good(look: _Look, pair: Pair) -> str:
    names = [name for name in graphs.reads(pair.suspect) if name and name in look.reference]
    makers = {name: node for node in look.plain.graph.nodes for name in node.outputs}
    return ", ".join(f"'{name}' of {node_text(makers[name])}" for name in names)
