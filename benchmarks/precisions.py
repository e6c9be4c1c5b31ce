"""What the precisions below fp32 are worth on this CPU: size, speed, error, and the task, model by model.

    python benchmarks/precisions.py                 # needs build/vad.edgeseq from `make demo`; fills docs/performance.md
    python benchmarks/precisions.py --seconds 0.2   # shorter

Six models go through `edgeseq_quantize.quantize` as a user's would, on ONNX Runtime and on edgeseq's own kernels. Within one model
and device all variants take turns, round by round, with the fp32 model. Two of them have a task: voice activity on the demo's clip
and the phase of the gait on the vendor's test file (`task_metrics`); their metric may fall by 0.005. Both have layers too small to
gain time; "all layers" quantises those, too, with a gate of 10 %, which says what integers do to the task. The gait model is the
recipe's, from `make gallery`; where it is not there, its short version is trained.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import task_metrics
import torch
from filled_page import fill
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from edgeseq_export import ExportRequest, export_request
from edgeseq_quantize import SMALLEST, QuantizeReport, VariantRow, quantize
from edgeseq_runtime.bundle import RelativeGate
from edgeseq_runtime.metric import Metric

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "precisions.json", HERE.parent / "docs" / "performance.md"
DEVICES = {"auto": "ONNX Runtime", "native": "edgeseq's own kernels"}
VAD, GAIT = Path("build/vad.edgeseq"), Path("build/train/gait-phase/gait-phase.edgeseq")
FEATURES, LABELS = 64, 8
WIDE = RelativeGate(relative=0.1, relative999=0.8, unequal=0.1)
COLUMNS = ("model", "variant", "MB", "step µs", "× fp32", "T=100 µs", "× fp32", "error", "task", "verdict")
TEXT = """Under each model are the variants that `edgeseq quantize` made of it, held to 2 % of the output's rms (fp16: 1 %; "all
layers": 10 %). `× fp32` is how many times as fast as fp32 one is, the median over rounds of the ratio within a round; fp16 is for
GPUs, is computed by ONNX Runtime and not timed. Task: the share of labelled speech found less the share of the clip falsely found,
and 1 less the squared error of the gait's phase; it may fall by 0.005. What is refused is not in the bundle; [how and
why](quantize.md).

ONNX Runtime {version}, edgeseq's kernels {kernels}, one thread, {machine}: `python benchmarks/precisions.py`."""


class Subject(NamedTuple):
    """A bundle, and how it is quantised."""

    name: str
    path: Path
    metric: Metric | None = None
    gate: RelativeGate | None = None
    smallest: int = SMALLEST


class Recurrent(nn.Module):
    """A recurrent network with a readout, its state in and out."""

    def __init__(self, kind: str, hidden: int, layers: int) -> None:
        super().__init__()
        self.recurrent = getattr(nn, kind)(FEATURES, hidden, layers)
        self.readout = nn.Linear(hidden, LABELS)

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None) -> tuple[Tensor, ...]:
        """From x (T, B, 64) and states (layers, B, hidden) to y (T, B, 8) and the states."""
        y, state = self.recurrent(x, h if c is None else (h, c))
        return (self.readout(y), *(state if isinstance(state, tuple) else (state,)))


def recurrent_request(kind: str, hidden: int, layers: int) -> ExportRequest:
    """One that streams."""
    torch.manual_seed(0)
    states = ("h", "c") if kind == "LSTM" else ("h",)
    inputs = {"x": torch.randn(10, 2, FEATURES), **{name: torch.zeros(layers, 2, hidden) for name in states}}
    axes = {"x": ("T", "B", None), **dict.fromkeys(states, (None, "B", None))}
    pairs = {name: f"{name}_out" for name in states}
    model = Recurrent(kind, hidden, layers)
    return ExportRequest(model, inputs, axes=axes, state=pairs, outputs=("y", *pairs.values()), name=kind.lower())


