"""What a model takes and gives, whichever file it came from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np

from edgeseq_runtime.bundle import Manifest
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

TIME = "T"
BATCH = "B"


class Interface(msgspec.Struct, frozen=True):
    """Inputs and outputs as declared, which of them carry state, and which hold sequence lengths.

    A plain `.onnx` says nothing of state or lengths: there both are empty.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: dict[str, str] = {}  # input that carries state -> output that continues it
    lengths: dict[str, str] = {}  # input that holds sequence lengths -> the time axis they count
    chunk: int = 1  # time steps that a streamed piece must be a multiple of

    @property
    def state_inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(spec for spec in self.inputs if spec.name in self.state)

    @property
    def data_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that are not state."""
        return tuple(spec for spec in self.inputs if spec.name not in self.state)

    @property
    def data_outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs that are not state."""
        return tuple(spec for spec in self.outputs if spec.name not in self.state.values())

    @property
    def time_axes(self) -> tuple[str, ...]:
        """Every axis of the inputs that varies, but for the batch; the one to cut sequences along comes first.

        That is the axis that lengths count, then T, then the first; where there is state, T before the axis that lengths count:
        a stream runs along T, and a memory that it attends to has lengths of its own.
        """
        axes = tuple(axis for axis in named_axes(self.data_inputs) if axis != BATCH)
        preferred = (TIME, *self.lengths.values()) if self.state else (*self.lengths.values(), TIME)
        return tuple(sorted(axes, key=lambda axis: preferred.index(axis) if axis in preferred else len(preferred)))

    @property
    def time_axis(self) -> str:
        """The axis to cut sequences along; T where no input has one, as a single step has none."""
        return next(iter(self.time_axes), TIME)

    @property
    def step_lengths(self) -> dict[str, str]:
        """The lengths that count the axis that sequences are cut along; others belong to a memory, which is given whole."""
        return {name: axis for name, axis in self.lengths.items() if axis == self.time_axis}

    def time_position(self, spec: TensorSpec) -> int | None:
        """Where a tensor has the time axis; None where it has none."""
        return spec.shape.index(self.time_axis) if self.time_axis in spec.shape else None

    def steps_position(self, spec: TensorSpec) -> int | None:
        """Where a tensor runs over time at all: the time axis, or one computed from it, such as `max(lengths)`."""
        sources = {self.time_axis, *self.step_lengths}
        computed = (at for at, size in enumerate(spec.shape) if isinstance(size, str) and sources & set(re.findall(r"\w+", size)))
        exact = self.time_position(spec)
        return next(computed, None) if exact is None else exact


def interface_of(manifest: Manifest) -> Interface:
    """The interface that a bundle declares."""
    return Interface(manifest.inputs, manifest.outputs, manifest.state, manifest.lengths, manifest.chunk)


def named_axes(specs: Iterable[TensorSpec]) -> tuple[str, ...]:
    """The names of axes that vary, each once, in order of appearance."""
    return tuple(dict.fromkeys(size for spec in specs for size in spec.shape if isinstance(size, str)))


def size_text(sizes: Mapping[str, int]) -> str:
    """Axis sizes, time first."""
    return " ".join(f"{axis}={sizes[axis]}" for axis in sorted(sizes, reverse=True))


def shape_at(spec: TensorSpec, sizes: dict[str, int]) -> tuple[int, ...] | None:
    """A tensor's shape at given sizes; None where one of them is computed by the model."""
    shape: list[int] = []
    for size in spec.shape:
        if isinstance(size, str) and (size not in sizes or not size.isidentifier()):
            return None
        shape.append(size if isinstance(size, int) else sizes[size])
    return tuple(shape)


def zeros_at(spec: TensorSpec, sizes: dict[str, int]) -> Array | None:
    """An array of zeros of a tensor's dtype and shape at given sizes; None where a size is computed by the model."""
    shape = shape_at(spec, sizes)
    return None if shape is None else np.zeros(shape, spec.dtype)
