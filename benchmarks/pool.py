"""How many streams one machine serves: a pool, beside a session for each stream and a stream each of one shared session.

    python benchmarks/pool.py                       # the demo's voice activity, build/vad.edgeseq from `make demo`
    python benchmarks/pool.py my.edgeseq --period 0.02 --json pool.json

Three ways to serve N streams, all with two threads that compute:

    pool      one session; a loop hands the steps that are due to `pool.step`, two workers run them in batches
    sessions  a session of its own for each stream; two threads, each steps its half of the streams one by one
    streams   one session, a `Stream` for each; two threads likewise

Throughput: every stream steps as fast as it can; the ways take turns, round by round, and the medians are compared.
Real time: a frame of each stream falls due once a period, at a phase of its own; latency runs from there until its outputs are
back. N streams fit where 99 % of the frames take no longer than a period. The largest such N is searched for.
A second model, an LSTM of 1024 units exported on the spot, shows what batching is worth where reading the weights is what costs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pool_crowds import Apart, Arrays, Crowd, Pooled
from rich.console import Console
from rich.table import Table

import edgeseq_runtime
from edgeseq_runtime.bench import inputs_at
from edgeseq_runtime.parity import installed_versions

STREAMS = (1, 10, 50, 100, 200, 500, 1000)
LARGE_STREAMS = (1, 8, 32, 128)
LARGE_SESSIONS = 32  # of 42 MiB each
FEATURES, UNITS = 256, 1024
ROUNDS = 5
PROBES = 6
QUANTILE = 0.99
console = Console()


@dataclass(frozen=True)
class Throughput:
    """Steps a second of `streams` streams; the median of the rounds."""

    model: str
    way: str
    streams: int
    steps_per_second: float
    ratio: float  # of the pool to this way, round by round; the median


@dataclass(frozen=True)
class RealTime:
    """One try at real time."""

    way: str
    streams: int
    p50_ms: float
    p99_ms: float
    late_percent: float
    fits: bool


class Workshop:
    """Opens crowds of each way, on sessions that are opened once."""

    def __init__(self, path: Path, most_sessions: int) -> None:
        self.path = path
        self.most_sessions = most_sessions
        self.session = edgeseq_runtime.load(path)
        interface = self.session.interface
        whole = inputs_at(interface, example_of(path), interface.chunk, 1)
        self.frame = {name: array for name, array in whole.items() if name not in interface.state}
        self.sessions: list[edgeseq_runtime.Session] = []

    def open(self, way: str, streams: int) -> Crowd | None:
        """A crowd; None where it would need too many sessions."""
        if way == "pool":
            return Pooled(self.session, self.frame, streams)
        if way == "streams":
            return Apart([self.session.stream() for _ in range(streams)], self.frame)
        if streams > self.most_sessions:
            return None
        while len(self.sessions) < streams:
            self.sessions.append(edgeseq_runtime.load(self.path))
        return Apart([session.stream() for session in self.sessions[:streams]], self.frame)


WAYS = ("pool", "sessions", "streams")


def example_of(path: Path) -> Arrays:
    """The first reference inputs of a bundle."""
    cases = edgeseq_runtime.open_bundle(path).reference()
    return cases[0].draw_inputs(0) if cases else {}


def measure_throughput(model: str, workshop: Workshop, numbers: Sequence[int], seconds: float) -> list[Throughput]:
    """Each way at each number of streams, in turns."""
    rows = []
    for streams in numbers:
        crowds = {way: crowd for way in WAYS if (crowd := workshop.open(way, streams)) is not None}
        rounds = [{way: crowd.race(seconds) for way, crowd in crowds.items()} for _ in range(ROUNDS)]
        for way, crowd in crowds.items():
            speed = float(np.median([each[way] for each in rounds]))
            rows.append(Throughput(model, way, streams, speed, float(np.median([each["pool"] / each[way] for each in rounds]))))
            crowd.close()
    return rows


def largest_fit(workshop: Workshop, way: str, limit: int, period: float, seconds: float) -> RealTime | None:
    """The best of some tries at ever closer numbers of streams, of up to twice each: others may disturb one."""
    low, high, best = 0, limit, None
    for _ in range(PROBES):
        streams = (low + high + 1) // 2
        found = next((one for _ in range(2) if (one := try_real_time(workshop, way, streams, period, seconds)).fits), None)
        if found is None:
            high = streams - 1
        else:
            low, best = streams, found
    return best


def try_real_time(workshop: Workshop, way: str, streams: int, period: float, seconds: float) -> RealTime:
    """Whether a number of streams fits."""
    crowd = workshop.open(way, streams)
    assert crowd is not None
    try:
        latencies = np.array(crowd.keep_time(period, seconds))
    finally:
        crowd.close()
    p50, p99 = np.quantile(latencies, (0.5, QUANTILE))
    return RealTime(way, streams, p50 * 1e3, p99 * 1e3, float((latencies > period).mean() * 100), bool(p99 <= period))


def memory_per_stream(workshop: Workshop) -> dict[str, float] | None:
    """KiB of resident memory that one more stream takes, each way."""
    if not Path("/proc/self/statm").exists():
        return None
    counts = {"pool": 1000, "sessions": min(50, workshop.most_sessions), "streams": 1000}
    found, held = {}, []
    for way, streams in counts.items():
        before = resident_kib()
        held.append(workshop.open(way, streams))
        found[way] = (resident_kib() - before) / streams
    for crowd in held:
        if crowd is not None:
            crowd.close()
    return found


def resident_kib() -> float:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def export_large(folder: Path) -> Path:
    """An LSTM whose weights, 21 MB, are read anew for every step."""
    import torch
    from torch import Tensor, nn

    from edgeseq_export import export

    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(FEATURES, UNITS)

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y, (h, c) = self.lstm(x, (h, c))
            return y[..., :8], h, c

    state = torch.zeros(1, 2, UNITS)
    axes = {"x": ("T", "B", None), "h": (None, "B", None), "c": (None, "B", None)}
    inputs = {"x": torch.randn(3, 2, FEATURES), "h": state, "c": state.clone()}
    pairs = {"h": "h_out", "c": "c_out"}
    return export(Large(), inputs, folder / "large.edgeseq", axes=axes, state=pairs, outputs=("y", *pairs.values()))


def show(report: dict[str, Any], throughput: Sequence[Throughput], fits: dict[str, RealTime | None], period: float) -> None:
    """The report as tables."""
    for model in dict.fromkeys(row.model for row in throughput):
        rows = [row for row in throughput if row.model == model]
        table = Table("streams", *WAYS, "pool / sessions", "pool / streams", title=f"Steps a second, {model}")
        for streams in dict.fromkeys(row.streams for row in rows):
            by_way = {row.way: row for row in rows if row.streams == streams}
            speeds = [f"{by_way[way].steps_per_second:,.0f}" if way in by_way else "-" for way in WAYS]
            ratios = [f"{by_way[way].ratio:.2f}" if way in by_way else "-" for way in WAYS[1:]]
            table.add_row(str(streams), *speeds, *ratios)
        console.print(table)
    table = Table(
        "way",
        "streams that fit",
        "p50 ms",
        "p99 ms",
        "late %",
        "KiB a stream",
        title=f"Real time, a frame every {period * 1e3:g} ms",
    )
    for way, fit in fits.items():
        memory = f"{report['memory_kib'][way]:,.0f}" if report["memory_kib"] else "-"
        figures = (
            (str(fit.streams), f"{fit.p50_ms:.1f}", f"{fit.p99_ms:.1f}", f"{fit.late_percent:.2f}") if fit else ("0", "-", "-", "-")
        )
        table.add_row(way, *figures, memory)
    console.print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=Path("build/vad.edgeseq"))
    parser.add_argument("--period", type=float, default=0.032, help="seconds between the frames of a stream")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of one try at real time; a tenth of it, of one round of throughput"
    )
    parser.add_argument("--sessions", type=int, default=1000, help="most sessions to open at a time")
    parser.add_argument("--no-large", action="store_true", help="leave out the large LSTM, which needs PyTorch to be exported")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    workshop = Workshop(options.bundle, options.sessions)
    memory = memory_per_stream(workshop)
    throughput = measure_throughput(options.bundle.stem, workshop, STREAMS, options.seconds / 10)
    fits = {}
    for way in WAYS:
        speed = max(row.steps_per_second for row in throughput if row.way == way)
        limit = int(1.1 * speed * options.period)
        fits[way] = largest_fit(
            workshop, way, min(limit, options.sessions) if way == "sessions" else limit, options.period, options.seconds
        )
    if not options.no_large:
        with tempfile.TemporaryDirectory() as folder:
            large = Workshop(export_large(Path(folder)), LARGE_SESSIONS)
            throughput += measure_throughput(f"LSTM {UNITS}", large, LARGE_STREAMS, options.seconds / 10)
    report = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": installed_versions(workshop.session),
        "period": options.period,
        "throughput": [asdict(row) for row in throughput],
        "real_time": {way: asdict(fit) if fit else None for way, fit in fits.items()},
        "memory_kib": memory,
    }
    show(report, throughput, fits, options.period)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
