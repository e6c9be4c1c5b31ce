"""What the page's charts show, gathered while parity is measured: errors by time step, by length of sequence, and by size.

All of it is of whole sequences, against PyTorch's float64 result, for the runtime and for PyTorch's own float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edgeseq_runtime.bundle import CaseArrays
from edgeseq_runtime.interface import Interface
from edgeseq_runtime.parity import Piece, within_horizon
from edgeseq_runtime.tensors import TensorSpec, relative_error_by_step
from edgeseq_runtime.tensors.distance import Float64
from edgeseq_runtime.tensors.spec import Array

POINTS = 120  # of a line; longer sequences are gathered, the rms of neighbouring steps
BINS_A_DECADE = 4
LOW, HIGH = -20, 8  # powers of ten that the histogram covers; what is beyond counts in the last bin


class StepErrors(NamedTuple):
    """Rms error at each time step over the rms of the whole output, at the longest case."""

    sizes: dict[str, int]
    steps: Float64  # the last time step of each point, from 1
    runtime: Float64
    torch: Float64
    horizon: int | None  # steps that are gated; beyond, the recurrence is chaotic


class CaseErrors(NamedTuple):
    """Rms error over the rms of the output at one case, of what is gated."""

    sizes: dict[str, int]
    T: int
    runtime: float
    torch: float


class Histogram(NamedTuple):
    """How many elements have an error of which size, over all cases; those without any apart."""

    counts: Float64  # by bin
    zeros: int
    total: int


class OutputErrors(NamedTuple):
    """Everything gathered for one output."""

    output: str
    dtype: str
    by_step: StepErrors | None
    by_case: tuple[CaseErrors, ...]
    runtime: Histogram
    torch: Histogram

    @property
    def exact(self) -> bool:
        """Whether no element has an error."""
        return not self.runtime.counts.any() and not self.torch.counts.any()

    @property
    def discrete(self) -> bool:
        """Whether it holds integers or booleans, which are equal or not."""
        return not np.issubdtype(np.dtype(self.dtype), np.floating)


class Collector:
    """Shown every row's arrays by `measure_parity`; keeps the figures."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self._errors = {spec.name: OutputErrors(spec.name, spec.dtype, None, (), _empty(), _empty()) for spec in interface.outputs}

    @property
    def errors(self) -> tuple[OutputErrors, ...]:
        """By output, in the order of the model."""
        return tuple(self._errors.values())

    def observe(self, spec: TensorSpec, mode: str, case: CaseArrays, pieces: list[Piece]) -> None:
        """Add one output at one case. What parity refuses before it compares any number is not drawn."""
        before = self._errors[spec.name]
        if mode != "whole" or before.discrete or not pieces or not all(map(_comparable, pieces)):
            return
        T = case.case.sizes.get(self._interface.time_axis, 1)
        at = self._interface.steps_position(spec)
        horizon = case.case.horizon.get(spec.name)
        by_step = before.by_step
        if at is not None and (by_step is None or by_step.sizes.get(self._interface.time_axis, 1) < T):
            by_step = _step_errors(pieces, at, case.case.sizes, horizon)
        if horizon is not None and at is None and horizon < T:
            self._errors[spec.name] = before._replace(by_step=by_step)
            return
        if horizon is not None and at is not None:
            pieces = within_horizon(pieces, at, horizon)
        got, torch32, float64 = (np.concatenate([array.reshape(-1) for array in arrays]) for arrays in zip(*pieces, strict=True))
        self._errors[spec.name] = before._replace(
            by_step=by_step,
            by_case=(*before.by_case, CaseErrors(case.case.sizes, T, _relative(got, float64), _relative(torch32, float64))),
            runtime=_added(before.runtime, got, float64),
            torch=_added(before.torch, torch32, float64),
        )


def bin_edges() -> Float64:
    """The limits of the histogram's bins, one more than there are bins."""
    return np.asarray(np.logspace(LOW, HIGH, (HIGH - LOW) * BINS_A_DECADE + 1), dtype=np.float64)


def _empty() -> Histogram:
    return Histogram(np.zeros((HIGH - LOW) * BINS_A_DECADE), 0, 0)


def _comparable(piece: Piece) -> bool:
    return piece.got.shape == piece.float64.shape and bool(np.isfinite(piece.got).all())


def _step_errors(pieces: list[Piece], at: int, sizes: dict[str, int], horizon: int | None) -> StepErrors | None:
    got, torch32, float64 = (np.stack(arrays) for arrays in zip(*pieces, strict=True))  # (draws, ...)
    if float64.shape[at + 1] < 2:
        return None
    gather = _gatherer(float64.shape[at + 1])
    return StepErrors(
        sizes=sizes,
        steps=gather(np.arange(1.0, float64.shape[at + 1] + 1), np.max),
        runtime=gather(relative_error_by_step(got, float64, at + 1), _rms),
        torch=gather(relative_error_by_step(torch32, float64, at + 1), _rms),
        horizon=horizon,
    )


def _gatherer(steps: int) -> Callable[[Float64, Callable[[Float64], float]], Float64]:
    """Neighbouring steps into at most `POINTS` points."""
    starts = np.unique(np.linspace(0, steps, min(steps, POINTS), endpoint=False).astype(int))

    def gather(values: Float64, join: Callable[[Float64], float]) -> Float64:
        return np.array([join(part) for part in np.split(values, starts[1:])], dtype=np.float64)

    return gather


def _rms(values: Float64) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _relative(values: Array, float64: Array) -> float:
    return float(relative_error_by_step(values[None], float64[None], 0)[0]) if values.size else 0.0


def _added(before: Histogram, values: Array, float64: Array) -> Histogram:
    error = np.abs(values.astype(np.float64) - float64.astype(np.float64))
    positive = error[error > 0]
    counts, _ = np.histogram(np.clip(positive, 10.0**LOW, 10.0**HIGH), bin_edges())
    return Histogram(before.counts + counts, before.zeros + error.size - positive.size, before.total + error.size)
