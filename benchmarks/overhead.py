"""What a call of this library costs beside the same call of ONNX Runtime alone.

    python benchmarks/overhead.py                   # needs build/vad.edgeseq from `make demo`
    python benchmarks/overhead.py --rounds 200      # shorter

One ONNX Runtime session, called in turn six ways, and edgeseq's own kernels three, a few calls each time, round by round:

    bound            `run_with_iobinding` with the states of one call bound as the next one's inputs; no input is written
    step, own        `Stream.step(frame, copy=False)`: checks, writes the input, the call, and notes its time
    step             `Stream.step(frame)`: the same, and the outputs copied
    raw run          `InferenceSession.run(None, feeds)`
    run              `Session.run(feeds)`
    run, state out   `Session.run` with the state left out, which makes zeros of it
    kernels          the same model on device `native`: a bound call of edgeseq's own kernels
    step, kernels    `Stream.step(frame, copy=False)` there
    run, kernels     `Session.run(feeds)` there

What is compared is the difference to the raw call of the same round. Bytes are what tracemalloc sees over a thousand steps.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from filled_page import fill
from rich.console import Console
from rich.table import Table

import edgeseq_runtime
from edgeseq_runtime.bench import inputs_at
from edgeseq_runtime.tensors.spec import Array

sys.path.append(str(Path(__file__).parent.parent / "tests"))

import overhead_models  # type: ignore[import-not-found]
import runtime_models  # type: ignore[import-not-found]

HERE = Path(__file__).parent
ROUNDS, CALLS, STEPS = 1000, 20, 1000
BESIDE = {
    "step, own": "bound",
    "step": "bound",
    "run": "raw run",
    "run, state out": "raw run",
    "step, kernels": "kernels",
    "run, kernels": "kernels",
}
TEXT = """A call like one before it is recognised by its names, dtypes and shapes and not checked anew; what lengths hold is
looked at each time. A thousand steps with `copy=False` leave {stay} bytes behind and hold at most {most} at a time (tracemalloc).
After a model that fills the processor's cache, as the voice-activity network does, the same lines of Python take two to three
times as long: 4 to 10 µs in runs at other times of the day.

ONNX Runtime {version}, one thread, {machine}: `python benchmarks/overhead.py`."""
Call = Callable[[int], Any]  # given 0 and 1 in turn


@dataclass(frozen=True)
class Row:
    """One model's figures: microseconds a call, medians over the rounds."""

    model: str
    inputs: int  # but for the state's
    states: int
    microseconds: dict[str, float]
    beside: dict[str, tuple[float, float]]  # way -> the difference to the raw call: median, and 90th percentile of the rounds
    traced: dict[str, int]  # bytes over a thousand steps without copy: those that stay, and the most at a time


def bundles(folder: Path, vad: Path) -> Iterator[tuple[str, Path]]:
    """The models, by name."""
    small = {
        "LSTM 128": runtime_models.lstm(64, 128),
        "LSTM 32, lengths": runtime_models.lstm(32, 32, lengths=True),
        "LSTM 3 x 32": overhead_models.stacked_lstm(32, 32, 3),
    }
    for name, model in small.items():
        yield name, model.write(folder / f"{model.name}.edgeseq", ({"T": 1, "B": 1},), draws=1)
    if vad.exists():
        yield "voice activity", vad


def bound_calls(session: Any, inputs: Mapping[str, Array], outputs: Mapping[str, Array], state: Mapping[str, str]) -> list[Any]:
    """Two bindings of ONNX Runtime's own; each reads the state that the other writes."""
    kept = [{name: inputs[name].copy() for name in state} for _ in range(2)]
    bindings = []
    for read, written in (kept, kept[::-1]):
        binding = session.io_binding()
        for name, array in {**inputs, **read}.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in {**outputs, **{state[name]: array for name, array in written.items()}}.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        binding.arrays = (read, written, inputs, outputs)  # which must outlive it
        bindings.append(binding)
    return bindings


