"""The picture of docs/performance.md: every runtime's time over edgeseq's, a row a workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from peers.statistics import ratios

mpl.use("Agg")

import matplotlib.pyplot as plt

# Okabe and Ito's colours, which people with any colour vision tell apart; beside them the shapes differ.
STYLES = {
    "edgeseq": ("black", "D"),
    "edgeseq_native": ("black", "X"),
    "edgeseq_tuned": ("black", "P"),
    "edgeseq_int8": ("black", "*"),
    "onnxruntime_plain": ("#999999", "D"),
    "torch_eager": ("#D55E00", "s"),
    "torch_compile": ("#D55E00", "x"),
    "openvino_cpu": ("#0072B2", "o"),
    "tract_cpu": ("#009E73", "^"),
    "ncnn_cpu": ("#CC79A7", "v"),
    "mnn_cpu": ("#E69F00", "<"),
    "litert": ("#56B4E9", ">"),
    "executorch_xnnpack": ("#B8A800", "p"),
}
HEIGHT = 0.5  # of a row's marks, of the distance between rows
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


def draw(records: Sequence[Mapping[str, Any]], titles: Mapping[str, str], path: Path) -> Path:
    """Medians with the range of 10 to 90 % of the rounds, on a logarithmic axis; edgeseq is at 1, a grey bar is the limit."""
    figure, axes = plt.subplots(figsize=(10, 1.6 + 0.5 * len(records)), layout="constrained")
    shown: dict[str, Any] = {}
    for position, record in enumerate(records):
        ours = record["candidates"].get("edgeseq", {}).get("microseconds")
        if not ours:
            continue
        limit = ratios(record["limit"]["microseconds"], ours).median
        shown["limit"] = axes.plot([limit], [position], "|", color="#666666", markersize=17, markeredgewidth=2.5, zorder=1)[0]
        for place, (name, (colour, marker)) in enumerate(STYLES.items()):
            if name not in record["candidates"]:
                continue
            # Beside each other a little, so that none hides another.
            height = position + HEIGHT * (place / (len(STYLES) - 1) - 0.5)
            found = ratios(record["candidates"][name]["microseconds"], ours)
            shown[name] = axes.errorbar(
                [found.median],
                [height],
                xerr=[[found.median - found.low], [found.high - found.median]],
                color=colour,
                marker=marker,
                markersize=9 if marker == "*" else 6.5,
                linestyle="none",
                linewidth=1,
                zorder=3 if colour == "black" else 2,
            )
    axes.axvline(1, color="black", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in TICKS if low <= tick <= high], [f"{tick:g}" for tick in TICKS if low <= tick <= high])
    axes.minorticks_off()
    axes.set_yticks(range(len(records)), [record["title"] for record in records])
    axes.set_ylim(len(records) - 0.4, -0.6)
    axes.grid(axis="x", linewidth=0.4)
    axes.set_xlabel("time over edgeseq's: left is faster, right is slower")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    order = [name for name in (*STYLES, "limit") if name in shown]
    labels = [titles.get(name, name).replace("`", "") for name in order]
    figure.legend([shown[name] for name in order], labels, loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
