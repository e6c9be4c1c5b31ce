"""Export the voice-activity network, show what its graph holds, and prove that it computes what PyTorch computes.

Run: python examples/vad/export_vad.py [build/vad.edgeseq]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from model import request
from rich.console import Console
from rich.table import Table
from vendor import MAIN, vendor_file

from edgeseq_export import export_request
from edgeseq_runtime import ParityReport, measure_parity, open_bundle

console = Console(width=80, highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="Export the voice-activity network to a bundle.")
    parser.add_argument("bundle", nargs="?", type=Path, default=Path("build/vad.edgeseq"))
    path = parser.parse_args().bundle

    start = time.perf_counter()
    with console.status("Exporting and checking the graph against PyTorch"):
        export_request(request(), path)
    console.print(f"Exported {path} ({path.stat().st_size / 1e6:.1f} MB) in {time.perf_counter() - start:.1f} s\n")

    ours = census(onnx.load_from_string(open_bundle(path).model()))
    console.print(census_table(ours, census(onnx.load(vendor_file(MAIN)))), "")

    with console.status("Measuring parity"):
        report = measure_parity(path)
    console.print(parity_table(report))
    console.print("[bold green]Parity passed.[/]\n" if report.passed else "[bold red]Parity FAILED.[/]\n")
    return 0 if report.passed else 1


def census(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes of each operator, those inside branches and loops included."""
    return Counter(node.op_type for node in _nodes(model.graph))


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def census_table(ours: Counter[str], theirs: Counter[str]) -> Table:
    """All operators of ours; of the vendor's also the most frequent others."""
    shown = sorted(ours, key=lambda op: (-ours[op], op))
    others = [op for op, _ in theirs.most_common() if op not in ours]
    table = Table(title="Nodes of the graph", title_justify="left", width=80)
    table.add_column("operator")
    table.add_column("edgeseq", justify="right")
    table.add_column(f"vendor's {MAIN}", justify="right")
    for op in [*shown, *others[:5]]:
        table.add_row(op, str(ours[op]), str(theirs[op]), style="bold" if op == "LSTM" else "")
    rest = others[5:]
    table.add_row(f"{len(rest)} others", "0", str(sum(theirs[op] for op in rest)), end_section=True)
    table.add_row("all", str(ours.total()), str(theirs.total()), style="bold")
    return table


def parity_table(report: ParityReport) -> Table:
    """The worst of all sizes, for each output and mode."""
    table = Table(title="Distance from float64, in PyTorch's own rounding errors", title_justify="left", width=80)
    for name in ("output", "mode"):
        table.add_column(name)
    for name in ("sizes", f"k (<= {report.gate.k:g})", f"k999 (<= {report.gate.k999:g})", "max error"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for output, mode in dict.fromkeys((row.output, row.mode) for row in report.rows):
        rows = [row for row in report.rows if (row.output, row.mode) == (output, mode)]
        k, k999, error = (max(getattr(row, name) for row in rows) for name in ("k", "k999", "max_abs"))
        verdict = "fail" if any(row.verdict == "fail" for row in rows) else rows[0].verdict
        figures = (str(len(rows)), f"{k:.2f}", f"{k999:.2f}", f"{error:.1e}")
        table.add_row(output, mode, *figures, verdict, style="red" if verdict == "fail" else "")
    return table


if __name__ == "__main__":
    sys.exit(main())
