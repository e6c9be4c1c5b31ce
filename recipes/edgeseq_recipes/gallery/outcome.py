"""What became of a recipe that the gallery ran."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseq_recipes.report import METRICS

LOG = "log.txt"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Outcome:
    """What became of a recipe."""

    name: str
    folder: Path
    metrics: Mapping[str, Any] | None  # None: it did not get as far as measuring
    error: str = ""  # why, in one line
    seconds: float | None = field(default=None, compare=False)  # None: not run this time

    @property
    def missed(self) -> list[str]:
        """The measures that are not what was wanted, and the bundles that are not equal."""
        if self.metrics is None:
            return []
        measures = [measure["what"] for measure in self.metrics["measures"] if measure["ok"] is False]
        return measures + [graph["file"] for graph in self.metrics["graphs"] if not graph["passed"]]

    @property
    def passed(self) -> bool:
        """Whether it ran and every wanted figure was reached."""
        return self.metrics is not None and not self.missed


def outcome_of(name: str, folder: Path, code: int, seconds: float | None = None) -> Outcome:
    """What a finished process left. Metrics are written last of all, so a recipe that failed on the way has none."""
    found = read_metrics(folder)
    if found is None or code not in (0, 1):
        return Outcome(name, folder, None, last_line(folder / LOG) or f"exit code {code}", seconds)
    return Outcome(name, folder, found, seconds=seconds)


def last_outcome(name: str, runs: Path) -> Outcome:
    """What a recipe left when it last ran."""
    folder = runs / name
    found = read_metrics(folder)
    return Outcome(name, folder, found, "" if found else last_line(folder / LOG) or NOT_RUN)


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The metrics of a run; None where there are none."""
    path = folder / METRICS
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
