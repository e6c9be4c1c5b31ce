"""Where shared libraries are, below a folder that stands for the root: what the loader searches, and what pip brings beside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edgeseq_runtime.detect.files import file_text

CONFIGURATION = "/etc/ld.so.conf"
USUAL = ("lib", "usr/lib", "lib64", "usr/lib64", "lib/*-linux-gnu", "usr/lib/*-linux-gnu", "usr/local/lib")
# NVIDIA's packages of CUDA and cuDNN, and those of TensorRT's libraries.
PACKAGED = ("nvidia/*/lib", "tensorrt_libs")
_DEEPEST = 4  # `include` in a file that was included


def library_folders(root: Path) -> tuple[Path, ...]:
    """The loader's folders: LD_LIBRARY_PATH where the root is this machine's, /etc/ld.so.conf, and the usual ones."""
    given = os.environ.get("LD_LIBRARY_PATH", "").split(":") if root == Path("/") else []
    folders = [Path(folder) for folder in given if folder] + _configured(root, CONFIGURATION, 0)
    folders += [folder for pattern in USUAL for folder in sorted(root.glob(pattern))]
    return tuple(dict.fromkeys(folders))


def packaged_folders(root: Path) -> tuple[Path, ...]:
    """Folders of libraries in Python packages of this interpreter, which the loader doesn't search; of another root, none."""
    if root != Path("/"):
        return ()
    found = (folder for place in sys.path if place for pattern in PACKAGED for folder in sorted(Path(place).glob(pattern)))
    return tuple(dict.fromkeys(found))


def find_library(name: str, root: Path = Path("/")) -> Path | None:
    """A library by its name, such as "libcudart.so.12", or by its beginning, "libcudart.so"; None where it is in no folder."""
    for folder in (*library_folders(root), *packaged_folders(root)):
        exact = folder / name
        if _is_file(exact):
            return exact
        if name.endswith(".so"):
            versions = sorted(path for path in folder.glob(f"{name}.*") if _is_file(path))
            if versions:
                return versions[0]
    return None


def _configured(root: Path, path: str, depth: int) -> list[Path]:
    folders: list[Path] = []
    for line in (file_text(root, path) or "").splitlines():
        words = line.split("#")[0].split()
        if len(words) == 2 and words[0] == "include" and depth < _DEEPEST:
            pattern = words[1] if words[1].startswith("/") else f"/etc/{words[1]}"
            for file in sorted(root.glob(pattern.lstrip("/"))):
                folders += _configured(root, f"/{file.relative_to(root)}", depth + 1)
        elif len(words) == 1 and words[0].startswith("/"):
            folders.append(root / words[0].lstrip("/"))
    return folders


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False
