"""An emulated TensorRT: bindings of several versions' shape, whose engines are ONNX models that ONNX Runtime, or another, computes.

Nothing of an engine's own arithmetic or speed is in it. It is strict about the interface: what a version has not is not there;
shapes must be within the profile; every address must be of the right kind and size; a context whose graph was captured gives NaN
once it has been changed; before a capture the engine must have run.
"""

from __future__ import annotations

import ctypes
import enum
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from emulated_cuda import EmulatedCuda

Arrays = dict[str, np.ndarray]
Compute = Callable[[bytes], Callable[[Arrays], Arrays]]
MAGIC = b"EMULATED"
NUMBERS = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_, "INT8": np.int8}
KINDS = {np.dtype(kind): name for name, kind in NUMBERS.items()}


def by_onnxruntime(model: bytes) -> Callable[[Arrays], Arrays]:
    """What computes an engine unless a test says otherwise."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


class Emulation:
    """What a test can set and see of an emulated TensorRT."""

    def __init__(self, version: str, cuda: EmulatedCuda, *, name: str = "tensorrt", compute: Compute = by_onnxruntime) -> None:
        self.version = version
        self.cuda = cuda
        self.rtx = name == "tensorrt_rtx"
        self.numbers = (99,) if self.rtx else tuple(int(part) for part in version.split("."))
        self.compute = compute
        self.builds = 0
        self.steps = 5  # that a build tells
        self.seconds = 0.0  # that each takes
        self.log: list[str] = []  # flags and settings of the last build
        self.timings_given: list[bytes] = []
        self.enqueued = 0
        self.contexts = 0
        self.eager = 0  # contexts that compile kernels for a shape at once
        self.capturable = True  # whether an engine that has run can be captured
        self.unloadable = 0  # engines that are not loaded, whole or not
        self.bindings = _bindings(self, name)


class Bindings(SimpleNamespace):
    """Stands where the module would."""

    __hash__ = object.__hash__


def _members(name: str, *names: str) -> Any:
    return enum.IntEnum(name, {one: at for at, one in enumerate(names)})


def _bindings(emulation: Emulation, name: str) -> Any:
    numbers, rtx = emulation.numbers, emulation.rtx
    since = lambda *wanted: numbers >= wanted  # noqa: E731
    precisions = ("FP16", "INT8") if not since(11) else ()
    trt = Bindings(__name__=name, __version__=emulation.version)
    trt.NetworkDefinitionCreationFlag = _members(
        "NetworkDefinitionCreationFlag",
        *(("EXPLICIT_BATCH",) if not since(11) else ()),
        *(("STRONGLY_TYPED",) if since(10) else ()),
    )
    trt.BuilderFlag = _members("BuilderFlag", *precisions, "TF32", *(("REQUIRE_USER_ALLOCATION",) if rtx else ()))
    trt.MemoryPoolType = _members("MemoryPoolType", "WORKSPACE")
    trt.TensorIOMode = _members("TensorIOMode", "NONE", "INPUT", "OUTPUT")
    trt.TensorLocation = _members("TensorLocation", "DEVICE", "HOST")
    trt.DataType = _members("DataType", *NUMBERS)
    if since(8, 6) and not since(11):
        trt.PreviewFeature = _members("PreviewFeature", "PROFILE_SHARING_0806")
    if since(8, 6):  # IProgressMonitor
        trt.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
    if rtx:
        trt.DynamicShapesKernelSpecializationStrategy = _members(
            "DynamicShapesKernelSpecializationStrategy", "LAZY", "EAGER", "NONE"
        )
        trt.ComputeCapability = _members("ComputeCapability", "NONE", "CURRENT", "SM86", "SM89")
    trt.ILogger = type(
        "ILogger", (), {"__init__": lambda self: None, "Severity": _members("Severity", "INTERNAL_ERROR", "ERROR", "WARNING")}
    )
    trt.IOutputAllocator = type("IOutputAllocator", (), {"__init__": lambda self: None})
    for kind in (Builder, Runtime):
        setattr(trt, kind.__name__, type(kind.__name__, (kind,), {"emulation": emulation}))
    trt.OnnxParser = type("OnnxParser", (Parser,), {"emulation": emulation})
    return trt


class Tensor:
    """An input of a network."""

    def __init__(self, emulation: Emulation, value: onnx.ValueInfoProto, sets_sizes: bool) -> None:
        dims = value.type.tensor_type.shape.dim
        self.name = value.name
        self.shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)
        self.is_shape_tensor = sets_sizes


class Definition:
    """A network: the ONNX model that was parsed into it."""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model = b""
        self.inputs: list[Tensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, at: int) -> Tensor:
        return self.inputs[at]


class Parser:
    """Takes what the `onnx` package takes."""

    emulation: Emulation

    def __init__(self, definition: Definition, logger: Any) -> None:
        self.definition = definition
        self.num_errors = 0

    def parse(self, model: bytes) -> bool:
        proto = onnx.load_from_string(model)
        if any(node.domain for node in proto.graph.node):
            self.num_errors = 1
            return False
        self.definition.model = model
        sizes = shape_inputs(proto)
        self.definition.inputs = [Tensor(self.emulation, value, value.name in sizes) for value in proto.graph.input]
        return True

    def get_error(self, at: int) -> str:
        return "a node of another domain"


def shape_inputs(proto: onnx.ModelProto) -> set[str]:
    """Inputs that set sizes: those that an output's size is written as the value of."""
    texts = " ".join(dim.dim_param for output in proto.graph.output for dim in output.type.tensor_type.shape.dim)
    return {value.name for value in proto.graph.input if f"value({value.name})" in texts}


