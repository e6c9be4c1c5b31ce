"""Options of ONNX Runtime's TensorRT provider that follow from a bundle: sizes to tune for, precision, scratch space.

Source: https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html (Configurations). Where engines are kept is
the machine's, and decided when a session is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from edgeseq_runtime.device import Device
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.forecast.axes import AxisRange, axis_ranges
from edgeseq_runtime.interface import Interface
from edgeseq_runtime.tensors import TensorSpec

WORKSPACE = 1 << 30  # bytes; less where an eighth of the device's memory is less
# What lets the builder choose lower precisions.
LOWER = {"fp16": ("trt_fp16_enable",), "int8": ("trt_int8_enable", "trt_fp16_enable")}


def tensorrt_options(interface: Interface, device: Device, precision: str, axes: Sequence[str] = ()) -> dict[str, str]:
    """The provider's options for a bundle.

    Args:
        interface: the bundle's.
        device: whose memory bounds the scratch space.
        precision: of the graph that is run.
        axes: sizes to prepare for, such as "T=1:100:2000".

    Raises:
        UsageError: an axis that the inputs don't have, or one that no range can be given to.
    """
    ranges = axis_ranges(interface, axes)
    memory = int(device.memory.gb * 1e9) if device.memory else None
    return {
        "trt_max_workspace_size": str(min(WORKSPACE, memory // 8) if memory else WORKSPACE),
        "trt_engine_cache_enable": "1",
        "trt_timing_cache_enable": "1",
        **dict.fromkeys(LOWER.get(precision, ()), "1"),
        **_profile(interface.inputs, ranges),
    }


def _profile(inputs: Sequence[TensorSpec], ranges: Mapping[str, AxisRange]) -> dict[str, str]:
    """Least, usual and greatest shape of every input with a dynamic axis, as "x:1x1x40,h:1x1x64"; all of them or none."""
    dynamic = [spec for spec in inputs if any(isinstance(size, str) for size in spec.shape)]
    unknown = {size for spec in dynamic for size in spec.shape if isinstance(size, str) and size not in ranges}
    if unknown:
        raise UsageError(f"axes {sorted(unknown)} of the inputs have no name to give a range to; export the model with names")
    if not dynamic:
        return {}
    ends: tuple[Literal["min", "opt", "max"], ...] = ("min", "opt", "max")
    return {f"trt_profile_{end}_shapes": ",".join(f"{spec.name}:{_shape(spec, ranges, end)}" for spec in dynamic) for end in ends}


def _shape(spec: TensorSpec, ranges: Mapping[str, AxisRange], end: Literal["min", "opt", "max"]) -> str:
    return "x".join(str(getattr(ranges[size], end) if isinstance(size, str) else size) for size in spec.shape)
