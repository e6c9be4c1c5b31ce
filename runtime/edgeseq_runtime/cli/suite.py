"""`edgeseq parity` on more than one bundle: a table of them all, and the rows that failed below it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgeseq_runtime.bundle import Gate
from edgeseq_runtime.console import ERR, OUT, progress, table
from edgeseq_runtime.metric import load_metric, require_bound
from edgeseq_runtime.plan import plan_for_device
from edgeseq_runtime.suite import Job, Outcome, default_jobs, exit_code, failures, find_bundles, measure_all, suite_json

COUNTS = "pass/\nfail/\nskip"  # of rows


def measure_suite(paths: Sequence[Path], devices: Sequence[str], options: Job, workers: int | None) -> tuple[Outcome, ...]:
    """Measure every bundle on every device, in the order of the paths; `options` says how, whatever its own path and device.

    Raises:
        UsageError: a folder holds no bundle, there is no such metric, or an option makes no sense.
        DeviceError: there is no such device.
    """
    for device in devices:
        plan_for_device(device, precision=options.precision, threads=options.threads)  # raises before anything is started
    if options.metric is not None:
        require_bound(options.max_metric_loss)
        load_metric(options.metric)
    jobs = [msgspec.structs.replace(options, path=str(path), device=device) for path in find_bundles(paths) for device in devices]
    with progress(f"parity of {len(jobs)}") as report_progress:
        return measure_all(jobs, workers or default_jobs(), report_progress)


def print_suite(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    """The results to standard output; what could not be measured to standard error, too."""
    if as_json:
        print(json.dumps(suite_json(outcomes), indent=1))
    else:
        _print_table(outcomes)
    for outcome in outcomes:
        if outcome.report is None:
            where = "" if outcome.job.path in outcome.error else f"{outcome.job.path}: "
            ERR.print(f"error: {where}{outcome.error}", soft_wrap=True)


def _print_table(outcomes: Sequence[Outcome]) -> None:
    figures = next((outcome.report.gate.figures for outcome in outcomes if outcome.report), Gate.figures)
    right = (f"worst {figures[0]}", figures[1], COUNTS)
    rows = [_cells(outcome, figures) for outcome in outcomes]
    OUT.print(table(("bundle", "device", "precision", *right, "verdict"), rows, right=right))
    for outcome in outcomes:
        if outcome.report is not None and not outcome.report.passed:
            OUT.print(f"\n{outcome.job.path} on {outcome.device}", soft_wrap=True)
            for line in failures(outcome.report):
                OUT.print(f"  {line}")
    counts = suite_json(outcomes)["counts"]
    OUT.print(
        f"\n{'FAIL' if exit_code(outcomes) else 'PASS'}: {counts['pass']} pass, {counts['fail']} fail, "
        f"{counts['error']} could not be measured"
    )


def _cells(outcome: Outcome, names: Sequence[str]) -> tuple[str, ...]:
    report = outcome.report
    figures = ["-"] * 3
    if report is not None:
        figures = [gated_text(name, report.worst(name)) for name in names]
        figures.append("/".join(str(report.count(verdict)) for verdict in ("pass", "fail", "skip")))
    return (outcome.job.path, outcome.device, outcome.job.precision, *figures, outcome.verdict)


def gated_text(name: str, value: float) -> str:
    """A figure of a gate: a ratio to PyTorch's error, or a share of the output."""
    return figure_text(value) if name in Gate.figures else f"{value:.2g}"


def figure_text(value: float) -> str:
    """A figure that needs little room whatever its size."""
    return f"{value:.2f}" if value == 0 or 0.005 <= value < 1000 else f"{value:.1e}"
