"""`edgeseq plan`: what would be run, and how, what it needs and at least takes, without running it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from rich.console import Group, RenderableType

from edgeseq_runtime.bundle import Bundle, open_bundle
from edgeseq_runtime.cli.options import (
    AxisOption,
    BundleArgument,
    DebugOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
)
from edgeseq_runtime.console import OUT, pairs, table
from edgeseq_runtime.errors import EdgeseqError
from edgeseq_runtime.forecast import Bound, Finding, Forecast, make_forecast
from edgeseq_runtime.interface import size_text
from edgeseq_runtime.plan import BACKENDS, Plan
from edgeseq_runtime.tuning import find_tuning

BackendOption = Annotated[str | None, typer.Option("--backend", help=f"Another than the device's own: {', '.join(BACKENDS)}.")]
JetPackOption = Annotated[str | None, typer.Option("--jetpack", help="Of a Jetson module; the newest that runs on it unless said.")]
RateOption = Annotated[float | None, typer.Option("--rate", help="Time steps in a second of input; says how busy the device is.")]


def plan_command(
    bundle: BundleArgument,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    backend: BackendOption = None,
    jetpack: JetPackOption = None,
    axis: AxisOption = None,
    rate: RateOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show how a bundle would be run on a device. Needs neither the device nor its libraries."""
    opened = open_bundle(bundle)
    forecast = make_forecast(
        opened,
        device,
        precision=precision,
        threads=threads,
        backend=backend,
        jetpack=jetpack,
        axes=axis or (),
        rate=rate,
    )
    if as_json:
        print(json.dumps(forecast.to_json(), indent=1))
        return
    for index, part in enumerate((*_parts(forecast), *_tuned(opened, forecast.plan))):
        if index:
            OUT.print()
        OUT.print(part)


def _parts(forecast: Forecast) -> Iterator[RenderableType]:
    yield pairs(list(_decisions(forecast)))
    yield from _bounds(forecast)
    yield _reading(forecast)
    sources: dict[tuple[str, str], int] = {}
    findings = [(finding.rule, _finding_text(finding, sources)) for finding in _first_of_each(forecast.findings)]
    hazards = [("hazard", hazard) for hazard in forecast.bundle_hazards]
    if findings or hazards:
        yield pairs([*findings, *hazards])
    if sources:
        yield pairs([(f"[{number}]", f"{kind}: {source}") for (kind, source), number in sources.items()])


def _decisions(forecast: Forecast) -> Iterator[tuple[str, object]]:
    plan, software, device = forecast.plan, forecast.software, forecast.device
    yield "device", f"{device.name}: {device.title}"
    yield "backend", f"{software.backend}; version {software.version}"
    if plan.providers:
        yield "providers", ", ".join(plan.providers)
    for provider, given in plan.provider_options.items():
        yield from (("option", f"{provider}: {key}={value}") for key, value in given.items())
    yield "precision", plan.precision
    if software.typing:
        yield "typing", software.typing
        flags = [f"network {flag}" for flag in software.network_flags] + [f"builder {flag}" for flag in software.builder_flags]
        yield "flags", ", ".join(flags) or "none"
    else:
        yield "threads", plan.threads
    if software.jetpack:
        parts = [f"CUDA {software.cuda}" if software.cuda else "", f"Python {software.python}" if software.python else ""]
        yield "JetPack", ", ".join([software.jetpack, *(part for part in parts if part)])
    yield "sizes", "  ".join(f"{axis}={one}" for axis, one in forecast.ranges.items()) or "fixed"
    if forecast.step_ranges:
        yield "of streams", "  ".join(f"{axis}={one}" for axis, one in forecast.step_ranges.items())
    if "CUDAExecutionProvider" in plan.providers:
        left = [finding.subject for finding in forecast.findings if finding.rule.startswith("on the CPU: ")]
        yield "on the CPU", ", ".join(dict.fromkeys(left)) or "no node that computes with data"
    yield "memory", _memory_text(forecast)
    yield from (("install", command) for command in software.install)


def _tuned(bundle: Bundle, plan: Plan) -> Iterator[RenderableType]:
    """What is kept of tuning this plan for this machine."""
    try:
        found = find_tuning(bundle, plan)
    except EdgeseqError:  # not a CPU's plan, or ONNX Runtime is not there
        return
    if found is not None:
        gain = found.record.gain
        said = f", {gain.median:.2f} times as fast" if gain else ": nothing else is certainly faster"
        yield pairs([("tuned", f"for {found.record.workload}: {found.record.chosen}{said}; used by load(..., tune=True)")])


