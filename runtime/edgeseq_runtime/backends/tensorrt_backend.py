"""TensorRT engines: built once for this GPU and kept, then run. Nothing is the CPU's in their place."""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgeseq_runtime.backends.cuda import Cuda, GpuFacts, open_cuda
from edgeseq_runtime.backends.engine_store import EngineFacts, EngineRecord, Stored, keep_bytes, kept_bytes, stored_engine
from edgeseq_runtime.backends.packaged_libraries import load_packaged
from edgeseq_runtime.backends.tensorrt_builder import Progress, build_engine, input_specs, output_specs
from edgeseq_runtime.backends.tensorrt_library import Library, find_library, rtx_library
from edgeseq_runtime.backends.tensorrt_model import TensorRtModel
from edgeseq_runtime.bundle import Bundle
from edgeseq_runtime.detect.jetson import read_jetson
from edgeseq_runtime.detect.libraries import library_folders, packaged_folders
from edgeseq_runtime.detect.nvml import read_driver
from edgeseq_runtime.errors import ProviderError, UsageError
from edgeseq_runtime.forecast.axes import Ranges, axis_ranges, parsed_range, value_ranges
from edgeseq_runtime.interface import Interface
from edgeseq_runtime.plan import Plan
from edgeseq_runtime.provider_needs import missing_for_engines, together
from edgeseq_runtime.provider_options import ENGINE, ranges_text
from edgeseq_runtime.user_cache import cache_folder, key_of

KIND = "tensorrt"  # the cache's folder
EVERY = 10.0  # seconds between two lines about a build
PROFILES = ("profile", "step")  # a plan's options that are ranges of an optimisation profile
LIBRARIES = ("libcudart.so", "libnvinfer.so")  # that pip brings in packages of their own


class CompiledEngine(NamedTuple):
    """An engine, and where it is kept."""

    path: Path | None  # None where it could not be kept; `notes` says why
    record: EngineRecord  # for what it was built, its size, and the seconds that building took
    built: bool  # now, rather than found
    notes: tuple[str, ...]  # why it was built although there was one, or why it is not kept
    runs_here: bool  # False where it is for a GPU that need not be there


def compile_engine(
    bundle: Bundle, plan: Plan, progress: Progress | None = None, *, capability: str | None = None, base: Path | None = None
) -> CompiledEngine:
    """The engine that a plan asks for: found where it is kept, or built and kept there.

    Args:
        bundle: whose model of the plan's precision is compiled.
        plan: of a device whose backend is "tensorrt"; its `provider_options["tensorrt"]` hold ranges and scratch space.
        progress: told `(phase, steps done, steps in all)`, 0 in all where TensorRT does not tell; what it raises ends the build.
            Lines on standard error unless given.
        capability: a GPU's compute capability, such as "8.6": compile with TensorRT-RTX for any such GPU, which need not be there.
        base: the folder that engines are kept in; `~/.cache/edgeseq/tensorrt` (or below XDG_CACHE_HOME) unless said.

    Raises:
        UsageError: TensorRT can't parse or build the model; an axis has no range; the cache is not this user's alone.
        ProviderError: TensorRT, CUDA or a GPU is not there; each missing thing is named with the command that brings it.
    """
    base = cache_folder(KIND) if base is None else base
    model = bundle.model(plan.precision)
    if capability is not None:
        gpu = GpuFacts(f"any of compute capability {capability}", capability, "", "")
        stored = kept_engine(rtx_library(), gpu, "", model, plan, base, progress, capabilities=(capability,))
    else:
        library, cuda = _opened(plan)
        stored = kept_engine(library, cuda.facts(), _driver(), model, plan, base, progress)
    return CompiledEngine(stored.path, stored.record, stored.built, stored.notes, runs_here=capability is None)


def load_model(model: bytes | Path, plan: Plan) -> TensorRtModel:
    """Build a serialised model's engine, or take the one that is kept, and load it.

    Raises:
        UsageError: TensorRT can't parse, build or load the model; the cache is not this user's alone.
        ProviderError: TensorRT, CUDA or a GPU is not there; each missing thing is named with the command that brings it.
    """
    library, cuda = _opened(plan)
    return opened_engine(library, cuda, model if isinstance(model, bytes) else model.read_bytes(), plan, cache_folder(KIND))


def opened_engine(
    library: Library, cuda: Cuda, model: bytes, plan: Plan, base: Path, progress: Progress | None = None
) -> TensorRtModel:
    """An engine, kept or built, loaded by these libraries. One that TensorRT does not load is built anew, once."""
    gpu, driver = cuda.facts(), _driver()
    stored = kept_engine(library, gpu, driver, model, plan, base, progress)
    runtime = library.bindings.Runtime(library.logger)
    library.logger.errors.clear()
    engine = runtime.deserialize_cuda_engine(stored.engine)
    if engine is None and not stored.built:
        _tell(f"{library} does not load {stored.path} ({library.errors()}); it is built again")
        if stored.path is not None:
            stored.path.unlink(missing_ok=True)
        stored = kept_engine(library, gpu, driver, model, plan, base, progress)
        engine = runtime.deserialize_cuda_engine(stored.engine)
    if engine is None:
        raise UsageError(f"{library} does not load the engine that it built for {gpu.name}: {library.errors()}")
    kernels = stored.path.with_suffix(".kernels") if stored.path is not None else None
    return TensorRtModel(library, cuda, engine, runtime, stored.record, profiles_of(stored.record.facts.profiles), kernels)


