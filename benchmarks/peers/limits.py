"""What no runtime can beat on this machine: reading the weights as often as a call has to, and its products at the best rate.

The rates are measured among the candidates, in the same rounds. Reading is the faster of a dot product and a matrix-vector
product over a buffer of the weights' size, both by NumPy's OpenBLAS; multiplying is a matrix product of 512 x 512 x 512. With two
threads each has its half, and they meet only at the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

SIDE = 512
ROW = 1024  # numbers of a row of the matrix-vector product
TRIALS = 5
AT_LEAST = 2e-3  # seconds of a trial, so that starting threads does not count


class Limit(NamedTuple):
    """The least time of a call, what it is for, and the rates."""

    seconds: float
    bound: str  # "reading" or "multiplying"
    gigabytes: float  # read a second at that working set
    gigaflops: float  # float32


class Meter:
    """Measures the limit of one workload again and again.

    Args:
        working_set: bytes that are read over and over.
        read: bytes of a call.
        operations: floating-point operations of a call.
        threads: that share the work.
    """

    def __init__(self, working_set: int, read: int, operations: int, threads: int) -> None:
        _require_one_thread()
        self._read, self._operations, self._threads = read, operations, threads
        share = max(ROW, working_set // 4 // threads // ROW * ROW)
        self._share = 4 * share
        self._weights = [np.random.default_rng(part).standard_normal(share).astype(np.float32) for part in range(threads)]
        self._matrices = [
            np.random.default_rng(part).standard_normal((2, SIDE, SIDE)).astype(np.float32) for part in range(threads)
        ]
        self._pool = ThreadPoolExecutor(threads)

    def limit(self) -> Limit:
        """The limit as of now."""
        byte = 1 / max(self._rate(_dot, self._weights, self._share), self._rate(_product_with_vector, self._weights, self._share))
        operation = 1 / self._rate(_product, self._matrices, 2 * SIDE**3)
        reading, multiplying = self._read * byte, self._operations * operation
        bound = "reading" if reading >= multiplying else "multiplying"
        return Limit(max(reading, multiplying), bound, 1e-9 / byte, 1e-9 / operation)

    def _rate(self, work: Callable[[Any, int], None], data: list[Any], size: int) -> float:
        """Bytes or operations a second, of all threads together; the best of a few trials."""
        start = time.perf_counter()
        work(data[0], 3)
        count = max(3, int(AT_LEAST / ((time.perf_counter() - start) / 3)))
        return max(self._threads * size * count / self._trial(work, data, count) for _ in range(TRIALS))

    def _trial(self, work: Callable[[Any, int], None], data: list[Any], count: int) -> float:
        start = time.perf_counter()
        if self._threads == 1:
            work(data[0], count)
        else:
            list(self._pool.map(work, data, [count] * self._threads))
        return time.perf_counter() - start


def _dot(array: Any, count: int) -> None:
    for _ in range(count):
        np.dot(array, array)


def _product_with_vector(array: Any, count: int) -> None:
    matrix, vector = array.reshape(-1, ROW), array[:ROW]
    for _ in range(count):
        np.dot(matrix, vector)


def _product(matrices: Any, count: int) -> None:
    out = np.empty((SIDE, SIDE), np.float32)
    for _ in range(count):
        np.matmul(matrices[0], matrices[1], out=out)


def _require_one_thread() -> None:
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        raise RuntimeError("set OPENBLAS_NUM_THREADS=1 before NumPy is imported: the threads are this module's own")
