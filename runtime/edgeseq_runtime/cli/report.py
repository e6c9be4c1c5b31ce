"""`edgeseq report`: everything about a bundle on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseq_runtime.cli.options import (
    BundleArgument,
    DebugOption,
    DeviceOption,
    MaxMetricLossOption,
    MetricOption,
    PrecisionOption,
    ThreadsOption,
    require_metric,
)
from edgeseq_runtime.console import ERR, OUT, progress, working
from edgeseq_runtime.metric import MAX_LOSS, load_metric

OutputOption = Annotated[Path, typer.Option("-o", "--output", help="The page to write, an .html file.")]
NoBenchOption = Annotated[bool, typer.Option("--no-bench", help="Leave latency out.")]
SecondsOption = Annotated[float, typer.Option("--seconds", min=0.001, help="For the latency of a step and of a sequence, each.")]


def report_command(
    bundle: BundleArgument,
    output: OutputOption,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    metric: MetricOption = None,
    max_metric_loss: MaxMetricLossOption = MAX_LOSS,
    no_bench: NoBenchOption = False,
    seconds: SecondsOption = 0.5,
    debug: DebugOption = False,
) -> None:
    """Write a page on a bundle: its graph, parity, errors, latency, plans. Exit 1 if parity fails; the page is written too."""
    require_metric(metric, max_metric_loss)
    # The page's code is for this command alone: others start without it.
    from edgeseq_runtime.report import measure_report, write_page

    with progress("parity") as report_progress:
        report = measure_report(
            bundle,
            device=device,
            precision=precision,
            threads=threads,
            seconds=None if no_bench else seconds,
            metric=None if metric is None else load_metric(metric),
            max_loss=max_metric_loss,
            progress=report_progress,
        )
    with working("page"):
        written = write_page(report, output)
    OUT.print(str(written))
    if not report.parity.passed:
        ERR.print("parity failed: the page says where", soft_wrap=True)
        raise typer.Exit(1)
