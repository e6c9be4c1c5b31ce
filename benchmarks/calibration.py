"""How far correct exports are from PyTorch's float64 result, over modules drawn at random; and which rules call them wrong.

    python benchmarks/calibration.py --modules 500

Each module is exported and measured at the sizes of its bundle and at one long sequence besides, whole and as a stream. A line of
JSON a module goes to `benchmarks/results/calibration.jsonl`; modules already there are not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from parity_rules import EXACT, US, judge_by_every_rule
from random_modules import random_module
from rich.progress import track
from torch import nn

from edgeseq_export import export_request
from edgeseq_export.cases import DRAWS, Oracle, case_at, nudged_inputs
from edgeseq_export.reference import single_threaded
from edgeseq_export.subject import examine
from edgeseq_runtime.bundle import CaseArrays, open_bundle, pack_reference, write_bundle
from edgeseq_runtime.errors import PostconditionError, UnsupportedModule
from edgeseq_runtime.parity import ParityRow, Piece
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

RESULTS = Path(__file__).parent / "results" / "calibration.jsonl"
LONG = 99  # the number of the long case: its seed


def measure(seed: int, folder: Path) -> dict[str, Any]:
    """Export one module and ask every rule about it."""
    drawn = random_module(seed)
    found: dict[str, Any] = {**drawn.traits, "outcome": "exported"}
    try:
        path = export_request(drawn.request, folder / f"{seed}.edgeseq")
    except UnsupportedModule as refusal:  # PyTorch's own values are no numbers
        return {**found, "outcome": "refused", "reason": str(refusal)}
    except PostconditionError as error:
        return {**found, "outcome": "alarm at export", "reason": str(error), "alarms": dict.fromkeys((US, EXACT), True)}
    with single_threaded():
        subject = examine(drawn.request)
        oracle = Oracle(subject)
        path = _with_long_case(path, case_at(subject, oracle, LONG, drawn.sizes, drawn.longest, DRAWS))
        sizes = _Sizes(subject.output_names, Oracle(replace(subject, model=_with_nudged_weights(subject.model))))
        judged = judge_by_every_rule(path, observe=sizes)
    rows = [{**_row(row), **sizes.of(row)} for row in (judged.report.rows if judged.report else ())]
    exact = [_row(row) for row in judged.exact]
    return {**found, "reason": judged.reason, "alarms": judged.alarms, "rows": rows, "exact": exact}


def _row(row: ParityRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("output", "mode", "sizes", "shape", "verdict", "reason", "k", "k999", "max_abs")}


class _Sizes:
    """What the ratios are made of: the rms and the 99.9th percentile of errors, and of what moves with every weight and input.

    An error of half a unit in the last place of every weight is what no float32 program can avoid, whatever its order of
    operations: the float64 module with weights and inputs moved to a neighbour shows how much of that reaches the outputs.
    """

    def __init__(self, names: tuple[str, ...], oracle: Oracle) -> None:
        self._names, self._oracle = names, oracle
        self._moved: dict[str, list[list[Array]]] = {}
        self._found: dict[str, dict[str, float]] = {}

    def __call__(self, spec: TensorSpec, mode: str, case: CaseArrays, pieces: list[Piece]) -> None:
        """Note one output at one case, as `measure_parity` computed it."""
        flat = (np.concatenate([np.ravel(array) for array in arrays]).astype(float) for arrays in zip(*pieces, strict=True))
        got, torch32, float64 = flat
        found = {**_extent("error", got - float64), **_extent("own", torch32 - float64), "rms": _rms(float64), "elements": got.size}
        if mode == "whole":
            at = self._names.index(spec.name)
            moved = np.concatenate([(one[at] - case.float64[spec.name][draw]).ravel() for draw, one in enumerate(self._at(case))])
            found |= _extent("moved", moved)
        self._found[_key(spec.name, mode, case.case.sizes, _shape(case, spec.name))] = found

    def of(self, row: ParityRow) -> dict[str, float]:
        """The sizes behind a row; a whole sequence's where only that was measured."""
        whole = self._found.get(_key(row.output, "whole", row.sizes, row.shape), {})
        return {**whole, **self._found.get(_key(row.output, row.mode, row.sizes, row.shape), {})}

    def _at(self, case: CaseArrays) -> list[list[Array]]:
        key = str((case.case.sizes, [_shape(case, name) for name in self._names]))
        if key not in self._moved:
            random = np.random.default_rng(0)
            drawn = [{n: torch.from_numpy(a) for n, a in case.draw_inputs(draw).items()} for draw in range(case.case.draws)]
            self._moved[key] = [self._oracle.float64(nudged_inputs(inputs, random)) for inputs in drawn]
        return self._moved[key]


def _shape(case: CaseArrays, output: str) -> tuple[int, ...]:
    """The shape of one draw; of two cases of one size, the longest sequence may differ."""
    return tuple(case.float64[output].shape[1:])


def _key(output: str, mode: str, sizes: Mapping[str, int], shape: tuple[int, ...]) -> str:
    return f"{output} {mode} {sizes} {shape}"


def _extent(name: str, error: Array) -> dict[str, float]:
    return {name: _rms(error), f"{name}999": float(np.quantile(np.abs(error), 0.999))}


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _with_nudged_weights(model: nn.Module) -> nn.Module:
    """The module with every weight moved to one of the two float32 values beside it."""
    moved = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in moved.parameters():
            towards = torch.where(torch.rand(parameter.shape, generator=generator) < 0.5, -torch.inf, torch.inf)
            parameter.copy_(torch.nextafter(parameter, towards))
    return moved


def _with_long_case(path: Path, case: CaseArrays) -> Path:
    """The bundle with a further case."""
    bundle = open_bundle(path)
    cases = (*bundle.reference(), case)
    manifest = msgspec.structs.replace(bundle.manifest, sha256={}, reference=tuple(one.case for one in cases))
    return write_bundle(path.with_suffix(".long.edgeseq"), manifest, {"model.onnx": bundle.model()}, pack_reference(cases))


def results() -> list[dict[str, Any]]:
    """What has been measured so far, by seed."""
    if not RESULTS.exists():
        return []
    return sorted((json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()), key=lambda found: int(found["seed"]))


def calibrate(modules: int, jobs: int = 1) -> list[dict[str, Any]]:
    """Measure the modules of the seeds 0 to `modules` - 1 that are not yet among the results."""
    RESULTS.parent.mkdir(exist_ok=True)
    done = {found["seed"] for found in results()}
    seeds = [seed for seed in range(modules) if seed not in done]
    with RESULTS.open("a", encoding="utf-8") as file, ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        waiting = as_completed([pool.submit(measure_alone, seed) for seed in seeds])
        for finished in track(waiting, "calibrating", total=len(seeds)):
            file.write(json.dumps(finished.result()) + "\n")
            file.flush()
    return [found for found in results() if found["seed"] < modules]


def measure_alone(seed: int) -> dict[str, Any]:
    """`measure` in a process of its own: one thread, no remarks, nothing left on the disk."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = measure(seed, Path(folder))
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modules", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    calibrate(asked.modules, asked.jobs)
