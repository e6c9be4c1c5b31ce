"""A folder of engines, one file each, that says of each what it is for; what is not whole and for this machine is built anew.

A file is a line, the length of a record, the record (JSON) and the engine's bytes. Its name is a hash of everything that the
engine depends on; the record holds that too, and the sha256 of the bytes. A file is written under another name, flushed to the
disk and moved to its own; whoever builds holds a lock, which the system lets go of if the builder is killed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.files import unfinished, write_atomically
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.user_cache import alone, key_of, require_own_file, require_own_folder

MAGIC = b"edgeseq engine 1\n"
MOST_RECORD = 1 << 24  # bytes
ENDING = ".engine"
_DIGEST = hashlib.sha256().digest_size


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an engine depends on. Where one of them differs, it is another engine."""

    model: str  # sha256 of the ONNX model, which the bundle's manifest names
    precision: str
    profiles: tuple[str, ...]  # ranges of axes and of values, one text a profile
    options: dict[str, str]  # of the builder
    tensorrt: str  # package and version
    gpu: str
    compute_capability: str
    cuda: str  # version of the runtime library
    driver: str  # of NVIDIA: its own version, or that of Jetson Linux, and the CUDA that it runs
    machine: str  # the processor's architecture

    def differences(self, other: EngineFacts) -> list[str]:
        """What is not as in another, as "tensorrt is 'tensorrt 10.3.0', not 'tensorrt 10.7.0'"."""
        fields = ((name, getattr(self, name), getattr(other, name)) for name in self.__struct_fields__)
        return [f"{name} is {own!r}, not {theirs!r}" for name, own, theirs in fields if own != theirs]


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is written before an engine's bytes."""

    facts: EngineFacts
    inputs: tuple[TensorSpec, ...]  # of the ONNX model
    outputs: tuple[TensorSpec, ...]
    sha256: str  # of the engine
    size: int  # its bytes
    seconds: float  # that building took


class Stored(NamedTuple):
    """An engine, whole, and for this machine."""

    record: EngineRecord
    engine: bytes
    path: Path | None  # None where it could not be kept
    built: bool  # now, rather than found
    notes: tuple[str, ...] = ()  # why it was built although there was one, or why it is not kept


class BadEngine(UsageError):
    """A file that is no engine of this release, or not a whole one."""


Build = Callable[[Sequence[str]], tuple[EngineRecord, bytes]]  # told why there is something to build although there was an engine


def stored_engine(base: Path, facts: EngineFacts, build: Build, wait: Callable[[], None] = lambda: None) -> Stored:
    """The engine for these facts: from the folder if it can be trusted, else built, and kept.

    Args:
        base: the folder; made for this user alone where there is none.
        facts: what the engine must be for.
        build: makes it, with its record.
        wait: called once where another process is building the same engine, before it is waited for.

    Raises:
        UsageError: the folder is not this user's alone. What `build` raises.
    """
    require_own_folder(base)
    path = base / f"{key_of(msgspec.to_builtins(facts))}{ENDING}"
    found = _found(path, facts)
    if isinstance(found, Stored):
        return found
    with alone(path.with_suffix(".lock"), wait) as only:
        found = _found(path, facts)  # another may have built it meanwhile
        if isinstance(found, Stored):
            return found
        reasons = [found] if found else list(_others(base, facts))
        if only:
            _remove_unfinished(path)
        record, engine = build(reasons)
        unwritten = write_whole(path, engine_bytes(record, engine))
    if unwritten is None:
        return Stored(record, engine, path, True, tuple(reasons))
    note = f"the engine is used and not kept: can't write {path}: {unwritten}; it will be built again next time"
    return Stored(record, engine, None, True, (*reasons, note))


def read_engine(path: Path) -> tuple[EngineRecord, bytes]:
    """An engine's record and bytes.

    Raises:
        BadEngine: the file is none of this release, is cut short, or was changed.
        UsageError: it can't be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"can't read the engine {path}: {error.strerror or error}") from error
    record, start = _record(path, data)
    engine = data[start:]
    if len(engine) != record.size:
        raise BadEngine(f"{path} holds {len(engine)} bytes of an engine of {record.size}: it was cut short; build it again")
    if hashlib.sha256(engine).hexdigest() != record.sha256:
        raise BadEngine(f"{path} is not as it was written: its engine has another sha256; build it again")
    return record, engine


def engine_bytes(record: EngineRecord, engine: bytes) -> bytes:
    """A file's content."""
    text = msgspec.json.encode(record)
    return MAGIC + len(text).to_bytes(8, "little") + text + engine


def _record(path: Path, data: bytes) -> tuple[EngineRecord, int]:
    start = len(MAGIC) + 8
    if not data.startswith(MAGIC):
        raise BadEngine(f"{path} is no engine that this release wrote; build it again")
    size = _record_size(data)
    if size > MOST_RECORD or len(data) < start + size:
        raise BadEngine(f"{path} ends within its record: it was cut short; build it again")
    try:
        return msgspec.json.decode(data[start : start + size], type=EngineRecord), start + size
    except msgspec.DecodeError as error:
        raise BadEngine(f"{path} has a record that does not parse ({error}); build it again") from error


def _record_size(data: bytes) -> int:
    return int.from_bytes(data[len(MAGIC) : len(MAGIC) + 8], "little")


def _found(path: Path, facts: EngineFacts) -> Stored | str:
    """The engine in a file, or why it is not used; "" where there is no file."""
    try:
        if not path.is_file():
            return ""
        require_own_file(path)
        record, engine = read_engine(path)
    except UsageError as error:
        return str(error)
    differences = record.facts.differences(facts)
    if differences:
        return f"{path} is for something else: {'; '.join(differences)}"
    return Stored(record, engine, path, False)


def _others(base: Path, facts: EngineFacts) -> Iterator[str]:
    """Why engines of the same model and precision that are there are not this one."""
    for path in sorted(base.glob(f"*{ENDING}")):
        try:
            with path.open("rb") as file:
                head = file.read(len(MAGIC) + 8)
                record, _ = _record(path, head + file.read(min(_record_size(head), MOST_RECORD)))
        except (OSError, BadEngine):
            continue
        if (record.facts.model, record.facts.precision) == (facts.model, facts.precision):
            yield f"{path} is not used: {'; '.join(record.facts.differences(facts))}"


def write_whole(path: Path, data: bytes) -> str | None:
    """Write a file whole or not at all; why it could not be written, if so."""
    try:
        write_atomically(path, data, mode=0o600)
    except OSError as error:
        return error.strerror or str(error)
    return None


def keep_bytes(path: Path, data: bytes) -> None:
    """Keep what only saves time, such as a cache of TensorRT's own, if it can be kept."""
    write_whole(path, hashlib.sha256(data).digest() + data)


def kept_bytes(path: Path) -> bytes:
    """What `keep_bytes` kept, whole and this user's own, or nothing."""
    try:
        require_own_file(path)
        data = path.read_bytes()
    except (OSError, UsageError):
        return b""
    return data[_DIGEST:] if hashlib.sha256(data[_DIGEST:]).digest() == data[:_DIGEST] else b""


def _remove_unfinished(path: Path) -> None:
    """What a builder of the same engine that was killed left; none is at work, for the lock is held."""
    for left in unfinished(path.with_suffix("")):  # and what was to be kept beside it
        with suppress(OSError):
            left.unlink()
