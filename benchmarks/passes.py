"""What each graph pass of an export is worth, workload by workload.

    python benchmarks/passes.py                  # about four minutes
    python benchmarks/passes.py --rounds 20      # shorter

Every workload is exported and proved with all passes, and finished again with each pass left out, and with none. Graphs that are
the same are timed once. All graphs of a workload take turns in ONNX Runtime, and each turn is compared with the full one's beside
it. What a native node would hide is measured as a row of its own: there the Scan is kept.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from filled_page import fill
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import edgeseq_runtime
from edgeseq.generation import BeamSearch, EncoderDecoderWriter, Greedy
from edgeseq_export import ExportNotice, ExportRequest, export_request
from edgeseq_export.exporting import serialise
from edgeseq_export.graph import finish
from edgeseq_export.passes import PASSES
from edgeseq_export.subject import examine
from edgeseq_export.trace import trace
from edgeseq_recipes.experiments.letters_to_phonemes import network
from edgeseq_runtime.tensors.spec import Array

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from written_out_models import CELLS, OTHERS, Sequence as Layer  # type: ignore[import-not-found]  # noqa: I001

HERE = Path(__file__).parent
ROUNDS = 60
FEATURES, HIDDEN, STEPS = 64, 128, 100  # I, H, T; one sequence
LETTERS, LONGEST = 12, 20
TOLERANCE = 1e-4  # of outputs between two graphs, of max(1, largest value)
KEPT = "recognise-cell"
NONE = "none"


@dataclass(frozen=True)
class Workload:
    """Something to export, and passes that are left out of it throughout."""

    name: str
    make: Callable[[], ExportRequest]
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A workload's figures."""

    name: str
    nodes: tuple[int, int]  # with all passes and with none, those of bodies included
    microseconds: float  # a run, with all passes
    ratios: dict[str, float]  # pass left out -> median of the rounds' time without it over that with all; those alone that matter


def layer(cell: Callable[[int, int], nn.Module], *, lengths: bool = False, reverse: bool = False) -> ExportRequest:
    """A user's cell over x (T, B, I)."""
    inputs = {"x": torch.randn(5, 2, FEATURES)}
    axes: dict[str, tuple[str | None, ...]] = {"x": ("T", "B", None)}
    if lengths:
        inputs["lengths"], axes["lengths"] = torch.tensor([5, 3]), ("B",)
    return ExportRequest(Layer(cell(FEATURES, HIDDEN), reverse=reverse), inputs, axes)


def search(kind: Callable[[Any], Any]) -> ExportRequest:
    """A search over the tokens of a decoder with attention, in one Loop."""
    from edgeseq_export import generation_request

    model = network("attention", 96).eval().requires_grad_(False)
    inputs = {"source": torch.randint(1, 20, (LETTERS, 1)), "lengths": torch.tensor([LETTERS])}
    axes = {"source": ("S", "B"), "lengths": ("B",)}
    return generation_request(kind(EncoderDecoderWriter(model)), inputs, axes=axes, longest=LONGEST, name="search")


def workloads() -> list[Workload]:
    """Cells written out in their step, as nodes and as Scans; two of them with lengths, backwards; two searches."""
    found = [Workload(name, lambda cell=cell: layer(cell)) for name, (cell, _) in CELLS.items()]  # type: ignore[misc]
    found += [Workload(f"{w.name}, kept a Scan", w.make, (KEPT,)) for w in found]
    found += [Workload(name, lambda cell=cell: layer(cell)) for name, cell in OTHERS.items()]  # type: ignore[misc]
    backwards = CELLS["LSTM, fused gates"][0], OTHERS["gated, softsign of a deep input"]
    found.append(Workload("LSTM, fused gates, backwards, lengths", lambda: layer(backwards[0], lengths=True, reverse=True)))
    found.append(Workload("gated, softsign, backwards, lengths", lambda: layer(backwards[1], lengths=True, reverse=True)))
    found.append(Workload("greedy search with attention", lambda: search(Greedy)))
    found.append(Workload("beam search with attention", lambda: search(lambda writer: BeamSearch(writer, 4))))
    return found


