"""Protobuf messages as lists of fields that keep every byte: what is not changed is written back as it was read.

The wire format is that of protobuf's encoding page; nothing here knows ONNX. Data is never copied, so a model of a gigabyte costs
as much as its nodes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from edgeseq_runtime.errors import BadModel

MAX_VARINT = 10  # bytes
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field as it stands in a message."""

    number: int
    value: int | memoryview  # a number, or the bytes of anything else
    raw: memoryview  # with its key and size


def parse(data: bytes | memoryview) -> list[Field]:
    """The fields of a message, in their order.

    Raises:
        BadModel: the bytes are no message, or are cut short.
    """
    return list(read_fields(memoryview(data)))


def read_fields(data: memoryview, where: str = "message") -> Iterator[Field]:
    """The fields of a message, one by one.

    Args:
        data: the message.
        where: what it is, for errors.

    Raises:
        BadModel: the bytes are no message, or are cut short.
    """
    start, end = 0, len(data)
    while start < end:
        key, at = _varint(data, start, where)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at, where)
            yield Field(key >> 3, value, data[start:at])
        else:
            if kind == _BYTES:
                size, at = _varint(data, at, where)
            elif kind in (_FIXED64, _FIXED32):
                size = 8 if kind == _FIXED64 else 4
            else:
                text = f"a field of unknown wire type {kind} in a {where}"
                raise BadModel(f"the ONNX model is damaged: {text}; export the model again")
            if size > end - at:
                raise BadModel(f"the ONNX model is cut short: a {where} claims {size} bytes and {end - at} are left; copy it again")
            yield Field(key >> 3, data[at : at + size], data[start : at + size])
            at += size
        start = at


def serialise(fields: Iterable[Field]) -> bytes:
    """The message that has these fields; the inverse of `parse`, byte for byte."""
    return b"".join(field.raw for field in fields)


def number_field(number: int, value: int) -> Field:
    """A field that holds an integer."""
    unsigned = value & 0xFFFF_FFFF_FFFF_FFFF
    return Field(number, unsigned, memoryview(_encoded(number << 3 | _VARINT) + _encoded(unsigned)))


def bytes_field(number: int, value: bytes | memoryview | str) -> Field:
    """A field that holds bytes, text or a message."""
    data = value.encode() if isinstance(value, str) else bytes(value)
    return Field(number, memoryview(data), memoryview(_encoded(number << 3 | _BYTES) + _encoded(len(data)) + data))


def text_of(fields: Iterable[Field], number: int) -> str:
    """The text of a field; empty where there is none."""
    return next((_text(field) for field in fields if field.number == number), "")


def texts_of(fields: Iterable[Field], number: int) -> tuple[str, ...]:
    """The texts of a repeated field."""
    return tuple(_text(field) for field in fields if field.number == number)


def integers_of(fields: Iterable[Field], number: int) -> tuple[int, ...]:
    """The signed integers of a repeated field, packed or not."""
    found: list[int] = []
    for field in fields:
        if field.number == number:
            found += integers_in(field.value)
    return tuple(found)


def integers_in(value: int | memoryview, where: str = "message") -> list[int]:
    """The signed integers of one field: the number that it is, or those packed in it."""
    if isinstance(value, int):
        return [_signed(value)]
    found, at = [], 0
    while at < len(value):
        one, at = _varint(value, at, where)
        found.append(_signed(one))
    return found


def floats_of(fields: Iterable[Field], number: int) -> tuple[float, ...]:
    """The 32-bit floats of a repeated field, packed or not."""
    found: list[float] = []
    for field in fields:
        if field.number == number:
            data = bytes_of(field)
            if len(data) % 4:
                raise BadModel("the ONNX model is damaged: floats of a fraction of 4 bytes; export the model again")
            found += struct.unpack(f"<{len(data) // 4}f", data)
    return tuple(found)


def bytes_of(field: Field) -> memoryview:
    """What a field of bytes holds.

    Raises:
        BadModel: it holds a number.
    """
    if isinstance(field.value, int):
        raise BadModel("the ONNX model is damaged: a number where bytes belong; export the model again")
    return field.value


def _text(field: Field) -> str:
    return bytes(bytes_of(field)).decode("utf-8", "replace")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _varint(data: memoryview, at: int, where: str) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + MAX_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + index + 1
    raise BadModel(f"the ONNX model is cut short or damaged: a number in a {where} has no end; copy or export it again")


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
