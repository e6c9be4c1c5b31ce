"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseq_runtime.errors import UsageError

DEBUG = "edgeseq.debug"


def set_debug(ctx: typer.Context, value: bool) -> bool:
    """Remember, for the whole program, to show tracebacks."""
    if value:
        ctx.find_root().meta[DEBUG] = True
    return value


ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A .edgeseq bundle, or a plain .onnx model.")]
BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A .edgeseq bundle.")]
DeviceOption = Annotated[str, typer.Option("--device", help="A device's name, or a path to a profile (.toml).")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="One that the bundle holds.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="How many share one operator; 1 if left out.")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Sequences at once.")]
AxisOption = Annotated[
    list[str] | None,
    typer.Option("--axis", metavar="NAME=MIN:OPT:MAX", help="Sizes to prepare for, such as T=1:100:2000. May be repeated."),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        "--metric", metavar="FILE.py:FUNCTION", help="Takes a session, returns a number, higher is better; run with fp32, too."
    ),
]
MaxMetricLossOption = Annotated[float, typer.Option("--max-metric-loss", help="How much lower than fp32's the metric may be.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]
DebugOption = Annotated[bool, typer.Option("--debug", callback=set_debug, help="Show the traceback of an error.")]


def require_metric(metric: str | None, max_metric_loss: float) -> None:
    """A bound without what it bounds would be ignored.

    Raises:
        UsageError: `--max-metric-loss` is given without `--metric`.
    """
    from edgeseq_runtime.metric import MAX_LOSS  # which other commands do without

    if metric is None and max_metric_loss != MAX_LOSS:
        raise UsageError(f"--max-metric-loss {max_metric_loss:g} bounds a metric, and none is given: add --metric FILE.py:FUNCTION")
