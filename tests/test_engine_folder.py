"""The folder of engines: whole, unchanged, this user's own, or built anew."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from edgeseq_runtime.backends.engine_folder import LIST, engine_folder
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.user_cache import cache_folder, key_of

KEY = key_of({"model": "a"})


def build(base, content=b"engine", key=KEY):
    """What a session does: uses the folder it is given, and builds an engine where there is none. True where it had to build."""
    with engine_folder(base, key) as folder:
        engine = folder / "model.engine"
        if engine.exists():
            return engine.read_bytes()
        engine.write_bytes(content)
        (folder / "timing.cache").write_bytes(b"times")
        return None


@pytest.fixture
def base(tmp_path):
    return tmp_path / "cache"


def test_what_was_built_is_used_again_and_by_nothing_else(base):
    assert build(base) is None
    assert build(base, b"other") == b"engine"
    assert build(base, b"another", key_of({"model": "b"})) is None
    assert sorted(path.name for path in base.iterdir()) == sorted([KEY, key_of({"model": "b"})])
    assert base.stat().st_mode & 0o777 == 0o700


def test_a_key_is_another_for_any_difference():
    facts = {
        "model": "a",
        "plan": {"precision": "fp32"},
        "driver": {"version": "580"},
        "libraries": ["/usr/lib/libnvinfer.so.10.3.0"],
    }
    changes = (
        {"model": "b"},
        {"plan": {"precision": "fp16"}},
        {"driver": {"version": "581"}},
        {"libraries": ["/usr/lib/libnvinfer.so.10.4.0"]},
    )
    keys = {key_of(facts), *(key_of({**facts, **change}) for change in changes)}
    assert len(keys) == 5
    assert key_of(dict(reversed(facts.items()))) == key_of(facts)


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: (kept / "model.engine").write_bytes(b"engin"),  # cut short
        lambda kept: (kept / "model.engine").write_bytes(b"enginf"),  # changed
        lambda kept: (kept / "model.engine").unlink(),
        lambda kept: (kept / "more.engine").write_bytes(b"planted"),
        lambda kept: (kept / LIST).unlink(),
        lambda kept: (kept / LIST).write_text("{"),
        lambda kept: (kept / LIST).write_text("{}"),
    ],
)
def test_what_is_not_as_it_was_left_is_built_anew(damage, base):
    build(base)
    damage(base / KEY)
    assert build(base, b"new") is None
    assert build(base) == b"new"
    assert [path.name for path in base.iterdir()] == [KEY]


def test_a_session_that_fails_leaves_nothing(base):
    def fails():
        with engine_folder(base, KEY) as folder:
            (folder / "model.engine").write_bytes(b"half")
            raise ValueError("no session")

    with pytest.raises(ValueError, match="no session"):
        fails()
    assert list(base.iterdir()) == []


def killed_while_building(base, started):
    with engine_folder(base, KEY) as folder:
        (folder / "model.engine").write_bytes(b"half")
        started.set()
        time.sleep(60)


def test_a_builder_that_is_killed_leaves_nothing_that_is_used(base):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=killed_while_building, args=(base, started))
    process.start()
    assert started.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert build(base, b"whole") is None
    assert build(base) == b"whole"


def test_two_builders_at_once_do_not_meet(base):
    with engine_folder(base, KEY) as one, engine_folder(base, KEY) as other:
        assert one != other
        (one / "model.engine").write_bytes(b"one")
        (other / "model.engine").write_bytes(b"other")
    assert build(base) in (b"one", b"other")
    assert [path.name for path in base.iterdir()] == [KEY]


def test_a_folder_in_which_nothing_was_built_is_not_kept(base):
    with engine_folder(base, KEY):
        pass
    assert list(base.iterdir()) == []


def test_a_full_disk_loses_nothing_but_the_cache(base, monkeypatch):
    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    with engine_folder(base, KEY) as folder:
        (folder / "model.engine").write_bytes(b"engine")
        monkeypatch.setattr(type(folder), "write_text", full)
    assert list(base.iterdir()) == []


def test_a_cache_that_others_may_write_to_is_refused(base):
    base.mkdir()
    base.chmod(0o777)
    with pytest.raises(UsageError, match=r"no folder of this user alone .* mode 777\)"), engine_folder(base, KEY):
        pass
    base.rmdir()
    (base.parent / "elsewhere").mkdir(mode=0o700)
    base.symlink_to(base.parent / "elsewhere")
    with pytest.raises(UsageError, match="no folder of this user alone"), engine_folder(base, KEY):
        pass


def test_a_cache_of_another_user_is_refused(base, monkeypatch):
    base.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: base.stat().st_uid + 1)
    with pytest.raises(UsageError, match="whoever can write there decides what runs"), engine_folder(base, KEY):
        pass


def test_a_cache_that_can_not_be_made_is_refused(base):
    base.write_text("a file")
    with (
        pytest.raises(UsageError, match=rf"can't make the cache {base}/below: Not a directory; set XDG_CACHE_HOME"),
        engine_folder(base / "below", KEY),
    ):
        pass


def test_the_cache_is_this_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("onnxruntime-tensorrt") == tmp_path / "edgeseq" / "onnxruntime-tensorrt"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("onnxruntime-tensorrt") == tmp_path / "home" / ".cache" / "edgeseq" / "onnxruntime-tensorrt"


def test_the_list_names_every_file_but_itself(base):
    build(base)
    assert set(json.loads((base / KEY / LIST).read_text())) == {"model.engine", "timing.cache"}
