"""Detection power: how many harmed exports each rule calls wrong.

    python benchmarks/detection.py                                  # every kind on every model; about ten minutes
    python benchmarks/detection.py --models VAD nn.LSTM --kinds "operand TF32" "h and c swapped on exit"
    python benchmarks/detection.py --table                          # the tables of the last run, as Markdown

Each model of `mutated_models` is exported once and its graph harmed in every way of `mutations`. Every rule of `parity_rules` says
of each mutant whether it is wrong; `mutation_change` says by how much it really is, in units of PyTorch's own rounding error.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec
import onnx
from mutation_change import Failed, Yardstick
from mutations import KINDS
from parity_rules import RULES, judge_by_every_rule
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edgeseq_runtime.bundle import Bundle, Gate, open_bundle
from edgeseq_runtime.errors import EdgeseqError
from edgeseq_runtime.parity import ParityReport
from edgeseq_runtime.plan import make_plan
from edgeseq_runtime.session import open_session

RESULTS = Path(__file__).parent / "results" / "detection.jsonl"
UNHARMED = "unharmed"  # in place of a kind: the graph as it was exported
TRIES = 2
MOST = 20  # mutants of a kind, each of another model; which models and where in them is drawn alike each time
console = Console(stderr=True)


class Mutant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One harmed graph, and what was said of it."""

    model: str
    kind: str
    site: str
    loads: bool = True  # ONNX's checker and ONNX Runtime accept it
    equal: bool = False  # gives the same bits as the unharmed graph
    change: float | None = None  # of what it computes, in units of PyTorch's rounding error; None: no number can say
    alarms: tuple[str, ...] = RULES  # rules that call it wrong
    k: float | None = None  # the worst of the rows that have figures
    k999: float | None = None
    beyond: bool = True  # something other than k and k999 is wrong: a shape, NaN, an error
    worst: str = ""  # the row of the largest k
    reason: str = ""

    @property
    def above(self) -> bool:
        """Whether it computes something else, by more than PyTorch's own rounding."""
        return self.loads and (self.change is None or self.change > 1)

    def caught(self, gate: Gate) -> bool:
        """Whether parity fails it with these gates."""
        return self.beyond or (self.k or 0.0) > gate.k or (self.k999 or 0.0) > gate.k999


class Harmed(Bundle):
    """A bundle with another model, which is in no file."""

    def __init__(self, bundle: Bundle, model: bytes) -> None:
        super().__init__(bundle.path, bundle.manifest, bundle.member_sizes, hashlib.sha256(model).hexdigest())
        self._model = model

    def model(self, precision: str = "fp32") -> bytes:
        return self._model


class Task(NamedTuple):
    """One mutant to make and judge."""

    model: str
    bundle: Path
    kind: str
    site: str


def tasks(models: Mapping[str, Path], kinds: Iterable[str], most: int = MOST) -> list[Task]:
    """Every model as it is and with some of the kinds, model by model; of each kind at most so many."""
    graphs = {model: onnx.load_from_string(open_bundle(path).model()) for model, path in models.items()}
    chosen = [Task(model, path, UNHARMED, "") for model, path in models.items()]
    for kind in kinds:
        places = {model: sites for model in sorted(models) if (sites := KINDS[kind].sites(graphs[model]))}
        drawn = random.Random(crc32(kind.encode()))
        for model in drawn.sample(list(places), min(most, len(places))):
            chosen.append(Task(model, models[model], kind, drawn.choice(places[model])))
    return sorted(chosen, key=lambda task: list(models).index(task.model))


def judge(task: Task) -> Mutant:
    """Make a mutant, measure how wrong it is, and ask every rule."""
    bundle, yardstick, graph = _subject(task.bundle)
    made = Mutant(model=task.model, kind=task.kind, site=task.site)
    mutated = graph if task.kind == UNHARMED else KINDS[task.kind].apply(graph, task.site)
    try:
        onnx.checker.check_model(mutated)
    except onnx.checker.ValidationError as error:
        return msgspec.structs.replace(made, loads=False, reason=_short(error))
    model = mutated.SerializeToString()
    outputs = yardstick.outputs(model)
    if isinstance(outputs, Failed) and not outputs.loaded:
        return msgspec.structs.replace(made, loads=False, reason=_short(outputs.reason))
    if not isinstance(outputs, Failed):
        change = yardstick.change(outputs)
        made = msgspec.structs.replace(made, equal=yardstick.equal(outputs), change=change if math.isfinite(change) else None)
    return _judged(made, task.bundle, Harmed(bundle, model))


