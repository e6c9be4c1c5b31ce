"""Every model of the library through TensorRT-RTX, without a GPU: parsed, compiled, and its parsed network held to parity.

    python benchmarks/tensorrt_compile.py            # everything, and the tables of docs/tensorrt.md
    python benchmarks/tensorrt_compile.py VAD nn.GRU # these, printed

`make tensorrt` installs what it needs. Each model is compiled in float32 and, as a typed graph, in half precision, into one engine
for three generations of GPUs, batch and time dynamic. What was measured of a bundle is kept; `--again` measures it anew.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from filled_page import fill
from library_models import MODELS, bundle_of
from rich.console import Console

from edgeseq_quantize.half import in_half
from edgeseq_runtime import measure_parity, open_bundle
from edgeseq_runtime.backends.tensorrt_builder import build_engine
from edgeseq_runtime.backends.tensorrt_network_backend import LIBRARY, VERSION, parse_network
from edgeseq_runtime.bundle import LOW_PRECISION_GATES, Bundle, with_precision
from edgeseq_runtime.errors import EdgeseqError
from edgeseq_runtime.forecast import AxisRange
from edgeseq_runtime.forecast.axes import value_ranges
from edgeseq_runtime.interface import BATCH, interface_of
from edgeseq_runtime.tensors import TensorSpec

PAGE = Path(__file__).parent.parent / "docs" / "tensorrt.md"
RESULTS = Path(__file__).parent / "results" / "tensorrt.jsonl"
DEVICE = "tensorrt-network"
CAPABILITIES = ("8.6", "8.9", "12.0")
BATCHES, STEPS = AxisRange(1, 1, 8), AxisRange(1, 64, 512)
VALUES = "1:50:200"  # of an input that sets how often a loop runs


class Compiled(msgspec.Struct, frozen=True):
    """An engine, or why there is none."""

    seconds: float
    megabytes: float
    reason: str = ""


class Compared(msgspec.Struct, frozen=True):
    """The parity of a parsed network: comparisons, and the worst of each figure; or why there is none."""

    rows: int = 0
    worst: dict[str, float] = {}
    passed: bool = False
    reason: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What TensorRT made of one model; engines and parity by precision."""

    name: str
    sha256: str  # of the bundle
    tensorrt: str
    layers: int
    mismatches: tuple[str, ...]
    engines: dict[str, Compiled]
    parity: dict[str, Compared]


def main(names: Sequence[str], again: bool) -> None:
    """Measure the models named, all if none is, and print or write the tables."""
    console = Console()
    kept = {} if again else {outcome.name: outcome for outcome in results()}
    outcomes = []
    for name in names or MODELS:
        bundle = open_bundle(bundle_of(name))
        outcome = kept.get(name)
        if outcome is None or (outcome.sha256, outcome.tensorrt) != (bundle.sha256, VERSION):
            outcome = measured(name, bundle)
            keep(outcome)
        outcomes.append(outcome)
        console.print(f"{name}: {'; '.join(problems(outcome)) or 'good'}", highlight=False)
    tables = {"compile table": compile_table(outcomes), "network parity table": parity_table(outcomes)}
    if names:
        console.print("\n\n".join(tables.values()), highlight=False)
    else:
        fill(PAGE, tables)
    if any(problems(outcome) for outcome in outcomes):
        raise SystemExit(1)


def results() -> list[Outcome]:
    """What was measured before."""
    lines = RESULTS.read_bytes().splitlines() if RESULTS.exists() else []
    return [msgspec.json.decode(line, type=Outcome) for line in lines]


def keep(outcome: Outcome) -> None:
    """Put an outcome in the place of an older one of its name."""
    others = [other for other in results() if other.name != outcome.name]
    RESULTS.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in sorted([*others, outcome], key=lambda one: one.name)))


def measured(name: str, bundle: Bundle) -> Outcome:
    """Parse, compile, compare."""
    network = parse_network(bundle.model())
    models = {"fp32": bundle.model(), "fp16": in_half(bundle.model())}
    with tempfile.TemporaryDirectory() as folder:
        both = with_precision(bundle, "fp16", models["fp16"], LOW_PRECISION_GATES["fp16"], Path(folder) / "both.edgeseq")
        return Outcome(
            name=name,
            sha256=bundle.sha256,
            tensorrt=VERSION,
            layers=len(network.layers),
            mismatches=tuple(mismatches(bundle, (*network.inputs, *network.outputs))),
            engines={precision: compiled(model, ranges_of(bundle)) for precision, model in models.items()},
            parity={precision: compared(Path(both), precision) for precision in models},
        )


def problems(outcome: Outcome) -> list[str]:
    """What is not as it should be."""
    unbuilt = [f"{precision} is not built: {engine.reason}" for precision, engine in outcome.engines.items() if engine.reason]
    failed = [
        f"{precision} fails: {found.reason or found.worst}" for precision, found in outcome.parity.items() if not found.passed
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


def ranges_of(bundle: Bundle) -> dict[str, AxisRange]:
    """For each axis that varies, and each value that sets a size, what the engine is to take: whole chunks where there are such."""
    axes = {size for spec in bundle.manifest.inputs for size in spec.shape if isinstance(size, str)}
    steps = AxisRange(*(size * bundle.manifest.chunk for size in (STEPS.min, STEPS.opt, STEPS.max)))
    interface = interface_of(bundle.manifest)
    values = value_ranges(interface, [f"{name}={VALUES}" for name in value_ranges(interface)])
    return {**values, **{axis: BATCHES if axis == BATCH else steps for axis in axes}}


def compiled(model: bytes, ranges: dict[str, AxisRange]) -> Compiled:
    """Build an engine, and let it go: it can't be run here."""
    start = time.perf_counter()
    try:
        engine = build_engine(LIBRARY, model, [ranges], capabilities=CAPABILITIES).engine
    except EdgeseqError as error:
        return Compiled(time.perf_counter() - start, 0, str(error))
    return Compiled(time.perf_counter() - start, len(engine) / 1e6)


def compared(path: Path, precision: str) -> Compared:
    """The parity of the parsed network."""
    try:
        report = measure_parity(path, device=DEVICE, precision=precision)
    except EdgeseqError as error:
        return Compared(reason=str(error))
    worst = {figure: report.worst(figure) for figure in report.gate.figures}
    return Compared(len(report.rows) - report.count("skip"), worst, report.passed)


def compile_table(outcomes: Sequence[Outcome]) -> str:
    """One row a model: parsed, built in each precision, seconds, size."""
    lines = [
        f"TensorRT-RTX {VERSION}; one engine for compute capabilities {', '.join(CAPABILITIES)}; "
        f"B {BATCHES.min} to {BATCHES.max}, every other axis {STEPS.min} to {STEPS.max}; "
        f"the value of an input that sets how often a loop runs, {VALUES}.",
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
        cells = [outcome.name, str(outcome.parity["fp32"].rows)]
        for precision, found in outcome.parity.items():
            number = "{:.2f}" if precision == "fp32" else "{:.1e}"
            cells += [*map(number.format, found.worst.values()), "pass"] if found.passed else [found.reason, "", "**fails**"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"of: {', '.join(MODELS)}")
    parser.add_argument("--again", action="store_true", help="measure what was measured before, too")
    given = parser.parse_args()
    main(given.names, given.again)
