"""The gallery's recipes as processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from edgeseq_recipes.gallery.outcome import LOG, Outcome, last_line, outcome_of
from edgeseq_recipes.gallery.screen import watching_recipes

DURATIONS = "durations.json"
PROGRAM = (sys.executable, "-m", "edgeseq_runtime.cli.main")


def run_all(names: Sequence[str], runs: Path, *, quick: bool) -> dict[str, Outcome]:
    """Run recipes, as many at once as there are cores, in the order given; by name in the order they ended."""
    outcomes: dict[str, Outcome] = {}
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with watching_recipes(names) as screen:
            waiting: set[Future[Outcome]] = {pool.submit(_watched_run, name, runs, quick, screen.started) for name in names}
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                for outcome in (future.result() for future in done):
                    outcomes[outcome.name] = outcome
                    screen.ended(outcome)
                screen.refresh({name: last_line(runs / name / LOG) for name in tuple(screen.running)})
    finally:
        # At Ctrl-C, which a terminal sends to the recipes too, those not yet begun are not.
        pool.shutdown(cancel_futures=True)
    return outcomes


def _watched_run(name: str, runs: Path, quick: bool, started: Callable[[str], None]) -> Outcome:
    started(name)
    return run_recipe_alone(name, runs / name, quick=quick)


def run_recipe_alone(name: str, folder: Path, *, quick: bool) -> Outcome:
    """One recipe in a process of its own, in an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [*PROGRAM, "train", name, "--export", "--out", str(folder)]
    command += ["--quick"] if quick else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONUNBUFFERED": "1"}
    start = time.perf_counter()
    with (folder / LOG).open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, check=False)
    return outcome_of(name, folder, done.returncode, time.perf_counter() - start)


def longest_first(names: Sequence[str], runs: Path) -> list[str]:
    """In the order of their last durations, the longest first; those without one before all others."""
    durations = _durations(runs)
    return sorted(names, key=lambda name: -durations.get(name, float("inf")))


def remember_durations(outcomes: Mapping[str, Outcome], runs: Path) -> None:
    """Write down how long each recipe took, for the order of the next time."""
    taken = {name: round(outcome.seconds, 1) for name, outcome in outcomes.items() if outcome.seconds is not None}
    known = {**_durations(runs), **taken}
    (runs / DURATIONS).write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", encoding="utf-8")


def _durations(runs: Path) -> dict[str, float]:
    try:
        found: dict[str, float] = json.loads((runs / DURATIONS).read_text(encoding="utf-8"))
    # It only orders: without it, or with a damaged one, the catalogue's order does.
    except (OSError, ValueError):
        return {}
    return found
