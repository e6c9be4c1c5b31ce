"""JetPack releases: which versions of CUDA, TensorRT and Python a Jetson module comes with."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import resources

import msgspec

from edgeseq_runtime.errors import DeviceError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class JetPack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One release. What has no source is left out; `sources` says of each field where it is from."""

    release: str
    l4t: tuple[str, ...]  # releases of Jetson Linux, the board's own version
    sm: tuple[int, ...]  # compute capabilities it runs on, times ten
    cuda: str | None = None
    cudnn: str | None = None
    tensorrt: tuple[str, ...] = ()  # oldest first, where point releases differ
    python: str | None = None
    onnxruntime_gpu: str | None = None
    note: str = ""
    sources: dict[str, str]


@lru_cache(maxsize=1)
def list_jetpacks() -> tuple[JetPack, ...]:
    """Every release that is known, oldest first."""
    files = (resources.files("edgeseq_runtime.devices") / "jetpack").iterdir()
    found = [msgspec.convert(tomllib.loads(file.read_text("utf-8")), JetPack) for file in files if file.name.endswith(".toml")]
    return tuple(sorted(found, key=lambda jetpack: version_of(jetpack.release)))


def load_jetpack(release: str) -> JetPack:
    """A release by its number.

    Raises:
        DeviceError: it is not known.
    """
    for jetpack in list_jetpacks():
        if jetpack.release == release:
            return jetpack
    known = ", ".join(jetpack.release for jetpack in list_jetpacks())
    raise DeviceError(f"there is no JetPack '{release}' among those known: {known}")


def jetpack_of_l4t(l4t: str) -> JetPack | None:
    """The release that brings a version of Jetson Linux; of one that is not listed, that of the nearest below with the same
    major version; None where there is none.
    """
    asked = version_of(l4t)
    known = [(version_of(listed), jetpack) for jetpack in list_jetpacks() for listed in jetpack.l4t]
    below = [(listed, jetpack) for listed, jetpack in known if listed[0] == asked[0] and listed <= asked]
    return max(below, key=lambda pair: pair[0])[1] if below else None


def version_of(text: str) -> tuple[int, ...]:
    """The leading numbers of a version, to compare with others: "10.16.1 GA" gives (10, 16, 1)."""
    numbers = []
    for part in text.split()[0].split(".") if text.strip() else []:
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers) or (0,)
