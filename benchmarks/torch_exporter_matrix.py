"""Every recurrent case through PyTorch's own ONNX exporter and through edgeseq's, judged alike.

    python benchmarks/torch_exporter_matrix.py --out docs/torch-exporter-matrix.md

Each case is exported once in a fresh process with dynamic time and batch, then run by ONNX Runtime at four other sizes,
with ragged lengths where it takes lengths, once with max(lengths) = T and once with max(lengths) < T, and compared with the
module in eager PyTorch. Results go to a JSON file, from which `--render` writes the page again without measuring.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
from exporter_matrix_page import page  # noqa: E402
from recurrent_cases import CASES, LOOP_CASES, Case  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: E402

OPSET = 20
RECURRENT = {"RNN", "LSTM", "GRU", "Scan", "Loop"}
# Imported once by the server that forks a process for each case: 3 s less a case. One that is missing is skipped.
PRELOAD = [
    "onnx",
    "onnxruntime",
    "rich.progress",
    "torch._dynamo",
    "torch.export._patches",
    "torch.onnx._internal.exporter._core",
    "torch.onnx._internal.exporter._torchlib.ops",
    "onnxscript.optimizer",
    "onnxscript.rewriter",
    "onnxscript.version_converter",
]
NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


@dataclass(frozen=True)
class Result:
    """What became of one case in one exporter; each column supposes those before it."""

    exporter: str
    case: str
    exported: bool = False
    kept: bool = False  # the recurrence is native nodes, Scan or Loop (or one step), not an unrolled loop
    dynamic: bool = False  # runs at the other sizes with the right shapes
    right: bool = False  # right values too, and the right shapes where max(lengths) < T
    silent: bool = False  # runs without an error and gives a wrong shape or value
    error: float = 0.0  # the largest |difference| / max(1, largest |value|) of a right case
    nodes: int = 0
    seconds: float = 0.0  # of the export
    note: str = ""  # what went wrong


class Mismatch(Exception):
    """The graph ran, and gave another shape or value than PyTorch."""


def torch_model(case: Case) -> bytes:
    """The case through `torch.onnx.export(dynamo=True)`, time and batch dynamic."""
    names = {axis for shape in case.axes.values() for axis in shape if axis}
    dims = {name: _dim(name, case.multiple.get(name, 1)) for name in names}
    dynamic = {name: {i: dims[axis] for i, axis in enumerate(shape) if axis} for name, shape in case.axes.items()}
    program = torch.onnx.export(
        case.module(),
        (),
        kwargs=case.inputs(case.sizes[0]),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=dynamic,
        output_names=list(case.outputs),
        verbose=False,
    )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def _dim(name: str, multiple: int) -> Any:
    return torch.export.Dim(name) if multiple == 1 else multiple * torch.export.Dim(f"{name}_{multiple}")


def edgeseq_model(case: Case) -> bytes:
    """The case through `edgeseq_export.export`."""
    from edgeseq_export import export
    from edgeseq_runtime.bundle import open_bundle

    with tempfile.TemporaryDirectory() as folder:
        inputs = case.inputs(case.sizes[0])
        path = Path(folder) / "case.edgeseq"
        return open_bundle(export(case.module(), inputs, path, axes=case.axes, state=case.state, outputs=case.outputs)).model()


EXPORTERS: dict[str, Callable[[Case], bytes]] = {"torch": torch_model, "edgeseq": edgeseq_model}


def measure(exporter: str, case: Case) -> Result:
    """Export, then check column after column until one fails."""
    columns: dict[str, Any] = {"exporter": exporter, "case": case.id}
    start = time.perf_counter()
    try:
        model = EXPORTERS[exporter](case)
        columns |= {"exported": True, "seconds": round(time.perf_counter() - start, 2)}
        nodes = list(_nodes(onnx.load_from_string(model)))
        recurrent = sum(node.op_type in RECURRENT for node in nodes)
        columns |= {"nodes": len(nodes), "kept": recurrent >= max(1, sum(case.census.values())) or is_one_step(case)}
        session = _session(model)
        module = case.module()
        _check_runs(session, module, case, short=False, values=False)
        columns["dynamic"] = True
        error = _check_runs(session, module, case, short=False, values=True)
        if case.has_lengths:
            error = max(error, _check_runs(session, module, case, short=True, values=True))
        columns |= {"right": True, "error": error}
    except Exception as cause:
        columns |= {"note": _message(cause), "silent": isinstance(cause, Mismatch)}
    return Result(**columns)


def is_one_step(case: Case) -> bool:
    """A cell called once has no loop that could be unrolled."""
    return case.steps_once and bool(case.census)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of subgraphs and functions included."""
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(inner for attribute in node.attribute for inner in attribute.g.node)


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _check_runs(session: onnxruntime.InferenceSession, module: torch.nn.Module, case: Case, *, short: bool, values: bool) -> float:
    """Run at the other sizes and compare with PyTorch; gives the largest error.

    Raises:
        Mismatch: a shape differs, or with `values` an error is over the case's tolerance.
    """
    worst = 0.0
    for seed, sizes in enumerate(case.sizes[1:], start=1):
        inputs = case.inputs(sizes, seed=seed, short=short)
        with torch.no_grad():
            expected = [y.numpy() for y in torch.utils._pytree.tree_leaves(module(**inputs))]
        types = {spec.name: NUMPY_TYPES[spec.type] for spec in session.get_inputs()}
        found = session.run(None, {name: inputs[name].numpy().astype(dtype) for name, dtype in types.items()})
        at = ", ".join(f"{axis}={sizes[axis]}" for axis in sorted({a for shape in case.axes.values() for a in shape if a}))
        at += ", max(lengths) < T" if short else ""
        for name, want, got in zip(case.outputs, expected, found, strict=True):
            if got.shape != want.shape:
                raise Mismatch(f"{name} has shape {got.shape} instead of {want.shape} at {at}")
            error = float(np.abs(got.astype(np.float64) - want).max() / max(1.0, np.abs(want).max()))
            if values and not error <= case.tolerance:
                raise Mismatch(f"{name} is off by {error:.1e} at {at}")
            worst = max(worst, error)
    return worst


