"""`edgeseq quantize`: variants of a bundle's model on the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from edgeseq_quantize.layers import SMALLEST
from edgeseq_quantize.quantising import quantize
from edgeseq_quantize.report import FP32, REFUSED, SKIPPED, WRITTEN, LayerRow, QuantizeReport, VariantRow
from edgeseq_quantize.variants import GATE, VARIANTS
from edgeseq_runtime.bundle import RelativeGate
from edgeseq_runtime.cli.arrays import read_npz
from edgeseq_runtime.cli.options import (
    BundleArgument,
    DeviceOption,
    JsonOption,
    MaxMetricLossOption,
    MetricOption,
    require_metric,
)
from edgeseq_runtime.console import OUT, pairs, progress, table
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.metric import MAX_LOSS, MetricRow, load_metric
from edgeseq_runtime.suite import metric_text

TAIL = GATE.relative999 / GATE.relative  # of a gate that is given by its rms alone

OutOption = Annotated[
    Path | None, typer.Option("-o", "--out", metavar="PATH", help="Where to write; the bundle itself if left out.")
]
VariantsOption = Annotated[str, typer.Option("--variants", metavar="NAME,...", help=f"Of {', '.join(VARIANTS)}; all if left out.")]
GateOption = Annotated[
    str | None,
    typer.Option("--gate", metavar="relative=X,...", help="Largest error, of every variant; also relative999=X, unequal=X."),
]
CalibrationOption = Annotated[
    list[Path] | None,
    typer.Option("--calibration", metavar="FILE.npz", help="Inputs of your own, held to the gate too; may be repeated."),
]
SmallestOption = Annotated[int, typer.Option("--smallest", help="Weights of a matrix below which a layer stays in fp32.")]
ThreadsOption = Annotated[int, typer.Option("--threads", help="How many share one operator.")]
SecondsOption = Annotated[float, typer.Option("--seconds", help="To time each model in each mode, about; 0 times nothing.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def quantize_command(
    bundle: BundleArgument,
    out: OutOption = None,
    variants: VariantsOption = "",
    gate: GateOption = None,
    metric: MetricOption = None,
    max_metric_loss: MaxMetricLossOption = MAX_LOSS,
    calibration: CalibrationOption = None,
    smallest: SmallestOption = SMALLEST,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 1,
    seconds: SecondsOption = 0.5,
    as_json: JsonOption = False,
) -> None:
    """Write smaller, faster variants of a bundle's model into it: those that keep a gate against float64.

    Exits with 1 where none was written, or one that was named was not.
    """
    require_metric(metric, max_metric_loss)
    chosen = tuple(name.strip() for name in variants.split(",")) if variants else tuple(VARIANTS)
    with progress("quantising") as report_progress:
        report = quantize(
            bundle,
            out=out,
            variants=chosen,
            gate=gate_of(gate) if gate else None,
            metric=load_metric(metric) if metric else None,
            max_loss=max_metric_loss,
            calibration=[read_npz(path) for path in calibration or []],
            smallest=smallest,
            device=device,
            threads=threads,
            seconds=seconds,
            progress=report_progress,
        )
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        _print(report)
    refused = any(row.verdict == REFUSED for row in report.rows)
    if not report.precisions or (variants and refused):
        raise typer.Exit(1)


def main(argv: list[str]) -> int | None:
    """The command as a part of the `edgeseq` program; its exit code.

    Raises:
        EdgeseqError: for the program to report.
    """
    code: int | None = app(argv, prog_name="edgeseq quantize", standalone_mode=False)
    return code


def gate_of(text: str) -> RelativeGate:
    """The gate that `relative=0.02` or `relative=0.02,relative999=0.2,unequal=0.01` says.

    Raises:
        UsageError: another name, no number, or no `relative`.
    """
    bounds = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            bounds[name] = float(value)
        except ValueError:
            bounds[name] = math.nan
    if "relative" not in bounds or set(bounds) - {"relative", "relative999", "unequal"} or not all(v >= 0 for v in bounds.values()):
        raise UsageError(f"'{text}' is no gate; write relative=0.02, or relative=0.02,relative999=0.16,unequal=0.02")
    relative = bounds["relative"]
    return RelativeGate(relative, bounds.get("relative999", TAIL * relative), bounds.get("unequal", relative))


def _print(report: QuantizeReport) -> None:
    versions = ", ".join(f"{name} {found}" for name, found in report.versions.items())
    device = f"{report.device}, threads {report.threads}"
    OUT.print(pairs([("model", report.name), ("device", device), ("with", versions)]))
    OUT.print()
    metric = next((row.metric for row in report.rows if row.metric), None)
    columns = (
        "variant",
        "MB",
        "%",
        "step us",
        "gain",
        f"T={report.steps} us",
        "gain",
        "error",
        *([metric.name] if metric else []),
        "verdict",
    )
    size = report.row(FP32).bytes
    OUT.print(table(columns, [_cells(row, size, metric) for row in report.rows], right=columns[1:-1]))
    for row in report.rows:
        _print_details(row)
    OUT.print()
    OUT.print(
        f"written: {', '.join(report.precisions)} into {report.written}" if report.written else "nothing was written",
        soft_wrap=True,
    )


def _cells(row: VariantRow, fp32_bytes: int, metric: MetricRow | None) -> tuple[str, ...]:
    value = metric.fp32 if metric and row.name == FP32 else row.metric.measured if row.metric else math.nan
    found = (_figure(value, ".4g"),) if metric else ()
    return (
        row.name,
        f"{row.bytes / 1e6:.2f}" if row.bytes else "",
        f"{row.bytes / fp32_bytes:.0%}".rstrip("%") if row.bytes else "",
        _figure(row.step, ".1f"),
        _figure(row.step_gain, ".2f"),
        _figure(row.sequence, ".0f"),
        _figure(row.sequence_gain, ".2f"),
        _figure(row.relative, ".2%"),
        *found,
        "" if row.verdict == FP32 else row.verdict,
    )


def _figure(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _print_details(row: VariantRow) -> None:
    """Why a variant was not written, which layers stay in fp32, and what each is off by where that was measured."""
    if row.reason:
        OUT.print(f"{row.name}: {row.verdict}: {row.reason}", soft_wrap=True)
    elif row.worst:
        OUT.print(f"{row.name}: farthest off: {row.worst}", soft_wrap=True)
    if row.verdict == SKIPPED:
        return
    gains = [gain for gain in (row.step_gain, row.sequence_gain) if not math.isnan(gain)]
    if row.verdict == WRITTEN and gains and max(gains) < 1:
        OUT.print(f"{row.name}: smaller, and slower than fp32 on this machine", soft_wrap=True)
    if row.metric is not None:
        OUT.print(f"{row.name}: {metric_text(row.metric)}", soft_wrap=True)
    tried = [layer for layer in row.layers if not math.isnan(layer.relative)]
    if tried:
        cells = [
            (f"{layer.operator} '{layer.name}'", layer.weights, _figure(layer.relative, ".2%"), _state(row, layer))
            for layer in tried
        ]
        OUT.print(table(("layer", "weights", "error alone", ""), cells, right=("weights", "error alone")))


def _state(row: VariantRow, layer: LayerRow) -> str:
    if row.verdict == REFUSED:
        return ""
    return f"in {row.name}" if layer.quantised else f"in fp32: {layer.reason}"
