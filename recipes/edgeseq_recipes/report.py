"""What a run leaves for others to read: metrics.json, and bundles with their measured parity."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgeseq_export import ExportNotice, ExportRequest, export_request
from edgeseq_recipes.recipe import Findings, Fitted, Measure, Recipe
from edgeseq_runtime import measure_parity, open_bundle

METRICS = "metrics.json"


@dataclass(frozen=True)
class Graph:
    """An exported bundle, and the worst of its parity over all outputs, sizes and modes."""

    file: str
    nodes: int
    census: Mapping[str, int]  # recurrent nodes: operator -> how many
    k: float  # rms distance from float64 in PyTorch's own rounding errors
    k999: float  # the same at the 99.9th percentile
    passed: bool

    @property
    def census_text(self) -> str:
        """Such as "1 LSTM of 12 nodes"."""
        recurrent = ", ".join(f"{count} {operator}" for operator, count in self.census.items()) or "none"
        return f"{recurrent} of {self.nodes} nodes"


def export_graph(request: ExportRequest, folder: Path) -> Graph:
    """Write `<folder>/<name>.edgeseq`, run it on ONNX Runtime and compare it with PyTorch.

    Raises:
        ExportError: it can't be exported.
    """
    path = folder / f"{request.bundle_name}.edgeseq"
    with warnings.catch_warnings():
        # The bundle's notes say it too.
        warnings.simplefilter("ignore", ExportNotice)
        export_request(request, path)
    manifest = open_bundle(path).manifest
    parity = measure_parity(path, device="cpu")
    gated = [row for row in parity.rows if row.verdict != "skip"]
    return Graph(
        file=path.name,
        nodes=int(manifest.provenance["nodes"]),
        census=manifest.census,
        k=max((row.k for row in gated), default=math.inf),
        k999=max((row.k999 for row in gated), default=math.inf),
        passed=parity.passed,
    )


def metrics(
    recipe: Recipe,
    findings: Findings,
    graphs: Sequence[Graph],
    fits: Sequence[Fitted],
    figures: Sequence[str],
    *,
    seed: int,
    quick: bool,
) -> dict[str, Any]:
    """Everything about a run as JSON values; a figure that is not finite is the string "nan", "inf" or "-inf"."""
    return {
        "name": recipe.name,
        "row": recipe.row,
        "title": recipe.title,
        "claim": recipe.claim,
        "exported_as": recipe.exported_as,
        "seed": seed,
        "quick": quick,
        "measures": list(map(_measure, findings.measures)),
        "caption": findings.caption,
        "figures": [f"{name}.png" for name in figures],
        "fits": list(map(_fit, fits)),
        "graphs": [{**asdict(graph), "k": _json(graph.k), "k999": _json(graph.k999)} for graph in graphs],
        "versions": {name: version(name) for name in ("torch", "onnxruntime")},
    }


def write_metrics(folder: Path, values: Mapping[str, Any]) -> None:
    """Write metrics.json, whole or not at all."""
    temporary = folder / f".{METRICS}"
    temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, folder / METRICS)


def remove_run(folder: Path) -> None:
    """Delete metrics.json and what it names: weights, pictures and bundles of an earlier run, which are not this one's."""
    try:
        found = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        names = [*found["figures"], *(f"{fit['name']}.safetensors" for fit in found["fits"])]
        names += [graph["file"] for graph in found["graphs"]]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        names = []
    for name in (*names, METRICS):
        (folder / Path(name).name).unlink(missing_ok=True)


def _measure(measure: Measure) -> dict[str, Any]:
    wanted = measure.wanted and {"low": _json(measure.wanted.low), "high": _json(measure.wanted.high), "text": str(measure.wanted)}
    return {"what": measure.what, "reached": _json(measure.reached), "wanted": wanted, "ok": measure.ok}


def _fit(fitted: Fitted) -> dict[str, Any]:
    history = fitted.history
    return {
        "name": fitted.name,
        "parameters": fitted.parameters,
        "steps": history.steps,
        "last_loss": _json(history.losses[-1]),
        "best": _json(history.best),
        "stopped": history.stopped,
    }


def _json(value: float) -> float | str:
    return float(value) if math.isfinite(value) else str(float(value))
