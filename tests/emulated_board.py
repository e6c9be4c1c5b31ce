"""A Jetson Orin Nano of which the processor is emulated: the installed runtime package on 64-bit ARM, on an x86-64 Linux machine.

    python tests/emulated_board.py                                      # makes it, once
    python tests/emulated_board.py edgeseq devices --detect             # runs a command on it
    python tests/emulated_board.py edgeseq parity build/vad.edgeseq
    python tests/emulated_board.py --onnxruntime 1.23.2 edgeseq selftest    # with another release of ONNX Runtime

Its folder holds Debian's arm64 Python and gcc, the aarch64 wheels of what `edgeseq[ort]` needs (no PyTorch, no onnx), this
checkout's package as pip installs it from a wheel, and an Orin's files (`orin_nano_files`). QEMU runs its programs one by one, as
any user: no chroot, no binfmt; what the board does not have of /proc, /sys and /etc is the host's. Results say what kernels for ARM
compute, ONNX Runtime's and edgeseq's own, never how fast, and nothing of a GPU.

Needs: `apt-get install qemu-user`, apt, and the network when it is made. The folder can be kept: each part of it is named by a hash
of what it is made of, and appears under its name when it is whole.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import debian_root
from orin_nano_files import FILES, plant

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "emulated-board"
QEMU = "qemu-aarch64"
# Orin's cores, or the nearest that QEMU before 8.2 knows; of what ONNX Runtime chooses kernels by, both have half-precision
# arithmetic and dot products, and neither has 8-bit matrix products, bfloat16 or scalable vectors.
CPUS = ("cortex-a78ae", "cortex-a76")
SUITE, PYTHON = "bookworm", "3.11"
GCC = "12"
PACKAGES = (f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libstdc++6", f"gcc-{GCC}", "libc6-dev")
# JetPack 6 has glibc 2.35: a wheel for a newer one would not do there.
PLATFORMS = tuple(f"manylinux_2_{minor}_aarch64" for minor in range(35, 16, -1))
SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "edgeseq", "export", "quantize", "recipes", "runtime", "devices")
NETWORK = ("NewConnectionError", "ConnectTimeout", "ReadTimeout", "name resolution", "No route to host", "Network is unreachable")

# PYTHONHOME is the guest's; the host programs that it may start know nothing of Python. What it keeps, all boards of a folder
# share: the library of device "native" is compiled once for all that have the same C.
LAUNCHER = f"""#!/bin/sh
# Python on the emulated board.
here=$(dirname "$(readlink -f "$0")")
board=$(dirname "$here")
system=$(dirname "$board")/{{system}}
unset PYTHONDONTWRITEBYTECODE PYTHONSTARTUP PYTHONUSERBASE CC
export PYTHONHOME="$system/usr" PYTHONPATH="$board/site" PYTHONNOUSERSITE=1
export PATH="$here:$PATH" XDG_CACHE_HOME="${{{{XDG_CACHE_HOME:-$(dirname "$board")/cache}}}}"
exec {QEMU} -cpu {{cpu}} -L "$system" -0 "$here/python3" "$system/usr/bin/python{PYTHON}" "$@"
"""
# gcc starts its parts by their files, which are no programs to the machine: it is given the folder of those that are.
COMPILER = f"""#!/bin/sh
# gcc on the emulated board.
board=$(dirname "$(dirname "$(readlink -f "$0")")")
system=$(dirname "$board")/{{system}}
exec "$board/parts/gcc" -B"$board/parts/" -B"$system/usr/lib/gcc/aarch64-linux-gnu/{GCC}/" --sysroot="$system" "$@"
"""
PART = f"""#!/bin/sh
system=$(dirname "$(readlink -f "$0")")/../../{{system}}
exec {QEMU} -cpu {{cpu}} -L "$system" -0 "$0" "$system/usr/{{file}}" "$@"
"""
PARTS = {
    "gcc": f"bin/aarch64-linux-gnu-gcc-{GCC}",
    "cc1": f"lib/gcc/aarch64-linux-gnu/{GCC}/cc1",
    "collect2": f"lib/gcc/aarch64-linux-gnu/{GCC}/collect2",
    "as": "bin/aarch64-linux-gnu-as",
    "ld": "bin/aarch64-linux-gnu-ld",
}
PROGRAM = """#!/bin/sh
# The installed program edgeseq on the emulated board.
here=$(dirname "$(readlink -f "$0")")
exec "$here/python3" "$(dirname "$here")/site/bin/edgeseq" "$@"
"""


class BoardError(Exception):
    """The board can't be made."""


