"""Edgeseq's own kernels: a model and a plan become something that can be called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ctypes import addressof, c_char
from pathlib import Path
from typing import Any

import numpy as np

from edgeseq_runtime.backends.model import HostBuffer
from edgeseq_runtime.errors import InputError, UsageError
from edgeseq_runtime.native.compiled import version
from edgeseq_runtime.native.kernels import ERRORS, Kernels, aligned_memory, call_arguments, call_segments, kernels
from edgeseq_runtime.native.program import Program, Programs
from edgeseq_runtime.native.values import SCRATCH, address_of
from edgeseq_runtime.onnx_wire import ValueInfo, read_model
from edgeseq_runtime.plan import Plan
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

from_buffer: Callable[[Array], c_char] = c_char.from_buffer  # type: ignore[assignment]  # NumPy's arrays are buffers
OLDEST_OPSET = 13  # before it axes, sizes and bounds were attributes, and Softmax went over all axes from one on


class Call:
    """A program that is ready to run, once it is pointed at memory: nothing is made for it any longer."""

    def __init__(self, run: Callable[..., int], program: Program, threads: int) -> None:
        self._run = run
        self.program = program
        self._segments = call_segments(program.segments)
        self._arguments = call_arguments(program.words, self._segments, threads)

    def point_at(self, scratch: Array, arrays: Iterable[Array]) -> None:
        """Let it use this memory, which must stay for as long as it runs: scratch, inputs and outputs in their order."""
        for segment, array in enumerate((scratch, *arrays), SCRATCH):
            try:  # in a third of the time that `address_of` takes
                self._segments[segment] = addressof(from_buffer(array))
            except (TypeError, ValueError):  # it can't be written to, or is empty
                self._segments[segment] = address_of(array)

    def __call__(self) -> None:
        """Compute the outputs from what the inputs hold now.

        Raises:
            InputError: an index among them is out of range.
        """
        failed = self._run(*self._arguments)
        if failed:
            node = self.program.node_at(failed >> 8)
            raise InputError(f"the native kernels can't compute {node} on these inputs: {ERRORS[failed & 0xFF]}")


class BoundCall(Call):
    """A call whose arrays are fixed: it reads and writes the same memory each time, and allocates none."""

    def __init__(
        self,
        run: Callable[..., int],
        program: Program,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array | None],
        threads: int,
    ) -> None:
        super().__init__(run, program, threads)
        bound = {name: array for name, array in outputs.items() if array is not None}
        made = {name: np.empty(shape, dtype) for name, shape, dtype in program.outputs if name not in bound}
        self._computed = {name: made[name] for name, array in outputs.items() if array is None}
        everything = {**bound, **made}
        # Kept, as it is pointed at.
        self._arrays = [inputs[name] for name in program.inputs] + [everything[name] for name, _, _ in program.outputs]
        self._scratch = aligned_memory(program.scratch)
        self.point_at(self._scratch, self._arrays)

    def computed(self) -> dict[str, Array]:
        """The outputs of the last call that were bound to None, as arrays of the caller's own."""
        return {name: array.copy() for name, array in self._computed.items()}


