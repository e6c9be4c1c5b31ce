"""Which bundles are meant."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgeseq_runtime.errors import UsageError

SUFFIX = ".edgeseq"
INSTALLED = "site-packages"  # of a virtual environment inside a folder: what packages bring, as this one does, is not the user's


def find_bundles(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The files named, and every `*.edgeseq` in and below the folders named, each once and in the order of their paths.

    What installed packages bring is left out. A file that is not there is among them: whoever opens it says so, and the others are
    measured all the same.

    Raises:
        UsageError: a folder holds none.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        inside = _inside(path) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"{path} and the folders below it hold no *{SUFFIX} file; export one, or name another folder")
        for file in inside:
            found.setdefault(file.resolve(), file)
    return tuple(sorted(found.values()))


def _inside(folder: Path) -> list[Path]:
    files = (file for file in folder.rglob(f"*{SUFFIX}") if file.is_file())
    return sorted(file for file in files if INSTALLED not in file.relative_to(folder).parts)
