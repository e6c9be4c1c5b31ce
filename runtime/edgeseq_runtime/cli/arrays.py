"""Arrays read from and written to the files that the command line takes."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.files import write_file
from edgeseq_runtime.interface import Interface
from edgeseq_runtime.tensors import bind_sizes
from edgeseq_runtime.tensors.spec import Array

# What NumPy and zipfile raise on damaged, encrypted, oversized and foreign files.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    AttributeError,
    TypeError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file; nothing in it is executed.

    Raises:
        UsageError: no such file, or no .npz of plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except _UNREADABLE as error:
        raise UsageError(f"can't read {path} as an .npz of plain arrays: {type(error).__name__}: {error}") from error
    odd = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if odd:
        raise UsageError(f"can't read {path} as an .npz of plain arrays: {odd} are none")
    return arrays


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays to an .npz file, whole or not at all.

    Raises:
        UsageError: it can't be written there.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    write_file(path, buffer.getvalue())


def with_full_lengths(interface: Interface, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays, and for every lengths input that was left out, lengths that say: every sequence runs to the end."""
    filled = dict(arrays)
    given = [spec for spec in interface.inputs if spec.name in arrays]
    for spec in interface.inputs:
        if spec.name in interface.lengths and spec.name not in arrays:
            sizes = bind_sizes(given, arrays)
            shape = [size if isinstance(size, int) else sizes.get(size, 1) for size in spec.shape]
            filled[spec.name] = np.full(shape, sizes.get(interface.lengths[spec.name], 1), spec.dtype)
    return filled
