"""Sums over an axis, with vectors of every width that this machine has: ARM's are the shortest, and sums there no worse."""

from __future__ import annotations

import ctypes
import subprocess

import numpy as np
import pytest
from native_graphs import needs_compiler
from test_native_kernels import SOURCES, machines

pytestmark = needs_compiler

WRAPPERS = """#include "library.c"
float a_sum(const float *x, int64_t n) { return sum_over(x, n); }
float a_product(const float *a, const float *b, int64_t n) { return dot_over(a, b, n); }
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """A library a width of vectors, the processor's own first."""
    folder = tmp_path_factory.mktemp("sums")
    (folder / "wrappers.c").write_text(WRAPPERS)
    found = []
    for machine in machines():
        name = f"{machine}.so"
        flags = ("-O1", "-std=gnu11", f"-march={machine}", "-shared", "-fPIC", "-pthread", f"-I{SOURCES}")
        subprocess.run(["cc", *flags, "wrappers.c", "-o", name, "-lm"], cwd=folder, check=True)
        library = ctypes.CDLL(str(folder / name))
        for function in (library.a_sum, library.a_product):
            function.restype = ctypes.c_float
        found.append(library)
    return found


def summed(library, *arrays):
    """The sum of an array, or of the products of two."""
    function = library.a_sum if len(arrays) == 1 else library.a_product
    return function(*(array.ctypes.data_as(ctypes.c_void_p) for array in arrays), ctypes.c_int64(arrays[0].size))


def in_16_sums(terms):
    """The sum of float32 terms, of which every 16th goes to the same partial sum in float32."""
    padded = np.pad(terms.astype(np.float32), (0, -terms.size % 16)).reshape(-1, 16)
    return np.cumsum(padded, axis=0, dtype=np.float32)[-1].sum(dtype=np.float64)


@pytest.mark.parametrize("n", [1, 3, 4, 7, 8, 15, 16, 17, 20, 31, 37, 64, 1089, 35937])
@pytest.mark.parametrize("count", [1, 2])
def test_sums_are_as_near_those_in_float64_as_16_partial_sums_are_with_vectors_of_any_width(n, count, libraries):
    rng = np.random.default_rng(n)
    drawn = [rng.standard_normal((count, n)).astype(np.float32) for _ in range(50)]
    terms = [np.prod(arrays.astype(np.float64), axis=0) for arrays in drawn]

    def off(sums):
        return np.sqrt(np.mean([(one - each.sum()) ** 2 for one, each in zip(sums, terms, strict=True)]))

    most = 1.3 * off([in_16_sums(each) for each in terms]) + np.finfo(np.float32).eps * np.sqrt(n)
    for library in libraries:
        assert off([summed(library, *arrays) for arrays in drawn]) < most


@pytest.mark.parametrize("n", [16, 32, 48, 4096])
def test_a_sum_has_the_same_bits_with_vectors_of_any_width(n, libraries):
    array = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    assert len({summed(library, array) for library in libraries}) == 1
