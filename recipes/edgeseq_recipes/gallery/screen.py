"""What a terminal shows of the gallery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from edgeseq_recipes.gallery.outcome import Outcome
from edgeseq_recipes.screen import ERR, OUT, mark, plain_table


class RecipesScreen:
    """What a terminal shows while recipes run beside each other: a line for each that is running, and how many are done."""

    def __init__(self, progress: Progress | None, count: int) -> None:
        self.running: dict[str, TaskID | None] = {}
        self._progress = progress
        self._done, self._count = 0, count
        self._all = progress.add_task("recipes", total=count, line="") if progress else None

    def started(self, name: str) -> None:
        """A recipe begins."""
        self.running[name] = self._progress.add_task(f"  {name}", total=None, line="") if self._progress else None

    def ended(self, outcome: Outcome) -> None:
        """A recipe is done, one way or the other."""
        task = self.running.pop(outcome.name)
        ERR.print(Text.assemble(mark(outcome.passed), f" {outcome.name}"))
        if self._progress and self._all is not None and task is not None:
            self._progress.remove_task(task)
            self._done += 1
            self._progress.update(self._all, completed=self._done, line=f"{self._done} of {self._count}")

    def refresh(self, lines: Mapping[str, str]) -> None:
        """The last line that each running recipe has written."""
        for name, line in lines.items():
            task = self.running.get(name)
            if self._progress and task is not None:
                self._progress.update(task, line=line)


@contextmanager
def watching_recipes(names: Sequence[str]) -> Iterator[RecipesScreen]:
    """Lines and bars on a terminal's standard error; elsewhere a line for each recipe that is done."""
    if not ERR.is_terminal:
        yield RecipesScreen(None, len(names))
        return
    line = TextColumn("{task.fields[line]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TimeElapsedColumn(), line)
    with Progress(*columns, console=ERR, transient=True, expand=True) as progress:
        yield RecipesScreen(progress, len(names))


def show_outcomes(outcomes: Sequence[Outcome]) -> None:
    """The gallery's verdicts, on standard output; under the table, why a recipe did not pass."""
    table = plain_table(("", "recipe", "seconds", "wanted figures", "bundles"), right=("seconds",))
    for outcome in outcomes:
        seconds = "" if outcome.seconds is None else f"{outcome.seconds:.0f}"
        table.add_row(mark(outcome.passed), outcome.name, seconds, *_outcome_cells(outcome))
    OUT.print(table)
    for outcome in outcomes:
        for reason in outcome.missed or ([outcome.error] if outcome.error else []):
            OUT.print(Text.assemble(mark(False), f" {outcome.name}: {reason}"), soft_wrap=True)


def _outcome_cells(outcome: Outcome) -> tuple[str, str]:
    if outcome.metrics is None:
        return "", ""
    bounded = [measure["ok"] for measure in outcome.metrics["measures"] if measure["ok"] is not None]
    bundles = [graph["passed"] for graph in outcome.metrics["graphs"]]
    return f"{sum(bounded)} of {len(bounded)}", f"{sum(bundles)} of {len(bundles)}" if bundles else "–"
