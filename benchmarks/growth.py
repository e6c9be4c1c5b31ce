"""How time and memory grow with the time steps T, the batch B and the units H: whole sequences, and streamed in pieces.

    python benchmarks/growth.py            # four minutes; docs/growth.png and its part of docs/performance.md
    python benchmarks/growth.py --short    # fewer sizes

Two models: an LSTM, one node of ONNX Runtime, and an LSTM with layer normalisation, which is a Scan. Time: CPU time of the one
thread, the sizes in turns, medians of the rounds. Memory: a process for each size, the most at a time (VmHWM) beyond what it had
after a first short call. Each measure is fitted by a fixed part and one for each step, sequence or weight; the exponent is that of
the sizes where the second part is three times the first. Time for each weight rises where the weights outgrow a cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from filled_page import fill
from growth_fit import LEAST, Growth, growth
from rich.console import Console
from rich.table import Table

import edgeseq_runtime
from edgeseq_runtime.bench import inputs_at
from edgeseq_runtime.tensors.spec import Array

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
FEATURES, UNITS, STEPS = 64, 128, 100  # K; H of the sweeps over T and B; T of those over B and H
PIECE = 100  # steps of a streamed piece
ROUNDS, SPAN = 3, 0.02  # seconds of one measurement at least
SIZES = {
    "T": (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000),
    "B": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "H": (64, 128, 256, 512, 1024, 2048),
}
SCAN_UNITS = (64, 128, 256, 512, 1024)
MODELS = ("LSTM", "LayerNorm-LSTM")
MIB = 2**20
RESOLUTION = MIB / 4  # less than that more or less is not seen in a process

MEMORY = """
import json, sys
import numpy as np
import edgeseq_runtime

def memory(name="VmHWM"):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[name].split()[0]) * 1024

path, T, B, way = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
import edgeseq_runtime.backends.onnxruntime_backend
edgeseq_runtime.load
imported = memory("VmRSS")
session = edgeseq_runtime.load(path)
spec = session.interface.data_inputs[0]

def drawn(T):
    shape = [size if isinstance(size, int) else {"T": T, "B": B}[size] for size in spec.shape]
    return {spec.name: np.ones(shape, np.float32)}

if way == "whole":
    session.run(drawn(1))
    before, loaded = memory(), memory("VmRSS")
    session.run(drawn(T))
