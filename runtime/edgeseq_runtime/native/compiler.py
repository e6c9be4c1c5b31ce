"""The C compiler of the machine that this runs on: which one there is, and what it makes of sources."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

NAMES = ("cc", "gcc", "clang")
ZIG = "ziglang"  # a package of Python's that brings clang
ANSWER_SECONDS = 60.0  # for a compiler to say what it is: the first start of one from a slow disk takes long
SHOWN = 12  # lines of what a compiler complains of


class CompilerFailed(Exception):
    """A compiler did not start, did not end in time, or found an error; the message says which."""


class CompilerStopped(CompilerFailed):
    """A compiler did not end in time."""


class Compiler(NamedTuple):
    """One that says of itself what it is."""

    command: tuple[str, ...]
    said: str  # to --version; of the package ziglang, its version

    @property
    def is_zig(self) -> bool:
        """Whether it is zig's clang, which names processors in its own way."""
        return ZIG in self.command or Path(self.command[0]).name == "zig"

    @property
    def title(self) -> str:
        """Its name and version, such as "gcc 12.2.0"."""
        line = self.said.partition("\n")[0]
        name = next((one for one in ("zig", "clang") if one in line), "gcc")
        versions = re.findall(r"version (\d+(?:\.\d+)+)", line) or re.findall(r"\b\d+(?:\.\d+)+", line)[-1:]
        return " ".join((name, *versions[:1]))


def find_compilers(environment: Mapping[str, str] = os.environ) -> Iterator[Compiler | str]:
    """The compiler that CC names; where it names none, cc, gcc and clang on PATH and that of the package ziglang.

    Args:
        environment: the variables CC and PATH.

    Yields:
        A compiler, or what was looked for in vain; each is asked only when it is its turn.
    """
    named = shlex.split(environment.get("CC", ""))
    seen: set[Path] = set()
    for words in [named] if named else [[name] for name in NAMES]:
        path = shutil.which(words[0], path=environment.get("PATH", os.defpath))
        if path is None:
            yield f"CC is '{shlex.join(words)}', and there is no program {words[0]}" if named else f"no {words[0]} on PATH"
        elif Path(path).resolve() not in seen:
            seen.add(Path(path).resolve())
            yield _asked((path, *words[1:]))
    if named:
        return
    yield _zig()


def compile_library(compiler: Compiler, flags: Sequence[str], sources: Mapping[str, bytes], folder: Path, seconds: float) -> Path:
    """Compile sources into one shared library.

    Args:
        compiler: with what.
        flags: given to it before the files.
        sources: file name -> content; every `.c` is compiled, and may include whatever is there.
        folder: an empty one, which everything is written to.
        seconds: that it may take.

    Returns:
        The library's file, in the folder.

    Raises:
        CompilerFailed: there is no library.
        OSError: the sources can't be written.
    """
    for name, content in sources.items():
        (folder / name).write_bytes(content)
    library = folder / "library.so"
    programs = [name for name in sources if name.endswith(".c")]
    _run((*compiler.command, *flags, *programs, "-o", library.name, "-lm"), seconds, folder)
    if not library.is_file():
        raise CompilerFailed(f"{shlex.join(compiler.command)} ended well and wrote no library")
    return library


def _asked(command: tuple[str, ...]) -> Compiler | str:
    try:
        return Compiler(command, _run((*command, "--version"), ANSWER_SECONDS).strip())
    except CompilerFailed as error:
        return str(error)


def _zig() -> Compiler | str:
    from importlib import metadata  # which a session with another compiler does without

    try:  # starting it to ask takes a second
        return Compiler((sys.executable, "-m", ZIG, "cc"), f"zig {metadata.version(ZIG)}")
    except metadata.PackageNotFoundError:
        return f"no package {ZIG} in this Python"


def _run(command: Sequence[str], seconds: float, folder: Path | None = None) -> str:
    """What a program writes; it leaves no file outside the folder and no process behind."""
    places = ("TMPDIR", "ZIG_LOCAL_CACHE_DIR", "ZIG_GLOBAL_CACHE_DIR") if folder is not None else ()
    here = {"LC_ALL": "C", **dict.fromkeys(places, str(folder))}
    shown = shlex.join(command)
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **here},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that the programs it starts can be ended with it
        )
    except OSError as error:
        raise CompilerFailed(f"{shown} does not start: {error.strerror or error}") from error
    try:
        written = process.communicate(timeout=seconds)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired as error:
        raise CompilerStopped(f"{shown} had not ended after {seconds:g} s and was stopped") from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        lines = written.strip().splitlines() or ["it says nothing"]
        more = f"\n({len(lines) - SHOWN} lines more)" if len(lines) > SHOWN else ""
        raise CompilerFailed(f"{shown} failed with exit code {process.returncode}: " + "\n".join(lines[:SHOWN]) + more)
    return written
