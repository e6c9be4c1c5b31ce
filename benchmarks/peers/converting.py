"""A runtime's own file of a workload, made in a process of its own under a time limit, and kept.

python -m peers.converting RUNTIME PREPARED FOLDER SECONDS
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from peers.prepared import Prepared, keep_newest
from peers.runtimes import NotOffered, runtime

LIMIT = 240.0  # seconds of processor time, of each process
PATIENCE = 30  # times as long by the clock: it hangs
GIVEN_UP = "not converted after"
HERE = Path(__file__).parent
PARTS = {  # module -> (what it starts from, its distribution): known without importing it, which takes seconds and can fail
    "edgeseq": ("bundle", "edgeseq"),
    "edgeseq_native": ("bundle", "edgeseq"),
    "edgeseq_tuned": ("bundle", "edgeseq"),
    "edgeseq_int8": ("bundle", "edgeseq"),
    "onnxruntime_plain": ("onnx", "onnxruntime"),
    "torch_eager": ("torch", "torch"),
    "torch_compile": ("torch", "torch"),
    "openvino_cpu": ("fixed", "openvino"),
    "tract_cpu": ("fixed", "tract"),
    "ncnn_cpu": ("torch", "ncnn"),
    "mnn_cpu": ("fixed", "MNN"),
    "litert": ("torch", "ai-edge-litert"),
    "executorch_xnnpack": ("torch", "executorch"),
}

_TUNES = ("runtime/edgeseq_runtime/tuning", "runtime/edgeseq_runtime/native")
CODE = {"edgeseq_tuned": _TUNES, "edgeseq_int8": (*_TUNES, "quantize/edgeseq_quantize")}  # that converts


class Converted(NamedTuple):
    """A folder, or why there is none."""

    folder: Path
    error: str | None
    seconds: float

    @property
    def size(self) -> int:
        """Bytes of what would be shipped."""
        return sum(
            file.stat().st_size for file in self.folder.rglob("*") if file.is_file() and file.suffix not in {".json", ".log"}
        )


def out_of_time(found: Converted) -> bool:
    """Whether it was given up."""
    return found.error is not None and found.error.startswith(GIVEN_UP)


def converted(
    name: str, prepared: Prepared, base: Path, *, limit: float = LIMIT, say: Callable[[str], None] = lambda text: None
) -> Converted:
    """The runtime's file of the workload: from the cache, or made now. A failure is kept too."""
    folder = base / f"{prepared.facts['name']}-{name}-{_key(name, prepared)}"
    outcome = folder / "outcome.json"
    if not outcome.exists():
        say(f"converting {prepared.facts['name']} for {name}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        start = time.perf_counter()
        error = _convert(name, prepared, folder, limit)
        seconds = round(time.perf_counter() - start, 1)
        outcome.write_text(json.dumps({"error": error, "seconds": seconds}))
        keep_newest(base, f"{prepared.facts['name']}-{name}-????????????")
    found: dict[str, Any] = json.loads(outcome.read_text())
    return Converted(folder, found["error"], found["seconds"])


def _key(name: str, prepared: Prepared) -> str:
    """Of what a conversion depends on: of the graph for those that start from one, of what is computed for the others."""
    model, package = PARTS[name]
    starts = {"bundle": prepared.bundle, "onnx": prepared.onnx, "fixed": prepared.fixed_onnx}
    start = starts[model].read_bytes() if model in starts else prepared.facts["key"].encode()
    hashed = hashlib.sha256(start)
    for code in CODE.get(name, ()):
        for file in sorted((HERE.parents[1] / code).rglob("*.[pch]*")):
            if file.suffix in {".py", ".c", ".h"}:
                hashed.update(file.read_bytes())
    hashed.update(f"{package} {_version(package)}".encode())
    hashed.update((HERE / "runtimes" / f"{name}.py").read_bytes())
    return hashed.hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _convert(name: str, prepared: Prepared, folder: Path, limit: float) -> str | None:
    command = [sys.executable, "-m", "peers.converting", name, str(prepared.folder), str(folder), str(math.ceil(limit))]
    # A session of its own, so that compilers that it started end with it.
    process = subprocess.Popen(
        command, cwd=HERE.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, errors = process.communicate(timeout=PATIENCE * limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"{GIVEN_UP} {PATIENCE * limit:.0f} s"
    if process.returncode == -signal.SIGXCPU:
        return f"{GIVEN_UP} {limit:.0f} s of processor time"
    if process.returncode == 0:
        return None
    said = [line for line in errors.strip().splitlines() if line.strip()]
    if process.returncode < 0:
        return f"its converter crashed ({signal.Signals(-process.returncode).name})"
    return said[-1][:400] if said else f"ended with {process.returncode}"


def main() -> int:
    """The command line of the process that converts."""
    name, prepared, folder, limit = sys.argv[1:]
    # Of processor time, which another program on the machine does not use up.
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
    try:
        runtime(name).convert(Prepared(Path(prepared)), Path(folder))
    except NotOffered as refusal:
        print(f"not offered: {refusal}", file=sys.stderr)
        return 1
    except BaseException as error:  # some compilers raise what is no Exception; the last line is what is listed
        lines = " ".join(f"{type(error).__name__}: {error}".split())
        print(lines, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