else:
    stream, piece = session.stream(B), int(sys.argv[5])
    for _ in range(3):
        stream.step(drawn(piece), copy=False)
    before, loaded = memory(), memory("VmRSS")
    for _ in range(T // piece):
        stream.step(drawn(piece), copy=False)
print(json.dumps({"more": memory() - before, "loaded": loaded - imported}))
"""


@dataclass(frozen=True)
class Sweep:
    """One measure of one model over one axis."""

    model: str
    axis: str  # T, B or H
    way: str  # whole or streamed
    measure: str  # microseconds, bytes
    sizes: tuple[int, ...]
    units: tuple[int, ...]  # what should count: the sizes themselves; for H, the weights
    values: tuple[float, ...]

    @property
    def growth(self) -> Growth | None:
        """The fit; None for memory that does not grow: a call may find some free in the process already."""
        least = RESOLUTION if self.measure == "bytes" else 0.0
        seen = [(unit, value) for unit, value in zip(self.units, self.values, strict=True) if value > least]
        return growth(*zip(*seen, strict=True)) if len(seen) >= LEAST else None


def weights_of(path: Path) -> int:
    """Elements of a model's weights, near enough: its bytes over 4."""
    bundle = edgeseq_runtime.open_bundle(path)
    return bundle.member_sizes[bundle.member("fp32")] // 4


def export_all(folder: Path, units: Sequence[int]) -> dict[tuple[str, int], Path]:
    """Both models at each number of units."""
    import torch

    from edgeseq import LayerNormLSTMCell, LSTMCell, Recurrent
    from edgeseq.streaming import StreamGraph
    from edgeseq_export import ExportRequest, export_request

    paths = {}
    for model, cell in (("LSTM", LSTMCell), ("LayerNorm-LSTM", LayerNormLSTMCell)):
        for H in units:
            if model == "LSTM" or max(SCAN_UNITS) >= H:
                torch.manual_seed(0)
                graph = StreamGraph(Recurrent(cell(FEATURES, H)))
                inputs = graph.inputs(torch.randn(5, 2, FEATURES))
                request = ExportRequest(graph, inputs, graph.axes(inputs), graph.state, graph.outputs)
                paths[model, H] = export_request(request, folder / f"{model}-{H}.edgeseq")
    return paths


def in_turns(calls: Mapping[int, Callable[[], Any]], rounds: int) -> list[float]:
    """Microseconds of a call of each size, the medians of the rounds."""
    repeats = {}
    for size, call in calls.items():
        call()
        start = time.thread_time()
        call()
        repeats[size] = max(1, round(SPAN / max(time.thread_time() - start, 1e-6)))
    found: dict[int, list[float]] = {size: [] for size in calls}
    for _ in range(rounds):
        for size, call in calls.items():
            start = time.thread_time()  # of the one thread that computes: others on the machine take nothing from it but cache
            for _ in range(repeats[size]):
                call()
            found[size].append((time.thread_time() - start) / repeats[size] * 1e6)
    return [float(np.median(times)) for times in found.values()]


def whole(session: edgeseq_runtime.Session, T: int, B: int) -> Callable[[], Any]:
    """A run over whole sequences."""
    interface = session.interface
    inputs = inputs_at(interface, example_of(session, T, B), T, B)
    data = {name: array for name, array in inputs.items() if name not in interface.state}
    return lambda: session.run(data)


def example_of(session: edgeseq_runtime.Session, T: int, B: int) -> dict[str, Array]:
    """Random inputs."""
    rng, sizes = np.random.default_rng(0), {"T": T, "B": B}
    shapes = {spec: [size if isinstance(size, int) else sizes[size] for size in spec.shape] for spec in session.inputs}
    return {spec.name: rng.standard_normal(shape).astype(np.float32) for spec, shape in shapes.items()}


def streamed(session: edgeseq_runtime.Session, T: int) -> Callable[[], Any]:
    """Pieces of a fixed length, one after another."""
    spec, stream = session.interface.data_inputs[0], session.stream()
    pieces = [{spec.name: example_of(session, min(PIECE, T), 1)[spec.name]}] * -(-T // PIECE)
    return lambda: [stream.step(piece, copy=False) for piece in pieces]


def memory(path: Path, T: int, B: int, way: str) -> dict[str, int]:
    """Bytes of one process."""
    command = (sys.executable, "-c", MEMORY, str(path), str(T), str(B), way, str(min(PIECE, T)))
    found: dict[str, int] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def sweeps(paths: Mapping[tuple[str, int], Path], sizes: Mapping[str, Sequence[int]], rounds: int) -> list[Sweep]:
    """Every measure of both models over the three axes."""
    rows = []
    for model in MODELS:
        path = paths[model, UNITS]
        session = edgeseq_runtime.load(path)
        T, B = tuple(sizes["T"]), tuple(sizes["B"])
        H = tuple(size for size in sizes["H"] if (model, size) in paths)
        of_size = {size: edgeseq_runtime.load(paths[model, size]) for size in H}
        weights = tuple(weights_of(paths[model, size]) for size in H)
        times = {
            ("T", "whole"): in_turns({size: whole(session, size, 1) for size in T}, rounds),
            ("T", "streamed"): in_turns({size: streamed(session, size) for size in T}, rounds),
            ("B", "whole"): in_turns({size: whole(session, STEPS, size) for size in B}, rounds),
            ("H", "whole"): in_turns({size: whole(of_size[size], STEPS, 1) for size in H}, rounds),
        }
        taken = {
            ("T", "whole"): [memory(path, size, 1, "whole")["more"] for size in T],
            ("T", "streamed"): [memory(path, size, 1, "streamed")["more"] for size in T],
            ("B", "whole"): [memory(path, 2 * STEPS, size, "whole")["more"] for size in B],
            ("H", "whole"): [memory(paths[model, size], STEPS, 1, "whole")["loaded"] for size in H],
        }
        of_axis = {"T": (T, T), "B": (B, B), "H": (H, weights)}
        for measure, found in (("microseconds", times), ("bytes", taken)):
            for (axis, way), values in found.items():
                rows.append(Sweep(model, axis, way, measure, *of_axis[axis], tuple(values)))
    return rows


UNIT_NAMES = {"T": "step", "B": "sequence", "H": "1,000 weights"}


def shown(row: Sweep) -> tuple[str, ...]:
    """A row of the table: what grows, from and to, the two parts, the exponent, the verdict."""
    fit, scale = row.growth, 1000 if row.axis == "H" else 1
    time_ = row.measure == "microseconds"
    ends = (f"{value / 1e3:,.2f} ms" if time_ else f"{value / MIB:,.1f} MiB" for value in (row.values[0], row.values[-1]))
    of = f"{row.axis} {row.sizes[0]:,} to {row.sizes[-1]:,}"
    name = f"{'time' if time_ else 'memory'}, {row.way}"
    if fit is None:
        return (row.model, name, of, *ends, "-", "-", "flat")
    each = f"{fit.each * scale:,.2f} µs" if time_ else f"{fit.each * scale / 1024:,.2f} KiB"
    return (row.model, name, of, *ends, f"{each} a {UNIT_NAMES[row.axis]}", f"{fit.exponent:.2f}", fit.verdict)


HEAD = ("model", "what", "over", "from", "to", "each", "exponent", "growth")
TEXT = """![time and memory over T, B and H](growth.png)

{table}

A fixed part and one for each step, sequence or weight, fitted; the exponent is that of the sizes where the second part is three
times the first. Sweeps over T at B=1 and {units} units, over B at T={steps} (memory: T={longer}), over H at T={steps}: the
weights grow with H (H + {features}). Streamed: pieces of {piece} steps. Memory over T and B is the most at a time beyond a
loaded session, arrays given included; over H, the session.{notes}

`python benchmarks/growth.py`."""


def notes(rows: Sequence[Sweep]) -> str:
    """What grows faster than it should."""
    faster = [row for row in rows if row.growth is not None and row.growth.verdict == "faster than linear"]
    if not faster:
        return " Nothing grows faster than linearly."
    why = "\nTime for each weight rises where the weights outgrow a cache." if any(row.axis == "H" for row in faster) else ""
    return "\nFaster than linearly: " + "; ".join(f"{row.model}, {shown(row)[1]} over {row.axis}" for row in faster) + "." + why


def page(rows: Sequence[Sweep]) -> str:
    """The part of docs/performance.md."""
    lines = [f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *map(shown, rows))]
    return TEXT.format(
        table="\n".join(lines), units=UNITS, steps=STEPS, longer=2 * STEPS, features=FEATURES, piece=PIECE, notes=notes(rows)
    )


def draw(rows: Sequence[Sweep], path: Path) -> None:
    """Six panels: time above, memory below; T, B and H from left to right."""
    figure, panels = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
    colours = dict(zip(MODELS, ("#1f5fa8", "#c8611a"), strict=True))
    for across, (axis, label) in enumerate((("T", "time steps T"), ("B", "sequences B"), ("H", "units H"))):
        for down, (measure, unit, scale) in enumerate((("microseconds", "ms", 1e3), ("bytes", "MiB", MIB))):
            panel = panels[down, across]
            for row in (row for row in rows if (row.axis, row.measure) == (axis, measure)):
                values = np.maximum(np.array(row.values) / scale, 0.01)
                dashes = "--" if row.way == "streamed" else "-"
                panel.plot(
                    row.sizes, values, dashes, color=colours[row.model], marker="o", markersize=3, label=f"{row.model}, {row.way}"
                )
                fit = row.growth
                if fit is not None and row.way == "whole":
                    fitted = (fit.fixed + fit.each * np.array(row.units)) / scale
                    panel.plot(row.sizes, fitted, color=colours[row.model], alpha=0.35, linewidth=4)
            panel.set(xscale="log", yscale="log", xlabel=label, ylabel=f"{'time' if down == 0 else 'memory'}, {unit}")
            panel.grid(True, which="major", alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
            if across == 0:
                panel.legend(fontsize=7, frameon=False)
    figure.suptitle(
        "Whole sequences and pieces of 100 steps; wide lines: a fixed part and one for each step, sequence or weight", fontsize=9
    )
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer sizes and rounds; writes no page")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "growth.json")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs")
    given = parser.parse_args()
    sizes = {"T": (10, 100, 1000, 10_000), "B": (1, 4, 16, 64), "H": (64, 128, 256)} if given.short else SIZES
    with tempfile.TemporaryDirectory() as folder:
        rows = sweeps(export_all(Path(folder), sizes["H"]), sizes, 2 if given.short else ROUNDS)
    if not given.short:
        given.json.write_text(
            json.dumps([{**asdict(row), "fit": row.growth and asdict(row.growth)} for row in rows], indent=1) + "\n"
        )
    table = Table(*HEAD, title="Growth")
    for row in rows:
        table.add_row(*shown(row))
    Console().print(table)
    if not given.short:
        given.json.write_text(
            json.dumps([{**asdict(row), "fit": row.growth and asdict(row.growth)} for row in rows], indent=1) + "\n"
        )
        draw(rows, given.docs / "growth.png")
        fill(given.docs / "performance.md", {"growth": page(rows)})


if __name__ == "__main__":
    main()
