"""One workload in one runtime in a process of its own: load it, compare its outputs, and time calls when told to.

    python -m peers.worker RUNTIME PREPARED CONVERTED THREADS

Lines of JSON go both ways: first what loading found, then for each `{"calls": N, "warm": M}` the times of N calls. An
`{"end": true}` asks for the memory that was needed, and ends the process. Between messages it sleeps.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from peers.prepared import Prepared
from peers.runtimes import Arrays, Loaded, runtime

MEBIBYTE = 1024  # of the kernel's kB


def serve(name: str, prepared: Prepared, converted: Path, threads: int, told: TextIO, answers: TextIO) -> None:
    """Load, then answer until the end."""
    try:
        loaded, found = _load(name, prepared, converted, threads)
    except Exception as error:  # whatever a runtime raises is what the page lists
        _say(answers, {"error": f"{type(error).__name__}: {error}"})
        return
    _say(answers, found)
    count = len(prepared.frames())
    for line in told:
        asked = json.loads(line)
        if "end" in asked:
            _say(answers, {"peak_mib": _memory("VmHWM")})
            return
        _say(answers, timed(loaded, asked["calls"], asked["warm"], count))


def _load(name: str, prepared: Prepared, converted: Path, threads: int) -> tuple[Loaded, dict[str, Any]]:
    """The workload, and how long it took, what it needed and how far its outputs are from PyTorch's float64 ones."""
    start = time.perf_counter()
    module = runtime(name)
    imported = time.perf_counter()
    before = _memory("VmRSS")
    loaded: Loaded = module.load(prepared, converted, threads)
    ready = time.perf_counter()
    loaded.run(0)
    first = time.perf_counter()
    outputs = [_copied(loaded)]
    for frame in range(1, len(prepared.frames())):
        loaded.run(frame)
        outputs.append(_copied(loaded))
    return loaded, {
        "import_ms": 1e3 * (imported - start),
        "load_ms": 1e3 * (ready - imported),
        "first_ms": 1e3 * (first - ready),
        "import_mib": before,
        "told_threads_by": module.THREADS,
        "errors": {name: relative_error(name, outputs, prepared.expected()) for name in prepared.data_outputs},
    }


def _copied(loaded: Loaded) -> Arrays:
    return {name: np.array(array) for name, array in loaded.outputs().items()}


def relative_error(name: str, got: list[Arrays], expected: list[Arrays]) -> float:
    """Rms of an output's error over the rms of the output, all frames together; infinite where it is not finite.

    Raises:
        ValueError: it has another shape.
    """
    pairs = [(frame[name], right[name]) for frame, right in zip(got, expected, strict=True)]
    odd = [(array.shape, right.shape) for array, right in pairs if array.shape != right.shape]
    if odd:
        raise ValueError(f"output '{name}' has shape {odd[0][0]}, PyTorch's has {odd[0][1]}")
    error = np.concatenate([np.ravel(array.astype(float) - right) for array, right in pairs])
    rms = np.sqrt(np.mean(np.concatenate([np.ravel(right) for _, right in pairs]) ** 2))
    relative = float(np.sqrt(np.mean(error**2)) / rms)
    return relative if np.isfinite(relative) else float("inf")


def timed(loaded: Loaded, calls: int, warm: int, frames: int) -> dict[str, float]:
    """Nanoseconds a call of `calls` calls after `warm` that are not counted: the median, the fastest and the 90th percentile."""
    for call in range(warm):
        loaded.run(call % frames)
    clock = time.perf_counter_ns
    times = np.empty(calls)
    for call in range(calls):
        frame = call % frames
        start = clock()
        loaded.run(frame)
        times[call] = clock() - start
    return {"median": float(np.median(times)), "best": float(times.min()), "p90": float(np.percentile(times, 90))}


def _memory(field: str) -> float:
    """MiB of this process, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / MEBIBYTE


def _say(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _private_output() -> TextIO:
    """Standard output for messages alone: what runtimes print goes to standard error."""
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return private


def main(arguments: Iterator[str]) -> None:
    """The command line."""
    name, prepared, converted, threads = arguments
    serve(name, Prepared(Path(prepared)), Path(converted), int(threads), sys.stdin, _private_output())
    # Some runtimes crash while the interpreter takes them down, which no longer matters.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(iter(sys.argv[1:]))
