"""Libraries that pip brings in packages of their own, loaded so that a provider linked to them finds them.

The loader does not search Python's packages. What it finds itself, and what is not packaged, is left to it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgeseq_runtime.detect.elf import needed_libraries


def load_packaged(names: Iterable[str], folders: Sequence[Path], found_by_loader: Iterable[Path] = ()) -> tuple[Path, ...]:
    """Load libraries from these folders, each after those that it needs itself.

    Args:
        names: such as "libcudart.so.12", or the beginning, "libcudnn.so".
        folders: of packages.
        found_by_loader: the loader's own folders; what is there is not loaded from a package.

    Returns:
        the files that were loaded; one that the loader refuses is left out, and the provider will say why.
    """
    own = [folder for folder in found_by_loader if folder.is_dir()]
    loaded: dict[Path, bool] = {}
    for name in names:
        _load(name, folders, own, loaded)
    return tuple(path for path, good in loaded.items() if good)


def _load(name: str, folders: Sequence[Path], own: Sequence[Path], loaded: dict[Path, bool]) -> None:
    path = None if _in(name, own) else _in(name, folders)
    if path is None or path in loaded:
        return
    loaded[path] = False  # before what it needs: a circle ends here
    for needed in needed_libraries(path):
        _load(needed, folders, own, loaded)
    try:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return
    del loaded[path]
    loaded[path] = True


def _in(name: str, folders: Sequence[Path]) -> Path | None:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
        if name.endswith(".so") and (versions := sorted(folder.glob(f"{name}.*"))):
            return versions[0]
    return None
