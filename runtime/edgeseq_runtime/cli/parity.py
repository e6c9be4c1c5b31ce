"""`edgeseq parity`: does the model compute here what PyTorch computes?"""

from __future__ import annotations

import json

import typer

from edgeseq_runtime.cli.inspect import shape_text, size_text
from edgeseq_runtime.cli.options import (
    BundleArgument,
    DebugOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
)
from edgeseq_runtime.console import OUT, pairs, progress, table
from edgeseq_runtime.parity import ParityReport, ParityRow, measure_parity

FIGURES = ("k", "k999", "max abs")


def parity_command(
    bundle: BundleArgument,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare every output with the bundle's PyTorch reference; exit 1 if one is too far off.

    k is the rms error against float64 in units of PyTorch's own float32 error, k999 the same at the 99.9th percentile.
    """
    with progress("parity") as report_progress:
        report = measure_parity(bundle, device=device, precision=precision, threads=threads, progress=report_progress)
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        _print(report)
    if not report.passed:
        raise typer.Exit(1)


def _print(report: ParityReport) -> None:
    versions = ", ".join(f"{name} {found}" for name, found in report.versions.items())
    OUT.print(
        pairs(
            [
                ("model", f"{report.name} ({report.sha256[:16]})"),
                ("device", f"{report.device}, {report.precision}, threads {report.threads}"),
                ("with", versions),
                ("gate", f"k <= {report.gate.k:g}, k999 <= {report.gate.k999:g}"),
            ]
        )
    )
    OUT.print()
    OUT.print(table(("output", "mode", "sizes", "shape", *FIGURES, "verdict"), list(map(_cells, report.rows)), right=FIGURES))
    for row in report.rows:
        if row.reason:
            OUT.print(f"{row.verdict}: {row.output}, {row.mode}, {size_text(row.sizes)}: {row.reason}")
    OUT.print()
    counts = {verdict: sum(row.verdict == verdict for row in report.rows) for verdict in ("pass", "fail", "skip")}
    OUT.print(f"{'PASS' if report.passed else 'FAIL'}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


def _cells(row: ParityRow) -> tuple[str, ...]:
    figures = (f"{row.k:.2f}", f"{row.k999:.2f}", f"{row.max_abs:.1e}")
    return (row.output, row.mode, size_text(row.sizes), shape_text(row.shape), *figures, row.verdict)
