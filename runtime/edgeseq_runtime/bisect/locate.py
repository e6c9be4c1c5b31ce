"""The first value at which two computations part: node by node, and inside bodies step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from edgeseq_runtime.bisect import graphs
from edgeseq_runtime.bisect.align import Level, Pair, align, values_of
from edgeseq_runtime.bisect.computation import Computation, Seen, same_way
from edgeseq_runtime.bisect.cut import NotShown, Side, Spotted
from edgeseq_runtime.bisect.differences import level_graphs, node_differences
from edgeseq_runtime.bisect.divergence import Divergence
from edgeseq_runtime.bisect.expose import Value, name_unused_outputs, nudge, nudged
from edgeseq_runtime.bisect.place import Loop, Sizes, Spot, spot_in_body, spot_in_graph
from edgeseq_runtime.bisect.rule import NUDGES, Difference, relative
from edgeseq_runtime.bisect.words import found_text, path_text, relative_scale
from edgeseq_runtime.errors import EdgeseqError
from edgeseq_runtime.tensors.spec import Array

Arrays = Mapping[str, Array]


class Located(NamedTuple):
    """What was found, and what it takes to show it again."""

    divergence: Divergence
    spotted: Spotted | None  # the node; None where the graph as a whole is all that can be shown
    suspect: Computation
    reference: Computation
    inputs: Arrays


class _Candidate(NamedTuple):
    """A value to compare. Of a body's input, the pair is the loop that gives it."""

    pair: Pair
    suspect: Value
    reference: Value
    position: int  # of the node in its graph; -1 of a body's input


class _Found(NamedTuple):
    candidate: _Candidate
    difference: Difference
    axes: tuple[int | str, ...]
    iterations: tuple[int, ...]
    exact: bool  # the first that differs by a bit
    certain: bool  # and nothing but the node explains it
    inputs_equal: bool


def locate(
    suspect: Computation, reference: Computation, inputs: Arrays, sizes: Sizes, *, cause: str, draw: int = 0, rounding: bool = False
) -> Located | None:
    """The first value of the suspect that leaves its reference on these inputs; None where none does.

    Where both are run in the same way, the first value that differs by a bit is named if its node has the reference's operator:
    nothing but the node explains it. With another operator, or other nodes before it, it is named if the rounding of these nodes
    does not explain the difference. Else the first value is named that differs by more than the rounding of everything explains.

    Args:
        suspect: the graph that is wrong, and how it is run.
        reference: the graph that is right.
        inputs: of both.
        sizes: what is known of the inputs.
        cause: what the finding says of it; see `Divergence`.
        draw: of the reference case that the inputs are from.
        rounding: name the first value that differs by a bit, even where rounding explains it.
    """
    suspect = suspect.with_model(name_unused_outputs(suspect.model))
    reference = reference.with_model(name_unused_outputs(reference.model))
    level = align(suspect.graph, reference.graph)
    look = _Look(suspect, reference, inputs, level, rounding=rounding)
    candidates = [_Candidate(pair, a, b, pair.at) for pair, a, b in values_of(level.pairs)]
    found = look.first(candidates)
    if found is None:
        return None
    divergence = _divergence(found, _spot(found, level, sizes), level, sizes, cause, draw)
    # Of a body's input, the node is the loop: it is cut out whole.
    iterations = found.iterations[: len(found.candidate.pair.place)]
    return Located(divergence, Spotted(level, found.candidate.pair, iterations), suspect, reference, inputs)


def _inside(level: Level, loop: Pair) -> Iterator[_Candidate]:
    """Everything aligned in a loop's body and in the bodies in it: inputs of the body, then what its nodes compute."""
    place, reference_place = (*loop.place, loop.at), (*loop.reference_place, loop.reference_at)
    for mine, yours in zip(level.suspect.inputs, level.reference.inputs, strict=False):
        yield _Candidate(loop, Value(place, mine), Value(reference_place, yours), -1)
    for pair, a, b in values_of(level.pairs):
        yield _Candidate(pair, a, b, pair.at)
    for pair in level.pairs:
        if pair.at in level.below:
            yield from _inside(level.below[pair.at], pair)


