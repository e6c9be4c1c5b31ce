"""Which candidate to take: arithmetic on measured times alone.

In each round a candidate and the default are timed side by side; the default's time over the candidate's is the gain of that round.
What is claimed is the median over rounds and its bounds by order statistics, which hold whatever the noise looks like: the true
median is below the smallest of n values with a probability of 2^-n (H. A. David and H. N. Nagaraja, Order Statistics, 7.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, comb
from statistics import median

from edgeseq_runtime.tuning.measure import Took
from edgeseq_runtime.tuning.record import Gain

CONFIDENCE = 0.95  # that the true gain is not below `low`, and as much that it is not above `high`


def gain_of(ratios: Sequence[float]) -> Gain:
    """The gain that the ratios of some rounds show; without bounds where there are fewer than 5."""
    ordered = sorted(ratios)
    place = _place(len(ordered))
    if place is None:
        return Gain(median(ordered), 0.0, None, len(ordered))
    return Gain(median(ordered), ordered[place], ordered[-1 - place], len(ordered))


def _place(count: int) -> int | None:
    """How many of the smallest values may be left out of a bound from below; None where even the smallest is no bound."""
    left, place = 0, None
    for smaller in range(count):
        left += comb(count, smaller)  # in this many of 2^count cases, `smaller` or fewer values are below the true median
        if left > (1 - CONFIDENCE) * 2**count:
            return place
        place = smaller
    return place


def ratios(default: Sequence[Took], times: Sequence[Took], *, alone: bool) -> list[float]:
    """The default's time over the candidate's, round by round.

    Args:
        default: of the plan as it is, a round each.
        times: of a candidate in the same rounds.
        alone: both run on the calling thread alone, whose own time is compared then.
    """
    pairs = list(zip(default, times, strict=True))
    if alone and all(min(ours.own, theirs.own) > 0 for ours, theirs in pairs):
        return [ours.own / theirs.own for ours, theirs in pairs]
    return [ours.wall / theirs.wall for ours, theirs in pairs]


def better_half(gains: Mapping[str, Gain], required: Mapping[str, float]) -> list[str]:
    """The half that comes nearest to what it has to bring or exceeds it most, best first; the earlier one where two are alike.

    One that certainly falls short is left out, however many remain.
    """
    kept = [name for name in gains if gains[name].reaches(required[name])]
    kept.sort(key=lambda name: -gains[name].median / required[name])
    return kept[: ceil(len(gains) / 2)]


def is_clear(gain: Gain, required: float) -> bool:
    """Whether a gain is certainly as large as it has to be."""
    return gain.low >= required
