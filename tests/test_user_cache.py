"""The user's cache, whose folders and files nobody else can have written, and files that are written whole."""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.files import unfinished, write_atomically, write_file
from edgeseq_runtime.user_cache import alone, cache_folder, key_of, require_own_file, require_own_folder

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def umask():
    """Sets it for one test."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


def test_it_is_below_xdg_cache_home_where_that_is_a_whole_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for set_to, base in ((str(tmp_path), tmp_path), ("relative", tmp_path / "home" / ".cache"), ("", tmp_path / "home" / ".cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", set_to)
        assert cache_folder("tuned") == base / "edgeseq" / "tuned"


def test_a_key_tells_facts_apart_and_not_their_order():
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1})
    assert len({key_of({"a": 1}), key_of({"a": "1"}), key_of({"b": 1}), key_of({"a": 1, "b": None})}) == 4


def test_a_folder_is_made_for_this_user_alone(tmp_path, umask):
    umask(0)
    require_own_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    require_own_folder(tmp_path / "a" / "b")


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_a_folder_or_file_that_others_may_write_to_is_refused(tmp_path, mode):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for check, path in ((require_own_folder, tmp_path / "folder"), (require_own_file, tmp_path / "file")):
        path.chmod(mode & 0o755)
        check(path)
        path.chmod(mode)
        with pytest.raises(UsageError, match=f"of this user alone .owner {os.getuid()}, mode {mode:o}"):
            check(path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_folder_or_file_of_another_user_is_refused(tmp_path):
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "file").touch(mode=0o600)
    for check, path in ((require_own_folder, tmp_path / "folder"), (require_own_file, tmp_path / "file")):
        os.chown(path, 1234, 1234)
        with pytest.raises(UsageError, match="owner 1234"):
            check(path)


def test_what_is_no_plain_file_or_folder_is_refused(tmp_path):
    (tmp_path / "file").touch(mode=0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("folder", "link", "pipe"):
        with pytest.raises(UsageError, match="no file of this user alone"):
            require_own_file(tmp_path / name)
    with pytest.raises(UsageError, match="No such file"):
        require_own_file(tmp_path / "none")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "folder")
    with pytest.raises(UsageError, match="no folder of this user alone"):
        require_own_folder(tmp_path / "elsewhere")


def hold(lock, held, let_go):
    with alone(lock) as only:
        assert only
        held.set()
        let_go.wait(60)


def test_a_lock_is_waited_for_and_a_killed_holder_lets_go(tmp_path):
    held, let_go, waited = SPAWN.Event(), SPAWN.Event(), []
    holder = SPAWN.Process(target=hold, args=(tmp_path / "lock", held, let_go))
    holder.start()
    assert held.wait(60)

    def wait():
        waited.append(True)
        holder.kill()

    with alone(tmp_path / "lock", wait) as only:
        assert only
        holder.join(60)
        assert not holder.is_alive()
    assert waited == [True]


def test_where_there_can_be_no_lock_that_is_said(tmp_path):
    with alone(tmp_path / "none" / "lock") as only:
        assert not only


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_of_the_umask_or_those_asked_for(tmp_path, umask, mask, mode):
    umask(mask)
    write_atomically(tmp_path / "usual", b"x")
    write_atomically(tmp_path / "asked", b"x", mode=0o640)
    assert (tmp_path / "usual").stat().st_mode & 0o777 == mode
    assert (tmp_path / "asked").stat().st_mode & 0o777 == 0o640


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file"
    write_file(path, b"before")

    def full(handle):
        assert [one.read_bytes() for one in unfinished(path)] == [b"after"]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=f"^can't write the thing {path}: No space left on device; nothing was written$"):
        write_file(path, b"after", what="the thing")
    assert path.read_bytes() == b"before"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_writer_left_is_found(tmp_path):
    started = SPAWN.Event()
    writer = SPAWN.Process(target=write_slowly, args=(tmp_path / "file", started))
    writer.start()
    assert started.wait(60)
    writer.kill()
    writer.join()
    assert len(list(unfinished(tmp_path / "file"))) == 1
    assert list(unfinished(tmp_path / "other")) == []
    assert not (tmp_path / "file").exists()


def write_slowly(path, started):
    def never(handle):
        started.set()
        time.sleep(600)

    os.fsync = never
    write_atomically(path, b"x")
