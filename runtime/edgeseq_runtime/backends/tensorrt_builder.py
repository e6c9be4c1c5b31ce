"""An ONNX model becomes an engine, with whichever TensorRT there is; with TensorRT-RTX for GPUs that need not be there.

A network is strongly typed wherever TensorRT can (10 and newer): the graph says the precision of each value, no flag changes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from edgeseq_runtime.backends.tensorrt_library import ALWAYS_SHARED, Library
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.forecast.axes import AxisRange
from edgeseq_runtime.forecast.software import typing_of
from edgeseq_runtime.onnx_wire import ValueInfo, read_model
from edgeseq_runtime.tensors import TensorSpec

Progress = Callable[[str, int, int], None]  # (phase, steps done, steps in all); 0 in all where the builder does not tell

TICK = 1.0  # seconds between two reports of a builder that does not tell how far it is
TICKING = "building"


class Built(NamedTuple):
    """What a builder made."""

    engine: bytes
    timings: bytes = b""  # of kernels on this GPU, which the next build may start from


def build_engine(
    library: Library,
    model: bytes,
    profiles: Sequence[Mapping[str, AxisRange]],
    *,
    precision: str = "fp32",
    workspace: int | None = None,
    capabilities: Sequence[str] = (),
    timings: bytes = b"",
    progress: Progress = lambda phase, done, total: None,
) -> Built:
    """Compile a serialised ONNX model.

    Args:
        library: which TensorRT.
        model: its inputs' dynamic axes have names.
        profiles: ranges of every such axis, and of the values of inputs that set sizes or numbers of rounds, each by name. An
            engine takes what one of them allows, and is tuned for the usual sizes of each.
        precision: that the graph is of.
        workspace: bytes of scratch space on the GPU at most; TensorRT's own limit unless said.
        capabilities: the GPUs' compute capabilities, `"8.6"`, where they need not be there; only TensorRT-RTX can. Without, the
            engine is for the GPU of this machine.
        timings: of an earlier build on this GPU.
        progress: told at each step of each of the builder's phases; what it raises ends the build.

    Raises:
        UsageError: TensorRT can't parse or build the model, knows no such capability, or something has no range.
    """
    specs = input_specs(model)
    builder = library.bindings.Builder(library.logger)
    _, network_flags, builder_flags = typing_of(library.typing_version, precision)
    with parsed(library, builder, model, network_flags) as definition:
        config = builder.create_builder_config()
        _configure(library, config, builder_flags, workspace, capabilities)
        for ranges in profiles:
            profile = builder.create_optimization_profile()
            for at in range(definition.num_inputs):
                _limit(profile, definition.get_input(at), specs, ranges)
            config.add_optimization_profile(profile)
        cache = _with_timings(library, config, timings)
        engine = _built(library, builder, definition, config, progress)
        return Built(engine, bytes(cache.serialize()) if cache is not None else b"")


def input_specs(model: bytes) -> dict[str, TensorSpec]:
    """A graph's inputs by name as ONNX declares them; an axis without a name is called `x_0` for axis 0 of x.

    Raises:
        UsageError: the bytes are no model (`BadModel`), or the rank of an input is not declared.
    """
    graph = read_model(model).graph
    return {value.name: _spec(value) for value in graph.inputs if value.name not in graph.tensors}


def output_specs(model: bytes) -> dict[str, TensorSpec]:
    """A graph's outputs, likewise."""
    return {value.name: _spec(value) for value in read_model(model).graph.outputs}


def _spec(value: ValueInfo) -> TensorSpec:
    if value.shape is None:
        raise UsageError(f"the model does not say how many dimensions '{value.name}' has; export it with shapes")
    return TensorSpec(
        value.name, value.dtype, tuple(f"{value.name}_{at}" if size == "?" else size for at, size in enumerate(value.shape))
    )


@contextmanager
def parsed(library: Library, builder: Any, model: bytes, network_flags: Sequence[str] = ("STRONGLY_TYPED",)) -> Iterator[Any]:
    """A builder's definition of a serialised ONNX model's network, good while the context lasts.

    Raises:
        UsageError: TensorRT can't parse the model; the message holds its reasons.
    """
    trt = library.bindings
    definition = builder.create_network(sum(1 << int(getattr(trt.NetworkDefinitionCreationFlag, name)) for name in network_flags))
    parser = trt.OnnxParser(definition, library.logger)  # the definition's weights are in its memory
    if not parser.parse(model):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise UsageError(f"{library} can't parse the model: {reasons}")
    yield definition


def known_capabilities(library: Library) -> tuple[str, ...]:
    """The compute capabilities that a TensorRT-RTX compiles for, whichever GPU is there; none of another TensorRT."""
    names = getattr(getattr(library.bindings, "ComputeCapability", None), "__members__", ())
    return tuple(f"{name[2:-1]}.{name[-1]}" for name in names if name.startswith("SM"))


