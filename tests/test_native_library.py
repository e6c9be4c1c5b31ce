"""The library of kernels: compiled by a real compiler, kept, found again, and never loaded where it can't be trusted."""

from __future__ import annotations

import ctypes
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib import util
from pathlib import Path

import pytest

from edgeseq_runtime.errors import ProviderError
from edgeseq_runtime.native import compiled as native
from edgeseq_runtime.native.compiled import LibraryRecord, NativeNotice, choices_of_flags, compiled_library, file_bytes
from edgeseq_runtime.native.compiler import Compiler, CompilerFailed, compile_library, find_compilers

CC = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(CC is None, reason="there is no C compiler on PATH")
no_zig = pytest.mark.skipif(util.find_spec("ziglang") is not None, reason="the package ziglang brings a compiler to every PATH")

SYMBOL = "answer"
HEADER = "#define FACTOR 3.0\n"
PROGRAM = """#include <math.h>
#include "factor.h"
double answer(double x) { return FACTOR * exp(x); }
"""
# Of another process: what is in argv comes out as a kept library's path, and whether it was made now.
OTHER_PROCESS = """
import sys
from pathlib import Path
from edgeseq_runtime.native.compiled import compiled_library
made = compiled_library(Path(sys.argv[1]), Path(sys.argv[2]), symbol="answer")
print(made.path, made.built)
"""
CPUINFO = "processor\t: 0\nmodel name\t: {name}\nflags\t\t: fpu {flags}\n"


