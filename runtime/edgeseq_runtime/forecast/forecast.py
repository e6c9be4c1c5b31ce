"""Everything that can be said of a bundle on a device before it runs there. Pure: touches no hardware, imports no backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from edgeseq_runtime.bundle import Bundle
from edgeseq_runtime.device import Device, load_device
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.forecast.axes import AxisRange, Ranges, axis_ranges, greatest_sizes, usual_sizes
from edgeseq_runtime.forecast.cuda_rules import PER_NODE, cuda_fallbacks
from edgeseq_runtime.forecast.findings import OBSERVED, READ, Finding
from edgeseq_runtime.forecast.integer_rules import integer_findings
from edgeseq_runtime.forecast.roofline import WEIGHT_WIDTHS, Bound, bound_of
from edgeseq_runtime.forecast.sizes import sized_graph
from edgeseq_runtime.forecast.software import Software, chosen_jetpack, software_findings, software_of
from edgeseq_runtime.forecast.tensorrt_rules import tensorrt_findings
from edgeseq_runtime.forecast.work import Work, work_of
from edgeseq_runtime.interface import Interface, interface_of, shape_at
from edgeseq_runtime.onnx_wire import Graph, Model, read_model
from edgeseq_runtime.plan import Plan, device_on_backend, make_plan

WORKSPACE = 1 << 30  # bytes; less where an eighth of the memory is less


class MemoryNeed(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes at the greatest sizes, besides what the backend, the driver and the system take for themselves."""

    sizes: dict[str, int]
    weights: int
    activations: int  # inputs, outputs and what is alive between them, nodes run in order
    states: int  # of a stream, twice: the one read and the one written
    workspace: int | None  # most that an engine may use as scratch space
    unsized: int  # values whose size only the data tell, which are in none of this
    device: int | None  # what the device has; a Jetson module's CPU and GPU share it

    @property
    def total(self) -> int:
        return self.weights + self.activations + self.states + (self.workspace or 0)

    @property
    def fits(self) -> bool | None:
        """Whether the device has more than is needed; None where its memory is not known."""
        return None if self.device is None else self.total < self.device


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What will happen, as far as it can be known; every bound is one, not a promise."""

    plan: Plan
    device: Device
    software: Software
    ranges: Ranges  # of the optimisation profile
    step_ranges: Ranges | None  # of a second one for streams, whose time axis has one size
    memory: MemoryNeed
    operations: dict[str, int]  # operator -> operations of one step, or of a sequence of usual size where nothing streams
    uncounted: dict[str, int]  # operators that were not counted -> how many nodes
    loops: int  # of unknown length, counted once
    bounds: tuple[Bound, ...]
    time_axis: str  # that sequences run along
    rate: float | None  # time steps in a second of input
    findings: tuple[Finding, ...]
    bundle_hazards: tuple[str, ...]  # that the exporter wrote into the bundle

    def busy_share(self, bound: Bound) -> float | None:
        """Seconds that the device is busy at least for each second of input; None where no rate or no bound is known."""
        if bound.seconds is None or self.rate is None:
            return None
        return bound.seconds * self.rate / bound.sizes.get(self.time_axis, 1)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values, with the forecast beside its fields."""
        made: dict[str, Any] = msgspec.to_builtins(self)
        made = {**made.pop("plan"), "profile": made.pop("device"), **made}
        made["memory"] |= {"total": self.memory.total, "fits": self.memory.fits}
        for one, bound in zip(made["bounds"], self.bounds, strict=True):
            one["busy_share"] = self.busy_share(bound)
        return made


