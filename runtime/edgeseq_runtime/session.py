"""Open a model on a device, and run it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgeseq_runtime.bundle import Bundle, open_bundle
from edgeseq_runtime.device import Device
from edgeseq_runtime.errors import BadManifest, InputError, ProviderError, UsageError
from edgeseq_runtime.interface import Interface, interface_of, shape_at
from edgeseq_runtime.memory import give_back_free_memory
from edgeseq_runtime.plan import Plan, make_plan, plan_for_device
from edgeseq_runtime.stream import Stream
from edgeseq_runtime.tensors import KnownInputs, TensorSpec, check_inputs
from edgeseq_runtime.tensors.spec import Array

if TYPE_CHECKING:
    from edgeseq_runtime.backends.model import Model
    from edgeseq_runtime.pool import StreamPool

KEPT_SIZES = 4  # of the inputs that were seen last: the next are mostly of one of these


class Seen(NamedTuple):
    """Inputs that have passed the full check, and what a call adds to them."""

    known: KnownInputs
    lengths: tuple[tuple[str, str], ...]  # input that holds lengths, and the dtype that the model takes
    state: tuple[tuple[str, tuple[int, ...], str], ...]  # name, shape and dtype of what was left out and is zeros

    def completed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Everything that the model takes, as it takes it."""
        lengths = {name: inputs[name].astype(dtype) for name, dtype in self.lengths}
        zeros = {name: np.zeros(shape, dtype) for name, shape, dtype in self.state}
        return {**inputs, **lengths, **zeros}


class Session:
    """A model opened on a device.

    `run` may be called from several threads at once; `stream` makes independent streams, each for one thread at a time.
    """

    def __init__(self, model: Model, interface: Interface, plan: Plan, identity: str = "") -> None:
        self._model = model
        self.interface = interface
        self.plan = plan
        self._seen: tuple[Seen, ...] = ()
        self.identity = identity  # of the model: its bundle's sha256 and its precision; snapshots are bound to it

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.interface.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.interface.outputs

    @property
    def state(self) -> dict[str, str]:
        """Input that carries state -> output that continues it."""
        return self.interface.state

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that the session really has."""
        return self._model.providers

    @property
    def assignment(self) -> dict[str, tuple[str, ...]]:
        """Execution provider -> the nodes that it computes, where the backend tells and there is more than one."""
        tell = getattr(self._model, "assignment", None)
        return tell() if tell else {}

    @property
    def prepared_for(self) -> tuple[str, ...]:
        """Inputs whose contents the backend prepares for, anew where they change; none for most models."""
        return getattr(self._model, "prepared_for", ())

    @property
    def backend_version(self) -> str:
        return self._model.version

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs, state included, for one call over whole sequences.

        Args:
            inputs: every input by name. The state inputs may be left out, all of them together: they are zeros then.

        Raises:
            InputError: a name, dtype, rank or size does not fit; an axis is empty; a length is outside 1..T.
        """
        for seen in self._seen:
            if seen.known.take(inputs):
                return self._model.run(seen.completed(inputs))
        checked, seen = self._checked(inputs)
        return self._model.run(seen.completed(checked))

    def stream(self, batch: int = 1) -> Stream:
        """A stream that keeps the state of `batch` sequences between steps, starting from zeros.

        Raises:
            StreamError: the model has no state, or its state has other axes than the batch.
        """
        return Stream(self._model, self.interface, batch, self.identity)

    def pool(
        self, capacity: int = 256, *, max_batch: int = 32, queue: int = 1024, per_stream: int = 8, workers: int | None = None
    ) -> StreamPool:
        """A pool for many streams at once, whose steps it runs in batches; see docs/pool.md.

        Args:
            capacity: streams in the pool at a time.
            max_batch: steps in one call.
            queue: steps that may wait besides one of each stream.
            per_stream: steps of one stream that may wait.
            workers: threads that run batches; the machine's cores, but at most 2, unless said.

        Raises:
            StreamError: the model's streams can't share a batch; the message says why.
            UsageError: a size is less than 1.
        """
        from edgeseq_runtime.pool import PoolSizes, StreamPool, default_workers  # which other sessions do without

        sizes = PoolSizes(capacity, max_batch, queue, per_stream, default_workers() if workers is None else workers)
        return StreamPool(self._model, self.interface, self.identity, sizes)

    def _checked(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Seen]:
        """The inputs once everything about them has been checked; others like them need only be recognised."""
        interface = self.interface
        left_out = bool(interface.state) and isinstance(inputs, Mapping) and not any(name in inputs for name in interface.state)
        specs = interface.data_inputs if left_out else interface.inputs
        checked, sizes = check_inputs(specs, inputs, interface.lengths)
        seen = Seen(
            KnownInputs(specs, checked, sizes, interface.lengths),
            tuple((spec.name, spec.dtype) for spec in specs if spec.name in interface.lengths),
            tuple(self._zeros(spec, sizes) for spec in interface.state_inputs) if left_out else (),
        )
        # One assignment: calls from other threads find the old or the new.
        self._seen = (seen, *self._seen[: KEPT_SIZES - 1])
        return checked, seen

    @staticmethod
    def _zeros(spec: TensorSpec, sizes: dict[str, int]) -> tuple[str, tuple[int, ...], str]:
        shape = shape_at(spec, sizes)
        if shape is None:
            raise InputError(f"state '{spec.name}' was left out, and its size does not follow from the other inputs; give it")
        return spec.name, shape, spec.dtype

    def __repr__(self) -> str:
        return f"Session(inputs=[{', '.join(map(str, self.inputs))}], device={self.plan.device!r})"


