"""What parity says: a verdict an output and reference case, and the report of them all."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from edgeseq_runtime.bundle import AnyGate, Gate
from edgeseq_runtime.metric import MetricRow

FIGURES = ("k", "k999", "max_abs", "relative", "relative999")  # of a row; what a gate does not bound is told all the same
EXACT = "exact"  # the mode of the rows of a graph in float64


class ParityRow(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one output at one reference case."""

    output: str
    mode: str  # "whole": one call; "stream": piece by piece; "exact": whole, the graph in float64 without a runtime
    sizes: dict[str, int]
    shape: tuple[int, ...]  # of one draw
    verdict: str  # "pass", "fail", or "skip" where nothing can be gated
    reason: str = ""
    k: float = math.inf
    k999: float = math.inf
    max_abs: float = math.inf
    relative: float = math.inf
    relative999: float = math.inf
    discrete: bool = False  # integers or booleans, whose `max_abs`, `relative` and `relative999` are the share of unequal elements
    seconds: float = 0.0  # to compute and judge it; what several outputs took together is shared out evenly


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every row, and what was measured where."""

    path: str
    name: str
    sha256: str
    device: str
    precision: str
    providers: tuple[str, ...]
    threads: int
    gate: AnyGate
    exact_gate: Gate | None = None  # of rows of mode "exact"; None where there are none
    versions: dict[str, str]
    provenance: dict[str, str]
    rows: tuple[ParityRow, ...]
    metric: MetricRow | None = None  # None where the user gave no metric

    def count(self, verdict: str) -> int:
        """Rows with this verdict, the metric among them."""
        verdicts = [row.verdict for row in self.rows] + ([self.metric.verdict] if self.metric else [])
        return verdicts.count(verdict)

    def worst(self, figure: str) -> float:
        """The largest `k`, `relative` or the like of the rows that were gated; infinite where one has none, NaN where none was."""
        return max((getattr(row, figure) for row in self.rows if row.verdict != "skip"), default=math.nan)

    @property
    def passed(self) -> bool:
        """Whether something was gated, and nothing failed."""
        return self.count("pass") > 0 and not self.count("fail")

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; an infinite or undefined ratio is null."""
        report: dict[str, Any] = msgspec.to_builtins(self)
        for row in report["rows"]:
            row.update({key: None for key in FIGURES if not math.isfinite(row[key])})
        if self.metric:
            measured, loss = ((value if math.isfinite(value) else None) for value in (self.metric.measured, self.metric.loss))
            report["metric"] |= {"measured": measured, "loss": loss}
        return {**report, "passed": self.passed}