def _judged(mutant: Mutant, reference: Path, harmed: Bundle) -> Mutant:
    try:
        session = open_session(harmed, make_plan(harmed))
    except EdgeseqError as error:
        return msgspec.structs.replace(mutant, reason=_short(error))
    judged = judge_by_every_rule(reference, session, model=harmed.model())
    alarms = tuple(rule for rule in RULES if judged.alarms[rule])
    figures = _figures(judged.report) if judged.report else {}
    return msgspec.structs.replace(mutant, alarms=alarms, reason=_short(judged.reason), **figures)


def _figures(report: ParityReport) -> dict[str, object]:
    rows = [row for row in report.rows if row.verdict != "skip"]
    measured = [row for row in rows if math.isfinite(row.k) and math.isfinite(row.k999)]
    worst = max(measured, key=lambda row: row.k, default=None)
    return {
        "k": worst.k if worst else None,
        "k999": max((row.k999 for row in measured), default=None),
        "beyond": len(measured) < len(rows) or not rows,
        "worst": f"{worst.output} {worst.mode} {worst.sizes}" if worst else "",
    }


@lru_cache(maxsize=1)
def _subject(path: Path) -> tuple[Bundle, Yardstick, onnx.ModelProto]:
    bundle = open_bundle(path)
    return bundle, Yardstick(bundle), onnx.load_from_string(bundle.model())


def _short(reason: object) -> str:
    return " ".join(str(reason).split())[:200]


def run(todo: Sequence[Task]) -> Iterator[Mutant]:
    """Judge mutants in a process of their own: ONNX Runtime ends it on some graphs. One that does it twice is refused so."""
    at = ended = 0
    while at < len(todo):
        with ProcessPoolExecutor(1, get_context("spawn")) as worker:
            try:
                while at < len(todo):
                    yield worker.submit(judge, todo[at]).result()
                    at, ended = at + 1, 0
            except BrokenProcessPool:
                ended += 1
        if ended == TRIES:
            yield Mutant(model=todo[at].model, kind=todo[at].kind, site=todo[at].site, reason="ends the process")
            at, ended = at + 1, 0


def read(path: Path = RESULTS) -> list[Mutant]:
    """The mutants of an earlier run."""
    return [msgspec.json.decode(line, type=Mutant) for line in path.read_text().splitlines()]


def write(mutants: Iterable[Mutant], path: Path) -> None:
    """One line a mutant; figures to four digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for mutant in mutants:
            file.write(msgspec.json.encode(_rounded(mutant)) + b"\n")
            file.flush()


def _rounded(mutant: Mutant) -> Mutant:
    figures = {name: getattr(mutant, name) for name in ("change", "k", "k999")}
    return msgspec.structs.replace(mutant, **{n: v if v is None else float(f"{v:.4g}") for n, v in figures.items()})


def share_caught(mutants: Iterable[Mutant], gate: Gate) -> float:
    """Of the mutants above PyTorch's rounding, the share that parity would fail with other gates."""
    above = [mutant for mutant in mutants if mutant.above]
    return sum(mutant.caught(gate) for mutant in above) / len(above) if above else math.nan


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", help="of mutated_models; all unless said")
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), metavar="KIND", help="of mutations; all unless said")
    parser.add_argument("--most", type=int, default=MOST, help="mutants of each kind")
    parser.add_argument("--bundles", type=Path, help="folder of the bundles; under build/ by a hash of the code unless said")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only print the tables of --out")
    options = parser.parse_args()
    if not options.table:
        from mutated_models import MODELS, bundle_of

        names = options.models or list(MODELS)
        with Progress(*_COLUMNS, console=console) as progress:
            exports = progress.track(names, description="export")
            todo = tasks({name: bundle_of(name, options.bundles) for name in exports}, options.kinds or KINDS, options.most)
            write(progress.track(run(todo), total=len(todo), description="judge"), options.out)
    from detection_page import page

    sys.stdout.write(page(read(options.out)))


_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

if __name__ == "__main__":
    main()
