"""`edgeseq export`: the exporter on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from edgeseq import WeightsError, load_weights
from edgeseq_export.exporting import export_request
from edgeseq_export.request import ExportRequest
from edgeseq_runtime.bundle import Bundle, open_bundle
from edgeseq_runtime.errors import EdgeseqError, UsageError

DEFAULT_FACTORY = "request"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def export_command(
    source: Annotated[
        str, typer.Argument(help="module.path:factory or path/to/file.py:factory; the factory returns an ExportRequest")
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="the bundle; NAME.edgeseq by default")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="safetensors, or a state dict saved by torch.save; read without running code")
    ] = None,
) -> None:
    """Export a PyTorch module to a bundle, proved equal before it is written."""
    request = load_request(source)
    if weights is not None:
        try:
            load_weights(request.model, weights)
        except WeightsError as error:
            raise UsageError(str(error)) from error
    path = output or Path(f"{request.bundle_name}.edgeseq")
    console = Console(stderr=True)
    with console.status(f"exporting {request.bundle_name}: capture, translate, run at other sizes, compare with float64"):
        written = export_request(request, path)
    Console().print(_summary(open_bundle(written)))


def main(argv: list[str]) -> None:
    """The command as a part of the `edgeseq` program.

    Raises:
        EdgeseqError: for the program to report.
    """
    app(argv, prog_name="edgeseq export", standalone_mode=False)


def load_request(source: str) -> ExportRequest:
    """What a factory returns, the factory named as `module.path:factory` or `path/to/file.py:factory`.

    A file's folder is put on the import path, as Python does for a script.

    Raises:
        UsageError: there is no such module, file or factory, or it returns something else.
    """
    place, _, name = source.rpartition(":")
    place, name = (place, name) if place else (name, DEFAULT_FACTORY)
    factory = getattr(_module_at(place), name, None)
    if not callable(factory):
        raise UsageError(f"{place} has no function '{name}'; name one that returns edgeseq_export.ExportRequest(...)")
    try:
        request = factory()
    except EdgeseqError:
        raise
    # A user's factory can raise anything; --debug shows where.
    except Exception as error:
        raise UsageError(f"{source} failed: {type(error).__name__}: {error}") from error
    if not isinstance(request, ExportRequest):
        raise UsageError(f"{source} returned a {type(request).__name__}; return edgeseq_export.ExportRequest(model, inputs, axes)")
    return request


def _module_at(place: str) -> Any:
    path = Path(place)
    if path.suffix != ".py":
        sys.path.insert(0, str(Path.cwd()))
        with _import_errors(place):
            return importlib.import_module(place)
    if not path.is_file():
        raise UsageError(f"there is no file {path}; give module.path:factory or path/to/file.py:factory")
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    with _import_errors(place):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _import_errors(place: str) -> Iterator[None]:
    try:
        yield
    # Importing runs the user's code, which can raise anything; --debug shows where.
    except Exception as error:
        raise UsageError(
            f"can't import '{place}' ({type(error).__name__}: {error}); give module.path:factory or path/to/file.py:factory"
        ) from error


def _summary(bundle: Bundle) -> Table:
    manifest = bundle.manifest
    table = Table(title=f"{bundle.path}", show_header=False, title_justify="left")
    table.add_row("model", f"{manifest.name}, {manifest.provenance['parameters']} parameters")
    table.add_row("inputs", "\n".join(map(str, manifest.inputs)))
    table.add_row("outputs", "\n".join(map(str, manifest.outputs)))
    if manifest.state:
        table.add_row("state", "\n".join(f"{source} -> {target}" for source, target in manifest.state.items()))
    nodes = ", ".join(f"{count} {operator}" for operator, count in manifest.census.items()) or "none"
    table.add_row("recurrent nodes", f"{nodes}, of {manifest.provenance['nodes']} nodes")
    sizes = "  ".join(",".join(f"{axis}={size}" for axis, size in case.sizes.items()) for case in manifest.reference)
    table.add_row("proved at", f"{sizes}, {manifest.reference[0].draws} draws each")
    for label, lines in (("notes", manifest.notes), ("hazards", manifest.hazards)):
        if lines:
            table.add_row(label, "\n".join(lines))
    return table
