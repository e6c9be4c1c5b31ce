"""A folder of engines that one ONNX Runtime session built and the next may use: whole, unchanged, and this user's own.

Its name is a hash of everything that an engine depends on, so that after an upgrade or on another GPU it is another folder. A
session builds into a folder that nobody else knows; only when that session is open is it moved to its name, with the hash of every
file. A builder that is killed leaves nothing that is used, two at once do not meet, and what was changed is built anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeseq_runtime.user_cache import require_own_folder

LIST = "files.json"
BUILDING = ".building-"  # folders that begin so belong to a session that is being opened, or was killed


@contextmanager
def engine_folder(base: Path, key: str) -> Iterator[Path]:
    """The folder to open a session with: engines that can be trusted, or an empty one, which is kept if all goes well.

    Raises:
        UsageError: the cache can't be made, belongs to another user, or others may write to it.
    """
    require_own_folder(base)
    kept = base / key
    if _intact(kept):
        yield kept
        return
    building = Path(tempfile.mkdtemp(prefix=f"{BUILDING}{key}-", dir=base))
    try:
        yield building
        _publish(building, kept)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _intact(folder: Path) -> bool:
    """Whether it holds every file of its list, and no other, as they were."""
    try:
        listed = json.loads((folder / LIST).read_bytes())
        return bool(listed) and listed == _hashes(folder)
    except (OSError, ValueError):
        return False


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.name != LIST)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _publish(building: Path, kept: Path) -> None:
    """Move a folder to its name. Where that fails, as on a full disk, nothing is kept and nothing is lost."""
    with suppress(OSError):
        found = _hashes(building)
        if not found:
            return
        (building / LIST).write_text(json.dumps(found), "utf-8")
        if kept.exists():  # not intact, or another session was faster: either way this one is as good
            aside = Path(tempfile.mkdtemp(prefix=BUILDING, dir=kept.parent))
            kept.rename(aside / kept.name)
            shutil.rmtree(aside, ignore_errors=True)
        building.rename(kept)
