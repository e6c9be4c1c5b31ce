"""When a value counts as having left its reference, and where in it: at which step, in which row, by how much.

Between runs that do the same work in the same way, values of unchanged nodes have equal bits, and any difference counts. Between
devices, and between a graph and its optimised form, results are rounded in other places. There a value has left where

    rms(suspect - reference) > 4 * max(rms(nudged - reference), 2 * eps * rms(reference))

`nudged` is the reference computed from inputs and constants each moved by one unit in the last place, up or down at random: how
far rounding alone moves this value. Integers and booleans have left where one differs more often than nudging explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseq_runtime.tensors.spec import Array

FACTOR = 4.0
NUDGES = 2  # runs that nudging is judged by

Float64 = npt.NDArray[np.float64]


class Difference(NamedTuple):
    """Two values that were computed for the same thing, and how far rounding moves it."""

    suspect: Array
    reference: Array
    nudged: Sequence[Array] = ()
    eps: float | None = None  # of the type that was computed in; the arrays' own unless said

    @property
    def kind(self) -> str:
        """What to compare first: "dtype", "shape", "nan", and only then "value"; empty where every bit is equal."""
        if self.suspect.dtype != self.reference.dtype:
            return "dtype"
        if self.suspect.shape != self.reference.shape:
            return "shape"
        if np.array_equal(self.suspect, self.reference, equal_nan=_floating(self.reference)):
            return ""
        if _floating(self.reference) and not np.array_equal(np.isfinite(self.suspect), np.isfinite(self.reference)):
            return "nan"
        return "value"

    @property
    def comparable(self) -> bool:
        """Whether one can be subtracted from the other."""
        return self.suspect.shape == self.reference.shape

    @property
    def error(self) -> Float64:
        """|suspect - reference|; infinite where one of them alone is no number."""
        return _apart(self.suspect, self.reference)

    @property
    def allowed(self) -> float:
        """The rms difference that rounding explains."""
        moves = [rms(_apart(one, self.reference)) for one in self._moved]
        scale = rms(_finite(self.reference)) if _floating(self.reference) else 0.0
        return FACTOR * max([*moves, 2 * self._eps * scale])

    @property
    def _moved(self) -> list[Array]:
        """The nudged values that can be compared: one that is no number says nothing of rounding."""
        fitting = [one for one in self.nudged if one.shape == self.reference.shape]
        return [one for one in fitting if np.array_equal(np.isfinite(one), np.isfinite(self.reference))]

    @property
    def _eps(self) -> float:
        if self.eps is not None:
            return self.eps
        return eps_of(self.reference)

    @property
    def left(self) -> bool:
        """Whether rounding does not explain it."""
        kind = self.kind
        return kind in ("dtype", "shape", "nan") or (kind == "value" and rms(self.error) > self.allowed)

    def along(self, axis: int) -> tuple[Float64, Float64]:
        """For each place along an axis: the rms error, and the rms error that rounding explains there."""
        error = _rms_along(self.error, axis)
        moves = [_rms_along(_apart(one, self.reference), axis) for one in self._moved]
        floor = 2 * self._eps * _rms_along(_finite(self.reference), axis)
        return error, FACTOR * np.maximum.reduce([floor, *moves])

    def unequal_at(self, axis: int) -> npt.NDArray[np.bool_]:
        """For each place along an axis, whether a bit differs."""
        unequal = self.error > 0
        return np.asarray(unequal.any(axis=tuple(at for at in range(unequal.ndim) if at != axis)))


def eps_of(array: Array) -> float:
    """The spacing of an array's floats at 1; 0 for other types."""
    return float(np.finfo(array.dtype.name).eps) if _floating(array) else 0.0


def rms(array: Float64) -> float:
    """The root of the mean square; 0 of nothing."""
    return float(np.sqrt(np.mean(np.square(array)))) if array.size else 0.0


def relative(difference: Difference) -> float:
    """The rms error over the rms of the reference."""
    scale = rms(_finite(difference.reference))
    error = rms(difference.error)
    return error / scale if scale else float(np.inf if error else 0.0)


def _rms_along(array: Float64, axis: int) -> Float64:
    others = tuple(at for at in range(array.ndim) if at != axis)
    return np.asarray(np.sqrt(np.mean(np.square(array), axis=others)), np.float64)


def _apart(one: Array, other: Array) -> Float64:
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(one.astype(np.float64) - other.astype(np.float64))
    if _floating(other) and not np.isfinite(error).all():
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        error = np.where(same, 0.0, np.where(np.isfinite(error), error, np.inf))
    return np.asarray(error, np.float64)


def _finite(array: Array) -> Float64:
    wide = array.astype(np.float64)
    return np.where(np.isfinite(wide), wide, 0.0)


def _floating(array: Array) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))
