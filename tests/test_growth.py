"""The arithmetic of benchmarks/growth.py: what is linear is called so, what is not is not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import growth
from growth_fit import exponent
from growth_fit import growth as fitted

SIZES = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)


def values(law):
    return [law(n) for n in SIZES]


def test_a_fixed_part_and_one_a_step_are_found_exactly():
    fit = fitted(SIZES, values(lambda n: 500 + 0.25 * n))
    assert fit.fixed == pytest.approx(500)
    assert fit.each == pytest.approx(0.25)
    assert fit.off < 1e-9
    assert fit.verdict == "linear"


def test_each_size_counts_alike_whatever_its_value():
    """A least-squares fit of the values themselves would give the fixed part away to the largest."""
    rng = np.random.default_rng(0)
    fit = fitted(SIZES, [(500 + 0.25 * n) * rng.uniform(0.95, 1.05) for n in SIZES])
    assert fit.fixed == pytest.approx(500, rel=0.1)
    assert fit.each == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize(
    ("law", "power", "verdict"),
    [
        (lambda n: 3 * n, 1, "linear"),
        (lambda n: 3 * n**1.3, 1.3, "faster than linear"),
        (lambda n: n * n, 2, "faster than linear"),
        (lambda n: 7 * n**0.5, 0.5, "slower than linear"),
        (lambda n: n * np.log2(n), None, "faster than linear"),
        (lambda n: 5.0, 0, "slower than linear"),
    ],
)
def test_powers_are_told_apart(law, power, verdict):
    fit = fitted(SIZES, values(law))
    assert fit.verdict == verdict
    if power is not None:
        assert fit.exponent == pytest.approx(power, abs=1e-6)
    assert fit.fixed >= 0
    assert fit.each >= 0


def test_the_exponent_is_of_the_sizes_that_the_steps_rule():
    """A fixed part as large as a thousand steps hides a square among the small sizes, not among the large ones."""
    assert fitted(SIZES, values(lambda n: 1000 + n)).exponent > 0.9
    assert exponent(SIZES, values(lambda n: 1000 + n)) < 0.6
    assert fitted(SIZES, values(lambda n: 1000 + 1e-3 * n * n)).verdict == "faster than linear"


@pytest.mark.parametrize(
    ("sizes", "found"), [((1, 2), (1, 2)), ((1, 2, 2), (1, 2, 3)), ((1, 2, 3), (1, 0, 2)), ((1, 2, 3), (1, 2))]
)
def test_what_can_not_be_fitted_is_said(sizes, found):
    with pytest.raises(ValueError, match="ascending sizes"):
        fitted(sizes, found)


def sweep(measure, axis, law, way="whole"):
    units = SIZES if axis != "H" else tuple(4 * n * (64 + n) for n in SIZES)
    return growth.Sweep("LSTM", axis, way, measure, SIZES, units, tuple(float(law(n)) for n in units))


def test_time_over_units_is_held_against_the_weights():
    row = sweep("microseconds", "H", lambda weights: 20 + 0.002 * weights)
    assert growth.shown(row)[-3:] == ("2.00 µs a 1,000 weights", "0.99", "linear")


def test_memory_that_stays_is_called_flat():
    row = sweep("bytes", "T", lambda n: 40_000, "streamed")
    assert row.growth is None
    assert growth.shown(row)[-1] == "flat"
    assert growth.shown(sweep("bytes", "T", lambda n: 2048 * n))[-3:] == ("2.00 KiB a step", "1.00", "linear")


def test_the_page_names_what_grows_faster():
    good = [sweep("microseconds", "T", lambda n: 50 + 4 * n), sweep("bytes", "T", lambda n: 1000)]
    assert "Nothing grows faster than linearly." in growth.page(good)
    bad = growth.page([*good, sweep("microseconds", "B", lambda n: n * n)])
    assert "Faster than linearly: LSTM, time, whole over B." in bad
    assert bad.count("| LSTM |") == 3


def test_the_plot_shows_every_sweep(tmp_path):
    rows = [sweep(measure, axis, lambda n: 50 + 4 * n) for measure in ("microseconds", "bytes") for axis in "TBH"]
    growth.draw(rows, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 20_000