@pytest.fixture
def sources(tmp_path):
    """A stand-in for the kernels, which compiles at once."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "factor.h").write_text(HEADER)
    (folder / "library.c").write_text(PROGRAM)
    return folder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept"


def made_of(sources, folder, **options):
    return compiled_library(sources, folder, symbol=SYMBOL, **options)


def kept_by_another(sources, folder):
    """The path of a kept library that this process has not loaded: the loader gives what it has for a path that it knows."""
    path = made_of(sources, folder.with_name("first")).path
    folder.mkdir(mode=0o700)
    shutil.copy(path, folder)
    return folder / path.name


def answer(made, x=1.5):
    function = made.library.answer
    function.argtypes, function.restype = [ctypes.c_double], ctypes.c_double
    return function(x)


def right(made, factor=3.0):
    return math.isclose(answer(made), factor * math.exp(1.5), rel_tol=1e-14)


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def noting(tmp_path, *, first=""):
    """A compiler that notes what it is called with, and does it."""
    log = tmp_path / "log"
    log.touch()
    path = script(tmp_path / "noting-cc", f'{first}\necho "$*" >> {log}\nexec {CC} "$@"')
    return {"CC": str(path), "PATH": os.environ["PATH"]}, lambda: [line for line in log.read_text().splitlines() if ".c" in line]


def other_process(sources, folder, environment):
    command = [sys.executable, "-c", OTHER_PROCESS, str(sources), str(folder)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)


def test_it_is_compiled_with_all_the_sources_for_the_processor_at_hand(sources, folder):
    made = made_of(sources, folder)
    assert (made.built, made.notes, made.path.parent) == (True, (), folder)
    assert right(made)
    assert made.record.flags[0] == "-O3"
    assert any(flag in made.record.flags for flag in ("-march=native", "-mcpu=native"))
    assert not {"-ffast-math", "-Ofast"} & set(made.record.flags)
    assert (folder.stat().st_mode & 0o777, made.path.stat().st_mode & 0o777) == (0o700, 0o600)


def test_it_is_found_again_by_another_process_which_compiles_nothing(sources, folder, tmp_path):
    environment, calls = noting(tmp_path)
    made = made_of(sources, folder, environment=environment)
    before = made.path.stat()
    assert len(calls()) == 1
    process = other_process(sources, folder, environment)
    assert process.communicate()[0].split() == [str(made.path), "False"]
    after = made.path.stat()
    assert (after.st_ino, after.st_mtime_ns, len(calls())) == (before.st_ino, before.st_mtime_ns, 1)


def test_two_processes_at_once_compile_once(sources, folder, tmp_path):
    environment, calls = noting(tmp_path, first="case $1 in --version) ;; *) sleep 0.5 ;; esac")
    processes = [other_process(sources, folder, environment) for _ in range(3)]
    said = [process.communicate()[0].split() for process in processes]
    assert sorted(built for _, built in said) == ["False", "False", "True"]
    assert len({path for path, _ in said}) == 1
    assert len(calls()) == 1


@pytest.mark.parametrize("name", ["factor.h", "library.c", "more.h"])
def test_other_sources_are_another_library(name, sources, folder):
    made = made_of(sources, folder)
    (sources / name).write_text((sources / name).read_text().replace("3.0", "5.0") + "\n" if name != "more.h" else "\n")
    other = made_of(sources, folder)
    assert (other.built, other.path != made.path) == (True, True)
    assert right(other, 5.0 if name == "factor.h" else 3.0)
    assert right(made)


def test_another_compiler_or_another_version_of_it_is_another_library(sources, folder, tmp_path):
    paths = {made_of(sources, folder).path}
    for version in ("gcc (Ours) 1.2.3", "gcc (Ours) 1.2.4"):
        text = f'[ "$1" = --version ] && echo "{version}" && exit\nexec {CC} "$@"'
        made = made_of(sources, folder, environment={"CC": str(script(tmp_path / "own-cc", text))})
        assert made.record.compiler == version.replace("(Ours) ", "")
        paths.add(made.path)
    elsewhere = shutil.copy(tmp_path / "own-cc", tmp_path / "other-cc")  # says the same, and may be another all the same
    paths.add(made_of(sources, folder, environment={"CC": str(elsewhere)}).path)
    assert len(paths) == 4


def test_another_c_library_is_another_library(sources, folder, monkeypatch):
    path = made_of(sources, folder).path
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.17"))
    assert made_of(sources, folder).path != path


@pytest.mark.parametrize(("name", "flags"), [("B", "avx2"), ("A", "avx2 vaes"), ("A", "")])
def test_another_processor_is_another_library(name, flags, sources, folder, tmp_path):
    (tmp_path / "proc").mkdir()
    paths = set()
    for text in (CPUINFO.format(name="A", flags="avx2"), CPUINFO.format(name=name, flags=flags)):
        (tmp_path / "proc" / "cpuinfo").write_text(text)
        paths.add(made_of(sources, folder, root=tmp_path).path)
    assert len(paths) == 2


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="of x86-64")
@pytest.mark.parametrize(("flags", "wide"), [("avx2 avx512f", True), ("avx2", False)])
@pytest.mark.parametrize(("command", "native_flag"), [("gcc", "-march=native"), ("zig cc", "-mcpu=native")])
def test_flags_are_those_of_the_processor_and_the_compiler(flags, wide, command, native_flag, tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(CPUINFO.format(name="A", flags=flags))
    given, without = choices_of_flags(Compiler(tuple(command.split()), ""), tmp_path)
    assert native_flag in given
    assert not [flag for flag in without if "native" in flag or "prefer" in flag]
    assert ("-mprefer-vector-width=512" in given) == wide
    assert [flag for flag in given if "native" in flag] == [native_flag]


@pytest.mark.parametrize(
    ("machine", "line", "flags", "named"),
    [
        ("x86_64", "flags", "sse2 avx2 fma avx512f", {"-mavx2", "-mfma"}),
        ("x86_64", "flags", "sse2 avx2", set()),
        ("aarch64", "Features", "fp asimd asimddp", {"-march=armv8.2-a+dotprod"}),
        ("aarch64", "Features", "fp asimd", set()),
        ("riscv64", "isa", "rv64gc", None),
    ],
)
@pytest.mark.parametrize("command", ["gcc", "zig cc"])
def test_the_second_choice_of_flags_names_what_the_processor_has(command, machine, line, flags, named, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(f"processor\t: 0\n{line}\t: {flags}\n")
    first, *second = choices_of_flags(Compiler(tuple(command.split()), ""), tmp_path)
    assert ("-mcpu=native" in first) == (machine == "aarch64" or (command == "zig cc" and machine == "x86_64"))
    assert [set(one) - set(native.FLAGS) for one in second] == ([] if named is None else [named])
    assert all(set(native.FLAGS) <= set(one) for one in (first, *second))


REFUSING = 'case "$*" in *=native*) echo "bad value native"; exit 1 ;; esac'


def test_where_a_compiler_does_not_take_native_it_is_compiled_without_and_says_so(sources, folder, tmp_path):
    environment, calls = noting(tmp_path, first=REFUSING)
    made = made_of(sources, folder, environment=environment)
    assert (made.built, made.path.parent, right(made)) == (True, folder, True)
    assert not [flag for flag in made.record.flags if "native" in flag]
    (note,) = made.notes
    assert re.match(r"the kernels are compiled without -m(arch|cpu)=native", note)
    assert note.endswith("failed with exit code 1: bad value native")
    again = made_of(sources, folder, environment=environment)
    assert (again.built, again.notes, again.path) == (False, (), made.path)
    assert len(calls()) == 1


def test_where_a_compiler_does_not_take_native_and_nothing_is_kept_it_is_compiled_without_as_well(sources, folder, tmp_path):
    folder.write_text("")
    made = made_of(sources, folder, environment=noting(tmp_path, first=REFUSING)[0])
    assert (made.built, made.path, right(made), len(made.notes)) == (True, None, True, 2)
    assert "can't make the cache" in made.notes[1]


def test_of_two_that_are_kept_the_one_for_the_processor_is_used(sources, folder, tmp_path):
    refusing = tmp_path / "refusing"
    refusing.touch()
    environment, _ = noting(tmp_path, first=f"[ -e {refusing} ] && {REFUSING}")
    without = made_of(sources, folder, environment=environment)
    refusing.unlink()
    assert made_of(sources, folder, environment=environment).path == without.path
    without.path.rename(tmp_path / "aside")
    best = made_of(sources, folder, environment=environment)
    assert any("native" in flag for flag in best.record.flags)
    (tmp_path / "aside").rename(without.path)
    assert made_of(sources, folder, environment=environment).path == best.path


def test_what_no_flags_mend_is_told_of_the_first(sources, folder, tmp_path):
    environment, calls = noting(
        tmp_path, first='case "$*" in *.c*) case "$*" in *=native*) echo first ;; *) echo second ;; esac; exit 1 ;; esac'
    )
    with pytest.raises(ProviderError, match="failed with exit code 1: first;"):
        made_of(sources, folder, environment=environment)
    assert not calls()


@pytest.mark.parametrize(
    "damage", ["cut by a byte", "cut short", "cut within the library", "empty", "a bit", "a bit of the end", "text"]
)
def test_a_damaged_file_is_never_loaded_and_is_compiled_anew(damage, sources, folder):
    path = kept_by_another(sources, folder)
    data = bytearray(path.read_bytes())
    changed = {
        "cut by a byte": data[:-1],
        "cut short": data[:-100],
        "cut within the library": data[: len(data) // 3],
        "empty": b"",
        "a bit": data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
        "a bit of the end": data[:-1] + bytes([data[-1] ^ 1]),
        "text": b"no library",
    }[damage]
    path.write_bytes(changed)
    anew = made_of(sources, folder)
    assert (anew.built, anew.path) == (True, path)
    assert anew.notes == (f"{path} is not as it was written; it is compiled anew",)
    assert right(anew)
    assert not made_of(sources, folder).built


def test_a_whole_file_without_the_function_is_compiled_anew(sources, folder, tmp_path):
    path = kept_by_another(sources, folder)
    (tmp_path / "other").mkdir()
    compiler = next(one for one in find_compilers() if isinstance(one, Compiler))
    other = compile_library(
        compiler, choices_of_flags(compiler)[0], {"other.c": b"int other(void) { return 1; }"}, tmp_path / "other", 60
    )
    path.write_bytes(file_bytes(other.read_bytes(), LibraryRecord(compiler="gcc", flags=())))
    anew = made_of(sources, folder)
    assert (anew.built, anew.notes) == (True, (f"{path} has no function answer; it is compiled anew",))
    assert right(anew)


def test_a_whole_file_that_is_no_library_is_compiled_anew(sources, folder):
    path = kept_by_another(sources, folder)
    path.write_bytes(file_bytes(b"no library", LibraryRecord(compiler="gcc", flags=())))
    anew = made_of(sources, folder)
    assert anew.built
    assert "can't be loaded" in anew.notes[0]
    assert right(anew)


@pytest.mark.parametrize("by", ["mode of the folder", "mode of the file", "link"])
def test_what_another_can_have_written_is_never_loaded(by, sources, folder, tmp_path):
    path = kept_by_another(sources, folder)
    if by == "mode of the folder":
        folder.chmod(0o777)
    elif by == "mode of the file":
        path.chmod(0o666)
    else:
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    anew = made_of(sources, folder)
    assert (anew.built, right(anew)) == (True, True)
    assert f"{folder if by == 'mode of the folder' else path} is no " in anew.notes[0]
    assert (anew.path is None) == (by == "mode of the folder")
    if anew.path:
        assert not made_of(sources, folder).built
        assert not anew.path.is_symlink()


@pytest.mark.parametrize("by", ["a file in its place", "a folder in the library's place"])
def test_where_nothing_can_be_kept_it_is_compiled_for_this_process(by, sources, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    if by == "a file in its place":
        folder.write_text("")
    else:
        path = kept_by_another(sources, folder)
        path.unlink()
        (path / "full").mkdir(parents=True)
    made = made_of(sources, folder)
    assert (made.path, made.built, right(made)) == (None, True, True)
    assert made.notes[-1].endswith("the kernels are compiled for this process alone, and again for the next")
    assert ("can't make the cache" if folder.is_file() else "can't write") in made.notes[-1]
    assert not list((tmp_path / "temporary").iterdir())


def test_no_temporary_folder_is_an_error_with_its_reason(sources, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(ProviderError, match=r"no temporary folder to compile in: .*No such file"):
        made_of(sources, folder)


def test_what_a_killed_writer_left_is_removed_and_nothing_else(sources, folder):
    path = made_of(sources, folder).path
    path.unlink()
    left, others = folder / f".{path.name}.abc", folder / ".other.so.abc"
    left.touch()
    others.touch()
    assert made_of(sources, folder).built
    assert (left.exists(), others.exists()) == (False, True)


@no_zig
def test_no_compiler_is_an_error_that_says_what_was_looked_for_and_what_to_do(sources, folder, tmp_path):
    with pytest.raises(ProviderError) as raised:
        made_of(sources, folder, environment={"PATH": str(tmp_path)})
    for text in (
        "no cc on PATH; no gcc on PATH; no clang on PATH",
        "no package ziglang",
        "sudo apt install gcc",
        "use device 'cpu'",
    ):
        assert text in str(raised.value)
    with pytest.raises(ProviderError, match="CC is 'none-cc -m64', and there is no program none-cc;"):
        made_of(sources, folder, environment={"CC": "none-cc -m64", "PATH": os.environ["PATH"]})


@no_zig
def test_what_was_kept_is_used_where_the_compiler_has_gone_unless_another_was_asked_for(sources, folder, tmp_path):
    made = made_of(sources, folder)
    gone = made_of(sources, folder, environment={"PATH": str(tmp_path)})
    assert gone._replace(library=None) == made._replace(library=None, built=False)
    with pytest.raises(ProviderError, match="CC is 'none-cc'"):
        made_of(sources, folder, environment={"CC": "none-cc"})
    with pytest.raises(ProviderError, match="false --version failed with exit code 1"):
        made_of(sources, folder, environment={"CC": "false", "PATH": os.environ["PATH"]})
    folder.chmod(0o777)
    with pytest.raises(ProviderError, match="no cc on PATH"):
        made_of(sources, folder, environment={"PATH": str(tmp_path)})


@no_zig
def test_a_kept_file_that_is_damaged_is_not_used_where_the_compiler_has_gone(sources, folder, tmp_path):
    kept_by_another(sources, folder).write_bytes(b"damaged")
    with pytest.raises(ProviderError, match="no cc on PATH"):
        made_of(sources, folder, environment={"PATH": str(tmp_path)})


def test_an_error_in_the_sources_comes_with_the_compilers_words(sources, folder):
    (sources / "library.c").write_text(PROGRAM.replace("exp(x)", "undeclared"))
    with pytest.raises(ProviderError, match=r"failed with exit code 1: (?s:.*)library\.c:3.*error: .*undeclared"):
        made_of(sources, folder)
    assert {path.suffix for path in folder.iterdir()} == {".lock"}


def test_a_library_without_the_function_is_no_library(sources, folder):
    (sources / "library.c").write_text("int other(void) { return 1; }\n")
    with pytest.raises(ProviderError, match=r"made a library that can't be loaded: .* has no function answer"):
        made_of(sources, folder)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("exit 3", "own-cc --version failed with exit code 3: it says nothing"),
        ('[ "$1" = --version ] && exit\nseq 30; exit 4', r"failed with exit code 4: 1\n2\n(?s:.*)\n12\n\(18 lines more\);"),
        ("exit 0", "own-cc ended well and wrote no library"),
        ("kill -9 $$", "failed with exit code -9"),
    ],
)
def test_a_compiler_that_fails_is_an_error_that_names_it(text, match, sources, folder, tmp_path):
    environment = {"CC": str(script(tmp_path / "own-cc", text)), "PATH": os.environ["PATH"]}
    with pytest.raises(ProviderError, match=match):
        made_of(sources, folder, environment=environment)


def test_a_program_that_does_not_start_is_an_error_that_names_it(sources, folder, tmp_path):
    (tmp_path / "own-cc").write_bytes(b"\x00 no program")
    (tmp_path / "own-cc").chmod(0o755)
    with pytest.raises(ProviderError, match="own-cc --version does not start: Exec format error"):
        made_of(sources, folder, environment={"CC": str(tmp_path / "own-cc")})


def test_the_next_compiler_is_tried_where_one_fails(sources, folder, tmp_path):
    script(tmp_path / "cc", '[ "$1" = --version ] && exit\nexit 1')
    script(tmp_path / "gcc", f'exec {CC} "$@"')
    made = made_of(sources, folder, environment={"PATH": str(tmp_path)})
    assert (made.built, right(made)) == (True, True)


def test_a_compiler_that_does_not_end_is_stopped_with_all_that_it_started(sources, folder, tmp_path):
    child = tmp_path / "child"
    text = f'[ "$1" = --version ] && exit\nsleep 60 & echo $! > {child}; wait'
    environment = {"CC": str(script(tmp_path / "own-cc", text)), "PATH": os.environ["PATH"]}
    began = time.monotonic()
    with pytest.raises(ProviderError, match=r"own-cc .* had not ended after 0\.5 s and was stopped"):
        made_of(sources, folder, environment=environment, seconds=0.5)
    assert time.monotonic() - began < 50
    assert len(list(folder.iterdir())) == 1  # the lock: it is not tried with other flags
    state = Path("/proc", child.read_text().strip(), "stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX"


def test_a_compiler_is_ended_with_the_process_that_waits_for_it(sources, folder, tmp_path):
    child = tmp_path / "child"
    text = f'[ "$1" = --version ] && exit\necho $$ > {child}.new; mv {child}.new {child}; exec sleep 60'
    environment = {"CC": str(script(tmp_path / "own-cc", text))}
    process = other_process(sources, folder, environment)
    while not child.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)  # as Ctrl-C does
    process.communicate()
    state = Path("/proc", child.read_text().strip(), "stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX"


def test_each_compiler_is_asked_once_however_many_names_it_has(tmp_path):
    log = tmp_path / "log"
    script(tmp_path / "gcc", f"echo asked >> {log}; echo gcc 1.0")
    (tmp_path / "cc").symlink_to("gcc")
    script(tmp_path / "clang", "echo clang version 2.0")
    found = [one for one in find_compilers({"PATH": str(tmp_path)}) if isinstance(one, Compiler)]
    assert [one.title for one in found][:2] == ["gcc 1.0", "clang 2.0"]
    assert log.read_text().splitlines() == ["asked"]


def test_words_after_the_compilers_name_in_cc_are_given_to_it(tmp_path):
    text = 'echo "gcc $1 1.0"'
    (found,) = find_compilers({"CC": f"'{script(tmp_path / 'own cc', text)}' -DX", "PATH": ""})
    assert (found.command[1:], found.said) == (("-DX",), "gcc -DX 1.0")


def test_the_package_ziglang_is_the_last_to_be_tried(sources, folder, tmp_path):
    """Its place is taken by a package of the same name that passes on to another compiler what zig would be given."""
    package = tmp_path / "packages" / "ziglang"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package.parent / "ziglang-1.2.3.dist-info").mkdir()
    (package.parent / "ziglang-1.2.3.dist-info" / "METADATA").write_text("Name: ziglang\nVersion: 1.2.3\n")
    (package / "__main__.py").write_text(
        "import os, sys\n"
        "assert sys.argv[1] == 'cc'\n"
        "assert '-mcpu=native' in sys.argv and '-march=native' not in sys.argv\n"
        f"os.execv({CC!r}, [{CC!r}, *(one for one in sys.argv[2:] if one != '-mcpu=native')])\n"
    )
    (tmp_path / "bin").mkdir()
    for name in ("as", "ld"):  # which gcc looks for on PATH
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    program = OTHER_PROCESS + "print(made.record.compiler)"
    command = [sys.executable, "-c", program, str(sources), str(folder)]
    environment = {
        **os.environ,
        "PATH": str(tmp_path / "bin"),
        "CC": "",
        "PYTHONPATH": f"{tmp_path / 'packages'}:{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[1:] == ["zig 1.2.3"], done.stderr
    assert done.stdout.splitlines()[0].endswith(" True")


@pytest.mark.slow
@pytest.mark.skipif(util.find_spec("ziglang") is None, reason="the package ziglang is not installed")
def test_the_package_ziglang_compiles(sources, folder, tmp_path):
    made = made_of(sources, folder, environment={"PATH": str(tmp_path)})
    assert (made.record.compiler.startswith("zig "), right(made)) == (True, True)


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("cc (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022", "gcc 12.2.0"),
        ("gcc (GCC) 8.5.0 20210514 (Red Hat 8.5.0-20)", "gcc 8.5.0"),
        ("Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu", "clang 14.0.6"),
        ("clang version 18.1.8 (https://github.com/llvm/llvm-project 3b5b5c1ec4a3)", "clang 18.1.8"),
        ("something else", "gcc"),
    ],
)
def test_a_compilers_title_is_its_name_and_version(said, title):
    assert Compiler(("cc",), said).title == title


def test_sources_are_compiled_as_they_were_read(sources, folder, tmp_path):
    """A file that changes meanwhile must not be kept under the name of what it was."""
    text = f'[ "$1" = --version ] && exec {CC} "$@"\necho "#define FACTOR 7.0" > {sources / "factor.h"}\nexec {CC} "$@"'
    made = made_of(sources, folder, environment={"CC": str(script(tmp_path / "own-cc", text)), "PATH": os.environ["PATH"]})
    assert right(made, 3.0)


def test_a_compiler_leaves_nothing_behind(sources, folder, tmp_path):
    noted = tmp_path / "noted"
    places = "$TMPDIR $ZIG_LOCAL_CACHE_DIR $ZIG_GLOBAL_CACHE_DIR $PWD"
    text = f'[ "$1" = --version ] || {{ echo {places} > {noted}; touch "$TMPDIR/left" left-too; }}\nexec {CC} "$@"'
    assert right(made_of(sources, folder, environment={"CC": str(script(tmp_path / "own-cc", text))}))
    used = noted.read_text().split()
    assert used == used[:1] * 4
    assert not Path(used[0]).exists()
    assert not list(sources.glob("left*"))


def test_a_compiler_reads_nothing_of_what_the_program_is_given(sources, folder, tmp_path):
    own = script(tmp_path / "own-cc", f'read word && exit 5\nexec {CC} "$@"')
    command = [sys.executable, "-c", OTHER_PROCESS + "print(sys.stdin.read())", str(sources), str(folder)]
    done = subprocess.run(command, env={**os.environ, "CC": str(own)}, input="words\n", capture_output=True, text=True, check=False)
    assert done.stdout.split()[1:] == ["True", "words"], done.stderr


def test_nothing_is_compiled_without_a_program(tmp_path):
    compiler = next(one for one in find_compilers() if isinstance(one, Compiler))
    with pytest.raises(CompilerFailed, match="failed with exit code"):
        compile_library(compiler, (), {}, tmp_path, 60)


@pytest.fixture
def fresh_process():
    """As if nothing had asked for the kernels in this process."""
    native.compiled.cache_clear()
    yield
    native.compiled.cache_clear()


def test_the_kernels_are_there_and_say_what_made_them(fresh_process):
    library = native.library()
    assert hasattr(library, native.SYMBOL)
    assert native.library() is library
    assert re.fullmatch(r"\d+\.\d+\.\d+, (gcc|clang|zig) [\d.]+, (AVX-512|AVX2|NEON|\w+)", native.version())
    made = native.compiled()
    assert made.path is not None
    assert made.path.parent.parts[-2:] == ("edgeseq", "native")


@pytest.mark.slow
def test_a_cache_that_can_not_be_used_is_said_in_a_warning(fresh_process, monkeypatch, tmp_path):
    (tmp_path / "edgeseq").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(NativeNotice, match="can't make the cache .*compiled for this process alone"):
        assert hasattr(native.library(), native.SYMBOL)
