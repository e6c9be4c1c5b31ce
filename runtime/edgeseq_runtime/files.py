"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgeseq_runtime.errors import UsageError


def write_atomically(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Write all of `data` to `path`, or leave what was there.

    Args:
        path: the file; its folder is made where there is none.
        data: all that it holds afterwards.
        mode: its permissions; what the umask leaves of 666 unless given.

    Raises:
        OSError: it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=_unfinished(path.name), dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is None:
            umask = os.umask(0)
            os.umask(umask)
            mode = 0o666 & ~umask
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_file(path: Path, data: bytes, *, what: str = "", mode: int | None = None) -> None:
    """Write a file as `write_atomically` does, which is called `what` where it can't be.

    Raises:
        UsageError: it can't be written.
    """
    try:
        write_atomically(path, data, mode=mode)
    except OSError as error:
        name = f"{what} {path}".lstrip()
        raise UsageError(f"can't write {name}: {error.strerror or error}; nothing was written") from error


def unfinished(path: Path) -> Iterator[Path]:
    """What a writer of this file that was killed left beside it, or one that is at work has there."""
    return path.parent.glob(f"{_unfinished(path.name)}*")


def _unfinished(name: str) -> str:
    return f".{name}."
