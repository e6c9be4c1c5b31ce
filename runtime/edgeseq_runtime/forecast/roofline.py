"""The least time that a device can take for some work: bytes that must move over bandwidth, operations over peak.

After S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual performance model for multicore architectures",
Communications of the ACM 52(4), 2009. A bound, not a promise: launching kernels, waiting for the step before, element-wise
operators and everything else that takes time comes on top.
"""

from __future__ import annotations

import msgspec

from edgeseq_runtime.device import Device
from edgeseq_runtime.forecast.values import Weight
from edgeseq_runtime.forecast.work import Work

WEIGHT_WIDTHS = {"fp32": 4, "fp16": 2, "int8": 1}  # bytes


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """One run at one precision. Seconds are None where the profile lacks the figure for them."""

    mode: str  # "step": the least piece that can be streamed; "sequence": whole sequences of usual size
    sizes: dict[str, int]
    precision: str  # of weights and products; inputs and outputs keep their types
    operations: int
    weight_bytes: int
    traffic_bytes: int  # weights as often as they are read, inputs, outputs and rows looked up
    least_bytes: int  # the same with as much of the weights kept in the L2 cache as it holds
    streaming_seconds: float | None  # traffic_bytes over bandwidth
    memory_seconds: float | None  # least_bytes over bandwidth
    compute_seconds: float | None  # operations over peak
    peak_is_limit: bool  # False where tensor cores may be faster than the peak that is known
    seconds: float | None  # no run takes less
    limit: str  # "memory", "compute", or what is missing


def bound_of(work: Work, device: Device, mode: str, sizes: dict[str, int], precision: str) -> Bound:
    """The bound for one run."""
    weights = {weight: _bytes(weight, precision) for weight in work.weights}
    read = {weight: weights[weight] for weight in work.reads}
    once, again = sum(read.values()), sum(size for weight, size in read.items() if work.reads[weight] > 1)
    moved = work.interface + _looked_up(work, precision)
    traffic = moved + sum(size * work.reads[weight] for weight, size in read.items())
    cache = int(device.gpu.l2_mb * 1e6) if device.gpu and device.gpu.l2_mb else 0
    repeats = max(work.reads.values(), default=1) - 1
    least = min(traffic, moved + max(0, once - cache) + max(0, again - cache) * repeats)
    bandwidth = device.memory.bandwidth_gb_s * 1e9 if device.memory and device.memory.bandwidth_gb_s else None
    memory = least / bandwidth if bandwidth else None
    peak, is_limit = peak_of(device, precision)
    compute = work.operations / peak if peak else None
    holding = {"memory": memory, "compute": compute if is_limit else None}
    known = {name: seconds for name, seconds in holding.items() if seconds is not None}
    return Bound(
        mode=mode,
        sizes=sizes,
        precision=precision,
        operations=work.operations,
        weight_bytes=sum(weights.values()),
        traffic_bytes=traffic,
        least_bytes=least,
        streaming_seconds=traffic / bandwidth if bandwidth else None,
        memory_seconds=memory,
        compute_seconds=compute,
        peak_is_limit=is_limit,
        seconds=max(known.values(), default=None),
        limit=max(known, key=lambda name: known[name]) if known else "no bandwidth and no peak in the profile",
    )


def _bytes(weight: Weight, precision: str) -> int:
    """A constant's bytes where it is stored at a precision, or as narrow as it is already."""
    return min(weight.bytes, weight.elements * WEIGHT_WIDTHS.get(precision, 4))


def _looked_up(work: Work, precision: str) -> int:
    table = sum(weight.bytes for weight in work.tables)
    return round(work.looked_up * sum(_bytes(weight, precision) for weight in work.tables) / table) if table else work.looked_up


def peak_of(device: Device, precision: str) -> tuple[float | None, bool]:
    """Operations a second at a precision, and whether nothing on the device is faster.

    In fp32, tensor cores compute products only after rounding them (TF32), which is switched off for parity. In fp16 they are
    faster than the peak of a profile, which leaves them out. In int8 the largest figure that the profile has is taken.
    """
    if precision == "int8":
        figures = device.int8
        known = (figures.tops, figures.dense_tops, figures.sparse_tops, figures.gpu_sparse_tops) if figures else ()
        best = max((figure for figure in known if figure), default=None)
        return (best * 1e12 if best else None), best is not None
    peak = device.peak
    if peak is None:
        return None, False
    figure = peak.fp16_tflops if precision == "fp16" else peak.fp32_tflops
    tensor_cores = bool(device.gpu and device.gpu.tensor_cores)
    return (figure * 1e12 if figure else None), figure is not None and (precision == "fp32" or not tensor_cores)
