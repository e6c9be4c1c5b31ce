"""The store of engines: whole, for this machine, this user's own, or built anew; with processes that are really killed."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from edgeseq_runtime.backends.engine_store import (
    BadEngine,
    EngineFacts,
    EngineRecord,
    keep_bytes,
    kept_bytes,
    read_engine,
    stored_engine,
)
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.user_cache import key_of

FACTS = EngineFacts(
    model="a" * 64,
    precision="fp32",
    profiles=("B=1:1:8 T=1:100:1000",),
    options={"workspace": "1073741824"},
    tensorrt="tensorrt 10.3.0",
    gpu="Orin",
    compute_capability="8.7",
    cuda="12.6",
    driver="Jetson Linux 36.4.3, CUDA 12.6",
    machine="aarch64",
)
OTHERS = {
    "model": "b" * 64,
    "precision": "fp16",
    "profiles": ("B=1:1:8 T=1:100:1000", "B=1:1:8 T=1"),
    "options": {},
    "tensorrt": "tensorrt 10.7.0",
    "gpu": "Thor",
    "compute_capability": "11.0",
    "cuda": "13.0",
    "driver": "Jetson Linux 36.4.4, CUDA 12.6",
    "machine": "x86_64",
}
SPAWN = multiprocessing.get_context("spawn")


def made(facts, content=b"engine"):
    """A record of an engine, and the engine."""
    spec = TensorSpec("x", "float32", ("T", "B", 3))
    digest = hashlib.sha256(content).hexdigest()
    return EngineRecord(facts=facts, inputs=(spec,), outputs=(spec,), sha256=digest, size=len(content), seconds=0.1), content


def stored(base, content=b"engine", facts=FACTS):
    """What a session does, and why it built, if it did."""
    reasons = []
    found = stored_engine(base, facts, lambda why: reasons.extend(why) or made(facts, content))
    return found, reasons


def engines(base):
    return sorted(base.glob("*.engine"))


@pytest.fixture
def base(tmp_path):
    return tmp_path / "store"


def test_what_was_built_is_used_again(base):
    first, reasons = stored(base)
    assert (first.built, first.notes, reasons) == (True, (), [])
    again, _ = stored(base, b"other")
    assert (again.engine, again.built, again.path, again.record) == (b"engine", False, first.path, first.record)
    assert read_engine(first.path) == (first.record, b"engine")
    assert first.path.name == f"{key_of(msgspec.to_builtins(FACTS))}.engine"
    assert (base.stat().st_mode & 0o777, first.path.stat().st_mode & 0o777) == (0o700, 0o600)


def test_there_is_another_value_for_each_fact():
    assert set(OTHERS) == set(EngineFacts.__struct_fields__)


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_differs_it_is_another_engine_and_says_so(name, base):
    stored(base)
    other = msgspec.structs.replace(FACTS, **{name: OTHERS[name]})
    found, reasons = stored(base, b"other", other)
    assert (found.engine, found.built) == (b"other", True)
    if name in ("model", "precision"):
        assert reasons == []  # another model's engine is no reason
    else:
        assert [reason.split(" is not used: ")[1] for reason in reasons] == [
            f"{name} is {getattr(FACTS, name)!r}, not {OTHERS[name]!r}"
        ]
    assert stored(base)[0].engine == b"engine"


def test_an_engine_under_another_ones_name_is_not_used(base):
    other = msgspec.structs.replace(FACTS, gpu="Thor")
    path, others = stored(base)[0].path, stored(base, b"other", other)[0].path
    path.write_bytes(others.read_bytes())
    found, reasons = stored(base, b"anew")
    assert (found.engine, found.built) == (b"anew", True)
    assert "is for something else: gpu is 'Thor', not 'Orin'" in reasons[0]


@pytest.mark.parametrize("cut", [0, 1, 16, 17, 24, 25, 100, -1, -6])
def test_a_file_cut_anywhere_is_built_anew(cut, base):
    path = stored(base)[0].path
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BadEngine, match="build it again"):
        read_engine(path)
    found, reasons = stored(base, b"anew")
    assert (found.engine, found.built, len(reasons)) == (b"anew", True, 1)
    assert ("it was cut short" if cut < 0 or cut > 16 else "no engine that this release wrote") in reasons[0]
    assert stored(base)[0].engine == b"anew"


def test_a_change_of_any_byte_is_noticed(base):
    path = stored(base)[0].path
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        try:
            record, engine = read_engine(path)
        except BadEngine:
            continue
        assert engine == b"engine"
        # What is left are texts of the record: a fact, which the caller compares, or the names of inputs.
        assert record != made(FACTS)[0]


def test_a_build_that_fails_leaves_nothing(base):
    def fails(why):
        raise ValueError("no engine")

    with pytest.raises(ValueError, match="no engine"):
        stored_engine(base, FACTS, fails)
    assert engines(base) == []
    assert stored(base)[0].built


def killed_in(base, moment, ready):
    """A process that is killed: while it builds, while it writes, or before the file has its name."""

    def wait(*arguments):
        ready.set()
        time.sleep(60)

    if moment == "building":
        stored_engine(base, FACTS, wait)
    elif moment == "writing":
        os.fsync = wait
        stored_engine(base, FACTS, lambda why: made(FACTS, b"half" * 100_000))
    else:
        os.replace = wait
        stored_engine(base, FACTS, lambda why: made(FACTS, b"half" * 100_000))


@pytest.mark.parametrize("moment", ["building", "writing", "naming"])
def test_a_builder_that_is_killed_leaves_nothing_that_is_used(moment, base):
    ready = SPAWN.Event()
    process = SPAWN.Process(target=killed_in, args=(base, moment, ready))
    process.start()
    assert ready.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert engines(base) == []
    assert len(list(base.glob(".*"))) == (0 if moment == "building" else 1)
    found, _ = stored(base, b"whole")
    assert (found.engine, found.built) == (b"whole", True)
    assert list(base.glob(".*")) == []
    assert stored(base)[0].engine == b"whole"


def build_slowly(base, number, start, results):
    def build(why):
        with (base / "built").open("a") as file:
            file.write(f"{number}\n")
        time.sleep(0.5)
        return made(FACTS, b"engine of %d" % number)

    start.wait()
    waited = []
    found = stored_engine(base, FACTS, build, lambda: waited.append(True))
    results.put((number, found.built, found.engine, bool(waited)))


def test_of_builders_at_once_one_builds_and_the_others_wait_for_it(base):
    base.mkdir(mode=0o700)
    start, results = SPAWN.Event(), SPAWN.Queue()
    processes = [SPAWN.Process(target=build_slowly, args=(base, number, start, results)) for number in range(3)]
    for process in processes:
        process.start()
    start.set()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    builders = [number for number, built, _, _ in found if built]
    assert (base / "built").read_text().split() == [str(number) for number in builders]
    assert len(builders) == 1
    assert {engine for _, _, engine, _ in found} == {b"engine of %d" % builders[0]}
    assert not next(waited for number, built, _, waited in found if built)


def on_a_full_disk(base, results):
    """No file may be longer than a kilobyte: writing fails as it does on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
    found, _ = stored(base, b"engine" * 1000)
    results.put((found.engine == b"engine" * 1000, found.path, found.notes))