def _configure(library: Library, config: Any, flags: Sequence[str], workspace: int | None, capabilities: Sequence[str]) -> None:
    trt = library.bindings
    for flag in flags:
        change = config.clear_flag if flag.startswith("no ") else config.set_flag
        change(getattr(trt.BuilderFlag, flag.removeprefix("no ")))
    if library.rtx:
        # Else an engine may allocate memory while it runs, and can't be captured.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if library.shares_profiles and not library.since(ALWAYS_SHARED):
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if capabilities:
        known = known_capabilities(library)
        unknown = [text for text in capabilities if text not in known]
        if unknown:
            others = f"; for {known}" if known else "; it compiles for the GPU that is there"
            raise UsageError(f"{library} does not compile for compute capability '{unknown[0]}'{others}")
        config.num_compute_capabilities = len(capabilities)
        for at, text in enumerate(capabilities):
            config.set_compute_capability(trt.ComputeCapability.__members__[f"SM{text.replace('.', '')}"], at)


def _limit(profile: Any, tensor: Any, specs: Mapping[str, TensorSpec], ranges: Mapping[str, AxisRange]) -> None:
    spec = specs.get(tensor.name) or TensorSpec(tensor.name, "", tuple(tensor.shape))
    if tensor.is_shape_tensor:
        if spec.name not in ranges:
            raise UsageError(
                f"input '{spec.name}' sets a size or how often something runs, so that its values need a range, such as "
                f"{spec.name}=1:50:200; given are {sorted(ranges)}"
            )
        count = 1
        for size in tensor.shape:
            count *= size
        one = ranges[spec.name]
        profile.set_shape_input(spec.name, *([value] * count for value in (one.min, one.opt, one.max)))
        return
    missing = [axis for axis in spec.shape if isinstance(axis, str) and axis not in ranges]
    if missing:
        raise UsageError(f"input '{spec.name}' has axes {missing} without a range; given are {sorted(ranges)}")
    if any(isinstance(axis, str) for axis in spec.shape):
        profile.set_shape(spec.name, *(shape_in(spec, ranges, end) for end in ("min", "opt", "max")))


def shape_in(spec: TensorSpec, ranges: Mapping[str, AxisRange], end: str) -> list[int]:
    """A tensor's shape where each axis has its least ("min"), usual ("opt") or greatest ("max") size."""
    return [getattr(ranges[size], end) if isinstance(size, str) else size for size in spec.shape]


def _with_timings(library: Library, config: Any, timings: bytes) -> Any:
    if not library.has_timings:
        return None
    cache = config.create_timing_cache(timings)
    if not config.set_timing_cache(cache, False):  # of another version or GPU
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _built(library: Library, builder: Any, definition: Any, config: Any, progress: Progress) -> bytes:
    library.logger.errors.clear()
    with _told(library, config, progress) as failed:
        engine = builder.build_serialized_network(definition, config)
        said = library.errors()
        if failed:
            raise failed[0]
        if engine is None and library.rtx and config.get_flag(library.bindings.BuilderFlag.REQUIRE_USER_ALLOCATION):
            # Sizes that only the data tell need memory that only then is allocated; such an engine is never captured.
            config.clear_flag(library.bindings.BuilderFlag.REQUIRE_USER_ALLOCATION)
            engine = builder.build_serialized_network(definition, config)
            said = library.errors()
            if failed:
                raise failed[0]
    if engine is None:
        raise UsageError(f"{library} can't build the model: {said}")
    return bytes(engine)


@contextmanager
def _told(library: Library, config: Any, progress: Progress) -> Iterator[list[BaseException]]:
    """Passes on what the builder says of its phases; where it can't, the seconds that it has taken."""
    failed: list[BaseException] = []
    if library.has_progress:
        monitor = _monitor(library.bindings, progress, failed)  # must outlive the build
        config.progress_monitor = monitor
        yield failed
        return
    over = threading.Event()
    start = time.monotonic()

    def tick() -> None:
        while not over.wait(TICK):
            progress(TICKING, round(time.monotonic() - start), 0)

    progress(TICKING, 0, 0)
    thread = threading.Thread(target=tick, name="edgeseq-build", daemon=True)
    thread.start()
    try:
        yield failed
    finally:
        over.set()
        thread.join()


def _monitor(bindings: Any, progress: Progress, failed: list[BaseException]) -> Any:
    class Monitor(bindings.IProgressMonitor):  # type: ignore[misc]
        """Passes on what the builder says of its phases. They nest, and run in several threads."""

        def __init__(self) -> None:
            bindings.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return not failed  # False ends the build

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name, self._steps[phase_name])

        def _tell(self, phase: str, done: int) -> None:
            try:
                if not failed:
                    progress(phase, done, self._steps[phase])
            except BaseException as error:  # an exception must not cross the builder's own code
                failed.append(error)

    return Monitor()
