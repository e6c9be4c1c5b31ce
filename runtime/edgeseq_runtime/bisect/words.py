"""A finding in words and in figures of its own size."""

from __future__ import annotations

import math

import numpy as np

from edgeseq_runtime.bisect import graphs
from edgeseq_runtime.bisect.align import Level, Pair
from edgeseq_runtime.bisect.rule import Difference


def relative_scale(difference: Difference) -> float:
    """What rounding explains, over the rms of the reference."""
    zero = Difference(np.zeros_like(difference.reference), difference.reference)
    scale = float(np.sqrt(np.mean(np.square(zero.error)))) if zero.reference.size else 0.0
    return difference.allowed / scale if scale and math.isfinite(scale) else 0.0


def path_text(level: Level, pair: Pair) -> str:
    """A node by the loops around it."""
    words, here = [], level
    for index in pair.place:
        words += [node_text(here.suspect.nodes[index]), "body"]
        here = here.below[index]
    return " / ".join([*words, node_text(pair.suspect)])


def node_text(node: graphs.Node) -> str:
    """A node in words: its operator and its name, or that of its output where it has none."""
    return f"{node.op} '{node.name or next(filter(None, node.outputs), '')}'"


def found_text(difference: Difference, depth: int, iterations: tuple[int, ...]) -> str:
    """What is there and what should be, in words."""
    if difference.kind == "dtype":
        return f"{difference.suspect.dtype}; the reference's is {difference.reference.dtype}"
    if difference.kind == "shape":
        return f"shape {difference.suspect.shape}; the reference's is {difference.reference.shape}"
    at = tuple(iterations)
    suspect, reference = np.asarray(difference.suspect[at]), np.asarray(difference.reference[at])
    here = Difference(suspect, reference)
    unequal = int(np.count_nonzero(here.error))
    where = " in that step" if depth else ""
    if difference.kind == "nan":
        lost = int(np.count_nonzero(~np.isfinite(suspect) & np.isfinite(reference)))
        return f"{lost} of {suspect.size} elements{where} are no number; the reference's are"
    most = float(here.error.max()) if here.error.size else 0.0
    return (
        f"{unequal} of {suspect.size} elements{where} differ, by up to {most:.2g}; dtype {reference.dtype}, shape {reference.shape}"
    )
