"""Where this user keeps what was made on this machine, and who can have put it there.

An engine is code, and a tuned plan says how code is run: what another user can have written is never read.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edgeseq_runtime.errors import UsageError

OTHERS_WRITE = 0o022


def cache_folder(kind: str) -> Path:
    """Where things of a kind are kept: below XDG_CACHE_HOME, or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache.startswith("/") else Path.home() / ".cache") / "edgeseq" / kind


def key_of(facts: Mapping[str, object]) -> str:
    """A name for what depends on these facts; any difference gives another."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def require_own_folder(folder: Path) -> None:
    """Make a folder for this user alone, or see that it is one.

    Raises:
        UsageError: it can't be made, belongs to another user, or others may write to it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UsageError(
            f"can't make the cache {folder}: {error.strerror or error}; set XDG_CACHE_HOME to a folder of your own"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or not _own(found):
        raise UsageError(
            f"the cache {folder} is no folder of this user alone ({_whose(found)}), "
            "and whoever can write there decides what runs; remove it, or set XDG_CACHE_HOME to a folder of your own"
        )


def require_own_file(path: Path) -> None:
    """See that nobody else can have written a file.

    Raises:
        UsageError: it is not there, is no plain file, belongs to another user, or others may write to it.
    """
    try:
        found = path.lstat()
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror or error}") from error
    if not stat.S_ISREG(found.st_mode) or not _own(found):
        raise UsageError(
            f"{path} is no file of this user alone ({_whose(found)}), and whoever can write it decides what runs; remove it"
        )


@contextmanager
def alone(lock: Path, wait: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Be the only process that holds a lock file of this user's; the system lets go of it if the process is killed.

    Args:
        lock: the file, which stays there.
        wait: called once where another process has it, before it is waited for.

    Yields:
        False where there can be no lock, as on a full disk.
    """
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield True
    finally:
        os.close(descriptor)


def _own(found: os.stat_result) -> bool:
    return found.st_uid == os.getuid() and not found.st_mode & OTHERS_WRITE


def _whose(found: os.stat_result) -> str:
    return f"owner {found.st_uid}, mode {found.st_mode & 0o777:o}"
