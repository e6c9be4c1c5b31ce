"""The library of edgeseq's own kernels: compiled on the machine that it runs on, once, and kept in the user's cache.

A kept file is the shared library, a record (JSON) of what it was made with, the record's length and the sha256 of all that; the
loader of libraries reads no further than the first. Its name is a hash of everything that the library depends on. What is cut
short or damaged would end the process when it is used, so it is never loaded: it is compiled anew.
"""

from __future__ import annotations

import _ctypes
import ctypes
import hashlib
import os
import platform
import shlex
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgeseq_runtime.detect.files import field, file_text
from edgeseq_runtime.detect.processor import read_processor
from edgeseq_runtime.errors import ProviderError, UsageError
from edgeseq_runtime.files import unfinished, write_atomically
from edgeseq_runtime.native.compiler import Compiler, CompilerFailed, CompilerStopped, compile_library, find_compilers
from edgeseq_runtime.user_cache import alone, cache_folder, key_of, require_own_file, require_own_folder

KIND = "native"
ENDING = ".so"
SYMBOL = "edgeseq_native_run"  # that a library of this release has
SECONDS = 300.0  # that a compiler may take
FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread")
# For the processor at hand; gcc and clang call it differently on ARM.
NATIVE = {"x86_64": "-march=native", "AMD64": "-march=native", "aarch64": "-mcpu=native", "arm64": "-mcpu=native"}
WIDE = "-mprefer-vector-width=512"  # with AVX-512, compilers keep to half of it unless told
# For a compiler that does not take the former, or whose assembler is older than the processor: what the kernels gain most of.
BY_FEATURES = (({"avx2", "fma"}, ("-mavx2", "-mfma")), ({"asimddp"}, ("-march=armv8.2-a+dotprod",)))
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}  # feature -> what the kernels' vectors are called, best first
_LENGTH, _DIGEST = 8, hashlib.sha256().digest_size


class NativeNotice(UserWarning):
    """The library could not be kept, or one that was kept is not used."""


class LibraryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a library was made with."""

    compiler: str  # name and version
    flags: tuple[str, ...]


class Compiled(NamedTuple):
    """The library, loaded."""

    library: ctypes.CDLL
    record: LibraryRecord
    path: Path | None  # None where it could not be kept
    built: bool  # now, rather than found
    notes: tuple[str, ...] = ()  # why it was built although there was one, or why it is not kept


def library() -> ctypes.CDLL:
    """The kernels. The first call on a machine compiles them, which takes seconds; every other finds them.

    Raises:
        ProviderError: there is no C compiler, or it fails.
    """
    return compiled().library


def version() -> str:
    """For reports: edgeseq's version, the compiler's, and the vectors that are used, such as "0.1.0, gcc 12.2.0, AVX-512".

    Raises:
        ProviderError: as `library`.
    """
    from importlib import metadata  # which a session does without

    vectors = [name for feature, name in VECTORS.items() if feature in read_processor(Path("/")).features]
    return ", ".join((metadata.version("edgeseq"), compiled().record.compiler, vectors[0] if vectors else platform.machine()))


@lru_cache(maxsize=1)
def compiled() -> Compiled:
    """The library of this release, with where it is kept and what it was made with; see `library`."""
    made = compiled_library(Path(__file__).parent, cache_folder(KIND))
    for note in made.notes:
        warnings.warn(note, NativeNotice, stacklevel=2)
    return made


def compiled_library(
    sources: Path,
    folder: Path,
    *,
    symbol: str = SYMBOL,
    environment: Mapping[str, str] = os.environ,
    seconds: float = SECONDS,
    root: Path = Path("/"),
) -> Compiled:
    """The library of sources: from the folder if it can be trusted, else compiled, and kept there.

    Where there is no compiler any more, one that was kept for the same sources and processor is used, whatever compiled it.

    Args:
        sources: the folder of the `.c` and `.h` files.
        folder: where libraries are kept; made for this user alone where there is none.
        symbol: a function that the library must have.
        environment: the variables that name a compiler, CC and PATH.
        seconds: that a compiler may take.
        root: the folder that stands for the machine's root, whose /proc/cpuinfo tells the processor.

    Raises:
        ProviderError: no compiler, or none that makes a library that can be loaded.
    """
    contents = _contents(sources)
    shelf = _Shelf(folder, _key(contents, root), symbol)
    problems, asked_for = [], bool(environment.get("CC"))
    for compiler in find_compilers(environment):
        if isinstance(compiler, str):
            problems.append(compiler)
            continue
        asked_for = True
        try:
            return shelf.take(compiler, choices_of_flags(compiler, root), contents, seconds)
        except CompilerFailed as error:
            problems.append(str(error))
    if not asked_for and (kept := shelf.of_any_compiler()):
        return kept
    raise ProviderError(
        f"device 'native' compiles its kernels with a C compiler, and none here does it: {'; '.join(problems)}; "
        "sudo apt install gcc, or pip install ziglang, or use device 'cpu'"
    )


def kept_library() -> Compiled | None:
    """The kernels as they are kept, which `library` uses where there is no compiler; None where it would not."""
    if os.environ.get("CC"):
        return None
    return _Shelf(cache_folder(KIND), _key(_contents(Path(__file__).parent), Path("/")), SYMBOL).of_any_compiler()


def choices_of_flags(compiler: Compiler, root: Path = Path("/")) -> tuple[tuple[str, ...], ...]:
    """What a compiler is told, for the processor at hand; then, for one that fails with that, something that all know."""
    features = read_processor(root).features
    native = NATIVE.get(platform.machine())
    if native and compiler.is_zig:
        native = "-mcpu=native"
    best = [native] if native else []
    best += [WIDE] if "avx512f" in features else []
    named = next((flags for needed, flags in BY_FEATURES if needed <= set(features)), ())
    return tuple(dict.fromkeys((*FLAGS, *of_processor) for of_processor in (best, named)))


class _Shelf:
    """The libraries of some sources for this machine: one a compiler."""

    def __init__(self, folder: Path, key: str, symbol: str) -> None:
        self.folder, self.key, self.symbol = folder, key, symbol
        self.refusal = ""  # why the folder is not used
        try:
            require_own_folder(folder)
        except UsageError as error:
            self.refusal = str(error)

    def of_any_compiler(self) -> Compiled | None:
        """The newest that can be loaded."""
        if self.refusal:
            return None
        kept = sorted(self.folder.glob(f"{self.key}-*{ENDING}"), key=lambda path: path.lstat().st_mtime_ns, reverse=True)
        found = (_found(path, self.symbol) for path in kept)
        return next((one for one in found if isinstance(one, Compiled)), None)

    def take(
        self, compiler: Compiler, choices: Sequence[tuple[str, ...]], contents: Mapping[str, bytes], seconds: float
    ) -> Compiled:
        """The library of one compiler: found, or made and kept, with the first of the flags that it can be made with.

        Raises:
            CompilerFailed: it makes none, or none that can be loaded; why, with the first of the flags.
        """
        found = (_found(self._path(compiler, flags), self.symbol) for flags in ([] if self.refusal else choices))
        kept = next((one for one in found if isinstance(one, Compiled)), None)
        if kept is not None:
            return kept
        best, *others = choices
        try:
            return self._taken(compiler, best, contents, seconds)
        except CompilerStopped:
            raise
        except CompilerFailed as error:
            for flags in others:
                with suppress(CompilerFailed):
                    taken = self._taken(compiler, flags, contents, seconds)
                    lacking = shlex.join(flag for flag in best if flag not in flags)
                    return taken._replace(notes=(f"the kernels are compiled without {lacking}, with which {error}", *taken.notes))
            raise

    def _path(self, compiler: Compiler, flags: tuple[str, ...]) -> Path:
        return self.folder / f"{self.key}-{key_of({'compiler': compiler, 'flags': flags})}{ENDING}"

    def _taken(self, compiler: Compiler, flags: tuple[str, ...], contents: Mapping[str, bytes], seconds: float) -> Compiled:
        if self.refusal:
            return self._made(compiler, flags, contents, seconds, None, (f"{self.refusal}; {_again()}",))
        path = self._path(compiler, flags)
        with alone(path.with_suffix(".lock")) as only:
            found = _found(path, self.symbol)  # another may have made it meanwhile
            if isinstance(found, Compiled):
                return found
            if only:
                for left in unfinished(path):  # by one that was killed: the lock is held
                    with suppress(OSError):
                        left.unlink()
            return self._made(compiler, flags, contents, seconds, path, (f"{found}; it is compiled anew",) if found else ())

    def _made(
        self,
        compiler: Compiler,
        flags: tuple[str, ...],
        contents: Mapping[str, bytes],
        seconds: float,
        path: Path | None,
        notes: tuple[str, ...],
    ) -> Compiled:
        record = LibraryRecord(compiler=compiler.title, flags=flags)
        try:
            with tempfile.TemporaryDirectory(prefix="edgeseq-") as temporary:
                file = compile_library(compiler, flags, contents, Path(temporary), seconds)
                if path is not None:
                    problem = _kept(path, file_bytes(file.read_bytes(), record))
                    loaded = problem or _loaded(path, self.symbol)
                    if isinstance(loaded, ctypes.CDLL):
                        return Compiled(loaded, record, path, True, notes)
                    notes = (*notes, f"{loaded}; {_again()}")
                loaded = _loaded(file, self.symbol)  # which stays when its file goes
        except OSError as error:
            raise CompilerFailed(f"there is no temporary folder to compile in: {error}") from error
        if not isinstance(loaded, ctypes.CDLL):
            raise CompilerFailed(f"{compiler.title} made a library that can't be loaded: {loaded}")
        return Compiled(loaded, record, None, True, notes)


def _again() -> str:
    return "the kernels are compiled for this process alone, and again for the next"


def _contents(sources: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(sources.glob("*.[ch]"))}


def _key(contents: Mapping[str, bytes], root: Path) -> str:
    return key_of(
        {"sources": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}, **_machine_facts(root)}
    )


def _machine_facts(root: Path) -> dict[str, object]:
    """What else than sources and compiler a library depends on: code for one processor may be no code for another."""
    cpuinfo = file_text(root, "/proc/cpuinfo")
    return {
        "architecture": platform.machine(),
        "processor": read_processor(root).name,
        "features": sorted((field(cpuinfo, "flags") or field(cpuinfo, "Features") or "").split()),
        "libc": platform.libc_ver(),
    }


def file_bytes(library: bytes, record: LibraryRecord) -> bytes:
    """A kept file's content."""
    text = msgspec.json.encode(record)
    data = library + text + len(text).to_bytes(_LENGTH, "little")
    return data + hashlib.sha256(data).digest()