def test_where_a_file_can_not_be_written_the_engine_is_used_and_not_kept(base):
    results = SPAWN.Queue()
    process = SPAWN.Process(target=on_a_full_disk, args=(base, results))
    process.start()
    whole, path, notes = results.get(timeout=60)
    process.join()
    assert (whole, path, engines(base)) == (True, None, [])
    assert "the engine is used and not kept: can't write" in notes[0]
    assert "File too large" in notes[0]
    assert list(base.glob(".*")) == []


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", folder]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root, where it may mount, has a small disk to fill")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_loses_nothing_but_the_cache(small_disk):
    found, _ = stored(small_disk, b"e" * 100_000)
    assert (found.engine, found.path) == (b"e" * 100_000, None)
    assert "No space left on device" in found.notes[0]
    assert list(small_disk.glob(".*")) == []
    (small_disk / "filler").write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * 4096))
    full, _ = stored(small_disk, b"small", msgspec.structs.replace(FACTS, gpu="Thor"))
    assert (full.engine, full.path) == (b"small", None)
    (small_disk / "filler").unlink()
    assert stored(small_disk, b"small")[0].path is not None


def test_a_store_that_others_may_write_to_is_refused(base):
    stored(base)
    base.chmod(0o770)
    with pytest.raises(UsageError, match="whoever can write there decides what runs"):
        stored(base)


@pytest.mark.parametrize("what", ["mode", "owner", "link"])
def test_a_file_that_another_may_have_written_is_built_anew(what, base, monkeypatch, tmp_path):
    path = stored(base)[0].path
    if what == "mode":
        path.chmod(0o666)
    elif what == "link":
        elsewhere = tmp_path / "elsewhere"
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
    elif os.getuid() == 0:
        os.chown(path, 12345, 12345)
    else:
        pytest.skip("only root can give a file away")
    found, reasons = stored(base, b"own")
    assert (found.engine, found.built) == (b"own", True)
    assert "no file of this user alone" in reasons[0]
    assert not path.is_symlink()
    assert path.stat().st_uid == os.getuid()


def test_a_store_of_another_user_is_refused(base):
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    stored(base)
    os.chown(base, 12345, 12345)
    with pytest.raises(UsageError, match=r"no folder of this user alone \(owner 12345"):
        stored(base)


def test_what_only_saves_time_is_kept_whole_or_not_at_all(base):
    base.mkdir(mode=0o700)
    path = Path(base / "times")
    assert kept_bytes(path) == b""
    keep_bytes(path, b"times")
    assert kept_bytes(path) == b"times"
    path.write_bytes(path.read_bytes()[:-1])
    assert kept_bytes(path) == b""
    keep_bytes(path, b"times")
    path.chmod(0o666)
    assert kept_bytes(path) == b""
