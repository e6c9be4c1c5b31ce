"""Run one step of several streams in one call: gather, compute, scatter. Each worker has a runner, and its memory, of its own."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgeseq_runtime.interface import BATCH, Interface, shape_at
from edgeseq_runtime.pool.kinds import Kind
from edgeseq_runtime.pool.slabs import Slab, Slabs
from edgeseq_runtime.pool.steps import Outputs, Step
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

if TYPE_CHECKING:
    from edgeseq_runtime.backends.model import BoundCall, Model

MAX_MEMORIES = 64  # of one worker; the one unused longest makes room for a new one

Rows = tuple[Array, ...]  # views of one buffer, one for each member of a batch, with batch 1


class Binding(NamedTuple):
    """A call on buffers of one kind and one batch size, and the views through which its members reach them."""

    call: BoundCall
    inputs: tuple[Rows, ...]  # in the order of the model's data inputs
    before: tuple[tuple[Slab, Array], ...]
    after: tuple[tuple[Slab, Array], ...]
    outputs: tuple[tuple[tuple[str, Array], ...], ...]  # of each member: name and view


class Memory(NamedTuple):
    """Flat memory of every tensor, for batches up to some size: the arrays of each smaller one are its beginning."""

    arrays: dict[str, Array]
    bindings: dict[int, Binding]  # by batch size


class BatchRunner:
    """Computes batches of steps. For one thread."""

    def __init__(self, model: Model, interface: Interface, slabs: Slabs) -> None:
        self._model = model
        self._interface = interface
        self._slabs = slabs.slabs
        self._memories: OrderedDict[tuple[Kind, int], Memory] = OrderedDict()

    def run(self, steps: Sequence[Step]) -> list[Outputs]:
        """The outputs of each step, arrays of the caller's own. The states of all go on; where it raises, of none.

        The steps are of one kind and of different streams.

        Raises:
            InputError: the backend could not compute the model on at least one step's inputs.
        """
        binding = self._binding(steps[0].kind, len(steps))
        slots = np.array([step.seat.slot for step in steps], np.intp)
        for at, rows in enumerate(binding.inputs):
            for row, step in zip(rows, steps, strict=True):
                row[...] = step.arrays[at]  # only lengths differ in dtype, and they are in 1..T
        for slab, buffer in binding.before:
            slab.gather(slots, buffer)
        binding.call()
        outputs = [{name: view.copy() for name, view in member} for member in binding.outputs]
        for slab, buffer in binding.after:
            slab.scatter(slots, buffer)
        return outputs

    def _binding(self, kind: Kind, batch: int) -> Binding:
        memory = self._memory(kind, batch)
        binding = memory.bindings.get(batch)
        if binding is None:
            binding = memory.bindings[batch] = self._new_binding(kind, batch, memory.arrays)
        return binding

    def _new_binding(self, kind: Kind, batch: int, memory: Mapping[str, Array]) -> Binding:
        interface, sizes = self._interface, {**kind.sizes, BATCH: batch}
        inputs = {spec.name: _array_in(memory[spec.name], spec, sizes) for spec in interface.inputs}
        outputs = {spec.name: _array_in(memory[spec.name], spec, sizes) for spec in interface.outputs}
        members = [[(spec.name, row) for row in _rows(outputs[spec.name], spec)] for spec in interface.data_outputs]
        return Binding(
            call=self._model.bind(inputs, outputs),
            inputs=tuple(_rows(inputs[spec.name], spec) for spec in interface.data_inputs),
            before=tuple((slab, inputs[name]) for name, slab in self._slabs.items()),
            after=tuple((slab, outputs[interface.state[name]]) for name, slab in self._slabs.items()),
            outputs=tuple(zip(*members, strict=True)) if members else ((),) * batch,
        )

    def _memory(self, kind: Kind, batch: int) -> Memory:
        """The memory for batches of a kind from half of some power of two up to that."""
        largest = 1 << (batch - 1).bit_length()
        memory = self._memories.get((kind, largest))
        if memory is None:
            sizes = {**kind.sizes, BATCH: largest}
            specs = (*self._interface.inputs, *self._interface.outputs)
            memory = Memory({spec.name: np.zeros(_count(spec, sizes), spec.dtype) for spec in specs}, {})
            self._memories[kind, largest] = memory
            if len(self._memories) > MAX_MEMORIES:
                self._memories.popitem(last=False)
        else:
            self._memories.move_to_end((kind, largest))
        return memory


def _count(spec: TensorSpec, sizes: Mapping[str, int]) -> int:
    return math.prod(_shape(spec, sizes))


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    shape = shape_at(spec, dict(sizes))
    assert shape is not None  # no size is computed by the model: `require_poolable`
    return shape


def _array_in(memory: Array, spec: TensorSpec, sizes: Mapping[str, int]) -> Array:
    return memory[: _count(spec, sizes)].reshape(_shape(spec, sizes))


def _rows(array: Array, spec: TensorSpec) -> Rows:
    axis = spec.shape.index(BATCH)
    return tuple(array[(slice(None),) * axis + (slice(at, at + 1),)] for at in range(array.shape[axis]))