class UnreachableError(BoardError):
    """A tool or the network that it needs is not there: no fault of the package."""


class Board(NamedTuple):
    """A board that is made, and the processor that it has."""

    folder: Path
    system: Path  # the root of Debian's files, and of an Orin's
    cpu: str

    @property
    def path(self) -> Path:
        """The folder of its programs: `edgeseq`, `python3` and `cc`."""
        return self.folder / "bin"

    def run(self, *command: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        """Run `edgeseq`, `python3` or `cc` with arguments, and wait."""
        program, *arguments = map(str, command)
        return subprocess.run([self.path / program, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def missing() -> str:
    """What keeps this machine from emulating the board, and what to do; empty where nothing does."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"this is {platform.system()} on {platform.machine()}; the board is emulated on x86-64 Linux"
    if shutil.which(QEMU) is None:
        return f"{QEMU} not found: apt-get install qemu-user"
    return debian_root.missing()


def make_board(folder: Path = FOLDER, say: Callable[[str], None] = lambda text: None, onnxruntime: str = "") -> Board:
    """The board of this checkout, made where it is not there yet.

    Args:
        folder: where its parts are kept.
        say: told what is being made.
        onnxruntime: its release; the one that the tests run with here unless said.

    Raises:
        UnreachableError: a tool or the network is not there.
        BoardError: pip can't install what the package needs, or the package.
    """
    if reason := missing():
        raise UnreachableError(reason)
    cpu = choose_cpu(subprocess.run([QEMU, "-cpu", "help"], capture_output=True, text=True, check=False).stdout)
    constraints = with_release((ROOT / "constraints.txt").read_text("utf-8"), onnxruntime)
    needed = requirements((ROOT / "pyproject.toml").read_text("utf-8"))
    system_key = key_of([SUITE, *PACKAGES, *PLATFORMS, *needed, constraints, *map(str, FILES.items())])
    system = made_once(folder / f"system-{system_key}", lambda new: _make_system(new, needed, constraints), say)
    with tempfile.TemporaryDirectory(prefix="edgeseq-source-") as made:
        source = copy_sources(ROOT, Path(made) / "source")  # hashed and built from, whatever is edited meanwhile
        launchers = (LAUNCHER, PROGRAM, COMPILER, PART, *PARTS.values())
        package_key = key_of([system_key, cpu, *launchers, *_texts_below(source)])
        package = made_once(folder / f"edgeseq-{package_key}", lambda new: _make_package(new, source, system.name, cpu), say)
    return Board(package, system, cpu)


def choose_cpu(known: str) -> str:
    """The first of `CPUS` that QEMU's list of processors holds."""
    names = known.split()
    for cpu in CPUS:
        if cpu in names:
            return cpu
    raise UnreachableError(f"{QEMU} emulates none of {', '.join(CPUS)}: apt-get install a newer qemu-user (7.2 will do)")


def requirements(pyproject: str) -> list[str]:
    """What a board installs besides the package: its dependencies, and those of `[ort]`."""
    project = tomllib.loads(pyproject)["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["ort"]]


def with_release(constraints: str, onnxruntime: str) -> str:
    """Constraints that hold ONNX Runtime to another release, where one is named."""
    lines = [line for line in constraints.splitlines() if not (onnxruntime and line.startswith("onnxruntime=="))]
    return "\n".join([*lines, *([f"onnxruntime=={onnxruntime}"] if onnxruntime else []), ""])


def key_of(parts: Iterable[str]) -> str:
    """A name for what is made of these parts."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part.encode())
        hashed.update(b"\0")
    return hashed.hexdigest()[:12]


def made_once(path: Path, make: Callable[[Path], None], say: Callable[[str], None] = lambda text: None) -> Path:
    """The folder `path`, made by `make` if it is not there; it appears whole or not at all, whoever else makes it meanwhile."""
    if path.exists():
        return path
    say(f"making {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=path.parent) as folder:
        new = Path(folder) / path.name
        make(new)
        try:
            new.rename(path)
        except OSError:
            if not path.exists():  # not another's, made of the same
                raise
    return path


def _make_system(new: Path, needed: Sequence[str], constraints: str) -> None:
    try:
        debian_root.unpack(PACKAGES, new, suite=SUITE, architecture="arm64")
    except debian_root.DebianError as error:
        raise UnreachableError(str(error)) from error
    with tempfile.NamedTemporaryFile("w", prefix="constraints-", suffix=".txt") as file:
        file.write(constraints)
        file.flush()
        _pip_install(new / SITE, ["-c", file.name, *needed])
    if sys.version_info[:2] == tuple(map(int, PYTHON.split("."))):  # its bytecode is the board's; other Pythons' is not
        subprocess.run([sys.executable, "-m", "compileall", "-q", new / "usr/lib" / f"python{PYTHON}"], check=False)
    plant(new)


def copy_sources(checkout: Path, copy: Path) -> Path:
    """A copy of what the package is built from, without what earlier builds left there."""
    copy.mkdir()
    for name in SOURCES:
        if (checkout / name).is_dir():
            shutil.copytree(checkout / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(checkout / name, copy / name)
    return copy


def _make_package(new: Path, source: Path, system: str, cpu: str) -> None:
    with tempfile.TemporaryDirectory(prefix="wheel-") as folder:
        _pip(["wheel", "--no-deps", "-w", folder, str(source)])
        (wheel,) = Path(folder).glob("edgeseq-*.whl")
        _pip_install(new / "site", ["--no-deps", str(wheel)])
    programs = {"bin/python3": LAUNCHER, "bin/edgeseq": PROGRAM, "bin/cc": COMPILER}
    texts = {name: text.format(system=system, cpu=cpu) for name, text in programs.items()}
    texts |= {f"parts/{name}": PART.format(system=system, cpu=cpu, file=file) for name, file in PARTS.items()}
    for name, text in texts.items():
        (new / name).parent.mkdir(exist_ok=True)
        (new / name).write_text(text)
        (new / name).chmod(0o755)


def _pip_install(target: Path, what: list[str]) -> None:
    tags = [word for name in PLATFORMS for word in ("--platform", name)]
    _pip(["install", "--target", str(target), "--python-version", PYTHON, "--only-binary", ":all:", *tags, *what])


def _pip(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        error = UnreachableError if any(text in done.stderr for text in NETWORK) else BoardError
        raise error(f"pip {arguments[0]} of {arguments[-1]} ended with {done.returncode}: {done.stderr.strip()}")


def _texts_below(folder: Path) -> Iterable[str]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield file.relative_to(folder).as_posix()
            yield file.read_bytes().decode("latin-1")  # a bundle is among them


def main() -> int:
    """Make the board; run a command on it if one is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where it is kept (%(default)s)")
    parser.add_argument("--onnxruntime", default="", help="its release of ONNX Runtime; the one in constraints.txt unless said")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="edgeseq, python3 or cc, with arguments")
    arguments = parser.parse_args()
    try:
        board = make_board(arguments.folder, lambda text: print(text, file=sys.stderr), arguments.onnxruntime)
    except BoardError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not arguments.command:
        print(f"{board.path}: edgeseq, python3 and cc on an emulated {board.cpu}")
        return 0
    program, *rest = arguments.command
    if program not in ("edgeseq", "python3", "cc"):
        print(f"error: the board has no program '{program}'; it has edgeseq, python3 and cc", file=sys.stderr)
        return 2
    return subprocess.run([board.path / program, *rest], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
