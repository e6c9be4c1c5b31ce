"""Every model on an emulated 64-bit ARM processor, beside the same bundle on this x86-64 machine.

    python benchmarks/aarch64.py --out docs/aarch64.md

The board is `tests/emulated_board.py`: the installed package, an Orin Nano's files, gcc. There, the installed program proves each
bundle against its own reference (`edgeseq parity`), runs it on the inputs of one of its reference cases, whole and in chunks
(`edgeseq run`); what it wrote is compared with what the same release of ONNX Runtime computes here. Then the same on device
"native", whose kernels the board compiles for itself, in fp32 and in int8, and on two threads. What was measured is kept under
build/, by board, bundle and way: a run that was cut short goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from mutated_models import MODELS, USERS, bundle_of
from rich.console import Console
from rich.progress import track

import edgeseq_runtime
from edgeseq_quantize import quantize
from edgeseq_runtime import load, measure_parity
from edgeseq_runtime.files import write_file
from edgeseq_runtime.tensors.spec import Array

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from aarch64_page import page
from emulated_board import FOLDER, Board, make_board  # type: ignore[import-not-found]

CHUNK = 5  # time steps, in the model's own unit
WORKERS = len(os.sched_getaffinity(0))
SHARE = 5  # models that one process on the board proves, and then runs: it starts slowly
LIBRARY = tuple(name for name in MODELS if name not in USERS)
# Of those that `edgeseq quantize` writes an int8 variant of, one of each kind; at their sizes that is by no gain in speed.
INT8 = (
    "VAD", "nn.GRU", "nn.LSTM", "LSTMCell", "NeuralTuringMachine", "AttentionDecoder", "TreeClassifier", "packed BiLSTM tagger",
    "CTC text-line recogniser",
)  # fmt: skip
# The installed program, called once for each argument, a list of its own arguments as JSON; it ends at the first error, which a
# bundle that is not at parity is not.
PROGRAM = """
import json, sys
from importlib.metadata import entry_points
(program,) = entry_points(group="console_scripts", name="edgeseq")
for line in sys.argv[1:]:
    sys.argv = ["edgeseq", *json.loads(line)]
    print(line, file=sys.stderr)
    try:
        program.load()()
    except SystemExit as end:
        if end.code not in (None, 0, 1):
            raise