class Config:
    """What a builder is told."""

    def __init__(self, emulation: Emulation) -> None:
        self.emulation = emulation
        self.set = {"TF32"}
        self.profiles: list[Profile] = []
        self.timings: Any = None
        self.sharing = emulation.numbers >= (10,)
        self.capabilities: dict[int, str] = {}

    def set_flag(self, flag: Any) -> None:
        self.set.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.set.discard(flag.name)

    def get_flag(self, flag: Any) -> bool:
        return flag.name in self.set

    def set_preview_feature(self, feature: Any, on: bool) -> None:
        if self.emulation.numbers >= (10,):
            raise AttributeError("the feature is always on")
        self.sharing = on

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.emulation.log.append(f"{pool.name} {size}")

    def set_compute_capability(self, capability: Any, at: int) -> None:
        self.capabilities[at] = capability.name

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, data: bytes) -> Any:
        self.emulation.timings_given.append(bytes(data))
        return SimpleNamespace(data=bytes(data), serialize=lambda: b"timings of " + self.emulation.version.encode())

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache.data and not cache.data.endswith(self.emulation.version.encode()):
            return False
        self.timings = cache
        return True


class Profile:
    """Least, usual and greatest shapes and values."""

    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}
        self.values: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, *ends: list[int]) -> None:
        self.shapes[name] = [list(end) for end in ends]

    def set_shape_input(self, name: str, *ends: list[int]) -> None:
        self.values[name] = [list(end) for end in ends]


class Builder:
    """Makes engines that only the emulation loads."""

    emulation: Emulation

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Definition:
        return Definition(flags)

    def create_builder_config(self) -> Config:
        return Config(self.emulation)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, definition: Definition, config: Config) -> bytes | None:
        emulation = self.emulation
        flags = emulation.bindings.NetworkDefinitionCreationFlag
        names = [flag.name for flag in flags if definition.flags >> flag & 1]
        emulation.log += [f"network {name}" for name in names] + [f"builder {name}" for name in sorted(config.set)]
        error = self._refusal(definition, config, names)
        if error:
            self.logger.log(self.logger_severity(), error)
            return None
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building", None, emulation.steps)
        for step in range(emulation.steps):
            time.sleep(emulation.seconds)
            if monitor is not None and not monitor.step_complete("Building", step):
                return None
        if monitor is not None:
            monitor.phase_finish("Building")
        emulation.builds += 1
        facts = emulation.cuda.facts()
        head = {
            "version": emulation.version,
            "gpu": [facts.name, facts.capability],
            "capabilities": sorted(config.capabilities.values()),
            "profiles": [{"shapes": one.shapes, "values": one.values} for one in config.profiles],
            "sharing": config.sharing,
        }
        text = json.dumps(head).encode()
        return MAGIC + len(text).to_bytes(4, "little") + text + definition.model

    def logger_severity(self) -> Any:
        return self.emulation.bindings.ILogger.Severity.ERROR

    def _refusal(self, definition: Definition, config: Config, names: list[str]) -> str:
        if self.emulation.numbers < (10,) and "EXPLICIT_BATCH" not in names:
            return "the ONNX parser needs EXPLICIT_BATCH"
        if "STRONGLY_TYPED" in names and config.set & {"FP16", "INT8"}:
            return "a strongly typed network takes no flag of a precision"
        for tensor in definition.inputs:
            for at, profile in enumerate(config.profiles):
                if tensor.is_shape_tensor and tensor.name not in profile.values:
                    return f"Optimization profile {at} is missing values for shape input tensor {tensor.name}"
                if -1 in tensor.shape and tensor.name not in profile.shapes:
                    return f"Optimization profile {at} is missing shapes of {tensor.name}"
        return ""