def graphs(workload: Workload) -> tuple[dict[str, bytes], dict[str, Array]]:
    """The full graph under no name, every other one by the pass that it is without, and inputs."""
    torch.manual_seed(0)
    request = replace(workload.make(), without=workload.without)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportNotice)
        bundle = edgeseq_runtime.open_bundle(export_request(request, Path(folder) / "graph.edgeseq"))
        full, outputs = bundle.model(), bundle.manifest.outputs
    subject = examine(request)
    traced = trace(subject, subject.trace_sizes)
    found = {"": full}
    for name in (*(name for name in PASSES if name not in workload.without), NONE):
        without = tuple(PASSES) if name == NONE else (*workload.without, name)
        other = replace(subject, request=replace(request, without=without))
        found[name] = serialise(finish(replace(traced, model=traced.model.clone()), other, outputs).model)
    sizes = {axis: 1 if axis == "B" else LETTERS if axis == "S" else STEPS for axis in request.sizes()}
    drawn = {name: tensor.numpy() for name, tensor in subject.draws()(sizes).items()}
    if "lengths" in drawn:
        drawn["lengths"][:] = sizes.get("T", LETTERS)
    if "longest" in drawn:
        drawn["longest"] = np.array(LONGEST)
    return {name: data for name, data in found.items() if not name or data != full}, drawn


def session(data: bytes) -> onnxruntime.InferenceSession:
    """On one thread of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def count(graph: onnx.GraphProto) -> int:
    """Nodes, those of bodies included."""
    return len(graph.node) + sum(count(a.g) for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)


def measure(workload: Workload, rounds: int) -> Row:
    """Export, compare, and let the graphs take turns.

    Raises:
        ValueError: two graphs do not compute the same.
    """
    data, feeds = graphs(workload)
    sessions = {name: session(graph) for name, graph in data.items()}
    wanted = sessions[""].run(None, feeds)
    for name, each in sessions.items():
        for a, b in zip(each.run(None, feeds), wanted, strict=True):
            if not np.abs(a - b).max(initial=0) <= TOLERANCE * max(1.0, float(np.abs(b).max(initial=0))):
                raise ValueError(f"{workload.name}: the graph without {name} gives something else; one of them is wrong")
    times = list(turns(sessions, feeds, rounds))
    nodes = [count(onnx.load_from_string(data.get(name, data[""])).graph) for name in ("", NONE)]
    return Row(
        workload.name,
        (nodes[0], nodes[1]),
        round(median(each[""] for each in times) * 1e6, 1),
        {name: round(median(each[name] / each[""] for each in times), 3) for name in data if name},
    )


def turns(
    sessions: Mapping[str, onnxruntime.InferenceSession], feeds: Mapping[str, Array], rounds: int
) -> Iterator[dict[str, float]]:
    """CPU seconds a run of each, round by round; each round starts with another."""
    order = list(sessions)
    for each in order * 3:
        sessions[each].run(None, feeds)
    for number in range(rounds):
        start, found = number % len(order), {}
        for each in order[start:] + order[:start]:
            before = time.thread_time()
            sessions[each].run(None, feeds)
            found[each] = time.thread_time() - before
        yield found


HEADINGS = ("workload", "nodes", "µs a run", "no pass", *PASSES)


def cells(row: Row) -> tuple[str, ...]:
    """One row under the headings."""
    ratios = [f"{row.ratios[name]:.2f}" if name in row.ratios else "" for name in (NONE, *PASSES)]
    return row.name, f"{row.nodes[0]} / {row.nodes[1]}", f"{row.microseconds:.0f}", *ratios


PAGE = """What each [graph pass](export.md#graph-passes) is worth: the time of a run without it over the time with all passes, and
of a run without any. Empty: without it the graph is the same. Nodes are with all passes / without any, bodies included. A cell is
`edgeseq.Recurrent` around equations that stand in `step` in full, as a user may write them; "kept a Scan" leaves `recognise-cell`
out throughout, so that the others show.

{table}

{features} features, {hidden} hidden, T = {steps}, one sequence; searches: {letters} letters, up to {longest} tokens, 96 hidden. CPU
time of one thread, medians of {rounds} rounds in which all graphs of a row take turns. ONNX Runtime {version}, {machine}:
`python benchmarks/passes.py`."""


def page(rows: Sequence[Row], rounds: int) -> str:
    """The part of docs/performance.md."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *map(cells, rows)]
    return PAGE.format(
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
        features=FEATURES,
        hidden=HIDDEN,
        steps=STEPS,
        letters=LETTERS,
        longest=LONGEST,
        rounds=rounds,
        version=onnxruntime.__version__,
        machine=platform.machine(),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="workloads whose name holds this")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "passes.json")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "performance.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [workload for workload in workloads() if given.only in workload.name]
    rows = [measure(workload, given.rounds) for workload in track(chosen, "exporting and timing")]
    table = Table(*HEADINGS, title="time without a pass / time with all")
    for row in rows:
        table.add_row(*cells(row))
    Console(width=200).print(table)
    if given.only:
        return
    report = {"onnxruntime": onnxruntime.__version__, "machine": platform.machine(), "rows": [asdict(row) for row in rows]}
    given.json.write_text(json.dumps(report, indent=1) + "\n")
    fill(given.page, {"passes": page(rows, given.rounds)})


if __name__ == "__main__":
    main()
