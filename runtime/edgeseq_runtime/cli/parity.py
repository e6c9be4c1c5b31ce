"""`edgeseq parity`: do models compute here what PyTorch computes?"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edgeseq_runtime.cli.inspect import shape_text
from edgeseq_runtime.cli.options import (
    DebugOption,
    JsonOption,
    MaxMetricLossOption,
    MetricOption,
    PrecisionOption,
    ThreadsOption,
    require_metric,
)
from edgeseq_runtime.cli.suite import gated_text, measure_suite, print_suite
from edgeseq_runtime.cli.where import AgainstOption, ReproductionOption, Search, find_where, print_where
from edgeseq_runtime.console import OUT, pairs, progress, table
from edgeseq_runtime.device import load_device
from edgeseq_runtime.errors import EdgeseqError, UsageError
from edgeseq_runtime.files import write_file
from edgeseq_runtime.interface import size_text
from edgeseq_runtime.metric import MAX_LOSS
from edgeseq_runtime.parity import ParityReport, ParityRow
from edgeseq_runtime.suite import Job, Outcome, exit_code, failed, junit_xml, metric_text, row_text
from edgeseq_runtime.suite.record import record_bytes

BundlesArgument = Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help=".edgeseq bundles, or folders of them.")]
DevicesOption = Annotated[
    list[str] | None, typer.Option("--device", help="A device's name, or a path to a profile (.toml); may be repeated. [auto]")
]
JobsOption = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Bundles at a time; the cores if left out.")]
RecordOption = Annotated[
    Path | None, typer.Option("--record", metavar="FILE", help="Write a record of this run, for edgeseq records; one bundle only.")
]
ExactOption = Annotated[
    bool,
    typer.Option("--exact", help="Evaluate the graph in float64, too: finds what kernels' rounding hides. Needs edgeseq[export]."),
]
JunitOption = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML, too.")]


def parity_command(
    bundles: BundlesArgument,
    device: DevicesOption = None,
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    metric: MetricOption = None,
    max_metric_loss: MaxMetricLossOption = MAX_LOSS,
    exact: ExactOption = False,
    against: AgainstOption = None,
    reproduction: ReproductionOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
    junit: JunitOption = None,
    record: RecordOption = None,
    debug: DebugOption = False,
) -> None:
    """Compare every output with the bundle's PyTorch reference; exit 1 if one is too far off.

    k is the rms error against float64 in units of PyTorch's own float32 error, k999 the same at the 99.9th percentile;
    relative and relative999 are those errors in units of the output's rms, which the gates of precisions below fp32 hold.

    Exits with 2 where a bundle could not be measured, whatever the others gave.
    """
    require_metric(metric, max_metric_loss)
    devices = device or ["auto"]
    search = Search(against, reproduction)
    if len(bundles) == 1 and len(devices) == 1 and not bundles[0].is_dir():
        job = Job(str(bundles[0]), devices[0], precision, threads, metric, max_metric_loss, exact)
        outcomes = _measure_one(job, as_json, junit, search)
    elif record is not None:
        raise UsageError("--record is of one bundle on one device; more were named: measure them one by one")
    else:
        search.require_one_bundle()
        outcomes = measure_suite(bundles, devices, Job("", "", precision, threads, metric, max_metric_loss, exact), jobs)
        print_suite(outcomes, as_json=as_json)
    _write_junit(junit, outcomes)
    if record is not None and (report := outcomes[0].report):
        write_file(record, record_bytes(report, load_device(devices[0])))
    if code := exit_code(outcomes):
        raise typer.Exit(code)


def _measure_one(job: Job, as_json: bool, junit: Path | None, search: Search) -> tuple[Outcome, ...]:
    search.require_readable()
    start = time.perf_counter()
    try:
        with progress("parity") as report_progress:
            report = job.report(report_progress)
    except EdgeseqError as error:
        _write_junit(junit, (failed(job, error, time.perf_counter() - start),))
        raise
    seconds = time.perf_counter() - start
    if not as_json:
        _print(report)
    # A metric alone may fail: then every value is near enough, and there is none to name.
    wrong = any(row.verdict == "fail" for row in report.rows)
    where = find_where(job, search) if wrong else None
    if as_json:
        found = {"where": where and where.to_json()} if wrong else {}
        print(json.dumps({**report.to_json(), **found}, indent=1))
    elif wrong:
        print_where(where, search)
    return (Outcome(job=job, seconds=seconds, report=report),)


def _write_junit(path: Path | None, outcomes: Sequence[Outcome]) -> None:
    if path is not None:
        write_file(path, junit_xml(outcomes))


def _print(report: ParityReport) -> None:
    versions = ", ".join(f"{name} {found}" for name, found in report.versions.items())
    OUT.print(
        pairs(
            [
                ("model", f"{report.name} ({report.sha256[:16]})"),
                ("device", f"{report.device}, {report.precision}, threads {report.threads}"),
                ("with", versions),
                ("gate", report.gate),
                *([("exact gate", report.exact_gate)] if report.exact_gate else []),
            ]
        )
    )
    OUT.print()
    figures = report.gate.figures
    columns = ("output", "mode", "sizes", "shape", *figures, "max abs", "verdict")
    OUT.print(table(columns, [_cells(row, figures) for row in report.rows], right=(*figures, "max abs")))
    for row in report.rows:
        if row.reason:
            OUT.print(row_text(row))
    if report.metric is not None:
        OUT.print(metric_text(report.metric))
    OUT.print()
    counts = ", ".join(f"{report.count(verdict)} {verdict}" for verdict in ("pass", "fail", "skip"))
    OUT.print(f"{'PASS' if report.passed else 'FAIL'}: {counts}")


def _cells(row: ParityRow, figures: Sequence[str]) -> tuple[str, ...]:
    values = [gated_text(name, getattr(row, name)) for name in figures]
    return (row.output, row.mode, size_text(row.sizes), shape_text(row.shape), *values, f"{row.max_abs:.1e}", row.verdict)
