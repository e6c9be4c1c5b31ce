"""Stream speech through the exported bundle, frame by frame, in a process that can't import PyTorch.

Run: python examples/vad/stream_vad.py [build/vad.edgeseq] [--picture build/vad.png]
"""

# ruff: noqa: E402

from __future__ import annotations

import sys

sys.modules["torch"] = None  # type: ignore[assignment]  # whatever imports torch from here on fails with ImportError

import argparse
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from clip import Clip, read_clip
from latency import Contender, EdgeseqStream, Latency, VendorStream, agreement, interleaved
from picture import draw
from rich.console import Console
from rich.progress import track
from rich.table import Table
from segments import VENDOR_RULE, Segment, false_alarms, find_segments, overlap
from vendor import MAIN

from edgeseq_runtime import Session, load

OURS = "edgeseq stream"
OTHERS = ("silero_vad_16k_op15.onnx", "silero_vad_16k_sequence.onnx")  # the vendor's 16 kHz-only files
TOLERANCE = 1e-5

console = Console(width=80, highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="Stream speech through the exported voice-activity bundle.")
    parser.add_argument("bundle", nargs="?", type=Path, default=Path("build/vad.edgeseq"))
    parser.add_argument("--picture", type=Path, default=Path("build/vad.png"))
    parser.add_argument("--passes", type=int, default=10, help="passes over the clip that are timed")
    arguments = parser.parse_args()

    clip = read_clip()
    session = load(arguments.bundle, threads=1)
    console.print(f"Streaming {clip.seconds:.1f} s of speech, 32 ms a frame, on one thread; torch is blocked.")

    probabilities, taken = stream_clip(session, clip)
    whole = session.run({"x": clip.frames()[:, None]})["probability"][:, 0].astype(np.float32)
    difference = float(np.abs(whole - probabilities).max())
    console.print(f"Streamed against whole-sequence: largest difference {difference:.1e}")
    console.print(f"Real-time factor: {taken / clip.seconds:.5f} ({clip.seconds / taken:.0f} times faster than speech)\n")

    found = find_segments(probabilities, len(clip.samples), rule=VENDOR_RULE)
    console.print(segment_table(clip, found))
    match = overlap(found, clip.labels)
    alarms = false_alarms(found, clip.labels)
    console.print(
        f"Of the labelled time {match.recall:.1%} was found (labels hold pauses), of the found time\n"
        f"{match.precision:.1%} is labelled; {len(alarms)} false alarms in silence and noise.\n"
    )

    vendors = {name: VendorStream(name) for name in (MAIN, *OTHERS)}
    contenders: dict[str, Contender] = {OURS: EdgeseqStream(session.stream(batch=1)), **vendors}
    apart = agreement(contenders, clip.frames())
    if max(apart.values()) > TOLERANCE or difference > TOLERANCE:
        console.print(f"[bold red]The models disagree by more than {TOLERANCE:g}: {apart}; nothing is timed.[/]")
        return 1
    latencies = interleaved(
        contenders,
        clip.frames(),
        passes=arguments.passes,
        track=lambda turns: track(turns, "Timing", console=console, transient=True),
    )
    console.print(latency_table(latencies, apart))
    ratio = latencies[OURS].median / latencies[MAIN].median
    console.print(f"A frame takes {ratio:.2f} times as long as with the vendor's {MAIN}.\n")

    draw(
        arguments.picture,
        clip,
        probabilities,
        found,
        VENDOR_RULE,
        title="Speech found frame by frame, without PyTorch",
        subtitle=(
            f"{latencies[OURS].median:.0f} µs for a frame of 32 ms on one CPU thread, {ratio:.2f} × the vendor's ONNX   ·   "
            f"{match.recall:.0%} of the labelled time found   ·   {len(alarms)} false alarms in silence and noise"
        ),
    )
    console.print(f"Picture: {arguments.picture}")
    return 0


def stream_clip(session: Session, clip: Clip) -> tuple[npt.NDArray[np.float32], float]:
    """Probability of each frame, and the seconds it took to stream them all."""
    stream = session.stream(batch=1)
    frames = clip.frames()
    stream.step({"x": frames[:1, None]})  # the first step makes the stream's buffers
    stream.reset()
    start = time.perf_counter()
    heard = [stream.step({"x": frame[None, None]})["probability"].item() for frame in frames]
    return np.array(heard, np.float32), time.perf_counter() - start


def segment_table(clip: Clip, found: list[Segment]) -> Table:
    table = Table(title="Speech, in seconds", title_justify="left", width=80)
    for name in ("clip", "labelled", "found"):
        table.add_column(name)
    for name, label in zip(clip.names, clip.labels, strict=True):
        heard = [segment for segment in found if segment.end > label.start and segment.start < label.end]
        table.add_row(name, _span(label), "   ".join(map(_span, heard)))
    return table


def latency_table(latencies: dict[str, Latency], apart: dict[str, float]) -> Table:
    table = Table(title="Microseconds a frame, in turns in one process", title_justify="left", width=80)
    table.add_column("model")
    for name in ("median", "p90", "p99", "differs by"):
        table.add_column(name, justify="right")
    for name, latency in latencies.items():
        figures = [*(f"{value:.1f}" for value in latency), "" if name == OURS else f"{apart[name]:.0e}"]
        table.add_row(name, *figures, style="bold" if name == OURS else "")
    return table


def _span(segment: Segment) -> str:
    return f"{segment.start:6.2f} - {segment.end:5.2f}"


if __name__ == "__main__":
    sys.exit(main())
