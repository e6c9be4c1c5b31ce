"""`edgeseq parity` on more than one bundle: a table of them all, and the rows that failed below it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edgeseq_runtime.console import ERR, OUT, progress, table
from edgeseq_runtime.plan import plan_for_device
from edgeseq_runtime.suite import Job, Outcome, default_jobs, exit_code, failures, find_bundles, measure_all, suite_json

COUNTS = "pass/\nfail/\nskip"  # of rows


def measure_suite(
    paths: Sequence[Path], devices: Sequence[str], precision: str, threads: int | None, workers: int | None
) -> tuple[Outcome, ...]:
    """Measure every bundle on every device, in the order of the paths.

    Raises:
        UsageError: a folder holds no bundle, or an option makes no sense.
        DeviceError: there is no such device.
    """
    for device in devices:
        plan_for_device(device, precision=precision, threads=threads)  # raises before anything is started
    jobs = [Job(str(path), device, precision, threads) for path in find_bundles(paths) for device in devices]
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
    right = ("worst k", "k999", COUNTS)
    OUT.print(table(("bundle", "device", "precision", *right, "verdict"), list(map(_cells, outcomes)), right=right))
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


def _cells(outcome: Outcome) -> tuple[str, ...]:
    report = outcome.report
    figures = ["-"] * 3
    if report is not None:
        figures = [figure_text(report.worst(name)) for name in ("k", "k999")]
        figures.append("/".join(str(report.count(verdict)) for verdict in ("pass", "fail", "skip")))
    return (outcome.job.path, outcome.device, outcome.job.precision, *figures, outcome.verdict)


def figure_text(value: float) -> str:
    """A figure that needs little room whatever its size."""
    return f"{value:.2f}" if value < 1000 else f"{value:.1e}"
