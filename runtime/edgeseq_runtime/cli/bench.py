"""`edgeseq bench`: how long a step and a whole sequence take here."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from typing import Annotated

import typer

from edgeseq_runtime.bench import BenchReport, BenchRow, Peer, measure_bench
from edgeseq_runtime.cli.options import (
    BatchOption,
    DebugOption,
    DeviceOption,
    JsonOption,
    ModelArgument,
    PrecisionOption,
    ThreadsOption,
)
from edgeseq_runtime.console import ERR, OUT, pairs, progress, table
from edgeseq_runtime.errors import UsageError

PEERS = "edgeseq.bench_peers"  # entry points: name -> f(spec) that gives something to time beside the model
FIGURES = ("median us", "p90 us", "p99 us", "x edgeseq", "calls")

TorchOption = Annotated[
    str | None, typer.Option("--torch", metavar="MODULE:FACTORY", help="Time this PyTorch module beside it; its code is run.")
]
StepsOption = Annotated[int, typer.Option("--steps", min=1, help="Time steps of the whole sequence.")]
SecondsOption = Annotated[float, typer.Option("--seconds", min=0.001, help="For each candidate in each mode, about.")]
TuneOption = Annotated[
    bool, typer.Option("--tune", help="Time the plan that is fastest here beside it, found as edgeseq compile does.")
]


def bench_command(
    model: ModelArgument,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    torch: TorchOption = None,
    steps: StepsOption = 100,
    batch: BatchOption = 1,
    seconds: SecondsOption = 1.0,
    tune: TuneOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Time a step and a whole sequence, in microseconds a call."""
    peers = {"pytorch": _load_peer("pytorch", torch)} if torch else {}
    with progress("bench") as report_progress:
        report = measure_bench(
            model,
            device=device,
            precision=precision,
            threads=threads,
            steps=steps,
            batch=batch,
            seconds=seconds,
            peers=peers,
            tune=tune,
            progress=report_progress,
        )
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        _print(report)
    if not torch:
        ERR.print("PyTorch beside it, in the same run: --torch module.path:factory")


def _load_peer(name: str, spec: str) -> Peer:
    found = list(entry_points(group=PEERS, name=name))
    try:
        peer: Peer = found[0].load()(spec)
    except (IndexError, ImportError) as error:
        raise UsageError(
            f"--torch {spec} needs PyTorch and the exporter, and loading them failed ({error}); "
            'install them: pip install "edgeseq[export]"'
        ) from error
    return peer


def _print(report: BenchReport) -> None:
    versions = ", ".join(f"{name} {found}" for name, found in report.versions.items())
    OUT.print(pairs([("device", f"{report.device}, {report.precision}, threads {report.threads}"), ("with", versions)]))
    OUT.print()
    OUT.print(table(("mode", "T", "B", "who", *FIGURES), list(map(_cells, report.rows)), right=("T", "B", *FIGURES)))


def _cells(row: BenchRow) -> tuple[object, ...]:
    times = (f"{row.median:.1f}", f"{row.p90:.1f}", f"{row.p99:.1f}")
    return (row.mode, row.T, row.B, row.who, *times, f"{row.ratio:.2f}", row.calls)
