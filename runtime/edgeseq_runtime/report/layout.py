"""Where boxes go: in layers from top to bottom, each below all it reads from, near what it is joined to, with few crossings.

The method is Sugiyama's: layers by longest path, order by barycentres.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

GAP = 22.0  # between boxes of a layer
LAYER_GAP = 34.0  # between layers
LANE = 14.0  # width of an arrow that passes a layer by
MARGIN = 8.0
SWEEPS = 8


class Point(NamedTuple):
    """In pixels, from the upper left corner."""

    x: float
    y: float


class Size(NamedTuple):
    """In pixels."""

    width: float
    height: float


class Layout(NamedTuple):
    """The upper left corner of every box, the points each arrow goes through, and the size of it all."""

    corners: list[Point]
    arrows: dict[tuple[int, int], list[Point]]
    size: Size


class _Slot(NamedTuple):
    """A box, or the place where a long arrow passes a layer."""

    layer: int
    size: Size


def lay_out(sizes: Sequence[Size], edges: Iterable[tuple[int, int]]) -> Layout:
    """Places for boxes of these sizes. Arrows that would close a cycle are left out of the order, and drawn all the same."""
    layers = _layers(len(sizes), forward := _acyclic(len(sizes), sorted(edges)))
    slots = [_Slot(layer, size) for layer, size in zip(layers, sizes, strict=True)]
    paths = {edge: _path(edge, slots) for edge in forward}
    links = [link for path in paths.values() for link in pairwise(path)]
    rows = _ordered(slots, links)
    centers = _centers(rows, slots, links)
    tops, bottom = _tops(rows, slots)
    left = min((centers[at] - slots[at].size.width / 2 for at in range(len(slots))), default=0.0) - MARGIN
    right = max((centers[at] + slots[at].size.width / 2 for at in range(len(slots))), default=0.0) + MARGIN
    corners = [Point(centers[at] - size.width / 2 - left, tops[at]) for at, size in enumerate(sizes)]
    arrows = {edge: _points(path, slots, centers, tops, left) for edge, path in paths.items()}
    return Layout(corners, arrows, Size(right - left, bottom + MARGIN))


def _acyclic(count: int, edges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The edges without those that close a cycle; an ONNX graph has none, a hostile one may."""
    after: dict[int, list[int]] = defaultdict(list)
    for source, target in edges:
        after[source].append(target)
    state = [0] * count  # 1: being visited, 2: done
    dropped: set[tuple[int, int]] = set()
    for root in range(count):
        stack = [(root, iter(after[root]))] if not state[root] else []
        state[root] = state[root] or 1
        while stack:
            node, targets = stack[-1]
            target = next(targets, -1)
            if target < 0:
                state[node] = 2
                stack.pop()
            elif state[target] == 1:
                dropped.add((node, target))
            elif not state[target]:
                state[target] = 1
                stack.append((target, iter(after[target])))
    return [edge for edge in edges if edge not in dropped]


def _layers(count: int, edges: list[tuple[int, int]]) -> list[int]:
    """The length of the longest path to each box; what nothing leads to goes just above what it leads to."""
    after: dict[int, list[int]] = defaultdict(list)
    waiting = [0] * count
    for source, target in edges:
        after[source].append(target)
        waiting[target] += 1
    roots = [at for at in range(count) if not waiting[at]]
    layer, ready = [0] * count, list(roots)
    for node in ready:
        for target in after[node]:
            layer[target] = max(layer[target], layer[node] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    for root in roots:
        if after[root]:
            layer[root] = min(layer[target] for target in after[root]) - 1
    return layer


def _path(edge: tuple[int, int], slots: list[_Slot]) -> list[int]:
    """The slots an arrow goes through, new ones where it passes a layer by."""
    source, target = edge
    path = [source]
    for layer in range(slots[source].layer + 1, slots[target].layer):
        slots.append(_Slot(layer, Size(LANE, 0)))
        path.append(len(slots) - 1)
    return [*path, target]


def _neighbours(links: list[tuple[int, int]]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    above: dict[int, list[int]] = defaultdict(list)
    below: dict[int, list[int]] = defaultdict(list)
    for source, target in links:
        above[target].append(source)
        below[source].append(target)
    return above, below


def _ordered(slots: list[_Slot], links: list[tuple[int, int]]) -> list[list[int]]:
    """Slots by layer, each near the mean of its neighbours (the barycentre method)."""
    rows: list[list[int]] = [[] for _ in range(max((slot.layer for slot in slots), default=-1) + 1)]
    above, below = _neighbours(links)
    # What nothing leads to, such as a state, goes to the right: the main way stays at the left edge, which is seen first.
    for at in sorted(range(len(slots)), key=lambda at: at not in above):
        rows[slots[at].layer].append(at)
    best, fewest = [list(row) for row in rows], _crossings(rows, below)
    for sweep in range(SWEEPS):
        near, nearer = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        for before, row in pairwise(nearer):
            place = {at: index for index, at in enumerate(before)}
            here = {at: index for index, at in enumerate(row)}
            row.sort(key=lambda at: _mean([place[one] for one in near[at]], here[at]))
        crossings = _crossings(rows, below)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    return best


def _crossings(rows: list[list[int]], below: dict[int, list[int]]) -> int:
    """How many pairs of arrows cross between neighbouring layers."""
    crossings = 0
    for upper, lower in pairwise(rows):
        place = {at: index for index, at in enumerate(lower)}
        seen: list[int] = []
        for at in upper:
            ends = sorted(place[one] for one in below[at])
            crossings += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return crossings


def _centers(rows: list[list[int]], slots: list[_Slot], links: list[tuple[int, int]]) -> list[float]:
    """Each slot's middle: under or over its neighbours as far as the order and the gaps let it."""
    above, below = _neighbours(links)
    centers = [0.0] * len(slots)
    for row in rows:
        _place(row, [0.0] * len(row), slots, centers)
    for sweep in range(SWEEPS):
        near = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else reversed(rows):
            _place(row, [_mean([centers[one] for one in near[at]], centers[at]) for at in row], slots, centers)
    return centers


def _place(row: list[int], wanted: list[float], slots: list[_Slot], centers: list[float]) -> None:
    """Move a row's slots to the wanted places, apart by the gaps: the mean of pushing from the left and from the right."""
    apart = [
        (slots[a].size.width + slots[b].size.width) / 2 + GAP for a, b in pairwise(row)
    ]  # fmt: skip
    left, right = list(wanted), list(wanted)
    for index, gap in enumerate(apart):
        left[index + 1] = max(left[index + 1], left[index] + gap)
    for index in reversed(range(len(apart))):
        right[index] = min(right[index], right[index + 1] - apart[index])
    for at, one, other in zip(row, left, right, strict=True):
        centers[at] = (one + other) / 2


def _mean(values: list[int] | list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _tops(rows: list[list[int]], slots: list[_Slot]) -> tuple[list[float], float]:
    tops = [0.0] * len(slots)
    y = MARGIN
    for row in rows:
        height = max((slots[at].size.height for at in row), default=0.0)
        for at in row:
            tops[at] = y + (height - slots[at].size.height) / 2
        y += height + LAYER_GAP
    return tops, y - (LAYER_GAP if rows else 0)


def _points(path: list[int], slots: list[_Slot], centers: list[float], tops: list[float], left: float) -> list[Point]:
    """From the lower edge of the first to the upper edge of the last."""
    start, *passed, end = path
    points = [Point(centers[start] - left, tops[start] + slots[start].size.height)]
    points += [Point(centers[at] - left, tops[at]) for at in passed]
    return [*points, Point(centers[end] - left, tops[end])]