def load(
    path: str | PathLike[str],
    *,
    device: Device | str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    tune: bool = False,
) -> Session:
    """Open a `.edgeseq` bundle or a plain `.onnx` model on a device.

    Of a bundle, the manifest and the model are read and verified, and nothing else: `open_bundle` verifies all of it.
    A plain model has no declared state and so no streams; its unnamed axes are called `x_0` for axis 0 of input x.

    Args:
        path: the file; its suffix says which of the two it is.
        device: a profile or its name; "auto" is the local CPU.
        precision: one that the bundle holds.
        threads: how many share one operator; 1 unless said.
        tune: use the plan that is fastest here for this model's steps, or for whole sequences where it has no state; measured the
            first time, which takes about 5 s, and kept (docs/compile.md). `threads` is the most that it may use, then.

    Raises:
        UsageError: no such file or precision, a model that the backend can't load, or nothing that can be tuned.
        BundleError: the bundle can't be trusted or read.
        DeviceError: no such device.
        ProviderError: the device's backend or provider is not there.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        if tune:
            raise UsageError(f"{path} is a plain ONNX model: nothing proves a tuned plan; export it to a bundle to tune it")
        return _open_onnx(path, device, precision, threads)
    bundle = open_bundle(path, verify_all=False)
    if tune:
        # Tuning opens sessions, so it builds on this file.
        from edgeseq_runtime.tuning import tuned_plan

        return open_session(bundle, tuned_plan(bundle, device, precision=precision, max_threads=threads))
    return open_session(bundle, make_plan(bundle, device, precision=precision, threads=threads))


def open_session(bundle: Bundle, plan: Plan) -> Session:
    """Carry out a plan: load the bundle's model with the plan's backend, providers, options and threads.

    Raises:
        UsageError: the bundle has no such precision, or the backend can't load the model.
        ProviderError: the backend or a provider is not there.
        BadManifest: the model has other inputs or outputs than the bundle declares.
    """
    model = load_model(bundle.model(plan.precision), plan)
    give_back_free_memory()
    interface = interface_of(bundle.manifest)
    for kind, declared, found in zip(("inputs", "outputs"), (interface.inputs, interface.outputs), model.specs(), strict=True):
        if _kinds(declared) != _kinds(found):
            raise BadManifest(
                f"{bundle.path} declares the {kind} [{', '.join(map(str, declared))}] and its {plan.precision} model has "
                f"[{', '.join(map(str, found))}]; "
                + ("export it again" if plan.precision == "fp32" else "cast inside the graph, so that it keeps the interface")
            )
    return Session(model, interface, plan, f"{bundle.sha256}/{plan.precision}")


def _kinds(specs: tuple[TensorSpec, ...]) -> dict[str, tuple[str, int]]:
    return {spec.name: (spec.dtype, len(spec.shape)) for spec in specs}


def _open_onnx(path: Path, device: Device | str, precision: str, threads: int | None) -> Session:
    if precision != "fp32":
        raise UsageError(f"{path} is a plain ONNX model and is run as it is; precision '{precision}' needs a bundle")
    if not path.is_file():
        raise UsageError(f"can't read the model {path}: No such file")
    plan = plan_for_device(device, threads=threads)
    model = load_model(path, plan)
    return Session(model, Interface(*model.specs()), plan)


def load_model(model: bytes | Path, plan: Plan, *, optimise: bool = True) -> Model:
    """A graph on the plan's backend; without `optimise` it is run node by node as it stands.

    Raises:
        UsageError: the backend can't load the graph.
        ProviderError: the backend or a provider is not there.
    """
    if plan.backend == "tensorrt-network":
        return _parsed_by_tensorrt(model, plan)
    if plan.backend == "tensorrt":
        from edgeseq_runtime.backends import tensorrt_backend

        return tensorrt_backend.load_model(model, plan)
    if plan.backend == "native":
        from edgeseq_runtime.backends import native_backend

        return native_backend.load_model(model, plan)
    if plan.backend != "onnxruntime":
        raise ProviderError(
            f"device '{plan.device}' asks for backend '{plan.backend}'; "
            "this release has: native, onnxruntime, tensorrt, tensorrt-network"
        )
    loaded: Model = onnxruntime_backend(plan).load_model(model, plan, optimise=optimise)
    return loaded


def onnxruntime_backend(plan: Plan) -> ModuleType:
    """The backend file of ONNX Runtime.

    Raises:
        ProviderError: ONNX Runtime is not there.
    """
    try:
        return import_module("edgeseq_runtime.backends.onnxruntime_backend")
    except ImportError as error:
        raise ProviderError(
            f"device '{plan.device}' needs ONNX Runtime, and importing it failed ({error}); "
            'install it: pip install "edgeseq[ort]"'
        ) from error


def _parsed_by_tensorrt(model: bytes | Path, plan: Plan) -> Model:
    try:
        from edgeseq_runtime.backends import tensorrt_network_backend
    except ImportError as error:
        raise ProviderError(
            f"device '{plan.device}' needs TensorRT's importer, and importing it failed ({error}); "
            'install it, no GPU is needed: pip install "edgeseq[tensorrt-rtx]"'
        ) from error
    return tensorrt_network_backend.load_model(model, plan)
