"""Every causal model of the library fed in chunks: where the outputs are those of the whole sequence to the last bit.

    python benchmarks/chunked.py --out docs/chunks.md

Each model is exported once. The same graph then runs a sequence whole and in chunks of 1, 7 and 64 steps, state carried, and
the outputs are compared bit by bit. Where they differ, the first operator is named whose inputs are equal and whose output is not.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import repeat
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from causal_models import CAUSAL, causal_model
from rich.console import Console
from rich.progress import track
from rich.table import Table

import edgeseq_runtime
from edgeseq_export import ExportNotice, export_request
from edgeseq_runtime import Session
from edgeseq_runtime.bench import inputs_at
from edgeseq_runtime.bundle import Bundle
from edgeseq_runtime.chunks import cut, run_in_chunks
from edgeseq_runtime.tensors.spec import Array

STEPS = 128
CHUNKS = (1, 7, 64)
BATCHES = (1, 4)
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Found:
    """One model at one batch and chunk size."""

    difference: float  # largest, over the output's rms; 0 where every bit is equal
    operator: str  # the first whose output differs; empty where none does


def main() -> None:
    """Compare, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the Markdown page to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportNotice)
        rows = {name: compared(name, Path(folder)) for name in track(CAUSAL, "exporting and comparing")}
    table = Table("model", *(f"B={B}, {chunk}" for B, chunk in _columns()), title=f"chunks against the whole of {STEPS} steps")
    for name, found in rows.items():
        table.add_row(name, *map(cell, found.values()))
    Console(width=160).print(table)
    if arguments.out:
        arguments.out.write_text(page(rows))


def _columns() -> list[tuple[int, int]]:
    return [(B, chunk) for B in BATCHES for chunk in CHUNKS]


def compared(name: str, folder: Path) -> dict[tuple[int, int], Found]:
    """One model at every batch and chunk size."""
    bundle = edgeseq_runtime.open_bundle(export_request(causal_model(name), folder / "model.edgeseq"))
    session = edgeseq_runtime.load(bundle.path)
    found = {}
    for B, chunk in _columns():
        inputs = drawn(session, bundle, STEPS, B)
        whole, pieces = session.run(inputs), streamed(session, inputs, chunk)
        difference = max(_difference(pieces[output], whole[output]) for output in whole)
        found[B, chunk] = Found(difference, first_unequal(bundle, session, inputs, chunk) if difference else "")
    return found


def drawn(session: Session, bundle: Bundle, steps: int, batch: int) -> Arrays:
    """Inputs of so many steps, like those of the bundle's reference, every number drawn anew; the state is the reference's."""
    example = bundle.reference()[-1].draw_inputs(0)
    inputs = inputs_at(session.interface, example, steps, batch)
    random = np.random.default_rng(0)
    for spec in session.interface.data_inputs:
        if spec.dtype == "float32":
            scale = float(example[spec.name].std()) or 1.0
            inputs[spec.name] = (scale * random.standard_normal(inputs[spec.name].shape)).astype(np.float32)
    return inputs


def streamed(session: Session, inputs: Arrays, chunk: int) -> Arrays:
    """The outputs in chunks of one size, states by the names of their outputs."""
    interface = session.interface
    stream = session.stream(_batch(session, inputs))
    stream.state = {name: inputs[name] for name in interface.state}
    data = {name: array for name, array in inputs.items() if name not in {*interface.state, *interface.step_lengths}}
    return run_in_chunks(stream, interface, data, repeat(chunk))


def _batch(session: Session, inputs: Arrays) -> int:
    spec = session.interface.state_inputs[0]
    return int(inputs[spec.name].shape[spec.shape.index("B")])


def _difference(found: Array, whole: Array) -> float:
    if np.array_equal(found, whole):
        return 0.0
    error = np.abs(found.astype(np.float64) - whole.astype(np.float64)).max()
    return float(error / max(np.sqrt(np.mean(whole.astype(np.float64) ** 2)), 1e-30))