def ways(path: Path) -> tuple[edgeseq_runtime.Session, dict[str, Call]]:
    """All ways of one model, at batch 1 and one step."""
    session = edgeseq_runtime.load(path)
    interface = session.interface
    example = edgeseq_runtime.open_bundle(path).reference()[0].draw_inputs(0)
    feeds = inputs_at(interface, example, interface.chunk, 1)
    frame = {name: array for name, array in feeds.items() if name not in interface.state}
    raw = session._model._session  # the same session: another one's weights would be elsewhere in memory
    bindings = bound_calls(raw, feeds, session.run(feeds), interface.state)
    stream = session.stream()
    own = edgeseq_runtime.load(path, device="native")
    own_stream = own.stream()
    kept = own.run(feeds)
    own_call = own._model.bind(feeds, {name: array.copy() for name, array in kept.items()})
    return session, {
        "bound": lambda turn: raw.run_with_iobinding(bindings[turn]),
        "step, own": lambda _: stream.step(frame, copy=False),
        "step": lambda _: stream.step(frame),
        "raw run": lambda _: raw.run(None, feeds),
        "run": lambda _: session.run(feeds),
        "run, state out": lambda _: session.run(frame),
        "kernels": lambda _: own_call(),
        "step, kernels": lambda _: own_stream.step(frame, copy=False),
        "run, kernels": lambda _: own.run(feeds),
    }


def timed(call: Call) -> float:
    """Microseconds a call."""
    start = time.perf_counter_ns()
    for _ in range(CALLS // 2):
        call(0)
        call(1)
    return (time.perf_counter_ns() - start) / CALLS / 1e3


def traced(call: Call) -> dict[str, int]:
    """The least of some windows: Python's lists of freed objects fill up once."""
    windows = []
    tracemalloc.start()
    try:
        for _ in range(4):
            call(0)
            base = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            for _ in range(STEPS):
                call(0)
            now, peak = tracemalloc.get_traced_memory()
            windows.append({"stay": now - base, "most": peak - base})
    finally:
        tracemalloc.stop()
    return min(windows, key=lambda window: tuple(window.values()))


def measure(name: str, path: Path, rounds: int) -> Row:
    """All ways in turn, each round starting with another."""
    session, calls = ways(path)
    order = list(calls)
    for call in calls.values():
        timed(call)
    found: dict[str, list[float]] = {way: [] for way in order}
    for turn in range(rounds):
        start = turn % len(order)
        for way in order[start:] + order[:start]:
            found[way].append(timed(calls[way]))
    times = {way: np.array(values) for way, values in found.items()}
    beside = {way: np.quantile(times[way] - times[raw], (0.5, 0.9)) for way, raw in BESIDE.items()}
    return Row(
        model=name,
        inputs=len(session.interface.data_inputs),
        states=len(session.state),
        microseconds={way: round(float(np.median(values)), 2) for way, values in times.items()},
        beside={way: (round(float(low), 2), round(float(high), 2)) for way, (low, high) in beside.items()},
        traced=traced(calls["step, own"]),
    )


def page(rows: Sequence[Row]) -> str:
    """The part of docs/performance.md."""
    head = ("model", "state tensors", "bound call", *(f"`{name}`" for name in ("step(copy=False)", "step")))
    head = (
        *head,
        "raw `run`",
        "`Session.run`",
        "the same, state left out",
        "own kernels, bound call",
        "`step(copy=False)` there",
        "`Session.run` there",
    )
    lines = [
        "Microseconds a call, batch 1 and one step; in brackets what the library adds to ONNX Runtime's own call, the median",
        "of the differences, round by round; in the last two columns, to a bound call of edgeseq's own kernels. The raw bound call",
        "writes no input.",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    for row in rows:
        us = row.microseconds
        beside = {way: f"{us[way]:.1f} (+{row.beside[way][0]:.1f})" for way in BESIDE}
        cells = (row.model, row.states, f"{us['bound']:.1f}", beside["step, own"], beside["step"])
        cells = (*cells, f"{us['raw run']:.1f}", beside["run"], beside["run, state out"])
        cells = (*cells, f"{us['kernels']:.1f}", beside["step, kernels"], beside["run, kernels"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    stay, most = (max(row.traced[which] for row in rows) for which in ("stay", "most"))
    return "\n".join([*lines, "", TEXT.format(stay=stay, most=most, version=onnxruntime.__version__, machine=platform.machine())])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--vad", type=Path, default=HERE.parent / "build" / "vad.edgeseq")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "overhead.json")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "performance.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(name, path, given.rounds) for name, path in bundles(Path(folder), given.vad)]
    table = Table("model", *rows[0].microseconds, title="Microseconds a call, and beside the raw call")
    for row in rows:
        cells = (
            f"{us:.1f}" + (f" +{row.beside[way][0]:.1f} (p90 {row.beside[way][1]:.1f})" if way in row.beside else "")
            for way, us in row.microseconds.items()
        )
        table.add_row(row.model, *cells)
    Console().print(table)
    report = {"onnxruntime": onnxruntime.__version__, "machine": platform.machine(), "rows": [asdict(row) for row in rows]}
    given.json.write_text(json.dumps(report, indent=1) + "\n")
    fill(given.page, {"overhead": page(rows)})


if __name__ == "__main__":
    main()
