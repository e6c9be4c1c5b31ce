"""What is checked of a step's inputs before the pool takes it, on the client's own thread."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np

from edgeseq_runtime.errors import InputError
from edgeseq_runtime.interface import BATCH, Interface
from edgeseq_runtime.pieces import check_piece
from edgeseq_runtime.tensors.spec import Array

MAX_KINDS = 64  # kept; the one seen first makes room for a new one

Key = tuple[object, ...]


class Kind:
    """Steps that can share a batch: inputs of the same dtypes and shapes. Compared by identity."""

    __slots__ = ("lengths", "sizes")

    def __init__(self, sizes: Mapping[str, int], lengths: tuple[tuple[int, int], ...]) -> None:
        self.sizes = dict(sizes)  # of every named axis but the batch
        self.lengths = lengths  # position of an input that holds lengths, and the largest one it may hold


class Admission:
    """Checks inputs against a model's interface. Safe to use from several threads."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self._names = tuple(spec.name for spec in interface.data_inputs)
        self._kinds: dict[Key, Kind] = {}
        self._lock = threading.Lock()

    def check(self, inputs: Mapping[str, Array]) -> tuple[Kind, list[Array]]:
        """The kind of a step, and its arrays in the order of the model's data inputs.

        Raises:
            InputError: a name, dtype, rank or size does not fit, the batch is not 1, or a length is outside 1..T.
        """
        if type(inputs) is not dict or len(inputs) != len(self._names):
            return self._checked(inputs)
        arrays: list[Array] = []
        key: list[object] = []
        for name in self._names:
            array = inputs.get(name)
            if type(array) is not np.ndarray:
                return self._checked(inputs)
            arrays.append(array)
            key += (array.dtype, array.shape)
        kind = self._kinds.get(tuple(key))
        if kind is None:
            return self._checked(inputs)
        for at, longest in kind.lengths:
            if arrays[at].min() < 1 or arrays[at].max() > longest:
                return self._checked(inputs)  # raises
        return kind, arrays

    def _checked(self, inputs: Mapping[str, Array]) -> tuple[Kind, list[Array]]:
        _, sizes = check_piece(self._interface, inputs)
        if sizes[BATCH] != 1:
            raise InputError(f"axis '{BATCH}' has size {sizes[BATCH]}; a stream of a pool is one sequence: join once for each")
        arrays = [np.asarray(inputs[name]) for name in self._names]
        return self._kind_of(arrays, sizes), arrays

    def _kind_of(self, arrays: list[Array], sizes: dict[str, int]) -> Kind:
        key = tuple(part for array in arrays for part in (array.dtype, array.shape))
        with self._lock:
            if key not in self._kinds:
                if len(self._kinds) == MAX_KINDS:
                    del self._kinds[next(iter(self._kinds))]
                self._kinds[key] = Kind({axis: size for axis, size in sizes.items() if axis != BATCH}, self._lengths(sizes))
            return self._kinds[key]

    def _lengths(self, sizes: dict[str, int]) -> tuple[tuple[int, int], ...]:
        return tuple((self._names.index(name), sizes[axis]) for name, axis in self._interface.lengths.items())
