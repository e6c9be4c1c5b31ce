"""The archive under a bundle: a zip of stored members, written byte for byte alike and read as if it were hostile."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from edgeseq_runtime.errors import OversizedMember, TruncatedBundle, UnsafeMember, UsageError

MAX_MEMBERS = 64
_BLOCK = 1 << 20  # bytes read at a time
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold: no clock in the bytes


def archive_bytes(members: Mapping[str, bytes]) -> bytes:
    """A zip of the members in the order given; the same members give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, the names and sizes of its members checked. They are read from the file while the context lasts.

    Raises:
        UsageError: there is no such file.
        TruncatedBundle: the file is cut short, damaged, or no zip; a damaged member shows when it is read.
        UnsafeMember: a name that leads outside, or is there twice, or too many members.
        OversizedMember: a compressed member, or one that claims more bytes than the file has.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"can't read the bundle {path}: {error.strerror or error}") from error
    with file:
        size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                _require_safe(path, archive.infolist(), size)
                yield archive
        # zipfile raises these, and no others, on damaged headers, bad CRCs, unknown methods and encrypted members.
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
            raise TruncatedBundle(
                f"{path} ({size} bytes) is cut short, damaged, or no bundle ({error}); copy or export it again"
            ) from error


def sha256_of(archive: zipfile.ZipFile, name: str) -> str:
    """A member's hash, the member itself never whole in memory."""
    digest = hashlib.sha256()
    with archive.open(name) as member:
        while block := member.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _require_safe(path: Path, infos: list[zipfile.ZipInfo], file_size: int) -> None:
    if len(infos) > MAX_MEMBERS:
        raise UnsafeMember(f"{path} holds {len(infos)} members; a bundle has at most {MAX_MEMBERS}")
    seen: set[str] = set()
    for info in infos:
        name = info.orig_filename
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name or "\0" in name or name.endswith("/"):
            raise UnsafeMember(f"{path} holds a member named {name!r}, which leads outside the bundle; don't use this file")
        if name in seen:
            raise UnsafeMember(f"{path} holds two members named {name!r}; don't use this file")
        seen.add(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise OversizedMember(
                f"{path}: member {name!r} is compressed ({info.compress_size} bytes claim to be {info.file_size}); "
                "bundles store their members as they are: export the model again"
            )
    claimed = sum(info.file_size for info in infos)
    if claimed > file_size:
        raise OversizedMember(f"{path}: members claim {claimed} bytes, the file has {file_size}; don't use this file")
