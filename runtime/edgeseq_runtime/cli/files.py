"""Files that commands write."""

from __future__ import annotations

from pathlib import Path

from edgeseq_runtime.bundle.archive import write_atomically
from edgeseq_runtime.errors import UsageError


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, its folder first where there is none.

    Raises:
        UsageError: it can't be written.
    """
    try:
        write_atomically(path, data)
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror or error}") from error
