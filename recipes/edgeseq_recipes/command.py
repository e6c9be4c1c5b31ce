"""`edgeseq train`: a recipe on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from edgeseq.training import CheckpointError
from edgeseq_recipes.catalogue import NAMES, load_recipe
from edgeseq_recipes.recipe import Findings, Recipe
from edgeseq_recipes.report import METRICS, Graph, export_graph, metrics, remove_run, write_metrics
from edgeseq_recipes.run import Run
from edgeseq_recipes.screen import ERR, show_list, show_recipe, show_results
from edgeseq_runtime.errors import UsageError

MISSED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def train_command(
    name: Annotated[str | None, typer.Argument(metavar="RECIPE", help="its name; --list shows all")] = None,
    out: Annotated[Path | None, typer.Option(help="the folder for everything; build/train/RECIPE by default")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of weights, batches and dropout")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="the short version: seconds, with bounds of its own")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the folder's checkpoints")] = False,
    export: Annotated[bool, typer.Option("--export", help="write the bundles too, and prove them on ONNX Runtime")] = False,
    show: Annotated[bool, typer.Option("--list", help="list the recipes")] = False,
) -> None:
    """Train a recipe, measure its claim, and draw it. Exit code 1 if a wanted figure is missed."""
    if show:
        show_list(list(map(load_recipe, NAMES)))
        return
    if name is None:
        raise UsageError("no recipe was named; name one, or list them: edgeseq train --list")
    recipe = load_recipe(name)
    folder = out or Path("build/train") / name
    try:
        passed = run_recipe(recipe, Run(folder, seed=seed, quick=quick, resume=resume), export=export)
    except CheckpointError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"can't write to {folder}: {error}; make room there, or name another folder with --out") from error
    except KeyboardInterrupt:
        ERR.print(f"stopped; the same command with --resume goes on from {folder}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    if not passed:
        raise typer.Exit(MISSED)


def run_recipe(recipe: Recipe, run: Run, *, export: bool) -> bool:
    """Run it, write its metrics and its bundles, and say whether every wanted figure was reached and every bundle is equal."""
    # Small networks run faster on one thread, and equal from machine to machine.
    torch.set_num_threads(1)
    if run.resume:
        (run.folder / METRICS).unlink(missing_ok=True)
    else:
        remove_run(run.folder)
    show_recipe(recipe)
    findings = recipe.run(run)
    graphs = _export(findings, run.folder) if export else []
    write_metrics(run.folder, metrics(recipe, findings, graphs, run.fits, run.figures, seed=run.seed, quick=run.quick))
    show_results(findings.measures, graphs)
    ERR.print(f"written to {run.folder}", soft_wrap=True)
    return all(measure.ok is not False for measure in findings.measures) and all(graph.passed for graph in graphs)


def _export(findings: Findings, folder: Path) -> list[Graph]:
    graphs = []
    for request in findings.graphs:
        with ERR.status(f"exporting {request.bundle_name}, and proving it on ONNX Runtime"):
            graphs.append(export_graph(request, folder))
    return graphs


def main(argv: list[str]) -> int | None:
    """The command as a part of the `edgeseq` program.

    Raises:
        EdgeseqError: for the program to report.
    """
    code: int | None = app(argv, prog_name="edgeseq train", standalone_mode=False)
    return code