class _Look:
    """Both computations on one set of inputs, and the reference nudged."""

    def __init__(self, suspect: Computation, reference: Computation, inputs: Arrays, level: Level, *, rounding: bool) -> None:
        self._suspect, self._reference, self._inputs = suspect, reference, inputs
        self._level = level
        self._rounding = rounding
        self._unseen: set[str] = set()  # names of values that could not be shown
        self._same_way = same_way(suspect, reference)

    def first(self, candidates: Sequence[_Candidate]) -> _Found | None:
        """The first of them, in the order in which they are computed, that counts as having left."""
        reference = self._reference.values([one.reference for one in candidates], self._inputs)
        dtypes = {one.suspect: reference[one.reference].array.dtype.name for one in candidates if one.reference in reference}
        suspect = self._suspect.values([one.suspect for one in candidates], self._inputs, {} if self._same_way else dtypes)
        self._unseen |= {one.suspect.name for one in candidates if one.suspect not in suspect or one.reference not in reference}
        seen = [
            (one, Difference(suspect[one.suspect].array, reference[one.reference].array), reference[one.reference])
            for one in candidates
            if one.suspect in suspect and one.reference in reference
        ]
        cut = [(one, cut_to_steps(difference, len(one.suspect.place)), at) for one, difference, at in seen]
        unequal = [(one, difference, at) for one, difference, at in cut if difference.kind]
        if not unequal:
            return None
        bits = min((_found(one, difference, at, exact=True) for one, difference, at in unequal), key=_order)
        if self._same_way and (inner := self._within(bits)):
            return inner
        wired = self._wired_alike(bits.candidate)
        certain = wired is not None or self._state_lost(bits.candidate, bits.iterations)
        bits = bits._replace(inputs_equal=self._all_aligned(bits.candidate))
        if self._same_way and certain:
            return bits._replace(certain=True)
        if self._rounding or (self._same_way and self._left_locally(bits)):
            return bits
        nudges = self._nudged([one.reference for one, _, _ in unequal])
        left = []
        for one, difference, at in unequal:
            moved = [run[one.reference].array for run in nudges if one.reference in run]
            judged = cut_to_steps(difference._replace(nudged=moved), len(one.suspect.place))
            if judged.left:
                left.append(_found(one, judged, at, exact=False))
        if not left:
            return None
        found = min(left, key=_order)
        found = found._replace(inputs_equal=bits.inputs_equal and found.candidate is bits.candidate)
        return self._within(found) or found

    def _within(self, found: _Found) -> _Found | None:
        """What leaves first in the bodies of a loop whose output has left; None where nothing does, or it is no loop."""
        pair = found.candidate.pair
        level = self._level.at(pair.place).below.get(pair.at)
        if level is None or found.candidate.position < 0:
            return None
        return self.first(list(_inside(level, pair)))

    def _left_locally(self, found: _Found) -> bool:
        """Whether the rounding of the node itself, and of those that only the reference has before it, explains no such difference.

        Everything before them has equal bits, so it is enough to nudge what they read.
        """
        if found.candidate.position < 0:
            return False
        spotted = Spotted(self._level, found.candidate.pair, found.iterations)
        try:
            side = Side(spotted, self._reference, self._inputs)
            piece = side.cut(1)
            arrays = {name: side.array(name) for name in piece.inputs}
            model = piece.model(self._reference.model, arrays, [found.candidate.reference.name])
            moved = [self._moved(model, arrays, seed)[found.candidate.reference.name] for seed in range(NUDGES)]
        except (NotShown, EdgeseqError):
            return False
        suspect, reference = (
            np.asarray(array[found.iterations]) for array in (found.difference.suspect, found.difference.reference)
        )
        return Difference(suspect, reference, moved).left

    def _moved(self, model: bytes, inputs: Arrays, seed: int) -> dict[str, Array]:
        """What a graph of the reference gives for nudged inputs and constants."""
        random = np.random.default_rng(seed)
        moved = {name: nudge(array, random) for name, array in inputs.items()}
        return self._reference.with_model(nudged(model, random)).outputs(moved)

    def _nudged(self, values: list[Value]) -> list[dict[Value, Seen]]:
        runs = []
        for seed in range(NUDGES):
            random = np.random.default_rng(seed)
            inputs = {name: nudge(array, random) for name, array in self._inputs.items()}
            runs.append(self._reference.with_model(nudged(self._reference.model, random)).values(values, inputs))
        return runs

    def _wired_alike(self, candidate: _Candidate) -> bool | None:
        """Whether a node reads the values that answer to those its reference reads, by the same operator.

        None where that can't be told: another operator, or a value that answers to none of the reference's.
        """
        pair = candidate.pair
        mine, yours = graphs.reads(pair.suspect), graphs.reads(pair.reference)
        if candidate.position < 0 or pair.suspect.op != pair.reference.op:
            return None
        values = self._level.at(pair.place).values
        scopes = level_graphs(self._level, pair)
        answers: list[str | None] = []
        for at, name in enumerate(mine):
            answer = yours[at] if at < len(yours) else ""
            # What constants hold is part of what a node does, whatever they are called.
            both = all(_is_constant(one, graphs_) for one, graphs_ in zip((name, answer), scopes, strict=True))
            answers.append(answer if both else values.get(name) if name else "")
        if None in answers:
            return None
        return _without_trailing(answers) == _without_trailing(yours)

    def _all_aligned(self, candidate: _Candidate) -> bool:
        """Whether the reference has all values that a node reads. Of the first value that differs, they are equal then."""
        values = self._level.at(candidate.pair.place).values
        known = values.keys() - self._unseen
        return candidate.position >= 0 and all(name in known for name in graphs.reads(candidate.pair.suspect) if name)

    def _state_lost(self, candidate: _Candidate, iterations: tuple[int, ...]) -> bool:
        """Whether a body's input differs because the step before gave another of its values, or none, to it."""
        if candidate.position >= 0 or iterations[-1] == 0:
            return False
        level = self._level.at(candidate.suspect.place)
        at = level.suspect.inputs.index(candidate.suspect.name) - (candidate.pair.suspect.op == "Loop")
        if not 0 <= at < min(len(level.suspect.outputs), len(level.reference.outputs)):
            return False
        answer = level.values.get(level.suspect.outputs[at])
        return answer is not None and answer != level.reference.outputs[at]