def subjects(folder: Path, vad: Path, gait: Path) -> Iterator[Subject]:
    """Every model; those that need a file are made where it is not there."""
    for kind, hidden, layers in (("LSTM", 256, 2), ("LSTM", 1024, 1), ("GRU", 256, 2), ("RNN", 256, 2)):
        name = f"{kind} {layers}×{hidden}" if layers > 1 else f"{kind} {hidden}"
        yield Subject(name, export_request(recurrent_request(kind, hidden, layers), folder / f"{kind}{hidden}.edgeseq"))
    if vad.exists():
        yield Subject("voice activity", vad, task_metrics.speech)
        yield Subject("voice activity, all layers", vad, task_metrics.speech, WIDE, smallest=1)
    gait = gait if gait.exists() else trained_gait(folder)
    yield Subject("gait phase, all layers", gait, task_metrics.gait, WIDE, smallest=1)


def trained_gait(folder: Path) -> Path:
    """The bundle of the recipe's short version."""
    command = [sys.executable, "-m", "edgeseq_runtime.cli.main", "train", "gait-phase", "--quick", "--export", "--out", str(folder)]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    return folder / "gait-phase.edgeseq"


def measured(subject: Subject, folder: Path, device: str, seconds: float) -> QuantizeReport:
    """One model's variants on a device."""
    return quantize(
        subject.path,
        out=folder / "out.edgeseq",
        gate=subject.gate,
        metric=subject.metric,
        smallest=subject.smallest,
        device=device,
        seconds=seconds,
    )


def cells(name: str, row: VariantRow, fp32: VariantRow) -> tuple[str, ...]:
    """A row of the table."""
    task = "" if row.metric is None else f"{row.metric.fp32:.4f} → {row.metric.measured:.4f}"
    return (
        name if row is fp32 else "",
        row.name,
        f"{row.bytes / 1e6:.2f}" if row.bytes else "",
        figure(row.step, ".1f"),
        figure(row.step_gain, ".2f"),
        figure(row.sequence, ".0f"),
        figure(row.sequence_gain, ".2f"),
        figure(row.relative, ".2%"),
        task,
        "" if row is fp32 else verdict(row),
    )


def verdict(row: VariantRow) -> str:
    """Short: what is the same as another, and what is smaller than the layers that gain, has its reason in the bundle's report."""
    kept = sum(1 for layer in row.layers if not math.isnan(layer.relative) and not layer.quantised)
    mixed = f", {kept} of {len(row.layers)} layers in fp32" if row.verdict == "written" and kept else ""
    return f"{row.verdict}{mixed}"


def figure(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def shown(reports: Sequence[tuple[str, QuantizeReport]]) -> list[tuple[str, ...]]:
    """Every row but those that are the same as another."""
    return [
        cells(name, row, report.rows[0])
        for name, report in reports
        for row in report.rows
        if not row.reason.startswith("it is the same")
    ]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---|" + "---:|" * 6 + "---|---|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def main() -> None:
    """Measure, show, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each variant in each mode, about")
    parser.add_argument("--vad", type=Path, default=VAD)
    parser.add_argument("--gait", type=Path, default=GAIT)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    console = Console(width=160)
    reports: dict[str, list[tuple[str, QuantizeReport]]] = {device: [] for device in DEVICES}
    with tempfile.TemporaryDirectory() as made:
        for subject in subjects(Path(made), arguments.vad, arguments.gait):
            console.print(subject.name)
            for device, found in reports.items():
                found.append((subject.name, measured(subject, Path(made), device, arguments.seconds)))
    parts = []
    for device, found in reports.items():
        rows = shown(found)
        table = Table(*COLUMNS, title=DEVICES[device])
        for row in rows:
            table.add_row(*row)
        console.print(table)
        parts.append(f"**{DEVICES[device][0].upper()}{DEVICES[device][1:]}**\n\n{markdown(rows)}")
    kept: dict[str, Any] = {device: {name: report.to_json() for name, report in found} for device, found in reports.items()}
    for each in kept.values():
        for one in each.values():
            del one["path"], one["written"]  # of this run alone
    arguments.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    first = {device: found[0][1].versions for device, found in reports.items()}
    text = TEXT.format(version=first["auto"]["onnxruntime"], kernels=first["native"]["native"], machine=platform.machine())
    fill(arguments.page, {"precisions": "\n\n".join([text, *parts])})


if __name__ == "__main__":
    main()
