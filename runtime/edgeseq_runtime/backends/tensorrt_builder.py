"""TensorRT-RTX's compiler: an ONNX model becomes an engine for GPUs that need not be there.

The network is strongly typed, as TensorRT 11 has it alone: the graph says the precision of each value, no flag changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorrt_rtx as trt

from edgeseq_runtime.backends.tensorrt_network_backend import LOGGER, parsed
from edgeseq_runtime.errors import UsageError

VERSION: str = trt.__version__

Progress = Callable[[str, int, int], None]  # (phase, steps done, steps in all)


class Range(NamedTuple):
    """Sizes of one axis that an engine takes, and the one that it is tuned for."""

    low: int
    usual: int
    high: int


def build_engine(
    model: bytes,
    ranges: Mapping[str, Range],
    capabilities: Sequence[str],
    progress: Progress = lambda phase, done, total: None,
) -> bytes:
    """Compile a serialised ONNX model.

    Args:
        model: its inputs' dynamic axes have names.
        ranges: of every such axis, by name.
        capabilities: the GPUs' compute capabilities, `"8.6"`.
        progress: told at each step of each of the builder's phases.

    Raises:
        UsageError: TensorRT can't parse or build the model, knows no such capability, or an axis has no range.
    """
    builder = trt.Builder(LOGGER)
    with parsed(builder, model) as definition:
        config = builder.create_builder_config()
        config.progress_monitor = _Monitor(progress)
        config.num_compute_capabilities = len(capabilities)
        for at, capability in enumerate(capabilities):
            config.set_compute_capability(_capability(capability), at)
        profile = builder.create_optimization_profile()
        for at in range(definition.num_inputs):
            _limit(profile, definition.get_input(at), ranges)
        config.add_optimization_profile(profile)
        LOGGER.clear()
        engine = builder.build_serialized_network(definition, config)
    if engine is None:
        raise UsageError(f"tensorrt_rtx {VERSION} can't build the model: {'; '.join(LOGGER.errors) or 'it gives no reason'}")
    return bytes(engine)


def known_capabilities() -> tuple[str, ...]:
    """The compute capabilities that this TensorRT-RTX compiles for, whichever GPU is there."""
    names = trt.ComputeCapability.__members__
    return tuple(f"{name[2:-1]}.{name[-1]}" for name in names if name.startswith("SM"))


def _capability(text: str) -> trt.ComputeCapability:
    if text not in known_capabilities():
        raise UsageError(f"tensorrt_rtx {VERSION} does not compile for compute capability '{text}'; for {known_capabilities()}")
    return trt.ComputeCapability.__members__[f"SM{text.replace('.', '')}"]


def _limit(profile: trt.IOptimizationProfile, tensor: trt.ITensor, ranges: Mapping[str, Range]) -> None:
    axes = [tensor.get_dimension_name(at) if size < 0 else size for at, size in enumerate(tensor.shape)]
    missing = [axis for axis in axes if isinstance(axis, str) and axis not in ranges]
    if missing:
        raise UsageError(f"input '{tensor.name}' has axes {missing} without a range; given are {sorted(ranges)}")
    if any(isinstance(axis, str) for axis in axes):
        profile.set_shape(tensor.name, *([ranges[a][end] if isinstance(a, str) else a for a in axes] for end in range(3)))


class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]
    """Passes on what the builder says of its phases. They nest, and run in several threads."""

    def __init__(self, progress: Progress) -> None:
        trt.IProgressMonitor.__init__(self)
        self._progress = progress
        self._steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self._steps[phase_name] = num_steps
        self._progress(phase_name, 0, num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        self._progress(phase_name, step + 1, self._steps[phase_name])
        return True

    def phase_finish(self, phase_name: str) -> None:
        self._progress(phase_name, self._steps[phase_name], self._steps[phase_name])