def make_forecast(
    bundle: Bundle,
    device: Device | str = "auto",
    *,
    precision: str = "fp32",
    threads: int | None = None,
    backend: str | None = None,
    jetpack: str | None = None,
    axes: Sequence[str] = (),
    rate: float | None = None,
) -> Forecast:
    """What a bundle will need and do on a device, computed from its graph and the device's profile.

    Args:
        bundle: what would run.
        device: a profile or its name.
        precision: one that the bundle holds; the bounds of narrower weights are given too.
        threads: how many share one operator.
        backend: another than the device's own: one of `edgeseq_runtime.plan.BACKENDS`.
        jetpack: a release that runs on the device; the newest unless said.
        axes: sizes to prepare for, such as "T=1:100:2000".
        rate: time steps in a second of input.

    Raises:
        UsageError: no such precision, backend or axis, sizes that can't be, or a JetPack that does not run there.
        DeviceError: no such device.
        BadModel: the bundle's graph can't be read.
    """
    if rate is not None and not 0 < rate < float("inf"):
        raise UsageError(f"the rate is {rate}; give time steps in a second of input, such as 100")
    device = device if isinstance(device, Device) else load_device(device)
    device = device if backend is None else device_on_backend(device, backend)
    plan = make_plan(bundle, device, precision=precision, threads=threads, axes=axes)
    interface = interface_of(bundle.manifest)
    model = read_model(bundle.model(precision))
    ranges = axis_ranges(interface, axes)
    release = chosen_jetpack(device, jetpack)
    usual, step = usual_sizes(ranges), _step_sizes(interface, ranges)
    works = {"step": (step, _work(model.graph, interface, step))} if step else {}
    works["sequence"] = (usual, _work(model.graph, interface, usual))
    shown = next(iter(works.values()))[1]
    return Forecast(
        plan=plan,
        device=device,
        software=software_of(plan, release),
        ranges=ranges,
        step_ranges=ranges | _one_size(interface, ranges) if step else None,
        memory=_memory(model.graph, interface, greatest_sizes(ranges), device, plan),
        operations=shown.by_operator,
        uncounted=shown.uncounted,
        loops=shown.loops,
        bounds=tuple(
            bound_of(work, device, mode, sizes, one) for mode, (sizes, work) in works.items() for one in _precisions(precision)
        ),
        time_axis=interface.time_axis,
        rate=rate,
        findings=(*_graph_findings(model, plan), *software_findings(plan, release), *_device_findings(device, precision)),
        bundle_hazards=bundle.manifest.hazards,
    )


def _precisions(asked: str) -> tuple[str, ...]:
    """The one asked for, and those with narrower weights."""
    names = list(WEIGHT_WIDTHS)
    return tuple(names[names.index(asked) :]) if asked in names else (asked,)


def _step_sizes(interface: Interface, ranges: Ranges) -> dict[str, int] | None:
    if not interface.state:
        return None
    sizes = usual_sizes(ranges)
    return {axis: interface.chunk if axis == interface.time_axis else size for axis, size in sizes.items()}


def _one_size(interface: Interface, ranges: Ranges) -> Ranges:
    piece = AxisRange(interface.chunk, interface.chunk, interface.chunk)
    return {interface.time_axis: piece} if interface.time_axis in ranges else {}


def _work(graph: Graph, interface: Interface, sizes: dict[str, int]) -> Work:
    full = {}
    for spec in interface.inputs:
        if spec.name in interface.lengths:
            shape = shape_at(spec, sizes)
            full[spec.name] = np.full(shape or (), sizes.get(interface.lengths[spec.name], 1), spec.dtype)
    return work_of(sized_graph(graph, sizes, full))


def _memory(graph: Graph, interface: Interface, sizes: dict[str, int], device: Device, plan: Plan) -> MemoryNeed:
    work = _work(graph, interface, sizes)
    states = [shape_at(spec, sizes) for spec in interface.state_inputs]
    widths = [np.dtype(spec.dtype).itemsize for spec in interface.state_inputs]
    has = int(device.memory.gb * 1e9) if device.memory else None
    engine = plan.backend == "tensorrt" or "TensorrtExecutionProvider" in plan.providers
    return MemoryNeed(
        sizes=sizes,
        weights=sum(weight.bytes for weight in work.weights),
        activations=work.peak,
        states=2 * sum(int(np.prod(shape or (0,))) * width for shape, width in zip(states, widths, strict=True)),
        unsized=work.unsized,
        workspace=min(WORKSPACE, has // 8 if has else WORKSPACE) if engine else None,
        device=has,
    )


def _graph_findings(model: Model, plan: Plan) -> list[Finding]:
    found: list[Finding] = []
    if plan.backend == "tensorrt" or "TensorrtExecutionProvider" in plan.providers:
        found += tensorrt_findings(model.graph)
    if "CUDAExecutionProvider" in plan.providers:
        found += cuda_fallbacks(model.graph, model.opsets.get("", 0))
    if plan.backend == "onnxruntime":
        found += integer_findings(model.graph)
    return found


def _device_findings(device: Device, precision: str) -> list[Finding]:
    """The profile's hazards, but for those that were looked for node by node."""
    return [
        Finding(
            rule=hazard.rule,
            subject="",
            text=hazard.text,
            remedy="",
            kind=OBSERVED if hazard.source.startswith("measured") else READ,
            source=hazard.source.removeprefix("read: ").removeprefix("measured: "),
        )
        for hazard in device.hazards_at(precision)
        if hazard.rule != PER_NODE
    ]
