"""One bundle on one device, measured or not; and what many of them come to."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from edgeseq_runtime.errors import EdgeseqError
from edgeseq_runtime.interface import size_text
from edgeseq_runtime.metric import MAX_LOSS, MetricRow, load_metric
from edgeseq_runtime.parity import ParityReport, ParityRow, Progress, measure_parity

FORMAT = 1  # of the JSON of a suite


class Job(msgspec.Struct, frozen=True):
    """What is to be measured where."""

    path: str
    device: str
    precision: str
    threads: int | None = None
    metric: str | None = None  # FILE.py:FUNCTION
    max_metric_loss: float = MAX_LOSS
    exact: bool = False  # evaluate the graph in float64, too

    def report(self, progress: Progress = lambda done, total: None) -> ParityReport:
        """Measure it; raises as `measure_parity` and `load_metric`."""
        return measure_parity(
            self.path,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            metric=None if self.metric is None else load_metric(self.metric),
            max_loss=self.max_metric_loss,
            exact=self.exact,
            progress=progress,
        )


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a job: a report, or why there is none."""

    job: Job
    seconds: float  # to open the bundle, compile it and measure it
    report: ParityReport | None = None
    error: str = ""
    error_type: str = ""  # the error's class

    @property
    def verdict(self) -> str:
        """One of "pass", "fail", and "error" where nothing could be measured."""
        if self.report is None:
            return "error"
        return "pass" if self.report.passed else "fail"

    @property
    def device(self) -> str:
        """The name of the profile; what was asked for where nothing could be measured."""
        return self.job.device if self.report is None else self.report.device

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            **msgspec.to_builtins(self.job),
            "verdict": self.verdict,
            "seconds": self.seconds,
            "error": {"type": self.error_type, "message": self.error} if self.report is None else None,
            "report": None if self.report is None else self.report.to_json(),
        }


def measure(job: Job, progress: Progress = lambda done, total: None) -> Outcome:
    """Measure one bundle; what edgeseq raises on purpose becomes part of the outcome."""
    start = time.perf_counter()
    try:
        report = job.report(progress)
    except EdgeseqError as error:
        return failed(job, error, time.perf_counter() - start)
    return Outcome(job=job, seconds=time.perf_counter() - start, report=report)


def failed(job: Job, error: Exception, seconds: float) -> Outcome:
    """The outcome of a job that gave no report."""
    return Outcome(job=job, seconds=seconds, error=str(error), error_type=type(error).__name__)


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 where everything passed; 2 where something could not be measured, whatever the others gave; else 1."""
    verdicts = {outcome.verdict for outcome in outcomes}
    if "error" in verdicts:
        return 2
    return 1 if "fail" in verdicts else 0


def suite_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All outcomes as JSON values."""
    return {
        "format": FORMAT,
        "passed": exit_code(outcomes) == 0,
        "exit_code": exit_code(outcomes),
        "counts": {name: sum(one.verdict == name for one in outcomes) for name in ("pass", "fail", "error")},
        "bundles": [outcome.to_json() for outcome in outcomes],
    }


def row_text(row: ParityRow) -> str:
    """One line on a row: where, and what is remarkable about it."""
    return f"{row.verdict}: {row.output}, {row.mode}, {size_text(row.sizes)}" + (f": {row.reason}" if row.reason else "")


def metric_text(row: MetricRow) -> str:
    """One line on a metric."""
    measured = f"{row.measured:.6g}, fp32 {row.fp32:.6g}, loss {row.loss:.3g} (at most {row.max_loss:g})"
    found = measured if math.isfinite(row.measured) else f"none, fp32 {row.fp32:.6g}"
    return f"{row.verdict}: metric {row.name}: {found}" + (f": {row.reason}" if row.reason else "")


def failures(report: ParityReport) -> list[str]:
    """A line on each row, and on the metric, that failed; or that nothing could be gated. Empty where the report passed."""
    lines = [row_text(row) for row in report.rows if row.verdict == "fail"]
    if report.metric is not None and report.metric.verdict == "fail":
        lines.append(metric_text(report.metric))
    return lines if lines or report.passed else ["fail: nothing could be gated, so nothing is proved"]