"""
FLAGS = "from edgeseq_runtime.native.compiled import compiled; print(*compiled().record.flags)"
KEPT = Path(__file__).parent.parent / "build" / "aarch64"
Arrays = dict[str, Array]


class Difference(NamedTuple):
    """How far outputs are from others, over all outputs."""

    max_abs: float
    relative: float  # the same over the rms of the output it is in
    unequal: float | None  # share of integers and booleans that differ; None where there are none

    @property
    def same(self) -> bool:
        """Whether every bit is."""
        return self.max_abs == 0 and not self.unequal


class Way(NamedTuple):
    """How a model is run, on both machines."""

    device: str = "auto"
    precision: str = "fp32"
    threads: int = 1  # more than 1: run with as many, too


CPU, NATIVE, NATIVE_INT8 = Way(), Way("native", threads=2), Way("native", "int8", threads=2)


class Row(NamedTuple):
    """One model on both machines."""

    model: str
    nodes: Mapping[str, int]  # recurrent ones, by operator
    sizes: Mapping[str, int]  # of what was compared
    difference: Difference  # of the board's whole run from this machine's
    chunks: Difference | None  # of the board's run in chunks from its whole run; None where there is no state, or lengths differ
    here: Mapping[str, Any]  # parity, as `edgeseq parity --json` has it
    board: Mapping[str, Any]
    threads: Difference | None = None  # of the board's whole run on more threads from that on one

    @property
    def passed(self) -> bool:
        """Whether both are at parity with PyTorch."""
        return bool(self.here["passed"] and self.board["passed"])

    def worst(self, machine: str, figure: str) -> float:
        """The largest `k`, `k999`, `relative` or `relative999` of the rows that were gated, on "here" or "board"."""
        rows = [row for row in getattr(self, machine)["rows"] if row["verdict"] != "skip"]
        return max((math.inf if row[figure] is None else row[figure] for row in rows), default=math.nan)


def main() -> int:
    """Make the board and the bundles, compare, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the Markdown page to write")
    parser.add_argument("--board", type=Path, default=FOLDER, help="where the board is kept (%(default)s)")
    parser.add_argument("--bundles", type=Path, help="where the exported models are kept; by their code below build/ if left out")
    parser.add_argument("models", nargs="*", help="some of benchmarks/mutated_models.py; those of the library if left out")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    os.nice(10)
    board = make_board(arguments.board, console.print)
    chosen = arguments.models or tuple(MODELS)
    bundles = {name: bundle_of(name, arguments.bundles) for name in track(chosen, "exporting", console=console)}
    integers = {name: quantised(path) for name, path in bundles.items() if name in INT8}
    start = time.perf_counter()
    library = {name: path for name, path in bundles.items() if name in (arguments.models or LIBRARY)}
    rows = compare(board, library, console, KEPT)
    native = [row for each, way in ((bundles, NATIVE), (integers, NATIVE_INT8)) for row in compare(board, each, console, KEPT, way)]
    console.print(f"{len(bundles)} models on the board: {time.perf_counter() - start:.0f} s")
    flags = said(board, "python3", "-c", FLAGS).strip()
    text = page(rows, native, detected=said(board, "edgeseq", "devices", "--detect"), flags=flags, cpu=board.cpu, chunk=CHUNK)
    if arguments.out:
        arguments.out.write_text(text)
    else:
        print(text)
    return 0 if all(row.passed for row in (*rows, *native)) else 1


def quantised(path: Path) -> Path:
    """The bundle with its int8 variant beside it, made if there is none."""
    out = path.with_name(f"{path.stem}-int8.edgeseq")
    if not out.exists():
        quantize(path, out=out, variants=("int8",), smallest=1, seconds=0, device="native")
    return out


def compare(board: Board, bundles: Mapping[str, Path], console: Console, kept: Path | None = None, way: Way = CPU) -> list[Row]:
    """A row for each bundle by name; those in the folder `kept` are not measured anew, and the others are put there."""
    how = "-".join(map(str, way))
    files = {
        name: kept and kept / f"{board.folder.name}-{edgeseq_runtime.open_bundle(path).sha256[:16]}-{how}.json"
        for name, path in bundles.items()
    }
    rows = {name: msgspec.json.decode(file.read_bytes(), type=Row) for name, file in files.items() if file and file.exists()}
    left = [(name, path) for name, path in bundles.items() if name not in rows]
    shares = [dict(left[start : start + SHARE]) for start in range(0, len(left), SHARE)]
    with ThreadPoolExecutor(WORKERS) as pool:
        measured = pool.map(lambda share: measure(board, share, way), shares)
        for found in track(measured, "proving and running on the board", len(shares), console=console):
            for row in found:
                rows[row.model] = row
                file = files[row.model]
                if file:
                    write_file(file, msgspec.json.encode(row))
    return [rows[name] for name in bundles]


def measure(board: Board, bundles: Mapping[str, Path], way: Way) -> list[Row]:
    """Prove and run some bundles on the board and here."""
    with tempfile.TemporaryDirectory() as folder:
        examples = [Example(path, Path(folder), way) for path in bundles.values()]
        run_on(board, examples)
        return [
            Row(
                name,
                edgeseq_runtime.open_bundle(example.path).manifest.census,
                example.sizes,
                difference(read(example.whole), load(example.path, device=way.device, precision=way.precision).run(example.inputs)),
                difference(read(example.chunks), read(example.whole)) if example.chunk else None,
                measure_parity(example.path, device=way.device, precision=way.precision).to_json(),
                json.loads(example.record.read_bytes())["report"],
                difference(read(example.shared), read(example.whole)) if way.threads > 1 else None,
            )
            for name, example in zip(bundles, examples, strict=True)
        ]


