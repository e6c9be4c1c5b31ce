"""Options of TensorRT that follow from a bundle, of engines and of ONNX Runtime's provider: sizes to tune for, scratch space.

Source: https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html (Configurations). Where engines are kept is
the machine's, and decided when a session is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from edgeseq_runtime.device import Device
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.forecast.axes import AxisRange, axis_ranges, value_ranges
from edgeseq_runtime.interface import Interface
from edgeseq_runtime.tensors import TensorSpec

ENGINE = "tensorrt"  # under which a plan has the options of an engine
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
    return {
        "trt_max_workspace_size": str(_workspace(device)),
        "trt_engine_cache_enable": "1",
        "trt_timing_cache_enable": "1",
        **dict.fromkeys(LOWER.get(precision, ()), "1"),
        **_profile(interface.inputs, ranges),
    }


def engine_options(interface: Interface, device: Device, axes: Sequence[str] = ()) -> dict[str, str]:
    """What an engine is built with: scratch space, and the ranges of its profiles.

    The `profile` is of every size asked for; a model with state has a `step` beside it, of one piece of a stream, since kernels
    that are tuned for long sequences are slow at one step.

    Raises:
        UsageError: an axis or a value that the inputs don't have.
    """
    ranges = axis_ranges(interface, axes) | value_ranges(interface, axes)
    options = {"workspace": str(_workspace(device)), "profile": ranges_text(ranges)}
    time = ranges.get(interface.time_axis)
    if interface.state and time is not None and time.min <= interface.chunk < time.max:
        piece = AxisRange(interface.chunk, interface.chunk, interface.chunk)
        options["step"] = ranges_text({**ranges, interface.time_axis: piece})
    return options


def ranges_text(ranges: Mapping[str, AxisRange]) -> str:
    """Ranges as one text, "B=1:1:8 T=1:100:1000", which `parsed_range` reads word by word."""
    return " ".join(f"{name}={one}" for name, one in sorted(ranges.items()))


def _workspace(device: Device) -> int:
    memory = int(device.memory.gb * 1e9) if device.memory else None
    return min(WORKSPACE, memory // 8) if memory else WORKSPACE


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
