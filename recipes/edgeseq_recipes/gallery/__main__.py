"""`make gallery`: every recipe run, measured, exported and proved, and the page that shows it.

Each recipe is a process of its own, `edgeseq train NAME --export`, on one thread; as many run at once as there are processor
cores. What a recipe leaves in build/gallery/NAME is all the page is made of.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgeseq_recipes.catalogue import NAMES
from edgeseq_recipes.gallery.outcome import last_outcome
from edgeseq_recipes.gallery.page import write_page
from edgeseq_recipes.gallery.runs import longest_first, remember_durations, run_all
from edgeseq_recipes.gallery.screen import show_outcomes
from edgeseq_recipes.screen import ERR
from edgeseq_runtime.errors import EdgeseqError, UsageError

FAILED, BAD_USAGE = 1, 2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def gallery_command(
    only: Annotated[list[str] | None, typer.Option(help="run these alone; the others keep their last results")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="the short versions, whose page is not for the docs")] = False,
    out: Annotated[Path | None, typer.Option(help="the folder of gallery.md and gallery/; docs by default")] = None,
) -> None:
    """Run the recipes and write the page. Exit code 1 if a wanted figure is missed or a recipe fails."""
    runs = Path("build/gallery-quick" if quick else "build/gallery")
    names = _chosen(only)
    outcomes = run_all(longest_first(names, runs), runs, quick=quick)
    remember_durations(outcomes, runs)
    # In the catalogue's order; a recipe that was not run now keeps what it last left.
    shown = [outcomes.get(name) or last_outcome(name, runs) for name in NAMES]
    page = write_page(shown, out or (runs if quick else Path("docs")))
    show_outcomes(shown)
    ERR.print(f"written to {page}", soft_wrap=True)
    if not all(outcome.passed for outcome in outcomes.values()):
        raise typer.Exit(FAILED)


def _chosen(only: list[str] | None) -> tuple[str, ...]:
    unknown = sorted(set(only or ()) - set(NAMES))
    if unknown:
        raise UsageError(f"there are no recipes {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    return tuple(name for name in NAMES if not only or name in only)


def main() -> None:
    """Entry point of the module."""
    try:
        app(prog_name="gallery")
    except EdgeseqError as error:
        ERR.print(f"error: {error}", soft_wrap=True)
        sys.exit(BAD_USAGE)


if __name__ == "__main__":
    main()
