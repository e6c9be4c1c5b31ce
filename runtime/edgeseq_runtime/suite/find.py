"""Which bundles are meant."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgeseq_runtime.errors import UsageError

SUFFIX = ".edgeseq"


def find_bundles(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The files named, and every `*.edgeseq` in and below the folders named, each once and in the order of their paths.

    A file that is not there is among them: whoever opens it says so, and the others are measured all the same.

    Raises:
        UsageError: a folder holds none.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        inside = sorted(file for file in path.rglob(f"*{SUFFIX}") if file.is_file()) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"{path} and the folders below it hold no *{SUFFIX} file; export one, or name another folder")
        for file in inside:
            found.setdefault(file.resolve(), file)
    return tuple(sorted(found.values()))
