"""What a terminal shows while a model is trained and when it is measured. Standard error, but for the table of results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from edgeseq.training import Schedule, Watch
from edgeseq_recipes.recipe import Fitted, Measure, Recipe, figure_text
from edgeseq_recipes.report import Graph

OUT = Console(highlight=False, markup=False, emoji=False)
ERR = Console(highlight=False, markup=False, emoji=False, stderr=True)

TICK, CROSS, DOT = "✓", "✗", "·"


@contextmanager
def watching(name: str, schedule: Schedule) -> Iterator[Watch]:
    """A bar with loss and score on a terminal; elsewhere a line at every tenth of the steps."""
    if ERR.is_terminal:
        with _bar(name, schedule.steps) as watch:
            yield watch
    else:
        yield _lines(name, schedule.steps)


@contextmanager
def _bar(name: str, steps: int) -> Iterator[Watch]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=ERR, transient=True) as progress:
        task = progress.add_task(name, total=steps, figures="")
        shown = ""

        def watch(step: int, loss: float, score: float | None) -> None:
            nonlocal shown
            if score is not None:
                shown = f"  score {figure_text(score)}"
            progress.update(task, completed=step, figures=f"loss {figure_text(loss)}{shown}")

        yield watch


def _lines(name: str, steps: int) -> Watch:
    every = max(steps // 10, 1)

    def watch(step: int, loss: float, score: float | None) -> None:
        if step % every == 0 or step == steps:
            shown = "" if score is None else f", score {figure_text(score)}"
            ERR.print(f"{name}: step {step} of {steps}, loss {figure_text(loss)}{shown}", soft_wrap=True)

    return watch


def show_fitted(fitted: Fitted) -> None:
    """One line about a fit that is done, on standard error."""
    history = fitted.history
    what = f"score {figure_text(history.best)}" if history.scores else f"loss {figure_text(history.losses[-1])}"
    ERR.print(f"{fitted.name}: {history.steps} steps, {fitted.parameters} parameters, {what}, {history.stopped}", soft_wrap=True)


def show_recipe(recipe: Recipe) -> None:
    """What is about to be run, on standard error."""
    ERR.print(Text(recipe.title, style="bold"))
    ERR.print(recipe.claim)


def show_results(measures: Sequence[Measure], graphs: Sequence[Graph]) -> None:
    """Every measure with its verdict, and what was exported, on standard output."""
    table = plain_table(("", "measure", "wanted", "reached"), right=("wanted", "reached"))
    for measure in measures:
        wanted = "" if measure.wanted is None else str(measure.wanted)
        table.add_row(mark(measure.ok), measure.what, wanted, figure_text(measure.reached))
    OUT.print(table)
    if graphs:
        table = plain_table(("", "exported", "recurrent nodes", "k", "k999"), right=("k", "k999"))
        for graph in graphs:
            table.add_row(mark(graph.passed), graph.file, graph.census_text, f"{graph.k:.2f}", f"{graph.k999:.2f}")
        OUT.print()
        OUT.print(table)


def mark(ok: bool | None) -> Text:
    """A green tick, a red cross, or a dot where nothing was wanted."""
    if ok is None:
        return Text(DOT, style="dim")
    return Text(TICK, style="green") if ok else Text(CROSS, style="bold red")


def plain_table(columns: Sequence[str], right: Sequence[str]) -> Table:
    """A table with a line under its head; the columns in `right` hold figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=column in ("", *right))
    return table


def show_list(recipes: Sequence[Recipe]) -> None:
    """The recipes, on standard output."""
    table = plain_table(("recipe", "row", "shows"), right=())
    for recipe in recipes:
        table.add_row(recipe.name, recipe.row, recipe.title)
    OUT.print(table)