class RereadCall:
    """A call of a model whose sizes depend on what inputs hold, such as lengths: it looks at them each time.

    Bound outputs have sizes that don't depend on them.
    """

    def __init__(self, model: NativeModel, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> None:
        self._model = model
        self._inputs, self._outputs = dict(inputs), dict(outputs)
        self._call = model.call(inputs, outputs)

    def __call__(self) -> None:
        """Compute the outputs from what the bound inputs hold now.

        Raises:
            InputError: they can't be computed.
        """
        if self._model.programs.key_of(self._inputs) != self._call.program.key:
            self._call = self._model.call(self._inputs, self._outputs)
        self._call()

    def computed(self) -> dict[str, Array]:
        """The outputs of the last call that were bound to None, as arrays of the caller's own."""
        return self._call.computed()


class NativeModel:
    """A model that edgeseq's own kernels run. Calls from several threads are safe; large products of one at a time are shared."""

    def __init__(
        self,
        graph_inputs: tuple[ValueInfo, ...],
        graph_outputs: tuple[ValueInfo, ...],
        programs: Programs,
        own: Kernels,
        threads: int,
    ) -> None:
        self._inputs, self._outputs = graph_inputs, graph_outputs
        self.programs = programs
        self._run = own.run
        self._threads = threads
        self._scratch: list[Array] = []  # of runs that are over
        self.version = version()
        self.providers: tuple[str, ...] = ("Native",)

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs as the model itself declares them; an axis without a name is called `x_0` for axis 0 of x."""
        inputs, outputs = (
            tuple(TensorSpec(one.name, one.dtype, tuple(_axes(one))) for one in each) for each in (self._inputs, self._outputs)
        )
        return inputs, outputs

    @property
    def prepared_for(self) -> tuple[str, ...]:
        """Inputs whose contents set sizes: there is a program for each that is seen, once a first has been."""
        return self.programs.reads

    def axes(self) -> dict[str, tuple[int | str, ...]]:
        """The axes of each output, as the model declares them."""
        return {one.name: tuple("" if size == "?" else size for size in one.shape or ()) for one in self._outputs}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name; the inputs must have been checked.

        Raises:
            InputError: they can't be computed on: a size depends on what they hold, or an index is out of range.
        """
        given = {one.name: np.asarray(inputs[one.name], order="C") for one in self._inputs}
        program = self.programs.at(given)
        outputs = {name: np.empty(shape, dtype) for name, shape, dtype in program.outputs}
        call, scratch = self._ready(program)
        call.point_at(scratch, (*given.values(), *outputs.values()))
        try:
            call()
        finally:
            program.calls.append(call)
            self._scratch.append(scratch)
        return outputs

    def _ready(self, program: Program) -> tuple[Call, Array]:
        """A call of a program that nobody is at, and memory for it: those of an earlier run, or new ones.

        Other threads take theirs meanwhile, so there are as many of each as ran at once.
        """
        scratch = _popped(self._scratch)
        if scratch is None or scratch.nbytes < program.scratch:
            scratch = aligned_memory(program.scratch)
        return _popped(program.calls) or Call(self._run, program, self._threads), scratch

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> BoundCall | RereadCall:
        """A call that reads and writes these arrays, which must be C-contiguous."""
        call = self.call(inputs, outputs)
        return RereadCall(self, inputs, outputs) if self.programs.reads else call

    def call(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> BoundCall:
        """A call for what the inputs hold now, where sizes depend on it."""
        return BoundCall(self._run, self.programs.at(inputs), inputs, outputs, self._threads)

    def buffer(self, name: str, array: Array) -> HostBuffer:
        """A state that is kept in an array."""
        return HostBuffer(array)


def load_model(model: bytes | Path, plan: Plan) -> NativeModel:
    """Read a serialised model, or a file.

    Raises:
        UsageError: the kernels lack an operator of it, or its operators are of an older kind.
        ProviderError: there is no C compiler, or it fails.
    """
    read = read_model(model if isinstance(model, bytes) else model.read_bytes())
    opset = read.opsets.get("", read.opsets.get("ai.onnx", 0))
    if opset < OLDEST_OPSET:
        raise UsageError(
            f"the native kernels know the operators of opset {OLDEST_OPSET} and later, and the model is of opset {opset}; "
            f"convert it (onnx.version_converter) or choose device 'cpu'"
        )
    graph = read.graph
    own = kernels()
    return NativeModel(graph.inputs, graph.outputs, Programs(graph, own), own, plan.threads)


def _popped(spare: list[Any]) -> Any:
    """The last of a list, None where it is empty; what lies between looking and taking belongs to other threads."""
    try:
        return spare.pop()
    except IndexError:
        return None


def _axes(one: ValueInfo) -> Iterator[int | str]:
    for position, size in enumerate(one.shape or ()):
        yield f"{one.name}_{position}" if size in ("?", "") else size
