"""What rounds say: medians, the fastest, the spread, and ratios of candidates that were measured in the same rounds.

A core's clock moves between rounds, so a ratio is taken round by round first and its median afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

LOW, HIGH = 10, 90  # percentiles of the spread


class Spread(NamedTuple):
    """The middle of several figures, and the range of most of them."""

    median: float
    low: float
    high: float


def spread(figures: Sequence[float]) -> Spread:
    """Median, 10th and 90th percentile."""
    low, median, high = (float(value) for value in np.percentile(figures, (LOW, 50, HIGH)))
    return Spread(median, low, high)


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Of two candidates, round by round: above 1 the first one is slower.

    Raises:
        ValueError: they were not measured in the same rounds.
    """
    if len(over) != len(under) or not len(over):
        raise ValueError(f"{len(over)} rounds and {len(under)}: a ratio needs the same rounds of both, at least one")
    return spread(np.asarray(over) / np.asarray(under))


def fastest(rounds: Mapping[str, Sequence[float]]) -> str:
    """The candidate whose median over rounds is the smallest.

    Raises:
        ValueError: there is none.
    """
    if not rounds:
        raise ValueError("nobody was measured")
    return min(rounds, key=lambda name: float(np.median(rounds[name])))
