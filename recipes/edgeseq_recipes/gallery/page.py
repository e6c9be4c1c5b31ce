"""The gallery's page, from what the recipes left."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgeseq_recipes.catalogue import load_recipe
from edgeseq_recipes.gallery.outcome import NOT_RUN, Outcome
from edgeseq_recipes.recipe import Recipe, figure_text

PAGE, PICTURES = "gallery.md", "gallery"
PASSED, MISSED, FAILED, INFORMATION = "✓", "✗ **missed**", "✗ **failed**", ""

HEAD = """# Gallery

What the lecture says about recurrent networks: each claim trained, measured, drawn, exported, and the exported graph run on ONNX
Runtime and compared with PyTorch. `make gallery` does all of it and writes this page; a wanted figure that is missed says so here
and fails the command. PyTorch {torch}, ONNX Runtime {onnxruntime}, CPU.

For an exported graph, `k` is the runtime's distance from float64 in units of PyTorch's own rounding error, and `k999` the same at
the 99.9th percentile; the worst of all outputs, sizes and modes is shown.
"""


def write_page(outcomes: Sequence[Outcome], out: Path) -> Path:
    """Write <out>/gallery.md and the pictures in <out>/gallery/; pictures of anything else are deleted there."""
    pictures = out / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    wanted = {picture_name(outcome.name, figure): outcome.folder / figure for outcome in outcomes for figure in _figures(outcome)}
    for stale in pictures.glob("*.png"):
        if stale.name not in wanted:
            stale.unlink()
    for name, source in wanted.items():
        shutil.copyfile(source, pictures / name)
    path = out / PAGE
    path.write_text(page(outcomes), encoding="utf-8")
    return path


def page(outcomes: Sequence[Outcome]) -> str:
    """The page's Markdown; the same text for the same outcomes."""
    recipes = {outcome.name: _recipe(outcome.name) for outcome in outcomes}
    versions = {name: version(name) for name in ("torch", "onnxruntime")}
    parts = [HEAD.format(**versions), "\n".join(_head_table(outcomes, recipes)) + "\n"]
    parts += ["\n".join(_section(outcome, recipes[outcome.name])) for outcome in outcomes]
    return "\n".join(parts)


def picture_name(recipe: str, figure: str) -> str:
    """A picture's file: the figure's own name where it is the recipe's, and both otherwise."""
    return figure if figure == f"{recipe}.png" else f"{recipe}-{figure}"


def _figures(outcome: Outcome) -> list[str]:
    return [] if outcome.metrics is None else list(outcome.metrics["figures"])


def _recipe(name: str) -> Recipe | None:
    try:
        return load_recipe(name)
    # Its run says why in its log; the page has to be written all the same.
    except Exception:
        return None


def _head_table(outcomes: Sequence[Outcome], recipes: Mapping[str, Recipe | None]) -> Iterator[str]:
    yield "| row | system | claim | measure | wanted | reached | |"
    yield "|---|---|---|---|---|---|---|"
    for outcome in outcomes:
        recipe = recipes[outcome.name]
        row, title, claim = (recipe.row, recipe.title, recipe.claim) if recipe else ("", outcome.name, "")
        system = f"[{_cell(title)}](#{outcome.name})"
        if outcome.metrics is None:
            verdict = NOT_RUN if outcome.error == NOT_RUN else f"{FAILED}: {_cell(outcome.error)}"
            yield _row(row, system, _cell(claim), "", "", "", verdict)
            continue
        bounded = [measure for measure in outcome.metrics["measures"] if measure["wanted"]]
        for measure in bounded or outcome.metrics["measures"][:1]:
            yield _row(row, system, _cell(claim), *_measure_cells(measure))
            row, system, claim = "", "", ""
        unequal = [graph for graph in outcome.metrics["graphs"] if not graph["passed"]]
        for graph in unequal:
            yield _row("", "", "", f"parity of `{graph['file']}`", "equal", f"k {graph['k']}", MISSED)


def _section(outcome: Outcome, recipe: Recipe | None) -> Iterator[str]:
    title = f"{recipe.title} (row {recipe.row})" if recipe else outcome.name
    yield f'<a id="{outcome.name}"></a>\n'
    yield f"## {title}\n"
    if recipe:
        yield f"{recipe.claim}\n"
    if outcome.error == NOT_RUN:
        yield "It has not been run.\n"
    elif outcome.metrics is None:
        yield f"**This recipe failed:** `{outcome.error}`\n"
    else:
        yield from _results(outcome.name, outcome.metrics)
    yield f"```\nedgeseq train {outcome.name} --export\n```\n"


def _results(name: str, metrics: Mapping[str, Any]) -> Iterator[str]:
    if metrics["fits"]:
        yield "Trained: " + "; ".join(map(_fit_text, metrics["fits"])) + ".\n"
    yield "| measure | wanted | reached | |\n|---|---|---|---|"
    for measure in metrics["measures"]:
        yield _row(*_measure_cells(measure))
    yield ""
    if metrics["graphs"]:
        yield f"Exported as: {metrics['exported_as']}.\n"
        yield "| exported | recurrent nodes | nodes | k | k999 | |\n|---|---|---|---|---|---|"
        for graph in metrics["graphs"]:
            census = ", ".join(f"{count} {operator}" for operator, count in graph["census"].items()) or "none"
            figures = (f"{float(graph[key]):.2f}" for key in ("k", "k999"))
            yield _row(f"`{graph['file']}`", census, graph["nodes"], *figures, PASSED if graph["passed"] else MISSED)
        yield ""
    for figure in metrics["figures"]:
        yield f"![{_cell(metrics['title'])}]({PICTURES}/{picture_name(name, figure)})\n"
    if metrics["caption"]:
        yield f"{metrics['caption']}\n"


def _fit_text(fit: Mapping[str, Any]) -> str:
    return f"`{fit['name']}`, {fit['parameters']:,} parameters, {fit['steps']:,} steps ({fit['stopped']})"


def _measure_cells(measure: Mapping[str, Any]) -> tuple[str, str, str, str]:
    wanted = measure["wanted"]["text"] if measure["wanted"] else ""
    verdict = {True: PASSED, False: MISSED, None: INFORMATION}[measure["ok"]]
    return _cell(measure["what"]), wanted, figure_text(float(measure["reached"])), verdict


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _cell(text: str) -> str:
    """Text that can't end its cell."""
    return text.replace("|", "\\|").replace("\n", " ")