def first_unequal(bundle: Bundle, session: Session, inputs: Arrays, chunk: int) -> str:
    """The operator, outside bodies, that first gives other bits for a chunk than for the same steps of the whole."""
    graph = onnx.load_from_string(bundle.model())
    nodes, declared = list(graph.graph.node), [output.name for output in graph.graph.output]
    inner = [name for node in nodes for name in node.output if name and name not in declared]
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    every = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in every.get_outputs()]

    def run(given: Arrays) -> Arrays:
        feeds = {spec.name: given[spec.name].astype(spec.dtype) for spec in session.inputs}
        return dict(zip(names, every.run(None, feeds), strict=True))

    whole, state = run(inputs), {name: inputs[name] for name in session.state}
    for start in range(0, STEPS, chunk):
        steps = min(chunk, STEPS - start)
        piece = run({**_piece(session, inputs, start, steps), **state})
        for node in nodes:
            if any(_differs(piece[name], whole[name], start, steps) for name in node.output if name):
                return str(node.op_type)
        state = {name: piece[output] for name, output in session.state.items()}
    return "?"


def _piece(session: Session, inputs: Arrays, start: int, steps: int) -> Arrays:
    piece = dict(inputs)
    for spec in session.interface.data_inputs:
        at = session.interface.time_position(spec)
        if at is not None:
            piece[spec.name] = cut(inputs[spec.name], at, start, start + steps)
    return piece


def _differs(piece: Array, whole: Array, start: int, steps: int) -> bool:
    """Whether a chunk's tensor is not that part of the whole one; tensors that do not run along time are passed over."""
    if piece.ndim != whole.ndim or not np.issubdtype(whole.dtype, np.floating):
        return False
    along = [axis for axis in range(whole.ndim) if whole.shape[axis] * steps == piece.shape[axis] * STEPS]
    if len(along) != 1 or sum(a != b for a, b in zip(piece.shape, whole.shape, strict=True)) > 1:
        return False
    width = piece.shape[along[0]] // steps
    return not np.array_equal(piece, cut(whole, along[0], start * width, (start + steps) * width))


def cell(found: Found) -> str:
    """An equals sign, or by how much outputs differ and from which operator on."""
    return "=" if not found.difference else f"{found.difference:.0e} {found.operator}"


PAGE = """# Chunks and the whole

One exported graph serves a whole sequence and any chunks of it. Here every causal model of the library runs {steps} steps whole and
in chunks, state carried, in float32 on one thread of ONNX Runtime's CPU provider. `=` says that every bit of every output and state
is equal. Elsewhere stands the largest difference over the output's rms, and the operator from which on bits differ. B is the batch,
then comes the chunk's length. All are held to `k ≤ 4` against PyTorch in float64 at random chunks too (`tests/test_chunks.py`).

{table}

## Why some differ

The state is carried exactly; what differs is the order in which a kernel adds. ONNX Runtime's matrix products (MLAS) give a row of
the result the same bits whatever the number of rows, with these exceptions:

- A single row times a matrix that was not packed beforehand goes to a matrix-vector kernel that adds in another order. Weights of
  `LSTM`, `GRU`, `MatMul` and `Gemm` nodes are packed when the model is loaded; those of `RNN` nodes are not, nor is what attention
  multiplies with, which is no weight. So these differ where a chunk has one step (and, for `RNN`, one sequence).
- A convolution is a product with a column a time step. A single column is a matrix-vector product again; and where input channels
  times taps exceed 128, the sum over them is split into blocks whose size depends on the number of columns. (Observed: of twelve
  convolutions the six with up to 128 differed at chunks of one step alone, the six above at every size.)
- The sum over a window that `WindowNorm` takes is added in another order where there is one window alone.

Which kernels run depends on the processor: the table is of {machine}, onnxruntime {onnxruntime}.
`python benchmarks/chunked.py --out docs/chunks.md` makes it anew.
"""


def page(rows: dict[str, dict[tuple[int, int], Found]]) -> str:
    """The Markdown page."""
    heads = ("model", *(f"B={B}, {chunk}" for B, chunk in _columns()))
    lines = [heads, ("---",) * len(heads), *((f"`{name}`", *map(cell, found.values())) for name, found in rows.items())]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return PAGE.format(steps=STEPS, table=table, machine=_machine(), onnxruntime=version("onnxruntime"))


def _machine() -> str:
    """The instruction sets that kernels are chosen by."""
    flags: set[str] = set()
    for line in _cpuinfo():
        flags |= set(line.split())
    known = [name for name in ("avx2", "avx512f", "avx512_vnni", "amx_tile") if name in flags]
    return f"an x86-64 CPU with {', '.join(known)}" if known else "another CPU"


def _cpuinfo() -> Iterator[str]:
    path = Path("/proc/cpuinfo")
    yield from (line for line in path.read_text().splitlines() if line.startswith("flags")) if path.exists() else ()


if __name__ == "__main__":
    main()