def _memory_text(forecast: Forecast) -> str:
    need = forecast.memory
    parts = [f"weights {_bytes(need.weights)}", f"values {_bytes(need.activations)}"]
    parts += [f"{need.unsized} of a size that only the data tell"] if need.unsized else []
    parts += [f"states {_bytes(need.states)}"] if need.states else []
    parts += [f"scratch space at most {_bytes(need.workspace)}"] if need.workspace else []
    has = "" if need.device is None else f" of {_bytes(need.device)}" + ("" if need.fits else ": TOO MUCH")
    at = f" at {size_text(need.sizes)}" if need.sizes else ""
    return f"{_bytes(need.total)}{has}{at}: {', '.join(parts)}"


def _bounds(forecast: Forecast) -> Iterator[RenderableType]:
    """A table for each run, its columns those that have figures."""
    for mode in dict.fromkeys(bound.mode for bound in forecast.bounds):
        bounds = [bound for bound in forecast.bounds if bound.mode == mode]
        run = f"{mode} {size_text(bounds[0].sizes)}".strip()
        heading = f"{run}: {_count(bounds[0].operations)} operations"
        cells = {
            "weights": [bound.precision for bound in bounds],
            "size": [_bytes(bound.weight_bytes) for bound in bounds],
            "memory": [_time(bound.streaming_seconds) for bound in bounds],
            "kept": [_time(bound.memory_seconds) for bound in bounds],
            "computing": [_computing(bound) for bound in bounds],
            "at least": [_time(bound.seconds) for bound in bounds],
            "busy": [_share(forecast.busy_share(bound)) for bound in bounds],
        }
        kept = {name: column for name, column in cells.items() if any(column)}
        yield Group(heading, table(list(kept), list(zip(*kept.values(), strict=True)), right=list(kept)[1:]))


def _computing(bound: Bound) -> str:
    return "" if bound.compute_seconds is None else _time(bound.compute_seconds) + ("" if bound.peak_is_limit else "*")


def _share(busy: float | None) -> str:
    return "" if busy is None else f"{100 * busy:.2g} %"


def _reading(forecast: Forecast) -> str:
    lines = []
    bounded = any(bound.seconds is not None for bound in forecast.bounds)
    if bounded:
        lines.append(
            "Bounds, not promises: no run is faster. memory: weights read as often as the recurrence reads them, over bandwidth; "
            "kept: the same with what the L2 cache holds left out; computing: operations of products over peak."
        )
    if any(bound.compute_seconds is not None and not bound.peak_is_limit for bound in forecast.bounds):
        lines.append("* Tensor cores may be faster than the peak that is known; not part of the bound.")
    if not bounded:
        lines.append("The profile has neither bandwidth nor peak, so no time is bounded: write one that has, see docs/devices.md.")
    if forecast.uncounted:
        named = ", ".join(f"{count} {name}" for name, count in forecast.uncounted.items())
        lines.append(f"Not counted: {named}.")
    if forecast.loops:
        lines.append(f"Counted once, for only the data tell how often they run: {forecast.loops} Loop.")
    if forecast.rate and bounded:
        lines.append(f"busy: the least share of real time, at {forecast.rate:g} time steps a second.")
    return "\n".join(lines)


def _first_of_each(findings: Sequence[Finding]) -> Iterator[Finding]:
    """One of those that differ in their node alone; the others' number is added to its subject."""
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.rule, finding.text), []).append(finding)
    for group in alike.values():
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        first = group[0]
        yield Finding(
            rule=first.rule,
            subject=first.subject + more,
            text=first.text,
            remedy=first.remedy,
            kind=first.kind,
            source=first.source,
        )


def _finding_text(finding: Finding, sources: dict[tuple[str, str], int]) -> str:
    number = sources.setdefault((finding.kind, finding.source), len(sources) + 1)
    subject = f"{finding.subject}: " if finding.subject else ""
    remedy = f"; {finding.remedy}" if finding.remedy else ""
    return f"{subject}{finding.text}{remedy} [{number}]"


def _bytes(size: int) -> str:
    return _scaled(float(size), ("B", "kB", "MB", "GB"))


def _count(number: int) -> str:
    return _scaled(float(number), ("", "k", "M", "G", "T"))


def _time(seconds: float | None) -> str:
    return "" if seconds is None else _scaled(seconds * 1e9, ("ns", "us", "ms", "s"))


def _scaled(value: float, units: tuple[str, ...]) -> str:
    """Three digits and a unit, each a thousand times the one before."""
    step = 0
    while step < len(units) - 1 and float(f"{value:.3g}") >= 1000:
        value, step = value / 1000, step + 1
    return f"{value:.3g} {units[step]}".strip()
