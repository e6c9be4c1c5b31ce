"""What error correct fp16, bf16 and int8 computations of recurrent modules have, and what error faulty ones have.

    python benchmarks/low_precision.py --measure --results benchmarks/results/low_precision.jsonl --page docs/low-precision.md

Modules are drawn at random: kind, sizes, depth, directions, scale of the weights and length of the sequences. Each is evaluated in
float64, and then as correct programs of lower precisions would evaluate it, and as faulty ones would. How is part of each name:

    run        by ONNX Runtime on this machine, quantised by ONNX Runtime's own tools
    PyTorch    by PyTorch's own kernels for the data type on this machine's CPU
    emulated   in float32, with weights, inputs, gates and states rounded to the data type at each step, as kernels do that
               accumulate in float32 and store in the data type
    weights    in float32, with weights rounded to 8 bits

The page's tables stand between two comments and are written anew; what is around them stays.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from low_precision_page import tables
from low_precision_programs import Outputs, correct, faulty, outputs_of
from rich.progress import track
from torch import Tensor, nn

from edgeseq_runtime.tensors import distance, relative_error_by_step

KINDS: dict[str, Callable[..., nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
MODULES = 300  # whose weights are 0.3 to 3 times PyTorch's initialisation
WILD = 60  # more, of 3 to 12 times
FAULTY_EVERY = 3  # faults are planted in every so many modules
DRAWS, FEWEST = 32, 8  # sequences pooled; fewer where a module is large
WORK = 8e8  # multiplications of one evaluation
CHAOS = 1e-2  # as the exporter's
BEGIN, END = "<!-- tables: made by benchmarks/low_precision.py -->", "<!-- end of tables -->"

Figures = dict[str, tuple[float, float]]  # output -> (relative, relative999); "argmax" -> the share unequal, twice


@dataclass(frozen=True)
class Drawn:
    """A module, and the sequences it is given."""

    kind: str
    features: int
    hidden: int
    layers: int
    directions: int
    scale: float  # of the weights, in units of PyTorch's initialisation
    T: int
    draws: int
    seed: int
    wild: bool

    def module(self) -> nn.RNNBase:
        """The module in float32."""
        torch.manual_seed(self.seed)
        module = KINDS[self.kind](self.features, self.hidden, self.layers, bidirectional=self.directions == 2)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name.startswith("weight"):
                    parameter.mul_(self.scale)
        return module.eval().requires_grad_(False)

    def inputs(self) -> Tensor:
        """Shape (T, draws, features)."""
        return torch.randn(self.T, self.draws, self.features, generator=torch.Generator().manual_seed(self.seed + 1))


def draw(seed: int) -> Drawn:
    """A module whose evaluation takes no more than about `WORK`."""
    rng = np.random.default_rng([7, seed])
    kind = list(KINDS)[seed % 3]
    hidden, features, T = (round(math.exp(rng.uniform(0, math.log(top)))) for top in (512, 128, 500))
    layers, directions = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    wild = seed >= MODULES
    scale = math.exp(rng.uniform(*np.log((3, 12) if wild else (0.3, 3))))
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    step = gates * hidden * directions * (features + hidden + (layers - 1) * (directions + 1) * hidden)
    draws = max(FEWEST, min(DRAWS, int(WORK / (step * T))))
    return Drawn(kind, features, hidden, layers, directions, scale, max(1, min(T, int(WORK / (step * draws)))), draws, seed, wild)


def measure(drawn: Drawn) -> dict[str, object]:
    """Everything about one module."""
    module, x = drawn.module(), drawn.inputs()
    double = copy.deepcopy(module).double()
    truth = outputs_of(double(x.double()))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)).double()
    ulp = outputs_of(double(x.double() * (1 + 2.0**-24 * noise.sign())))["y"]
    grown = relative_error_by_step(ulp.numpy(), truth["y"].numpy(), 0)
    over = np.flatnonzero(grown > CHAOS)
    horizon = max(1, int(over[0])) if over.size else drawn.T
    gain = float(np.sqrt(np.mean(grown[:horizon] ** 2))) / 2.0**-24

    def figures(found: Outputs) -> Figures:
        return {name: pair for name, pair in _figures(found, truth, horizon, drawn.T).items() if pair is not None}

    record: dict[str, object] = {**asdict(drawn), "horizon": horizon, "gain": gain}
    record["correct"] = {name: figures(found) for name, found in correct(module, x)}
    if not drawn.wild and drawn.seed % (3 * FAULTY_EVERY) < 3:
        record["faulty"] = {name: figures(found) for name, found in faulty(module, x)}
    return record


def _figures(found: Outputs, truth: Outputs, horizon: int, T: int) -> dict[str, tuple[float, float] | None]:
    """As parity measures: y within the horizon; the last state only where there is none."""
    made: dict[str, tuple[float, float] | None] = {}
    for name, values in found.items():
        if name != "y" and horizon < T:
            continue
        got, exact64 = (array.numpy()[: horizon if name == "y" else None] for array in (values, truth[name]))
        measured = distance(got, got, exact64)
        made[name] = (measured.relative, measured.relative999)
        if name == "y" and got.shape[-1] > 1:
            unequal = float(np.mean(got.argmax(-1) != exact64.argmax(-1)))
            made["argmax"] = (unequal, unequal)
    return made


def rounded(value: object) -> object:
    """Three digits, and null where infinite: a small file."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.3g}") if math.isfinite(value) else None
    return value


def main() -> None:
    """Measure, or read what was measured, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure anew; without it the results are read")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/low_precision.jsonl"))
    parser.add_argument("--page", type=Path, help="the page whose tables are written")
    options = parser.parse_args()
    if options.measure:
        torch.set_num_threads(1)
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)  # ONNX Runtime's advice to prepare a model that has nothing to prepare
        options.results.parent.mkdir(parents=True, exist_ok=True)
        with options.results.open("w") as file:
            for seed in track(range(MODULES + WILD), "modules"):
                file.write(json.dumps(rounded(measure(draw(seed))), separators=(",", ":")) + "\n")
                file.flush()

    records = [json.loads(line) for line in options.results.read_text().splitlines()]
    text = "\n".join(tables(records))
    if options.page is None:
        print(text)
        return
    before, _, rest = options.page.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"{options.page} has no place for tables: {BEGIN} and {END}")
    options.page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
