"""What quantising a bundle gave: a row a variant, written or not, and why."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from edgeseq_runtime.bundle import RelativeGate
from edgeseq_runtime.metric import MetricRow

FP32 = "fp32"
WRITTEN, REFUSED, SKIPPED = "written", "refused", "skipped"


class LayerRow(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one layer."""

    name: str
    operator: str
    weights: int
    quantised: bool
    reason: str = ""  # why it is as it was
    relative: float = math.nan  # error of the worst output where this layer alone is quantised; not a number where not measured


class VariantRow(msgspec.Struct, frozen=True, kw_only=True):
    """One variant, or the fp32 model that they are measured against."""

    name: str
    verdict: str  # "written", "refused", "skipped" where there was nothing to do, or "fp32"
    reason: str = ""
    bytes: int = 0  # of its ONNX model
    step: float = math.nan  # median microseconds a streamed step; not a number where nothing streams or nothing was timed
    sequence: float = math.nan  # and a whole sequence
    step_gain: float = math.nan  # fp32's time over its own, the median over rounds: above 1 is faster
    sequence_gain: float = math.nan
    relative: float = math.nan  # the largest over outputs, cases, whole and streamed
    relative999: float = math.nan
    worst: str = ""  # the output with the largest error, and how it was computed
    calibration: float = math.nan  # the largest relative error on the user's inputs, against fp32
    metric: MetricRow | None = None
    gate: RelativeGate | None = None
    layers: tuple[LayerRow, ...] = ()


class QuantizeReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every variant, and what was measured where."""

    path: str
    name: str
    written: str  # the file; empty where nothing was
    device: str
    threads: int
    steps: int  # of the whole sequence that was timed
    versions: dict[str, str]
    rows: tuple[VariantRow, ...]  # fp32 first

    @property
    def precisions(self) -> tuple[str, ...]:
        """The variants that were written."""
        return tuple(row.name for row in self.rows if row.verdict == WRITTEN)

    def row(self, name: str) -> VariantRow:
        """One of the rows, by its variant's name."""
        return next(row for row in self.rows if row.name == name)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; what was not measured is null."""
        made: dict[str, Any] = _without_nan(msgspec.to_builtins(self))
        return made


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
