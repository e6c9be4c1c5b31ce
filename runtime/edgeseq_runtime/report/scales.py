"""Axes of charts: from values to pixels, and the ticks between."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

TICKS = 5
ROOM = 0.1  # of a power of ten, above and below what is drawn
_DIGITS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


class Scale(NamedTuple):
    """Values from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """The pixel of a value; what is beyond the scale, zero on a logarithmic one too, is at its edge."""
        value = min(max(value, self.low), self.high)
        low, high = (math.log10(self.low), math.log10(self.high)) if self.logarithmic else (self.low, self.high)
        at = math.log10(value) if self.logarithmic else value
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def linear_scale(high: float, start: float, end: float) -> Scale:
    """From zero to about `high`, a tick at round numbers."""
    high = max(high, 1e-12)
    step = 10.0 ** math.floor(math.log10(high / TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if high / (step * factor) <= TICKS)
    ticks = tuple(step * index for index in range(int(high / step + 1e-9) + 1))
    return Scale(0.0, high, start, end, False, ticks)


def close_log_scale(values: Iterable[float], start: float, end: float) -> Scale:
    """From the smallest to the largest of the values above zero, a tick at round numbers between."""
    positive = [value for value in values if 0 < value < math.inf] or [1.0]
    low, high = min(positive), max(positive)
    if high <= low:
        low, high = low / 2, high * 2
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = tuple(factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high)
        if len(ticks) >= 3:
            break
    else:
        step = linear_scale(high - low, start, end).ticks[1]
        ticks = tuple(step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1))
    every = math.ceil(len(ticks) / (TICKS + 1))
    return Scale(low, high, start, end, True, ticks[::every])


def log_scale(values: Iterable[float], start: float, end: float) -> Scale:
    """Whole powers of ten around the values above zero."""
    positive = [value for value in values if 0 < value < math.inf] or [1.0]
    low, high = math.floor(math.log10(min(positive)) - ROOM), math.ceil(math.log10(max(positive)) + ROOM)
    every = math.ceil((high - low) / TICKS)
    return Scale(10.0**low, 10.0**high, start, end, True, tuple(10.0**power for power in range(low, high + 1, every)))


def tick_texts(ticks: Sequence[float], logarithmic: bool) -> list[str]:
    """Labels: 0.01, 1, 1,000; all of them powers of ten where one is far from 1."""
    if logarithmic and any(not 1e-3 <= tick < 1e5 for tick in ticks):
        return [f"10{str(round(math.log10(tick))).translate(_DIGITS)}" if tick != 1 else "1" for tick in ticks]
    return [f"{tick:,.10g}" for tick in ticks]


def figure_text(value: float, digits: int = 3) -> str:
    """A measured number as people write it: 0.123, 12.3, 1,234, 1.2 × 10⁻⁷."""
    if value == 0 or math.isnan(value):
        return "0" if value == 0 else "–"
    if math.isinf(value):
        return "∞"
    if 1e-3 <= abs(value) < 1e5:
        value = float(f"{value:.{digits}g}") if abs(value) < 1e3 else value
        return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    mantissa, power = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(power)).translate(_DIGITS)}"


def percent(share: float) -> str:
    """A share for a sentence: 1.3 %."""
    return f"{figure_text(100 * share, 2)} %"


def times_text(value: float) -> str:
    """A factor for a sentence: 0.96, 1.3, 1,500,000."""
    return f"{float(f'{value:.2g}'):,.0f}" if 1e3 <= value < 1e9 else figure_text(value, 2)


def span(values: Sequence[float]) -> float:
    """How many times the smallest value above zero the largest is."""
    positive = [value for value in values if value > 0]
    return max(positive) / min(positive) if positive else 1.0
