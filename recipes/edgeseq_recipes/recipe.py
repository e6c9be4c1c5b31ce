"""What a recipe is, and what it finds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeseq.training import History
from edgeseq_export import ExportRequest

if TYPE_CHECKING:
    from edgeseq_recipes.run import Run


@dataclass(frozen=True)
class Bound:
    """What a measure has to be: low <= reached <= high."""

    low: float = -math.inf
    high: float = math.inf

    def holds(self, reached: float) -> bool:
        """Whether a figure is within; one that is not a number never is."""
        return self.low <= reached <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"≥ {figure_text(self.low)}"
        if self.low == -math.inf:
            return f"≤ {figure_text(self.high)}"
        return f"{figure_text(self.low)} to {figure_text(self.high)}"


def at_least(low: float) -> Bound:
    """A figure that has to reach `low`."""
    return Bound(low=low)


def at_most(high: float) -> Bound:
    """A figure that must not exceed `high`."""
    return Bound(high=high)


def between(low: float, high: float) -> Bound:
    """A figure within `low` and `high`, both included."""
    return Bound(low, high)


@dataclass(frozen=True)
class Measure:
    """A figure, and what it has to be."""

    what: str  # "exact names on held-out images"
    reached: float
    wanted: Bound | None = None  # None: for information

    @property
    def ok(self) -> bool | None:
        """Whether what was wanted was reached; None where nothing was."""
        return None if self.wanted is None else self.wanted.holds(self.reached)


@dataclass(frozen=True)
class Fitted:
    """What was trained, for the report; `Run.fit` writes it down."""

    name: str
    parameters: int
    history: History


@dataclass(frozen=True)
class Findings:
    """What a recipe comes back with."""

    measures: tuple[Measure, ...]
    graphs: tuple[ExportRequest, ...] = ()  # what `--export` writes: <ExportRequest.name>.edgeseq
    caption: str = ""  # one to three sentences: what the picture shows


@dataclass(frozen=True)
class Recipe:
    """One claim of the lecture, and the experiment that shows it."""

    name: str  # the word on the command line: "markov-source"
    row: str  # of the lecture's table: "1"
    title: str  # "RNN as a directed graphical model"
    claim: str  # what the lecture says, in one sentence
    exported_as: str  # "scoring graph, step graph"
    run: Callable[[Run], Findings]


def figure_text(value: float) -> str:
    """A figure in four digits at most."""
    return f"{value:.4g}"