def _is_constant(name: str, scopes: Sequence[graphs.Graph]) -> bool:
    return any(name in graph.tensors for graph in scopes)


def _without_trailing(names: Sequence[str | None]) -> list[str | None]:
    """Names but for those left out at the end."""
    found = list(names)
    while found and not found[-1]:
        found.pop()
    return found


def cut_to_steps(difference: Difference, depth: int) -> Difference:
    """In bodies: both over the steps that both have run."""
    if not depth or difference.suspect.ndim < depth or difference.reference.ndim < depth:
        return difference
    counts = [min(pair) for pair in zip(difference.suspect.shape[:depth], difference.reference.shape[:depth], strict=True)]
    window = tuple(slice(count) for count in counts)
    return Difference(difference.suspect[window], difference.reference[window], [one[window] for one in difference.nudged])


def _found(candidate: _Candidate, difference: Difference, seen: Seen, *, exact: bool) -> _Found:
    depth = len(candidate.suspect.place)
    return _Found(candidate, difference, seen.axes, _first_iterations(difference, depth, exact=exact), exact, False, False)


def _first_iterations(difference: Difference, depth: int, *, exact: bool) -> tuple[int, ...]:
    """Of each loop around a value, the step in which it first differs, in the order in which they run."""
    if not depth or not difference.comparable:
        return (0,) * depth
    counts = difference.reference.shape[:depth]
    suspect, reference = _flat(difference.suspect, depth), _flat(difference.reference, depth)
    flat = Difference(suspect, reference, [_flat(array, depth) for array in difference.nudged])
    if exact:
        at = np.flatnonzero(flat.unequal_at(0))
    else:
        error, allowed = flat.along(0)
        at = np.flatnonzero(error > allowed)
        at = at if at.size else np.flatnonzero(error == error.max())
    return tuple(int(one) for one in np.unravel_index(at[0], counts))


def _flat(array: Array, depth: int) -> Array:
    return array.reshape(-1, *array.shape[depth:])


def _order(found: _Found) -> tuple[float, ...]:
    """When a value is computed: by node in the main graph; in bodies by step, then node, the steps of inner loops between."""
    place, iterations = found.candidate.suspect.place, found.iterations
    key: list[float] = []
    for node, iteration in zip(place, iterations, strict=True):
        key += [node, iteration]
    # What a loop gives comes after everything inside it.
    return (*key, found.candidate.position, math.inf)


def _spot(found: _Found, level: Level, sizes: Sizes) -> Spot:
    place = found.candidate.suspect.place
    if not place:
        return spot_in_graph(
            found.difference, found.candidate.pair, found.candidate.suspect.name, found.axes, sizes, exact=found.exact
        )
    if not found.difference.comparable:
        return Spot()
    scopes = [level.at(place[:depth]).suspect for depth in range(len(place))]
    loops = [Loop(graph.nodes[at], scopes[depth::-1]) for depth, (graph, at) in enumerate(zip(scopes, place, strict=True))]
    return spot_in_body(found.difference, loops, found.iterations, found.axes, sizes)


def _divergence(found: _Found, spot: Spot, level: Level, sizes: Sizes, cause: str, draw: int) -> Divergence:
    pair, difference = found.candidate.pair, found.difference
    kind = difference.kind
    return Divergence(
        cause=cause,
        node=pair.suspect.name,
        op=pair.suspect.op,
        path=path_text(level, pair),
        value=found.candidate.suspect.name,
        kind=kind,
        found=found_text(difference, len(found.candidate.suspect.place), found.iterations),
        sizes=dict(sizes.sizes),
        draw=draw,
        error=relative(difference) if kind == "value" else math.inf,
        allowed=0.0 if found.certain else relative_scale(difference),
        inputs_equal=found.inputs_equal,
        differences=tuple(node_differences(pair, level)) if cause == "graph" else (),
        **spot._asdict(),
    )