def _message(error: BaseException) -> str:
    """What went wrong, at its root: PyTorch wraps the reason in a message about the step it was at."""
    while type(error).__module__.startswith("torch.onnx") and error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    text = re.sub(r"(?<![\w.])/[\w./+-]*/(?=[\w.]+)", "", text)  # a file by its name, not by where it lies
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join([f"{type(error).__name__}: {lines[0] if lines else ''}", *lines[1:6]])[:1200]


def _child(exporter: str, case_id: str, connection: Connection) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    case = next(case for case in CASES + LOOP_CASES if case.id == case_id)
    connection.send(measure(exporter, case))


def measure_in_process(exporter: str, case: Case, timeout: float) -> Result:
    """`measure` in a fresh process: an export can hang, or end the process, and leaves traces in PyTorch's caches."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(exporter, case.id, sender), daemon=True)
    process.start()
    sender.close()
    note = f"no answer within {timeout:.0f} s"
    with contextlib.suppress(EOFError):
        if receiver.poll(timeout):
            result: Result = receiver.recv()
            process.join()
            return result
    if not process.is_alive() or process.exitcode is not None:
        process.join()
        note = f"the process ended with code {process.exitcode}"
    process.kill()
    process.join()
    return Result(exporter, case.id, note=note)


def measure_all(exporters: Sequence[str], cases: Sequence[Case], timeout: float) -> Iterator[Result]:
    """Every case in every exporter, one at a time, with a progress bar."""
    columns = (TextColumn("{task.description:<60}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("", total=len(exporters) * len(cases))
        for exporter, case in product(exporters, cases):
            progress.update(task, description=f"{exporter}: {case.id}")
            yield measure_in_process(exporter, case, timeout)
            progress.advance(task)


def environment() -> dict[str, str]:
    """What was measured, and on what kind of machine."""
    packages = ("torch", "onnx", "onnxscript", "onnxruntime", "edgeseq")
    return {
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, CPU only",
    }


def merged(old: Mapping[str, Any], new: Result) -> dict[str, Any]:
    """The measurements so far with the new one in place of an older one of the same case and exporter."""
    rows = [row for row in old["results"] if (row["exporter"], row["case"]) != (new.exporter, new.case)]
    return {"environment": environment(), "results": [*rows, asdict(new)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the Markdown page to write")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "torch-exporter-matrix.json", help="the measurements")
    parser.add_argument("--exporter", choices=[*EXPORTERS, "both"], default="both")
    parser.add_argument("--only", default="", help="regular expression on case names; earlier results of others are kept")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds a case may take")
    parser.add_argument("--render", action="store_true", help="write the page from the JSON file, measure nothing")
    arguments = parser.parse_args()

    keeps = arguments.render or arguments.only or arguments.exporter != "both"
    data = json.loads(arguments.json.read_text()) if keeps and arguments.json.exists() else {"results": []}
    if not arguments.render:
        cases = [case for case in CASES + LOOP_CASES if re.search(arguments.only, case.id)]
        exporters = list(EXPORTERS) if arguments.exporter == "both" else [arguments.exporter]
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        for result in measure_all(exporters, cases, arguments.timeout):
            data = merged(data, result)
            arguments.json.write_text(json.dumps(data, indent=1) + "\n")
    if arguments.out:
        arguments.out.write_text(page(data, CASES, LOOP_CASES))


if __name__ == "__main__":
    main()
