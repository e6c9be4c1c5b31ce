"""Everything the page shows, measured in one pass; writing it down needs nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np

from edgeseq_runtime.bench import OURS, BenchReport, measure_bench
from edgeseq_runtime.bundle import Bundle, open_bundle
from edgeseq_runtime.device import Device, list_devices
from edgeseq_runtime.errors import BadModel, EdgeseqError
from edgeseq_runtime.interface import Interface
from edgeseq_runtime.metric import MAX_LOSS, Metric
from edgeseq_runtime.onnx_wire import Model, read_model
from edgeseq_runtime.parity import ParityReport, measure_parity
from edgeseq_runtime.plan import Plan, make_plan
from edgeseq_runtime.report.measures import Collector, OutputErrors
from edgeseq_runtime.session import open_session
from edgeseq_runtime.tensors.distance import Float64

Progress = Callable[[int, int], None]


class DevicePlan(NamedTuple):
    """What would run on a device; `plan` is None where nothing would, and `problem` says why."""

    device: Device
    plan: Plan | None
    problem: str = ""


class Report(NamedTuple):
    """What was measured, and of what."""

    bundle: Bundle
    interface: Interface
    parity: ParityReport
    errors: tuple[OutputErrors, ...]
    bench: BenchReport | None  # None where latency was left out
    times: dict[str, Float64]  # mode -> microseconds of every call
    plans: tuple[DevicePlan, ...]
    model: Model | None  # None where the graph can't be read, and `model_problem` says why
    model_problem: str
    made: str  # when, in UTC


def measure_report(
    path: str | PathLike[str],
    *,
    device: Device | str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    seconds: float | None = 0.5,
    metric: Metric | None = None,
    max_loss: float = MAX_LOSS,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Measure parity, errors and latency of a bundle on a device, and plan it for every other.

    Args:
        path: a `.edgeseq` bundle with reference values.
        device: a profile or its name.
        precision: one that the bundle holds.
        threads: how many share one operator.
        seconds: to spend on latency, about, for a step and for a sequence; None leaves latency out.
        metric: the user's own, as in `measure_parity`.
        max_loss: how much lower than the fp32 model's it may be.
        progress: told after each draw of parity.

    Raises:
        UsageError, BundleError, DeviceError, ProviderError: as `measure_parity`.
    """
    bundle = open_bundle(path)
    session = open_session(bundle, make_plan(bundle, device, precision=precision, threads=threads))
    collector = Collector(session.interface)
    parity = measure_parity(path, session=session, metric=metric, max_loss=max_loss, progress=progress, observe=collector.observe)
    bench, times = None, dict[str, Float64]()
    if seconds is not None:

        def keep(mode: str, who: str, nanoseconds: Sequence[int]) -> None:
            if who == OURS:
                times[mode] = np.asarray(nanoseconds, np.float64) / 1e3

        bench = measure_bench(path, device=device, precision=precision, threads=threads, seconds=seconds, observe=keep)
    model, problem = _read(bundle.model(precision))
    return Report(
        bundle=bundle,
        interface=session.interface,
        parity=parity,
        errors=collector.errors,
        bench=bench,
        times=times,
        plans=tuple(_planned(bundle, one, precision, threads) for one in list_devices()),
        model=model,
        model_problem=problem,
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def _read(data: bytes) -> tuple[Model | None, str]:
    try:
        return read_model(data), ""
    except BadModel as error:
        return None, str(error)


def _planned(bundle: Bundle, device: Device, precision: str, threads: int | None) -> DevicePlan:
    try:
        return DevicePlan(device, make_plan(bundle, device, precision=precision, threads=threads))
    except EdgeseqError as error:
        return DevicePlan(device, None, str(error))
