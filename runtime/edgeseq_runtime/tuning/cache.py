"""Where choices are kept: one file each, below the user's cache, named by a hash of everything that the choice depends on.

A file holds the name of the choice, not what it does: whatever a file says, the plan that comes of it is one of the candidates.
One that is damaged, of another machine or of another version counts as none.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from edgeseq_runtime.bundle import Bundle
from edgeseq_runtime.detect.processor import read_processor
from edgeseq_runtime.errors import EdgeseqError
from edgeseq_runtime.files import write_file
from edgeseq_runtime.plan import Plan
from edgeseq_runtime.tuning.record import TuningRecord
from edgeseq_runtime.tuning.workload import Workload
from edgeseq_runtime.user_cache import alone, cache_folder, key_of, require_own_file, require_own_folder

KIND = "tuned"
MAX_BYTES = 1 << 20  # of a file that is read
_LOCK = ".measuring"


def usable_cores() -> tuple[int, ...]:
    """The numbers of the cores that this process may run on."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else tuple(range(os.cpu_count() or 1))


def tuning_facts(bundle: Bundle, plan: Plan, workload: Workload, max_threads: int, backend_version: str) -> dict[str, Any]:
    """Everything that a choice depends on, as they are read back from JSON."""
    processor = read_processor(Path("/"))
    facts = {
        "bundle": bundle.sha256,
        "plan": {name: value for name, value in msgspec.to_builtins(plan).items() if name != "hazards"},
        "workload": msgspec.to_builtins(workload),
        "threads": max_threads,
        "machine": {
            "architecture": platform.machine(),
            "processor": processor.name,
            "features": list(processor.features),
            "cores": list(usable_cores()),
        },
        "versions": {plan.backend: backend_version, "edgeseq": version("edgeseq")},
    }
    read: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(facts))  # a tuple becomes a list
    return read


def record_path(facts: dict[str, Any], base: Path | None = None) -> Path:
    """The file that a choice is kept in."""
    return (base or cache_folder(KIND)) / f"{key_of(facts)}.json"


def read_kept(facts: dict[str, Any], base: Path | None = None) -> TuningRecord | None:
    """The choice that was kept for these facts; None where there is none that can be trusted."""
    path = record_path(facts, base)
    try:
        require_own_folder(path.parent)
        require_own_file(path)
        if path.stat().st_size > MAX_BYTES:
            return None
        record = msgspec.json.decode(path.read_bytes(), type=TuningRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError, EdgeseqError):
        return None
    return record if record.facts == facts else None


def keep(record: TuningRecord, base: Path | None = None) -> Path:
    """Keep a choice, whole or not at all.

    Raises:
        UsageError: the folder can't be made or written, or is not of this user alone.
    """
    path = record_path(record.facts, base)
    require_own_folder(path.parent)
    write_file(path, msgspec.json.format(msgspec.json.encode(record), indent=1), mode=0o600)
    return path


@contextmanager
def one_at_a_time(base: Path | None = None) -> Iterator[None]:
    """Wait until no other process of this user measures here: two at once would measure each other.

    Where the folder can't be used there is nothing to wait by.
    """
    folder = base or cache_folder(KIND)
    try:
        require_own_folder(folder)
    except EdgeseqError:
        yield
        return
    with alone(folder / _LOCK):
        yield