def kept_engine(
    library: Library,
    gpu: GpuFacts,
    driver: str,
    model: bytes,
    plan: Plan,
    base: Path,
    progress: Progress | None = None,
    *,
    capabilities: Sequence[str] = (),
) -> Stored:
    """The engine of a model for a GPU, from the folder `base` or built; see `compile_engine`."""
    specs = tuple(input_specs(model).values()), tuple(output_specs(model).values())
    facts = _facts(library, gpu, driver, model, plan, Interface(*specs))
    timings = base / f"{key_of({'tensorrt': str(library), 'gpu': gpu, 'driver': driver})}.timings"
    told = progress or Lines(f"a TensorRT engine for {gpu.name}")

    def build(reasons: Sequence[str]) -> tuple[EngineRecord, bytes]:
        for reason in reasons:
            _tell(reason)
        start = time.perf_counter()
        workspace = facts.options.get("workspace")
        built = build_engine(
            library,
            model,
            profiles_of(facts.profiles),
            precision=plan.precision,
            workspace=int(workspace) if workspace else None,
            capabilities=capabilities,
            timings=kept_bytes(timings),
            progress=told,
        )
        if built.timings:
            keep_bytes(timings, built.timings)
        record = EngineRecord(
            facts=facts,
            inputs=specs[0],
            outputs=specs[1],
            sha256=hashlib.sha256(built.engine).hexdigest(),
            size=len(built.engine),
            seconds=round(time.perf_counter() - start, 3),
        )
        return record, built.engine

    stored = stored_engine(base, facts, build, lambda: _tell(f"another process is building {told}; waiting for it"))
    if stored.built and stored.path is None:
        _tell(stored.notes[-1])  # the others were told before it was built
    return stored


def profiles_of(texts: Sequence[str]) -> tuple[Ranges, ...]:
    """Ranges from their texts, such as "B=1:1:8 T=1:100:1000"."""
    return tuple(dict(map(parsed_range, text.split())) for text in texts)


class Lines:
    """Progress as lines on standard error: one when it begins, then one every `EVERY` seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._start = time.monotonic()
        self._next = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        """A builder's phase, and how far it is."""
        seconds = time.monotonic() - self._start
        if seconds >= self._next:
            self._next = seconds + EVERY
            share = f", {phase} {done} of {total}" if total else ""
            _tell(f"building {self._what}: {seconds:.0f} s{share}")

    def __str__(self) -> str:
        return self._what


def _tell(text: str) -> None:
    print(f"edgeseq: {text}", file=sys.stderr, flush=True)


def _facts(library: Library, gpu: GpuFacts, driver: str, model: bytes, plan: Plan, interface: Interface) -> EngineFacts:
    options = dict(plan.provider_options.get(ENGINE, {}))
    texts = tuple(text for name in PROFILES if (text := options.pop(name, "")))
    return EngineFacts(
        model=hashlib.sha256(model).hexdigest(),
        precision=plan.precision,
        # A plain .onnx has no plan of its own sizes.
        profiles=texts or (ranges_text(axis_ranges(interface) | value_ranges(interface)),),
        options=options,
        tensorrt=str(library),
        gpu=gpu.name,
        compute_capability=gpu.capability,
        cuda=gpu.runtime,
        driver=", ".join(part for part in (driver, f"CUDA {gpu.driver}" if gpu.driver else "") if part),
        machine=platform.machine(),
    )


def _driver() -> str:
    """The version of NVIDIA's driver; on a Jetson module that of Jetson Linux, which brings it."""
    board, driver = read_jetson(Path("/")), read_driver()
    parts = [f"Jetson Linux {board.l4t}" if board and board.l4t else "", driver.version or "" if driver else ""]
    return " ".join(part for part in parts if part)


def _opened(plan: Plan) -> tuple[Library, Cuda]:
    """TensorRT and CUDA, or everything that is missing of them."""
    root = Path("/")
    load_packaged(LIBRARIES, packaged_folders(root), library_folders(root))
    try:
        library, cuda = find_library(), open_cuda()
        cuda.facts()  # there is a driver, and a GPU
    except ProviderError as error:
        missing = "; ".join(map(str, together(missing_for_engines())))
        raise ProviderError(
            f"device '{plan.device}' asks for a TensorRT engine; {error}; "
            + (f"missing: {missing}; or " if missing else "")
            + f"choose device 'cuda' or 'cpu'; 'edgeseq plan MODEL --device {plan.device}' says what an engine needs"
        ) from error
    return library, cuda
