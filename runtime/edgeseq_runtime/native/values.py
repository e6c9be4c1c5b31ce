"""Where values are while a program runs: in memory that is planned here, as NumPy would lay it out.

A value that is no constant has an array of its shape and strides whose memory is never touched: transposing, slicing or
broadcasting it gives NumPy's own answer to where each element is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from edgeseq_runtime.tensors.spec import Array

SCRATCH = 1  # the segment of values between instructions; that of addresses as they are is 0
SEGMENT_BITS = 48  # above which the segment of a place is
ALIGNMENT = 64  # of what is planned, in bytes: a cache line, and the widest vector


class Block:
    """Memory of one value or of several that are views of it."""

    def __init__(self, segment: int, start: int, base: Array) -> None:
        self.segment = segment
        self.start = start  # in the segment, in bytes
        self.base = base  # the array whose first element is there
        self.address = address_of(base)
        self.uses = 0 if segment == SCRATCH else 1  # names that hold it, here or, of the caller's memory, there; given back at 0
        self.held = False  # by a loop as its state, which each round begins with


class Value(NamedTuple):
    """One value: its shape, dtype and strides are the array's."""

    array: Array
    block: Block | None = None  # None: a constant, which the array holds

    @property
    def constant(self) -> bool:
        return self.block is None

    @property
    def contiguous(self) -> bool:
        return bool(self.array.flags.c_contiguous)

    @property
    def place(self) -> int:
        """Where its first element is, as a program says it."""
        address = address_of(self.array)
        if self.block is None:
            return address
        inside = address - self.block.address
        if self.block.segment == SCRATCH and not 0 <= inside <= self.block.base.nbytes:
            raise AssertionError(f"a value begins {inside} bytes from its block, which has {self.block.base.nbytes}")
        return (self.block.segment << SEGMENT_BITS) + self.block.start + inside

    @property
    def strides(self) -> tuple[int, ...]:
        """In elements."""
        size = self.array.itemsize
        return tuple(stride // size for stride in self.array.strides)

    def viewed(self, array: Array) -> Value:
        """Another view of the same memory."""
        return Value(array, self.block)


def address_of(array: Array) -> int:
    """Of an array's first element."""
    address: int = array.__array_interface__["data"][0]
    return address


def untouched(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """An array that says where elements are and has no memory of its own to speak of."""
    kind = np.dtype(dtype)
    strides: list[int] = []
    step = kind.itemsize
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return as_strided(_NOWHERE[: kind.itemsize].view(kind), shape, tuple(reversed(strides)))


_NOWHERE = np.zeros(64, np.uint8)


class Scratch:
    """Plans which memory is whose: what is given back is used again."""

    def __init__(self) -> None:
        self.size = 0  # bytes that all need together
        self._free: list[tuple[int, int]] = []  # start and size, by start

    def take(self, size: int) -> int:
        """The start of free memory: of the smallest piece that is large enough."""
        size = _rounded(size)
        fitting = [piece for piece in self._free if piece[1] >= size]
        if not fitting:
            start = self.size
            if self._free and sum(self._free[-1]) == self.size:  # the last piece only has to grow
                start = self._free.pop()[0]
            self.size = start + size
            return start
        start, found = piece = min(fitting, key=lambda one: one[1])
        self._free.remove(piece)
        if found > size:
            self._insert(start + size, found - size)
        return start

    def take_new(self, size: int) -> int:
        """The start of memory that nobody has had."""
        start = self.size
        self.size += _rounded(size)
        return start

    def give_back(self, start: int, size: int) -> None:
        """Memory that nothing needs any longer."""
        self._insert(start, _rounded(size))

    def _insert(self, start: int, size: int) -> None:
        self._free.append((start, size))
        self._free.sort()
        joined: list[tuple[int, int]] = []
        for begin, length in self._free:
            if joined and sum(joined[-1]) == begin:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((begin, length))
        self._free = joined


def _rounded(size: int) -> int:
    return max(-(-size // ALIGNMENT), 1) * ALIGNMENT
