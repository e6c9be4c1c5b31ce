"""What taking everything that does not depend on the state out of a Scan's body is worth, system by system.

    python benchmarks/hoisting.py --out docs/hoisting.md

Each cell that becomes a Scan is exported twice: as it is, so that `Cell.project` runs for all time steps at once before the
Scan, and wrapped so that it runs inside the body, one step at a time, without the graph passes that would take it out. Both
graphs compute the same, which is checked. They take turns in ONNX Runtime, and each turn of one is compared with the turn of the
other beside it.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import edgeseq_runtime
from edgeseq import Cell, Recurrent
from edgeseq.cells import DeepTransitionCell, LayerNormLSTMCell, NTMCell, ProjectedLSTMCell, RecursiveCell, State, TreeLSTMCell
from edgeseq_export import ExportNotice, ExportRequest, export_request
from edgeseq_export.passes import PASSES

FEATURES, HIDDEN, LABELS = 64, 128, 64  # I, H, V
STEPS = 100  # T of the timed runs, at B = 1 on one thread
TOLERANCE = 1e-4  # of outputs between the two graphs, of max(1, largest value)
PRODUCTS = {"MatMul", "Gemm"}
Inputs = dict[str, Tensor]


class Unhoisted(Cell):
    """A cell whose `project` is left to each step."""

    def __init__(self, inner: Cell) -> None:
        super().__init__()
        self.inner = inner
        self.state_shapes = inner.state_shapes

    def initial_state(self, x: Tensor) -> State:
        """The inner cell's."""
        return self.inner.initial_state(x)

    def project(self, x: Tensor) -> Tensor:
        """The input as it is."""
        return x

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """The inner cell's projection and step of one input (B, I)."""
        return self.inner.step(state, self.inner.project(projected))


class Sequence(nn.Module):
    """A cell over x (T, B, I): outputs (T, B, O)."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.layer = Recurrent(cell)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[0]
        return y


class Trees(nn.Module):
    """A cell over nodes, children before parents: labels (T, B) and children (T, B, 2) to vectors (T, B, H)."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.layer = Recurrent(cell)

    def forward(self, labels: Tensor, children: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.cat([labels.unsqueeze(-1), children], dim=-1))[0]
        return y


def drawn_sequence(T: int, B: int) -> Inputs:
    """Normal features x (T, B, I)."""
    return {"x": torch.randn(T, B, FEATURES)}


def drawn_trees(T: int, B: int) -> Inputs:
    """Nodes of random labels and random earlier children."""
    children = (torch.rand(T, B, 2) * (torch.arange(T)[:, None, None] + 1)).long() - 1
    return {"labels": torch.randint(LABELS, (T, B)), "children": children}


@dataclass(frozen=True)
class System:
    """A cell that becomes a Scan, and what it is run on."""

    row: str  # of the lecture's table
    title: str
    cell: Callable[[], Cell]
    module: Callable[[Cell], nn.Module] = Sequence
    inputs: Callable[[int, int], Inputs] = drawn_sequence


def machine(controller: str) -> Cell:
    """A Neural Turing Machine of the size of the paper's copy task."""
    return NTMCell(FEATURES, 100, rows=128, width=20, controller=controller)


