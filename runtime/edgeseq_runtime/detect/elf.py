"""Which libraries a shared library says it needs: the dynamic section of an ELF file, read without loading it.

Source of the layout: Tool Interface Standard, Executable and Linking Format 1.2, and elf(5).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_LOAD, _DYNAMIC = 1, 2  # types of segments
_NEEDED, _STRINGS, _STRINGS_SIZE = 1, 5, 10  # tags of dynamic entries
_MOST_SEGMENTS, _MOST_ENTRIES, _MOST_STRINGS = 256, 4096, 1 << 24


def needed_libraries(path: Path) -> tuple[str, ...]:
    """Names such as "libcudart.so.12", in the file's order; none where it is no 64-bit little-endian ELF file."""
    try:
        with path.open("rb") as file:
            return _needed(file)
    except (OSError, struct.error, UnicodeDecodeError):
        return ()


def _needed(file: BinaryIO) -> tuple[str, ...]:
    header = file.read(64)
    if header[:6] != b"\x7fELF\x02\x01":
        return ()
    (offset,) = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    segments = [_segment(file, offset + index * size) for index in range(min(count, _MOST_SEGMENTS))]
    entries = [entry for kind, *where in segments if kind == _DYNAMIC for entry in _entries(file, *where)]
    values = dict(entries)
    if _STRINGS not in values:
        return ()
    at = next((start + values[_STRINGS] - base for kind, start, base, length in segments
               if kind == _LOAD and base <= values[_STRINGS] < base + length), None)  # fmt: skip
    if at is None:
        return ()
    file.seek(at)
    strings = file.read(min(values.get(_STRINGS_SIZE, 0), _MOST_STRINGS))
    return tuple(strings[value:].split(b"\0", 1)[0].decode() for tag, value in entries if tag == _NEEDED)


def _segment(file: BinaryIO, at: int) -> tuple[int, int, int, int]:
    """Type, place in the file, address and length of one."""
    file.seek(at)
    kind, _, start, base, _, length = struct.unpack("<IIQQQQ", file.read(40))
    return kind, start, base, length


def _entries(file: BinaryIO, start: int, base: int, length: int) -> list[tuple[int, int]]:
    file.seek(start)
    data = file.read(min(length, 16 * _MOST_ENTRIES))
    return [struct.unpack_from("<QQ", data, at) for at in range(0, len(data) - 15, 16)]