def _record(path: Path) -> LibraryRecord:
    """What a file says its library was made with, once the whole of it has been seen to be as it was written.

    Raises:
        UsageError: it is not.
    """
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror or error}") from error
    data, digest = whole[:-_DIGEST], whole[-_DIGEST:]
    if hashlib.sha256(data).digest() != digest:
        raise UsageError(f"{path} is not as it was written")
    start = len(data) - _LENGTH - int.from_bytes(data[-_LENGTH:], "little")
    try:
        return msgspec.json.decode(data[max(start, 0) : -_LENGTH], type=LibraryRecord)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} has a record that does not parse ({error})") from error


def _found(path: Path, symbol: str) -> Compiled | str:
    """The library in a kept file, or why it is not used; "" where there is no file."""
    try:
        path.lstat()
    except OSError:
        return ""
    try:
        require_own_file(path)
        record = _record(path)
    except UsageError as error:
        return str(error)
    loaded = _loaded(path, symbol)
    return Compiled(loaded, record, path, False) if isinstance(loaded, ctypes.CDLL) else loaded


def _loaded(path: Path, symbol: str) -> ctypes.CDLL | str:
    """A library, or why it can't be loaded."""
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f"{path} can't be loaded: {error}"
    if hasattr(library, symbol):
        return library
    _ctypes.dlclose(library._handle)  # the loader knows libraries by their path, and would give this one for the next there
    return f"{path} has no function {symbol}"


def _kept(path: Path, data: bytes) -> str:
    """Why a file can't be written, or nothing."""
    try:
        write_atomically(path, data, mode=0o600)
    except OSError as error:
        return f"can't write {path}: {error.strerror or error}"
    return ""