class Runtime:
    """Loads what it built itself, for the GPU that is there."""

    emulation: Emulation

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
        emulation = self.emulation
        severity = emulation.bindings.ILogger.Severity.ERROR
        if emulation.unloadable:
            emulation.unloadable -= 1
            self.logger.log(severity, "the emulation does not load it")
            return None
        if not data.startswith(MAGIC):
            self.logger.log(severity, "magic tag does not match")
            return None
        size = int.from_bytes(data[8:12], "little")
        head = json.loads(data[12 : 12 + size])
        facts = emulation.cuda.facts()
        if head["version"] != emulation.version or head["gpu"] != [facts.name, facts.capability]:
            self.logger.log(severity, f"built with {head['version']} for {head['gpu']}")
            return None
        return Engine(emulation, head, data[12 + size :], self.logger)


class Engine:
    """A model, its profiles, and contexts on it."""

    def __init__(self, emulation: Emulation, head: Mapping[str, Any], model: bytes, logger: Any) -> None:
        self.emulation = emulation
        self.head = head
        self.logger = logger
        self.compute = emulation.compute(model)
        proto = onnx.load_from_string(model)
        self.sets_sizes = shape_inputs(proto)
        self.values = {value.name: value for value in (*proto.graph.input, *proto.graph.output)}
        self.inputs = [value.name for value in proto.graph.input]
        self.outputs = [value.name for value in proto.graph.output]
        self.profiles_in_use: list[int] = []
        if emulation.rtx:
            self.create_runtime_config = lambda: RuntimeConfig(emulation)

    @property
    def num_io_tensors(self) -> int:
        return len(self.values)

    def get_tensor_name(self, at: int) -> str:
        return list(self.values)[at]

    def dtype(self, name: str) -> np.dtype:
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.values[name].type.tensor_type.elem_type))
        return np.dtype("int32") if kind == np.int64 and self.emulation.numbers < (10,) else kind

    def get_tensor_dtype(self, name: str) -> Any:
        return self.emulation.bindings.DataType[KINDS[self.dtype(name)]]

    def get_tensor_mode(self, name: str) -> Any:
        mode = self.emulation.bindings.TensorIOMode
        return mode.INPUT if name in self.inputs else mode.OUTPUT

    def get_tensor_location(self, name: str) -> Any:
        place = self.emulation.bindings.TensorLocation
        return place.HOST if name in self.sets_sizes else place.DEVICE

    def dims(self, name: str) -> list[int | str]:
        dims = self.values[name].type.tensor_type.shape.dim
        return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims]

    def create_execution_context(self, config: Any = None) -> Context | None:
        self.emulation.contexts += 1
        strategy = getattr(config, "dynamic_shapes_kernel_specialization_strategy", None)
        self.emulation.eager += strategy is not None and strategy.name == "EAGER"
        return Context(self)


class RuntimeConfig:
    """Of TensorRT-RTX."""

    def __init__(self, emulation: Emulation) -> None:
        self.emulation = emulation

    def create_runtime_cache(self) -> Any:
        loaded: list[bytes] = []
        return SimpleNamespace(loaded=loaded, deserialize=lambda data: loaded.append(data) or True, serialize=lambda: b"kernels")

    def set_runtime_cache(self, cache: Any) -> None:
        self.emulation.log.append(f"kernels {cache.loaded}")


