"""Every model of the library through TensorRT-RTX, without a GPU: parsed, compiled, and its parsed network held to parity.

    python benchmarks/tensorrt_compile.py            # everything, and the tables of docs/tensorrt.md
    python benchmarks/tensorrt_compile.py VAD nn.GRU # these, printed

`make tensorrt` installs what it needs. Each model is compiled in float32 and, as a typed graph, in half precision, into one engine
for three generations of GPUs, batch and time dynamic.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from filled_page import fill
from library_models import MODELS, bundle_of
from rich.console import Console

from edgeseq_export.half import in_half
from edgeseq_runtime import measure_parity, open_bundle
from edgeseq_runtime.backends.tensorrt_builder import VERSION, Range, build_engine
from edgeseq_runtime.backends.tensorrt_network_backend import parse_network
from edgeseq_runtime.bundle import LOW_PRECISION_GATES, Bundle, with_precision
from edgeseq_runtime.errors import EdgeseqError
from edgeseq_runtime.interface import BATCH
from edgeseq_runtime.parity import ParityReport
from edgeseq_runtime.tensors import TensorSpec

PAGE = Path(__file__).parent.parent / "docs" / "tensorrt.md"
DEVICE = "tensorrt-network"
CAPABILITIES = ("8.6", "8.9", "12.0")
BATCHES, STEPS = Range(1, 1, 8), Range(1, 64, 512)


class Compiled(NamedTuple):
    """An engine, or why there is none."""

    seconds: float
    megabytes: float
    reason: str = ""


class Outcome(NamedTuple):
    """What TensorRT made of one model."""

    name: str
    layers: int
    mismatches: tuple[str, ...]
    engines: dict[str, Compiled]
    reports: dict[str, ParityReport | str]  # by precision; a text says why there is none


def main(names: Sequence[str]) -> None:
    """Measure the models named, all if none is, and print or write the tables."""
    console = Console()
    outcomes = []
    for name in names or MODELS:
        outcomes.append(outcome_of(name))
        console.print(f"{name}: {'; '.join(problems(outcomes[-1])) or 'good'}", highlight=False)
    tables = {"compile table": compile_table(outcomes), "network parity table": parity_table(outcomes)}
    if names:
        console.print("\n\n".join(tables.values()), highlight=False)
    else:
        fill(PAGE, tables)
    if any(problems(outcome) for outcome in outcomes):
        raise SystemExit(1)


def outcome_of(name: str) -> Outcome:
    """Parse, compile, compare."""
    bundle = open_bundle(bundle_of(name))
    network = parse_network(bundle.model())
    models = {"fp32": bundle.model(), "fp16": in_half(bundle.model())}
    with tempfile.TemporaryDirectory() as folder:
        both = with_precision(bundle, "fp16", models["fp16"], LOW_PRECISION_GATES["fp16"], Path(folder) / "both.edgeseq")
        return Outcome(
            name=name,
            layers=len(network.layers),
            mismatches=tuple(mismatches(bundle, (*network.inputs, *network.outputs))),
            engines={precision: compiled(model, ranges_of(bundle)) for precision, model in models.items()},
            reports={precision: compared(Path(both), precision) for precision in models},
        )


def problems(outcome: Outcome) -> list[str]:
    """What is not as it should be."""
    unbuilt = [f"{precision} is not built: {engine.reason}" for precision, engine in outcome.engines.items() if engine.reason]
    failed = [
        f"{precision} fails: {report if isinstance(report, str) else report.worst(report.gate.figures[0])}"
        for precision, report in outcome.reports.items()
        if isinstance(report, str) or not report.passed
    ]
    return [*outcome.mismatches, *unbuilt, *failed]


def mismatches(bundle: Bundle, found: Sequence[TensorSpec]) -> list[str]:
    """Inputs and outputs of the parsed network that are not as the bundle declares them.

    A size that the bundle fixes may be open in the network where the graph computes it; one that it leaves open must be.
    """
    declared = {spec.name: spec for spec in (*bundle.manifest.inputs, *bundle.manifest.outputs)}
    if list(declared) != [spec.name for spec in found]:
        return [f"the network has {[spec.name for spec in found]}, the bundle {list(declared)}"]
    return [f"the network has {spec}, the bundle {declared[spec.name]}" for spec in found if not alike(spec, declared[spec.name])]


def alike(found: TensorSpec, declared: TensorSpec) -> bool:
    """Whether dtype, rank and every size fit."""
    if found.dtype != declared.dtype or len(found.shape) != len(declared.shape):
        return False
    sizes = zip(found.shape, declared.shape, strict=True)
    return all(isinstance(size, str) or size == wanted for size, wanted in sizes)


def ranges_of(bundle: Bundle) -> dict[str, Range]:
    """For each axis that varies, what the engine is to take: whole chunks where the model streams in such."""
    axes = {size for spec in bundle.manifest.inputs for size in spec.shape if isinstance(size, str)}
    steps = Range(*(size * bundle.manifest.chunk for size in STEPS))
    return {axis: BATCHES if axis == BATCH else steps for axis in axes}


def compiled(model: bytes, ranges: dict[str, Range]) -> Compiled:
    """Build an engine, and let it go: it can't be run here."""
    start = time.perf_counter()
    try:
        engine = build_engine(model, ranges, CAPABILITIES)
    except EdgeseqError as error:
        return Compiled(time.perf_counter() - start, 0, str(error))
    return Compiled(time.perf_counter() - start, len(engine) / 1e6)


def compared(path: Path, precision: str) -> ParityReport | str:
    """The parity of the parsed network."""
    try:
        return measure_parity(path, device=DEVICE, precision=precision)
    except EdgeseqError as error:
        return str(error)


def compile_table(outcomes: Sequence[Outcome]) -> str:
    """One row a model: parsed, built in each precision, seconds, size."""
    lines = [
        f"TensorRT-RTX {VERSION}; one engine for compute capabilities {', '.join(CAPABILITIES)}; "
        f"B {BATCHES.low} to {BATCHES.high}, every other axis {STEPS.low} to {STEPS.high}.",
        "",
        "| model | layers parsed | fp32 | s | MB | fp16 | s | MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        cells = [outcome.name, str(outcome.layers)]
        for engine in outcome.engines.values():
            cells += (
                ["builds", f"{engine.seconds:.1f}", f"{engine.megabytes:.1f}"] if not engine.reason else [engine.reason, "", ""]
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parity_table(outcomes: Sequence[Outcome]) -> str:
    """One row a model: comparisons, and the worst figures in each precision."""
    lines = [
        "| model | compared | fp32: k | k999 | | fp16: relative | relative999 | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        cells = [outcome.name]
        for precision, report in outcome.reports.items():
            if isinstance(report, str):
                cells += [report, "", ""]
                continue
            compared = [row for row in report.rows if row.verdict != "skip"]
            cells += [str(len(compared))] if precision == "fp32" else []
            number = "{:.2f}" if precision == "fp32" else "{:.1e}"
            cells += [number.format(report.worst(figure)) for figure in report.gate.figures]
            cells.append("pass" if report.passed else "**fails**")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"of: {', '.join(MODELS)}")
    main(parser.parse_args().names)