SYSTEMS = (
    System("7b", "deep transition of 2 layers", lambda: DeepTransitionCell(FEATURES, HIDDEN, depth=2)),
    System("7c", "deep transition with skip connection", lambda: DeepTransitionCell(FEATURES, HIDDEN, depth=2, skip=True)),
    System("8", "recursive network", lambda: RecursiveCell(LABELS, HIDDEN), Trees, drawn_trees),
    System("8", "binary Tree-LSTM", lambda: TreeLSTMCell(LABELS, HIDDEN), Trees, drawn_trees),
    System("11", "LayerNorm-LSTM", lambda: LayerNormLSTMCell(FEATURES, HIDDEN)),
    System("11", "LSTM with projection to half", lambda: ProjectedLSTMCell(FEATURES, HIDDEN, HIDDEN // 2)),
    System("13", "NTM, feed-forward controller", lambda: machine("feed-forward")),
    System("13", "NTM, LSTM controller", lambda: machine("lstm")),
)


@dataclass(frozen=True)
class Graph:
    """One of the two graphs of a system."""

    model: onnx.ModelProto

    @property
    def body(self) -> onnx.GraphProto:
        """The body of its only Scan."""
        (scan,) = [node for node in self.model.graph.node if node.op_type == "Scan"]
        body: onnx.GraphProto = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
        return body

    @property
    def body_nodes(self) -> int:
        """Nodes that run at every step."""
        return len(self.body.node)

    @property
    def body_products(self) -> int:
        """Matrix products that run at every step."""
        return sum(node.op_type in PRODUCTS for node in self.body.node)

    def session(self) -> onnxruntime.InferenceSession:
        """On one thread of the CPU."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(self.model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def exported(system: System, cell: Cell, *, without: tuple[str, ...] = ()) -> Graph:
    """The graph of a cell over time, made without some graph passes."""
    inputs = system.inputs(5, 2)
    axes = {name: ("T", "B", *[None] * (tensor.dim() - 2)) for name, tensor in inputs.items()}
    request = ExportRequest(system.module(cell), inputs, axes, outputs=("y",), without=without)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportNotice)
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
        path = export_request(request, Path(folder) / "graph.edgeseq")
        return Graph(onnx.load_from_string(edgeseq_runtime.open_bundle(path).model()))


@dataclass(frozen=True)
class Result:
    """A system with and without hoisting."""

    system: System
    hoisted: Graph
    unhoisted: Graph
    microseconds: tuple[float, float]  # medians a step, hoisted and not
    ratio: float  # median over rounds of the time without hoisting / the time with it
    difference: float  # largest between outputs, of max(1, largest value)


def measure(system: System, rounds: int) -> Result:
    """Export both graphs, compare their outputs, and let them take turns.

    Raises:
        ValueError: the two graphs do not compute the same.
    """
    torch.manual_seed(0)
    cell = system.cell().eval()
    graphs = exported(system, cell), exported(system, Unhoisted(cell), without=tuple(PASSES))
    feeds = {name: tensor.numpy() for name, tensor in system.inputs(STEPS, 1).items()}
    sessions = [graph.session() for graph in graphs]
    y, other = (session.run(None, feeds)[0] for session in sessions)
    difference = float(np.abs(y - other).max() / max(1.0, np.abs(y).max()))
    if not difference <= TOLERANCE:
        raise ValueError(f"{system.title}: the graphs differ by {difference:.1e}, more than {TOLERANCE:.0e}; one of them is wrong")
    times = np.array(list(turns(sessions, feeds, rounds)))  # (rounds, 2)
    with_hoisting, without = (median(column) / STEPS * 1e6 for column in times.T)
    return Result(system, *graphs, (with_hoisting, without), median(times[:, 1] / times[:, 0]), difference)


def turns(sessions: list[onnxruntime.InferenceSession], feeds: Mapping[str, Any], rounds: int) -> Iterator[list[float]]:
    """CPU seconds a run of each session, round by round; who goes first changes.

    Each session has one thread, this one; its own time leaves out what other processes take of the core.
    """
    for session in sessions * 3:
        session.run(None, feeds)
    for number in range(rounds):
        seconds = [0.0] * len(sessions)
        order = list(range(len(sessions)))
        for index in order if number % 2 else reversed(order):
            start = time.thread_time()
            sessions[index].run(None, feeds)
            seconds[index] = time.thread_time() - start
        yield seconds


HEADINGS = ("row", "system", "nodes in the body", "matrix products in it", "µs a step", "ratio", "largest difference")


def cells(result: Result) -> tuple[str, ...]:
    """One row under the headings."""
    counts = [(getattr(result.hoisted, name), getattr(result.unhoisted, name)) for name in ("body_nodes", "body_products")]
    times = [f"{microseconds:.1f}" for microseconds in result.microseconds]
    pairs = [" / ".join(map(str, pair)) for pair in (*counts, times)]
    return result.system.row, result.system.title, *pairs, f"{result.ratio:.2f}", f"{result.difference:.1g}"


PAGE = """# Hoisting, system by system

Everything of a cell that does not depend on its state (`Cell.project`) stands before the Scan, where it is computed for all time
steps at once; the body keeps `Cell.step`. Here each cell is exported as it is, and once more with its `project` moved into the
body and without graph passes. Both graphs give the same outputs. Figures are those with hoisting / without; the ratio is the time
without over that with, and the larger, the more of a step its projection is.

| | |
|---|---|
| Sizes | {features} features or {labels} labels, {hidden} hidden; NTM: 100 hidden, 128 rows of 20, one read and one write head |
| Timed | {steps} steps, one sequence, CPU time of one thread; {rounds} rounds in which both graphs take turns; medians |
| Packages | onnxruntime {onnxruntime}, torch {torch}, edgeseq {edgeseq} |
| Machine | {machine} |
| Command | `python benchmarks/hoisting.py --out docs/hoisting.md` |

{table}

A single step (T = 1), as a stream runs it, does the same work either way. What ONNX has a node for (`RNN`, `GRU`, `LSTM`, with
peepholes and other activations too) has no body. A cell that leaves its projection in `step` is hoisted by a
[graph pass](export.md#graph-passes), which also takes what is the same at every step out of a `Loop`.
"""


def page(results: list[Result], rounds: int) -> str:
    """The Markdown page."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *map(cells, results)]
    return PAGE.format(
        features=FEATURES,
        labels=LABELS,
        hidden=HIDDEN,
        steps=STEPS,
        rounds=rounds,
        machine=f"{platform.system()} {platform.machine()}, CPU only",
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
        **{package: version(package) for package in ("onnxruntime", "torch", "edgeseq")},
    )


def main() -> None:
    """Measure every system, show the table and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the Markdown page to write")
    parser.add_argument("--rounds", type=int, default=60, help="turns of each graph")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = [measure(system, arguments.rounds) for system in track(SYSTEMS, "exporting and timing")]
    table = Table(*HEADINGS, title="with hoisting / without")
    for result in results:
        table.add_row(*cells(result))
    Console().print(table)
    if arguments.out:
        arguments.out.write_text(page(results, arguments.rounds))


if __name__ == "__main__":
    main()