class Context:
    """Shapes, addresses, and what runs on them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.profile: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.generation = 0
        self.warm = False
        self.running = threading.Lock()
        if engine.emulation.rtx:
            self.is_stream_capturable = lambda stream: engine.emulation.capturable

    def __del__(self) -> None:
        if self.profile is not None:
            self.engine.profiles_in_use.remove(self.profile)

    def _changed(self) -> None:
        self.generation += 1
        self.warm = False

    def _error(self, text: str) -> bool:
        self.engine.logger.log(self.engine.emulation.bindings.ILogger.Severity.ERROR, text)
        return False

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        if index == self.profile:
            return True
        if index in self.engine.profiles_in_use and not self.engine.head["sharing"]:
            return self._error(f"profile {index} is in use by another context")
        if self.profile is not None:
            self.engine.profiles_in_use.remove(self.profile)
        self.engine.profiles_in_use.append(index)
        self.profile = index
        self.shapes.clear()
        self._changed()
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None, "no profile was chosen"
        low, _, high = self.engine.head["profiles"][self.profile]["shapes"].get(name, [list(shape)] * 3)
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return self._error(f"{name} is {shape}, the profile has {low} to {high}")
        if self.shapes.get(name) != tuple(shape):
            self.shapes[name] = tuple(shape)
            self._changed()
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        if self.addresses.get(name) != address:
            self.addresses[name] = address
            self.allocators.pop(name, None)
            self._changed()
        return True

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        self.allocators[name] = allocator
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        engine = self.engine
        sizes = {
            axis: size
            for one in engine.inputs
            for axis, size in zip(engine.dims(one), self.shapes.get(one, ()), strict=False)
            if isinstance(axis, str)
        }
        return tuple(self._size(dim, sizes) for dim in engine.dims(name))

    def _size(self, dim: int | str, sizes: Mapping[str, int]) -> int:
        if isinstance(dim, int):
            return dim
        if dim in sizes:
            return sizes[dim]
        named = re.fullmatch(r"value\((\w+)\)", dim)
        if named:
            return int(self._host(named[1], ())[()])
        if "(" in dim or not set(re.findall(r"[A-Za-z_]\w*", dim)) <= set(sizes):
            return -1  # the data tell
        return int(eval(dim, {}, dict(sizes)))

    def _host(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        kind = self.engine.dtype(name)
        size = int(np.prod(shape, dtype=int)) * kind.itemsize
        assert self.engine.emulation.cuda.pinned(self.addresses[name], size), f"{name} must be on the host"
        return _at(self.addresses[name], size).view(kind).reshape(shape).copy()

    def execute_async_v3(self, stream: int) -> bool:
        engine, cuda = self.engine, self.engine.emulation.cuda
        engine.emulation.enqueued += 1
        unset = [name for name in engine.inputs if name not in self.shapes and name not in engine.sets_sizes]
        if unset or any(name not in self.addresses and name not in self.allocators for name in engine.values):
            return self._error(f"not all shapes and addresses are set: {unset}")
        if cuda.capturing(stream) and (self.allocators or not self.warm or not engine.emulation.capturable):
            cuda.spoil(stream)
            return self._error("can't be captured: it has not run since it was changed, or the data tell sizes or rounds")
        if self.allocators:
            cuda.flush(stream)
            self._run(self.generation, stream)
        elif not cuda.enqueue(stream, lambda generation=self.generation: self._run(generation, None)):
            return self._error("the stream takes no work")
        self.warm = True
        return True

    def _run(self, generation: int, stream: int | None) -> None:
        engine = self.engine
        assert self.running.acquire(blocking=False), "a context runs in two threads at once"
        try:
            inputs = {name: self._input(name) for name in engine.inputs}
            wide = {name: np.int64 for name in engine.inputs if _declared(engine, name) == np.int64}
            results = engine.compute({name: array.astype(wide.get(name, array.dtype)) for name, array in inputs.items()})
            for name in engine.outputs:
                result = results[name].astype(engine.dtype(name))
                if generation != self.generation:
                    result = np.full_like(result, np.nan if result.dtype.kind == "f" else -1)  # undefined
                self._write(name, np.ascontiguousarray(result), stream)
        finally:
            self.running.release()

    def _input(self, name: str) -> np.ndarray:
        engine = self.engine
        if name in engine.sets_sizes:
            return self._host(name, tuple(int(dim) for dim in engine.dims(name)))
        return self._memory(name, self.shapes[name]).copy()

    def _write(self, name: str, result: np.ndarray, stream: int | None) -> None:
        allocator = self.allocators.get(name)
        if allocator is not None:
            if self.engine.emulation.numbers >= (10,):
                self.addresses[name] = allocator.reallocate_output_async(name, 0, result.nbytes, 256, stream)
            else:
                self.addresses[name] = allocator.reallocate_output(name, 0, result.nbytes, 256)
            allocator.notify_shape(name, result.shape)
        self._memory(name, result.shape)[...] = result

    def _memory(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        kind = self.engine.dtype(name)
        size = int(np.prod(shape, dtype=int)) * kind.itemsize
        place = self.engine.emulation.cuda.host(self.addresses[name], size)
        assert place is not None, f"{name} is not on the device, or too small"
        return _at(place, size).view(kind).reshape(shape)


def _declared(engine: Engine, name: str) -> np.dtype:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(engine.values[name].type.tensor_type.elem_type))


def _at(address: int, size: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)
