"""Matrices of weights in 7, 8 and 4 bits, as the two operators of ONNX Runtime that multiply by them read them.

Both round each weight to the nearest multiple of a scale: of its column, or of its block of one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseq_runtime.tensors.spec import Array

# Rows that share a scale: sizes that MatMulNBits takes, and none from which a CPU gains no more.
BLOCKS = (256, 128, 64, 32, 16)
PADDING = 1.125  # most that filling up the last block may add

# x86 CPUs without VNNI add pairs of products of unsigned and signed bytes in 16 bits: 2 * 255 * 64 < 2**15, and no pair saturates.
SEVEN_BITS = 63


class Columns(NamedTuple):
    """Symmetric integers of 7 bits, a scale a column."""

    integers: npt.NDArray[np.int8]  # (K, N), of -63 to 63
    scales: npt.NDArray[np.float32]  # (N,)


class Blocks(NamedTuple):
    """Integers of 8 or 4 bits about a middle of 128 or 8, a scale a block of a column; the layout of MatMulNBits."""

    integers: npt.NDArray[np.uint8]  # (N, blocks, bytes of a block)
    scales: npt.NDArray[np.float32]  # (N, blocks)
    size: int  # rows of a block


def in_seven_bits(matrix: Array) -> Columns:
    """A matrix (K, N) for `DynamicQuantizeLSTM`, whose products don't saturate on any CPU."""
    scales = _scales(matrix, 0, SEVEN_BITS)
    return Columns(np.rint(np.divide(matrix, scales)).astype(np.int8), scales)


def in_blocks(matrix: Array, bits: int) -> Blocks:
    """A matrix (K, N) for `MatMulNBits`, in 8 bits or in 4."""
    K, N = matrix.shape
    size = block_size(K)
    blocks = -(-K // size)
    padded = np.zeros((blocks * size, N), np.float32)
    padded[:K] = matrix
    columns = padded.T.reshape(N, blocks, size)
    middle = 1 << (bits - 1)
    scales = _scales(columns, 2, middle - 1)
    integers = (np.rint(columns / scales[..., None]) + middle).astype(np.uint8)
    return Blocks(integers if bits == 8 else _in_pairs(integers), scales, size)


def block_size(K: int) -> int:
    """The largest of `BLOCKS` that K rows fill well."""
    return next((size for size in BLOCKS if -(-K // size) * size <= PADDING * K), BLOCKS[-1])


def _in_pairs(integers: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Two integers of 4 bits a byte, the first in its lower half."""
    low, high = integers[..., 0::2], integers[..., 1::2]
    return np.bitwise_or(low, np.left_shift(high, 4)).astype(np.uint8)


def _scales(values: Array, axis: int, steps: int) -> npt.NDArray[np.float32]:
    """The largest magnitude along an axis over as many steps as there are on either side of zero; 1 of nothing but zeros."""
    largest = np.max(np.abs(values), axis=axis)
    scales = np.divide(largest, steps).astype(np.float32)
    return np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
