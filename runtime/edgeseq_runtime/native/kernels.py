"""The library's functions and the numbers it calls things by."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseq_runtime.native.compiled import library
from edgeseq_runtime.native.values import ALIGNMENT, address_of
from edgeseq_runtime.tensors.spec import Array

ERRORS = {1: "an index is out of range", 2: "a division of integers by zero", 3: "an unknown operation"}  # by their numbers


class Kernels(NamedTuple):
    """What a program is written with and run by."""

    run: Callable[..., int]  # (words, count, segments, threads) -> 0, or why and where it ended early
    operations: dict[str, int]
    unary: dict[str, int]
    binary: dict[str, int]
    compare: dict[str, int]
    reduce: dict[str, int]
    panel: int  # outputs side by side in packed weights
    scratch: Callable[[int, int, int, int, int], int]  # gates, T, B, I, H -> floats that a recurrent layer needs for itself
    rounded: Callable[[int, int, int], int]  # rows, K, inputs of a block -> bytes that a product of integers needs for its rows

    def packed(self, weights: Array) -> Array:
        """Weights (K, N) as the products read them: panels of N's elements, each K x panel, the last filled up with zeros."""
        K, N = weights.shape
        panels = -(-N // self.panel)
        whole = np.zeros((K, panels * self.panel), np.float32)
        whole[:, :N] = weights
        return aligned(whole.reshape(K, panels, self.panel).transpose(1, 0, 2))

    def padded(self, bias: Array) -> Array:
        """A bias as long as whole panels."""
        whole = np.zeros(-(-bias.size // self.panel) * self.panel, np.float32)
        whole[: bias.size] = bias.ravel()
        return aligned(whole)


def aligned(array: Array) -> Array:
    """A contiguous copy that starts at a cache line."""
    copy = aligned_memory(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def aligned_memory(size: int) -> npt.NDArray[np.uint8]:
    """So many bytes, of whatever content, from the start of a cache line on."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -address_of(memory) % ALIGNMENT
    return memory[start : start + size]


@lru_cache(maxsize=1)
def kernels() -> Kernels:
    """The library's, compiled if need be.

    Raises:
        ProviderError: there is no C compiler, or it fails.
    """
    loaded = library()
    loaded.edgeseq_native_names.restype = ctypes.c_char_p
    lists = [line.split() for line in loaded.edgeseq_native_names().decode().splitlines()]
    operations, unary, binary, compare, reduce = ({name: number for number, name in enumerate(names)} for names in lists)
    run = loaded.edgeseq_native_run
    run.restype = ctypes.c_int64
    scratch = loaded.edgeseq_native_scratch
    scratch.restype = ctypes.c_int64
    scratch.argtypes = [ctypes.c_int64] * 5
    rounded = loaded.edgeseq_native_rounded
    rounded.restype = ctypes.c_int64
    rounded.argtypes = [ctypes.c_int64] * 3
    return Kernels(run, operations, unary, binary, compare, reduce, int(loaded.edgeseq_native_panel()), scratch, rounded)


def call_segments(count: int) -> ctypes.Array[ctypes.c_void_p]:
    """Room for the addresses of so many segments; the first is that of addresses as they are, and stays 0."""
    return (ctypes.c_void_p * count)()


def call_arguments(words: Array, segments: ctypes.Array[ctypes.c_void_p], threads: int) -> tuple[object, ...]:
    """What the library's `run` takes."""
    return ctypes.c_void_p(address_of(words)), ctypes.c_int64(len(words)), segments, ctypes.c_int64(threads)
