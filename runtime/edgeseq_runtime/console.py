"""Where the command line writes: results to standard output, everything about them to standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

# Markup and emoji off: a shape such as [T, B] is text, not a style.
OUT = Console(markup=False, emoji=False, highlight=False)
ERR = Console(markup=False, emoji=False, highlight=False, stderr=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """A plain table that fits 80 columns where its contents do; the columns in `right` hold figures."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def pairs(rows: Sequence[tuple[str, object]]) -> Table:
    """Names and values side by side."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, str(value))
    return made


@contextmanager
def progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's standard error, gone when done; nothing elsewhere. Yields `report(done, total)`."""
    if not ERR.is_terminal:
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
    with Progress(*columns, console=ERR, transient=True) as bar:
        task = bar.add_task(text, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report


@contextmanager
def working(text: str) -> Iterator[None]:
    """A spinner on a terminal's standard error, gone when done; nothing elsewhere."""
    if not ERR.is_terminal:
        yield
        return
    with ERR.status(text):
        yield
