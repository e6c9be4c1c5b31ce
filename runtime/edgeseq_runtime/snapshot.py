"""The state of a stream as bytes: kept over a restart, and taken back by the model they belong to alone.

A snapshot is a safetensors file in memory: the state tensors by input name, and in its header which bundle and precision they
are of and a hash of their values. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edgeseq_runtime.errors import SnapshotError
from edgeseq_runtime.tensors.spec import Array

FORMAT = "edgeseq snapshot 1"
MAX_HEADER_BYTES = 1 << 20


class _Metadata(msgspec.Struct):
    format: str = ""
    model: str = ""
    sha256: str = ""


class _Header(msgspec.Struct):
    metadata: _Metadata = msgspec.field(name="__metadata__", default_factory=_Metadata)


def pack_snapshot(model: str, state: Mapping[str, Array]) -> bytes:
    """State tensors by input name as bytes that `unpack_snapshot` takes for the same model.

    Args:
        model: identity of the model: of a session its `identity`.
        state: arrays by input name.
    """
    tensors = {name: np.asarray(array, order="C") for name, array in state.items()}
    return save(tensors, {"format": FORMAT, "model": model, "sha256": _digest(tensors)})


def unpack_snapshot(data: bytes, model: str) -> dict[str, Array]:
    """The state tensors of a snapshot.

    Raises:
        SnapshotError: the bytes are no snapshot, are damaged, or belong to another model.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise SnapshotError(f"a snapshot is bytes, and a {type(data).__name__} was given")
    data = bytes(data)
    try:
        found = _metadata(data)
        if found.format != FORMAT:
            raise SnapshotError(f"the snapshot has format {found.format!r}, this release reads {FORMAT!r}; take a new one")
        tensors: dict[str, Array] = load(data)
    except (SafetensorError, msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"{len(data)} bytes are no snapshot, or were cut short ({error}); take a new one") from error
    if found.sha256 != _digest(tensors):
        raise SnapshotError("the snapshot's values are not those that were written: it is damaged; take a new one")
    if found.model != model:
        raise SnapshotError(
            f"the snapshot belongs to the model {_shown(found.model)} and this stream runs {_shown(model)}; another model's "
            "state means nothing to it: open that bundle, or start with reset()"
        )
    return tensors


def _metadata(data: bytes) -> _Metadata:
    size = int.from_bytes(data[:8], "little")
    if not 0 < size <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"a header of {size} bytes")
    return msgspec.json.decode(data[8 : 8 + size], type=_Header).metadata


def _digest(tensors: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(tensors.items()):
        digest.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _shown(model: str) -> str:
    sha256, _, precision = model.partition("/")
    return f"{sha256[:16]} ({precision})"