class Example:
    """One draw of a bundle's reference case with the longest sequences, and the files of what is made of it."""

    def __init__(self, path: Path, folder: Path, way: Way) -> None:
        self.path, self.way = path, way
        bundle = edgeseq_runtime.open_bundle(path)
        case = max(bundle.reference(), key=lambda case: math.prod(case.case.sizes.values()))
        self.sizes, self.inputs = case.case.sizes, case.draw_inputs(0)
        files = (folder / f"{path.stem}-{name}.npz" for name in ("inputs", "whole", "chunks", "shared"))
        self.given, self.whole, self.chunks, self.shared = files
        self.record = folder / f"{path.stem}.json"
        interface = load(path).interface
        full = all((self.inputs[name] == self.sizes[interface.time_axis]).all() for name in interface.step_lengths)
        self.chunk = CHUNK * interface.chunk if interface.state and full else 0  # 0: it can't be cut
        np.savez(self.given, **self.inputs)  # type: ignore[arg-type]

    @property
    def commands(self) -> list[list[str]]:
        """What the program is called with."""
        how = ["--device", self.way.device, "--precision", self.way.precision]
        run = ["run", str(self.path), str(self.given), *how, "-o"]
        commands = [["parity", str(self.path), *how, "--record", str(self.record)], [*run, str(self.whole)]]
        commands += [[*run, str(self.chunks), "--chunk", str(self.chunk)]] if self.chunk else []
        commands += [[*run, str(self.shared), "--threads", str(self.way.threads)]] if self.way.threads > 1 else []
        return commands


def run_on(board: Board, examples: Sequence[Example]) -> None:
    """Prove some bundles on the board, and run them there, whole and in chunks.

    Raises:
        RuntimeError: a command fails, or ends its process.
    """
    lines = [json.dumps(command) for example in examples for command in example.commands]
    done = board.run("python3", "-c", PROGRAM, *lines)
    if done.returncode:
        raise RuntimeError(f"the board's process ended with {done.returncode}: {done.stderr}")


def said(board: Board, *arguments: object) -> str:
    """What a program writes on the board.

    Raises:
        RuntimeError: it ends with anything but 0 and 1; what it said is in the message.
    """
    done = board.run(*arguments)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(map(str, arguments))} on the board ended with {done.returncode}: {done.stderr}")
    return done.stdout


def read(path: Path) -> Arrays:
    """The arrays of a file by name."""
    with np.load(path) as file:
        return dict(file)


def difference(outputs: Mapping[str, Array], others: Mapping[str, Array]) -> Difference:
    """How far `outputs` are from `others`, which hold all of the same names.

    Raises:
        ValueError: a shape or a dtype differs, or a value is not finite in one and is in the other.
    """
    largest = relative = 0.0
    unequal = []
    for name, output in outputs.items():
        other = others[name]
        if output.shape != other.shape or output.dtype != other.dtype:
            raise ValueError(f"'{name}': {output.dtype} {output.shape} beside {other.dtype} {other.shape}")
        if not np.issubdtype(output.dtype, np.floating):
            unequal.append(float(np.mean(output != other)))
            continue
        if (np.isfinite(output) != np.isfinite(other)).any():
            raise ValueError(f"'{name}' is finite where the other is not")
        finite = np.isfinite(other)
        truth = other[finite].astype(np.float64)
        off = float(np.abs(output[finite] - truth).max(initial=0.0))
        largest = max(largest, off)
        if off:
            relative = max(relative, off / float(np.sqrt(np.mean(truth**2))))
    return Difference(largest, relative, max(unequal, default=None))


if __name__ == "__main__":
    sys.exit(main())
