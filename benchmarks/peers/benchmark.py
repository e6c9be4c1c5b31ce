"""Every workload at every number of threads: converted, loaded, compared, timed in turns; a line of results as each is done."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from edgeseq_runtime.detect import detect_machine
from peers.converting import PARTS, Converted, converted, out_of_time
from peers.environments import MISSING
from peers.limits import Limit, Meter
from peers.prepared import Prepared, prepare
from peers.runtimes import NAMES
from peers.statistics import spread
from peers.turns import QUICK, Failed, Pace, Worker, shuffled, take_turns
from peers.workloads import WORKLOADS, Workload, workload

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "peers"
RESULTS = ROOT / "benchmarks" / "results" / "peers.jsonl"
THREADS = (1, 2)
QUICKLY = ("lstm-2x256-step", "gru-2x256-step", "lstm-1024-step", "gait-step", "lstm-2x256-100", "layer-norm-lstm-256")
# Relative error of outputs from PyTorch's float64 ones, above which a candidate is wrong and not timed.
AGREES = {"fp32": 1e-4, "int8": 2e-2}
Record = dict[str, Any]
Say = Callable[[str], None]


class Asked(NamedTuple):
    """What to measure."""

    workloads: Sequence[Workload] = WORKLOADS
    runtimes: Sequence[str] = NAMES
    threads: Sequence[int] = THREADS
    pace: Pace = Pace()
    results: Path = RESULTS
    build: Path = BUILD


def quickly(build: Path = BUILD) -> Asked:
    """A few workloads at one thread in few rounds, apart from the published results."""
    chosen = [one for one in WORKLOADS if one.name in QUICKLY]
    return Asked(workloads=chosen, threads=(1,), pace=QUICK, results=build / "quick.jsonl", build=build)


def measure(asked: Asked, say: Say = print) -> Iterator[Record]:
    """The records of a run, old ones first where a run of the same kind was broken off.

    A run that was finished is not gone on with: the next one begins anew.
    """
    done = _broken_off(asked)
    if not done:
        asked.results.parent.mkdir(parents=True, exist_ok=True)
        asked.results.write_text(json.dumps(_header(asked)) + "\n")
        if asked.results == RESULTS:
            _forget_what_was_tuned(asked.build)
    for one in asked.workloads:
        _files(prepare(one, asked.build / "workloads"), asked, say)
    for threads in asked.threads:
        for one in asked.workloads:
            key = (one.name, threads)
            if key not in done:
                record = measure_workload(one, threads, asked, say)
                with asked.results.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                done[key] = record
            yield done[key]


def read(path: Path) -> tuple[Record, list[Record]]:
    """The header and the records of a file of results."""
    header, *records = (json.loads(line) for line in path.read_text().splitlines())
    return header, records


def _broken_off(asked: Asked) -> dict[tuple[str, int], Record]:
    """Records of a run with the same header that has not come to its end."""
    if not asked.results.exists():
        return {}
    header, records = read(asked.results)
    wanted = {(one.name, threads) for one in asked.workloads for threads in asked.threads}
    found = {(record["workload"], record["threads"]): record for record in records}
    same = header["asked"] == _header(asked)["asked"]
    return found if same and not wanted <= set(found) else {}


def _forget_what_was_tuned(build: Path) -> None:
    """A choice belongs to the state that the machine is in now."""
    for folder in (build / "converted").glob("*-edgeseq_tuned-*"):
        shutil.rmtree(folder)


def _header(asked: Asked) -> Record:
    """What is asked, and of which machine and versions."""
    machine = detect_machine()
    return {
        "asked": {
            "workloads": [one.name for one in asked.workloads],
            "runtimes": list(asked.runtimes),
            "threads": list(asked.threads),
            "pace": asked.pace._asdict(),
            "machine": f"{machine.processor.name}, {os.cpu_count()} cores, {machine.architecture}",
            "versions": {name: _version(PARTS[name][1]) for name in asked.runtimes},
        },
        "started": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "load": os.getloadavg()[0],
        "features": sorted(set(machine.processor.features) & FEATURES),
        "system": machine.system,
        "python": platform.python_version(),
        "numpy": version("numpy"),
    }


FEATURES = {"avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve"}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def measure_workload(one: Workload, threads: int, asked: Asked, say: Say = print) -> Record:
    """Everything about one workload at one number of threads."""
    start = time.monotonic()
    prepared = prepare(one, asked.build / "workloads")
    files, failed = _files(prepared, asked, say)
    seed = int.from_bytes(hashlib.sha256(f"{one.name} {threads}".encode()).digest()[:4], "big")
    workers: dict[str, Worker] = {}
    found: dict[str, Record] = {}
    try:
        for name in shuffled(list(files), seed):
            worker = Worker(name, prepared.folder, files[name].folder, threads)
            try:
                found[name] = _checked(name, worker.loaded())
                workers[name] = worker
            except Failed as error:
                worker.kill()
                failed[name] = str(error)
        cost = (prepared.facts["working_set"], prepared.facts["read"], prepared.facts["operations"])
        meter = Meter(*cost, threads)
        rounds = take_turns({name: workers[name] for name in files if name in workers}, asked.pace, seed, meter.limit)
        for name, worker in workers.items():
            try:
                found[name] |= worker.end()
            except Failed as error:
                rounds.failed.setdefault(name, f"at its end: {error}")
    finally:
        for worker in workers.values():
            worker.kill()
    failed |= rounds.failed
    candidates = {
        name: {
            **found[name],
            "bytes": files[name].size,
            "convert_s": files[name].seconds,
            "microseconds": [round(nanoseconds / 1e3, 3) for nanoseconds in medians],
            "best": rounds.best[name] / 1e3,
        }
        for name, medians in rounds.medians.items()
    }
    return {
        "workload": one.name,
        "threads": threads,
        **{name: prepared.facts[name] for name in ("title", "group", "T", "B", "parameters", "working_set", "read", "operations")},
        "seconds": round(time.monotonic() - start, 1),
        "load": os.getloadavg()[0],
        "candidates": candidates,
        "failed": failed,
        "limit": _limit(rounds.between),
    }


def _files(prepared: Prepared, asked: Asked, say: Say) -> tuple[dict[str, Converted], dict[str, str]]:
    """Of each runtime that can be had its file, of the others why not."""
    files: dict[str, Converted] = {}
    failed: dict[str, str] = {}
    missing: Mapping[str, str] = json.loads(MISSING.read_text()) if MISSING.exists() else {}
    for name in asked.runtimes:
        package = PARTS[name][1]
        if _version(package) is None:
            failed[name] = f"not installed: {missing.get(package, 'its package is not there')}"
            continue
        before = _lighter(name, prepared, asked, say)
        if before is not None and out_of_time(before):
            failed[name] = f"not tried: what takes fewer operators was {before.error}"
            continue
        made = converted(name, prepared, asked.build / "converted", say=say)
        if made.error:
            failed[name] = made.error
        else:
            files[name] = made
    return files, failed


def _lighter(name: str, prepared: Prepared, asked: Asked, say: Say) -> Converted | None:
    """The conversion of a workload that takes fewer operators, if any: what is too slow for it does not end for more."""
    lighter = workload(prepared.facts["name"]).lighter
    if lighter is None:
        return None
    return converted(name, prepare(workload(lighter), asked.build / "workloads"), asked.build / "converted", say=say)


def _checked(name: str, found: Record) -> Record:
    """What loading found, if the outputs are right.

    Raises:
        Failed: they are not.
    """
    gate = AGREES["int8" if "int8" in name else "fp32"]
    wrong = {output: error for output, error in found["errors"].items() if not error <= gate}
    if wrong:
        output, error = max(wrong.items(), key=lambda pair: pair[1])
        raise Failed(f"wrong: '{output}' is {error:.1e} of its rms from PyTorch's float64 output, more than {gate:g}")
    return found


def _limit(limits: Sequence[Limit]) -> Record:
    bounds = [limit.bound for limit in limits]
    return {
        "microseconds": [round(1e6 * limit.seconds, 3) for limit in limits],
        "bound": max(set(bounds), key=bounds.count),
        "gigabytes_a_second": spread([limit.gigabytes for limit in limits]).median,
        "gigaflops": spread([limit.gigaflops for limit in limits]).median,
    }
