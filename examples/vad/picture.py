"""Draw what a voice-activity model heard: waveform and segments above, probability and thresholds below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from clip import FRAME_SECONDS, RATE, Clip
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from segments import Rule, Segment

INK, QUIET, GRID = "#1f2933", "#9aa5b1", "#e4e7eb"
FOUND, PROBABILITY, RELEASE = "#0f9d76", "#2f5fd0", "#d97706"

LAYOUT: dict[str, Any] = {
    "height_ratios": [5, 1.25, 3.6],
    "hspace": 0.1,
    "left": 0.075,
    "right": 0.985,
    "top": 0.86,
    "bottom": 0.085,
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw(
    path: Path,
    clip: Clip,
    probabilities: npt.NDArray[np.floating],
    found: Sequence[Segment],
    rule: Rule,
    *,
    title: str,
    subtitle: str,
) -> None:
    """Save a picture 1600 pixels wide."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(16, 7.2), dpi=100, facecolor="white")
        wave, bands, curve = figure.subplots(3, 1, sharex=True, gridspec_kw=LAYOUT)
        _draw_waveform(wave, clip, found)
        _draw_bands(bands, clip, found)
        _draw_probability(curve, clip, probabilities, found, rule)
        figure.align_ylabels((wave, curve))
        figure.text(0.075, 0.945, title, fontsize=19, fontweight="bold")
        figure.text(0.075, 0.9, subtitle, fontsize=12.5, color="#52606d")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def _draw_waveform(axes: Axes, clip: Clip, found: Sequence[Segment]) -> None:
    """The envelope of every 10 ms, in colour where speech was found."""
    hop = RATE // 100
    pieces = clip.samples[: len(clip.samples) // hop * hop].reshape(-1, hop)
    low, high = pieces.min(axis=1), pieces.max(axis=1)
    seconds = (np.arange(len(pieces)) + 0.5) * hop / RATE
    spoken = np.any([(seconds >= start) & (seconds < end) for start, end in found], axis=0) if found else seconds < 0
    axes.fill_between(seconds, low, high, color=QUIET, linewidth=0.4, step="mid")
    axes.fill_between(seconds, low, high, where=spoken, color=FOUND, linewidth=0.4, step="mid")
    reach = 1.15 * float(np.abs(clip.samples).max())
    axes.set(ylim=(-reach, reach), yticks=[-0.5, 0, 0.5], ylabel="amplitude")
    for gap, kind in _gaps(clip):
        axes.text((gap.start + gap.end) / 2, -0.93 * reach, kind, ha="center", color="#616e7c", fontsize=9.5, style="italic")
    axes.axhline(0, color=GRID, linewidth=0.8, zorder=0)
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_visible(False)


def _draw_bands(axes: Axes, clip: Clip, found: Sequence[Segment]) -> None:
    """Labelled and found segments, one line each."""
    for row, (segments, color) in enumerate(((found, FOUND), (clip.labels, "#7b8794"))):
        axes.broken_barh([(start, end - start) for start, end in segments], (row + 0.14, 0.72), color=color)
    for start, end in found:
        axes.text((start + end) / 2, 0.5, f"{start:.2f} – {end:.2f}", ha="center", va="center", color="white", fontsize=9.5)
    for (start, end), name in zip(clip.labels, clip.names, strict=True):
        axes.text((start + end) / 2, 1.5, name, ha="center", va="center", color="white", fontsize=9.5)
    axes.set(ylim=(0, 2), yticks=[0.5, 1.5], yticklabels=["found", "labelled"])
    axes.tick_params(axis="both", length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _draw_probability(
    axes: Axes, clip: Clip, probabilities: npt.NDArray[np.floating], found: Sequence[Segment], rule: Rule
) -> None:
    edges = np.arange(len(probabilities) + 1) * FRAME_SECONDS
    for start, end in found:
        axes.axvspan(start, end, color=FOUND, alpha=0.09, linewidth=0)
    axes.stairs(probabilities, edges, color=PROBABILITY, fill=True, alpha=0.18)
    axes.stairs(probabilities, edges, color=PROBABILITY, linewidth=1.3)
    for level, name, color in ((rule.threshold, "begins", INK), (rule.release, "ends", RELEASE)):
        axes.axhline(level, color=color, linewidth=1, linestyle=(0, (5, 4)))
        axes.text(clip.seconds, level + 0.02, f"{name} {level:g} ", ha="right", va="bottom", color=color, fontsize=10)
    axes.set(
        xlim=(0, clip.seconds),
        ylim=(0, 1.03),
        yticks=[0, 0.25, 0.5, 0.75, 1],
        ylabel="probability of speech",
        xlabel="seconds",
        xticks=np.arange(0, clip.seconds, 2),
    )
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _gaps(clip: Clip) -> list[tuple[Segment, str]]:
    """What lies between the labels, and whether it is silence or noise."""
    starts = [0.0, *(label.end for label in clip.labels)]
    ends = [*(label.start for label in clip.labels), clip.seconds]
    gaps = [Segment(start, end) for start, end in zip(starts, ends, strict=True) if end - start > 0.3]
    return [(gap, "noise" if _rms(clip, gap) > 0.01 else "silence") for gap in gaps]


def _rms(clip: Clip, segment: Segment) -> float:
    samples = clip.samples[int(segment.start * RATE) : int(segment.end * RATE)]
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))
