"""`edgeseq inspect`: what a file holds and promises."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from rich.console import RenderableType

from edgeseq_runtime.bundle import Bundle, Generation, TextInput, open_bundle
from edgeseq_runtime.cli.options import DebugOption, JsonOption, ModelArgument
from edgeseq_runtime.console import OUT, pairs, table
from edgeseq_runtime.interface import Interface, interface_of, size_text
from edgeseq_runtime.session import load


def inspect_command(model: ModelArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Show what a bundle holds: tensors, state, recurrent nodes, precisions, reference values."""
    if model.suffix == ".onnx":
        interface = load(model).interface
        content: dict[str, Any] = {"path": str(model), **msgspec.to_builtins(interface)}
        parts = [_heading(model, {}), _tensors(interface)]
    else:
        bundle = open_bundle(model)
        content = _as_json(bundle)
        parts = list(_parts(bundle))
    if as_json:
        print(json.dumps(content, indent=1))
        return
    for index, part in enumerate(parts):
        if index:
            OUT.print()
        OUT.print(part)


def _as_json(bundle: Bundle) -> dict[str, Any]:
    manifest: dict[str, Any] = msgspec.to_builtins(bundle.manifest)
    return {"path": str(bundle.path), "bundle_sha256": bundle.sha256, "members": bundle.member_sizes, **manifest}


def _parts(bundle: Bundle) -> Iterator[RenderableType]:
    manifest = bundle.manifest
    facts = {
        "name": bundle.name,
        "sha256": bundle.sha256[:16],
        "format": manifest.format,
        "recurrent nodes": ", ".join(f"{count} {op}" for op, count in manifest.census.items()) or "none",
        **({"streams in": f"multiples of {manifest.chunk} time steps"} if manifest.chunk > 1 else {}),
        **({"reads text": _reads(manifest.text)} if manifest.text else {}),
        **({"writes tokens": _writes(manifest.generation)} if manifest.generation else {}),
    }
    yield _heading(bundle.path, facts)
    yield _tensors(interface_of(manifest))
    yield table(
        ("precision", "member", "bytes", "gate"),
        [
            (precision, member, f"{bundle.member_sizes[member]:,}", manifest.gate(precision))
            for precision, member in manifest.precisions.items()
        ],
        right=("bytes",),
    )
    cases = [(size_text(case.sizes), case.draws, size_text(case.horizon) or "all") for case in manifest.reference]
    yield table(("reference at", "draws", "steps that can be compared"), cases, right=("draws",))
    yield pairs(
        [(key, value) for key, value in manifest.provenance.items()]
        + [("hazard", text) for text in manifest.hazards]
        + [("note", text) for text in manifest.notes]
    )


def _reads(text: TextInput) -> str:
    small = ", capitals as small letters" if text.lower else ""
    return f"as '{text.input}': {len(text.symbols)} characters, {''.join(text.symbols)!r}{small}"


def _writes(generation: Generation) -> str:
    symbols = f"; {len(generation.symbols)} symbols, such as {generation.symbols[1:4]}" if generation.symbols else ""
    end = "no end" if generation.end is None else f"end {generation.end}"
    if generation.form == "step":
        return f"step by step: '{generation.tokens}' takes the one before, first {generation.start}, {end}{symbols}"
    return f"in one run: {generation.search} search, {end}{symbols}"


def _heading(path: Path, facts: dict[str, object]) -> RenderableType:
    return pairs([("file", path), *facts.items()])


def _tensors(interface: Interface) -> RenderableType:
    continued = {output: name for name, output in interface.state.items()}
    rows = [("in", spec, _role(interface, spec.name)) for spec in interface.inputs]
    rows += [("out", spec, f"continues {continued[spec.name]}" if spec.name in continued else "") for spec in interface.outputs]
    return table(
        ("", "tensor", "dtype", "shape", "role"),
        [(way, spec.name, spec.dtype, shape_text(spec.shape), role) for way, spec, role in rows],
    )


def _role(interface: Interface, name: str) -> str:
    if name in interface.lengths:
        return f"lengths along {interface.lengths[name]}"
    return "state" if name in interface.state else ""


def shape_text(shape: tuple[int | str, ...]) -> str:
    """A shape in brackets."""
    return f"[{', '.join(map(str, shape))}]"
