"""How a measure grows with a size: a fixed part and one for each unit, and the exponent where the second rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 3  # points that an exponent is taken from
RULES = 3.0  # times the fixed part
FASTER = 1.15  # an exponent above it is growth faster than linear; cells and kernels of other sizes make it a little more than 1
SLOWER = 0.85
CLOSE = 0.1  # a fit that misses no value by more is what the values do


@dataclass(frozen=True)
class Growth:
    """value(n) = fixed + each * n, as near as it gets."""

    fixed: float
    each: float
    off: float  # the largest relative miss of the fit
    share: float  # of each * n in the value of the largest size
    exponent: float  # d log(value) / d log(n) over the sizes where each * n is three times the fixed part, or the last few

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.off < CLOSE and self.share > 0.5:
            return "linear"
        if self.exponent > FASTER:
            return "faster than linear"
        return "slower than linear" if self.exponent < SLOWER else "linear"


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the straight line through the logarithms; 0 for values of which one is 0 or less."""
    x, y = np.log(np.asarray(sizes, float)), np.asarray(values, float)
    if (y <= 0).any():
        return 0.0
    return float(np.polyfit(x, np.log(y), 1)[0])


def growth(sizes: Sequence[float], values: Sequence[float]) -> Growth:
    """The fit with the least relative errors, no part of it negative.

    Raises:
        ValueError: fewer than three sizes, sizes that do not ascend, or values of 0 or less.
    """
    n, value = np.asarray(sizes, float), np.asarray(values, float)
    if len(n) < LEAST or (np.diff(n) <= 0).any() or len(n) != len(value) or (value <= 0).any():
        raise ValueError(f"a fit needs {LEAST} ascending sizes with a value above 0 each; got {list(sizes)} and {list(values)}")
    fixed, each = _nonnegative(n, value)
    fit = fixed + each * n
    ruled = min(int(np.searchsorted(n * each, RULES * fixed, side="right")), len(n) - LEAST)
    off, share = float(np.abs(fit / value - 1).max()), float(each * n[-1] / fit[-1])
    return Growth(fixed, each, off, share, exponent(n[ruled:], value[ruled:]))


def _nonnegative(n: np.ndarray, value: np.ndarray) -> tuple[float, float]:
    """Each equation is divided by its value: a miss of 10 % counts alike at every size."""
    one, unit = 1 / value, n / value
    fixed, each = np.linalg.lstsq(np.stack([one, unit], 1), np.ones_like(value), rcond=None)[0]
    if fixed < 0:
        return 0.0, float(unit.sum() / (unit @ unit))
    if each < 0:
        return float(one.sum() / (one @ one)), 0.0
    return float(fixed), float(each)
