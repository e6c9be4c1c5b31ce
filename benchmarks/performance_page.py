"""The part of docs/performance.md on other runtimes, and its table in the terminal, from what `benchmarks/peers` measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peers.statistics import ratios, spread
from rich.table import Table

Record = dict[str, Any]
TITLES = {
    "edgeseq": "edgeseq",
    "edgeseq_tuned": "edgeseq, tuned",
    "edgeseq_int8": "edgeseq, int8",
    "onnxruntime_plain": "ONNX Runtime, plain run",
    "torch_eager": "PyTorch eager",
    "torch_compile": "torch.compile",
    "openvino_cpu": "OpenVINO",
    "tract_cpu": "tract",
    "ncnn_cpu": "ncnn",
    "mnn_cpu": "MNN",
    "litert": "LiteRT",
    "executorch_xnnpack": "ExecuTorch",
}


def terminal_table(record: Record) -> Table:
    """One workload."""
    threads = f"{record['threads']} thread{'s' if record['threads'] > 1 else ''}"
    made = Table(title=f"{record['title']}, {threads}", title_justify="left")
    for column in (
        "runtime",
        "median µs",
        "10–90 %",
        "best",
        "over edgeseq",
        "over limit",
        "load ms",
        "first ms",
        "peak MiB",
        "MB",
    ):
        made.add_column(column, justify="left" if column == "runtime" else "right")
    ours = record["candidates"].get("edgeseq", {}).get("microseconds")
    for name, found in sorted(record["candidates"].items(), key=lambda pair: spread(pair[1]["microseconds"]).median):
        times = found["microseconds"]
        middle = spread(times)
        made.add_row(
            TITLES[name],
            f"{middle.median:.1f}",
            f"{middle.low:.1f}–{middle.high:.1f}",
            f"{found['best']:.1f}",
            f"{ratios(times, ours).median:.2f}" if ours else "",
            f"{ratios(times, record['limit']['microseconds']).median:.2f}",
            f"{found['load_ms']:.0f}",
            f"{found['first_ms']:.1f}",
            f"{found['peak_mib']:.0f}",
            f"{found['bytes'] / 1e6:.1f}",
        )
    for name, why in record["failed"].items():
        made.add_row(TITLES[name], why[:80], style="dim")
    limit = spread(record["limit"]["microseconds"])
    made.add_row(f"limit ({record['limit']['bound']})", f"{limit.median:.1f}", f"{limit.low:.1f}–{limit.high:.1f}")
    return made


def write_page(results: Path) -> Path:
    """Fill the page."""
    return results
