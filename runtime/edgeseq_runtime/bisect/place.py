"""Where in a value the difference is: the step, the row, and the growth of the error over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgeseq_runtime.bisect import graphs
from edgeseq_runtime.bisect.align import Pair
from edgeseq_runtime.bisect.computation import Axes
from edgeseq_runtime.bisect.graphs import Graph, Node, constant_of, tensor_array
from edgeseq_runtime.bisect.rule import Difference, Float64, rms

FLIP_INPUTS = 5  # of a Slice with steps: data, starts, ends, axes, steps


class Sizes(NamedTuple):
    """What is known of the inputs that a value was computed from."""

    sizes: dict[str, int]
    time: str
    batch: str
    longest: tuple[int, ...] = ()  # the largest of each input of lengths: what a model trims its sequences to

    @property
    def steps(self) -> tuple[int, ...]:
        """Sizes that an axis of time may have."""
        return (*([self.sizes[self.time]] if self.time in self.sizes else []), *self.longest)


class Loop(NamedTuple):
    """A node with a body, and the graphs that it sees, from the inside out."""

    node: Node
    scopes: Sequence[Graph]


class Spot(NamedTuple):
    """Where a difference is within a value."""

    step: int | None = None
    iteration: int | None = None
    steps: int | None = None
    backwards: bool = False
    row: int | None = None
    growth: tuple[float, ...] = ()


def time_axis(axes: Axes, shape: Sequence[int], sizes: Sizes) -> int | None:
    """The axis of time: the one of that name, or the only one without a fixed size that has as many places as there are steps."""
    if sizes.time in axes:
        return axes.index(sizes.time)
    return _only(axes, shape, sizes.steps, ())


def batch_axis(axes: Axes, shape: Sequence[int], sizes: Sizes, taken: Sequence[int]) -> int | None:
    """The axis of the batch, which is none of those `taken`."""
    if sizes.batch in axes:
        return axes.index(sizes.batch)
    return _only(axes, shape, (sizes.sizes[sizes.batch],), taken) if sizes.batch in sizes.sizes else None


def _only(axes: Axes, shape: Sequence[int], wanted: Sequence[int], taken: Sequence[int]) -> int | None:
    known = axes if len(axes) == len(shape) else ("",) * len(shape)
    free = [at for at, size in enumerate(shape) if size in wanted and not isinstance(known[at], int) and at not in taken]
    return free[0] if len(free) == 1 else None


def spot_in_graph(difference: Difference, pair: Pair, output: str, axes: Axes, sizes: Sizes, *, exact: bool) -> Spot:
    """Where in a value of the main graph."""
    if not difference.comparable:
        return Spot()
    shape = difference.reference.shape
    backwards = False
    time: int | None
    batch: int | None
    if pair.suspect.op in graphs.RECURRENT and len(shape) in (3, 4):
        time, batch = (0, 2) if len(shape) == 4 else (None, 1)
        if time is not None:
            difference, backwards = _one_direction(difference, pair.suspect)
    else:
        time = time_axis(axes, shape, sizes)
        batch = batch_axis(axes, shape, sizes, () if time is None else (time,))
    row = None if batch is None else _worst(difference, batch)
    if time is None:
        return Spot(row=row)
    first = first_place(difference, time, exact=exact, backwards=backwards)
    return Spot(first, None, shape[time], backwards, row, growth(difference, time))


def _one_direction(difference: Difference, node: Node) -> tuple[Difference, bool]:
    """Of Y (T, directions, B, H) the direction that differs, the first if both do; and whether it runs backwards."""
    held = node.attributes.get("direction")
    name = "forward" if held is None else str(held.plain)
    if difference.reference.shape[1] != 2:
        return difference, name == "reverse"
    at = 0 if difference.unequal_at(1)[0] else 1
    nudged = [one[:, at : at + 1] for one in difference.nudged]
    return Difference(difference.suspect[:, at : at + 1], difference.reference[:, at : at + 1], nudged), at == 1


def spot_in_body(difference: Difference, loops: Sequence[Loop], iterations: tuple[int, ...], axes: Axes, sizes: Sizes) -> Spot:
    """Where in a value of a body that has an axis for the steps of each loop around it; `iterations` is where it first differs."""
    depth = len(loops)
    shape = difference.reference.shape
    counts = shape[:depth]
    level = next((at for at in range(depth) if counts[at] in sizes.steps), 0)
    backwards = runs_backwards(loops[level])
    first = iterations[level]
    batch = batch_axis(axes, shape, sizes, tuple(range(depth)))
    grown = growth(difference, level)
    return Spot(
        step=counts[level] - 1 - first if backwards else first,
        iteration=iterations[-1],
        steps=counts[level],
        backwards=backwards,
        row=None if batch is None or batch < depth else _worst(difference, batch),
        growth=tuple(reversed(grown)) if backwards else grown,
    )


def runs_backwards(loop: Loop) -> bool:
    """Whether a `Scan` reads its sequences from their ends: by its own directions, or because they are flipped before it."""
    directions = loop.node.integers("scan_input_directions")
    count = loop.node.attributes["num_scan_inputs"].plain if "num_scan_inputs" in loop.node.attributes else 0
    if not isinstance(count, int) or not count:
        return False
    flipped = [_flipped(name, loop.scopes) for name in loop.node.inputs[-count:]]
    own = [bool(one) for one in directions] or [False] * count
    return all(one != other for one, other in zip(own, flipped, strict=True))


def _flipped(name: str, scopes: Sequence[Graph]) -> bool:
    maker = next((node for graph in scopes for node in graph.nodes if name in node.outputs), None)
    if maker is None or maker.op != "Slice" or len(maker.inputs) < FLIP_INPUTS:
        return False
    axes, steps = (constant_of(one, scopes) for one in maker.inputs[3:5])
    arrays = [None if data is None else tensor_array(data) for data in (axes, steps)]
    return all(array is not None and array.tolist() == wanted for array, wanted in zip(arrays, ([0], [-1]), strict=True))


def first_place(difference: Difference, axis: int, *, exact: bool, backwards: bool = False) -> int:
    """The first place along an axis that differs: by a bit, or by more than rounding explains; else the one that differs most."""
    if exact:
        at = np.flatnonzero(difference.unequal_at(axis))
    else:
        error, allowed = difference.along(axis)
        at = np.flatnonzero(error > allowed)
        if not at.size:
            at = np.flatnonzero(error == error.max())
    return int(at[-1] if backwards else at[0])


def growth(difference: Difference, axis: int) -> tuple[float, ...]:
    """The rms error at each place along an axis, over the rms of the whole reference."""
    scale = rms(np.nan_to_num(difference.reference.astype(np.float64), posinf=0.0, neginf=0.0))
    error: Float64 = difference.along(axis)[0]
    return tuple((error / scale if scale else error).tolist())


def _worst(difference: Difference, axis: int) -> int:
    return int(np.argmax(difference.along(axis)[0]))
