"""What an execution provider of ONNX Runtime needs and does not find: package, libraries, driver, each with what installs it.

Nothing is loaded for it: the provider's own file says which libraries it is linked to, and the loader's folders are looked through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import util
from pathlib import Path

import msgspec

from edgeseq_runtime.detect.elf import needed_libraries
from edgeseq_runtime.detect.jetson import read_jetson
from edgeseq_runtime.detect.libraries import find_library
from edgeseq_runtime.detect.nvml import LIBRARY, read_driver
from edgeseq_runtime.jetpack import load_jetpack, version_of

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
FILES = {CUDA: "libonnxruntime_providers_cuda.so", TENSORRT: "libonnxruntime_providers_tensorrt.so"}
# Opened when they are first used, so that the provider's file does not name them: cuDNN computes the recurrent nodes.
OPENED_LATER = {CUDA: ("libcudnn.so",), TENSORRT: ("libcudnn.so", "libnvinfer_plugin.so")}
# Where there is no such file to ask: what every version of it is linked to.
USUAL = {
    CUDA: ("libcudart.so", "libcublas.so", "libcublasLt.so", "libcurand.so", "libcudnn.so"),
    TENSORRT: ("libnvinfer.so", "libnvonnxparser.so", "libnvinfer_plugin.so", "libcudart.so", "libcublas.so", "libcudnn.so"),
}
DRIVER = "libcuda.so.1"
# Of an engine without ONNX Runtime: TensorRT's Python bindings, whose packages bring TensorRT itself, and CUDA's runtime.
BINDINGS, RUNTIME = ("tensorrt", "tensorrt_rtx"), "libcudart.so"
SEEN = "python3 -m venv --system-site-packages"

# Of jetson-containers, https://github.com/dusty-nv/jetson-containers/blob/c6e515f0/packages/ml/onnxruntime/README.md
CONTAINER = "jetson-containers run $(autotag onnxruntime)"
JETPACK = "sudo apt update && sudo apt install nvidia-jetpack"
COMPILER = "sudo apt install gcc  # or: pip install ziglang"  # of edgeseq's own kernels
GPU_PACKAGE = 'pip uninstall onnxruntime && pip install "edgeseq[gpu]"'


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a provider needs and that is not there."""

    kind: str  # "package", "library" or "driver"
    name: str
    text: str  # what was looked for, and what was found
    install: str  # the command that brings it, on this machine

    def __str__(self) -> str:
        return f"{self.text}: {self.install}"


def missing_for(providers: Sequence[str], root: Path = Path("/"), *, nvml: str | None = LIBRARY) -> tuple[Missing, ...]:
    """What is not there of all that these providers need, each thing once; what is not of NVIDIA is left out.

    Args:
        providers: ONNX Runtime's names of them.
        root: the folder that stands for the machine's root; packages are those of this interpreter.
        nvml: the driver's library; None where the machine is another one, or has none.
    """
    found = [one for provider in providers for one in _missing(provider, root, nvml)]
    names = {one.name for one in found}
    # One provider's file may name the version of a library that another opens by its beginning.
    different: dict[tuple[str, str], Missing] = {}
    for one in found:
        if not any(name.startswith(f"{one.name}.") for name in names):
            different.setdefault((one.kind, one.name), one)
    return tuple(different.values())


def missing_for_engines(root: Path = Path("/"), *, nvml: str | None = LIBRARY) -> tuple[Missing, ...]:
    """What is not there of all that a TensorRT engine needs, with no ONNX Runtime; see `missing_for`."""
    jetpack = _jetpack(root)
    found = []
    if not any(util.find_spec(name) for name in BINDINGS):
        install = f"{JETPACK}  # and a Python environment that sees it: {SEEN}" if jetpack is not None else "pip install tensorrt"
        text = f"package {' or '.join(BINDINGS)} is not seen by this Python"
        found.append(Missing(kind="package", name=BINDINGS[0], text=text, install=install))
    if find_library(RUNTIME, root) is None:  # whichever version: CUDA's own do not differ in what an engine needs
        install = JETPACK if jetpack is not None else "pip install nvidia-cuda-runtime"
        text = f"library {RUNTIME} is in none of the loader's folders"
        found.append(Missing(kind="library", name=RUNTIME, text=text, install=install))
    return (*found, *_driver(root, nvml, jetpack))


def _missing(provider: str, root: Path, nvml: str | None) -> Iterator[Missing]:
    folder, file, jetpack = package_folder(), provider_file(provider), _jetpack(root)
    if folder is None:
        name = "onnxruntime-gpu" if provider in FILES else "onnxruntime"
        install = _package_install(jetpack) if provider in FILES else 'pip install "edgeseq[ort]"'
        yield Missing(kind="package", name=name, text=f"package {name} is not installed", install=install)
    if provider not in FILES:
        return
    linked = linked_libraries(file, provider) if file else USUAL[provider]
    if file is None and folder is not None:
        text = f"package {_package_name()} is installed, which has no {FILES[provider]}; it is in onnxruntime-gpu"
        yield Missing(kind="package", name="onnxruntime-gpu", text=text, install=_package_install(jetpack))
    absent = [name for name in linked if name != DRIVER and find_library(name, root) is None]
    for name in absent:
        install = _library_install(name, linked, jetpack)
        yield Missing(kind="library", name=name, text=f"library {name} is in none of the loader's folders", install=install)
    yield from _driver(root, nvml, jetpack)


def _driver(root: Path, nvml: str | None, jetpack: str | None) -> Iterator[Missing]:
    install = (
        "sudo apt install nvidia-l4t-cuda  # in a container: start it with --runtime nvidia"
        if jetpack
        else "sudo ubuntu-drivers install  # of Ubuntu; in a container: start it with --gpus all"
    )
    if find_library(DRIVER, root) is None:
        text = f"NVIDIA's driver: {DRIVER} is in none of the loader's folders"
        yield Missing(kind="driver", name=DRIVER, text=text, install=install)
    elif not jetpack and nvml is not None:  # boards before JetPack 7 have no NVML
        driver = read_driver(nvml)
        if driver is None:
            yield Missing(kind="driver", name=nvml, text=f"NVIDIA's driver: {nvml} does not start", install=install)
        elif not driver.gpus:
            yield Missing(
                kind="driver",
                name="GPU",
                text=f"driver {driver.version} sees no GPU",
                install="nvidia-smi  # says what the driver knows",
            )


def package_folder() -> Path | None:
    """The folder of whichever ONNX Runtime is installed, found without importing it."""
    spec = util.find_spec("onnxruntime")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def provider_file(provider: str) -> Path | None:
    """The library that is this provider, in the ONNX Runtime that is installed; None where it has none."""
    folder = package_folder()
    file = folder / "capi" / FILES[provider] if folder and provider in FILES else None
    return file if file is not None and file.is_file() else None


def linked_libraries(file: Path, provider: str) -> tuple[str, ...]:
    """What a provider's file is linked to, and what the provider opens later and the file does not name."""
    linked = needed_libraries(file)
    return (*linked, *(name for name in OPENED_LATER[provider] if not any(one.startswith(f"{name}.") for one in linked)))


def together(missing: Sequence[Missing]) -> tuple[Missing, ...]:
    """The same things, libraries that the same command brings as one."""
    by_install: dict[tuple[str, str], list[Missing]] = {}
    for one in missing:
        by_install.setdefault((one.kind if one.kind == "library" else one.name, one.install), []).append(one)
    return tuple(_joined(ones) for ones in by_install.values())


def _joined(ones: Sequence[Missing]) -> Missing:
    if len(ones) == 1:
        return ones[0]
    names = ", ".join(one.name for one in ones)
    text = f"libraries {names} are in none of the loader's folders"
    return Missing(kind="library", name=names, text=text, install=ones[0].install)


def _package_name() -> str:
    from importlib import metadata  # which a session that has what it needs does without

    names = sorted({(one.metadata["Name"] or "").lower() for one in metadata.distributions()})
    return " and ".join(name for name in names if name in ("onnxruntime", "onnxruntime-gpu")) or "onnxruntime"


def _jetpack(root: Path) -> str | None:
    """The release on a board; "" on one whose release is not known; None elsewhere."""
    board = read_jetson(root)
    return (board.jetpack or "") if board else None


def _package_install(jetpack: str | None) -> str:
    if jetpack is None or version_of(jetpack) >= (7,):
        return GPU_PACKAGE
    if jetpack and version_of(jetpack) < (6,):
        has = load_jetpack(jetpack).onnxruntime_gpu
        return f"{CONTAINER}  # has onnxruntime-gpu {has}, which is older than the 1.19 that edgeseq needs"
    return f"{CONTAINER}  # holds an onnxruntime-gpu built for this JetPack, and keeps its wheel under /opt"


def _library_install(name: str, linked: Sequence[str], jetpack: str | None) -> str:
    if jetpack is not None:
        return JETPACK
    if not name.startswith(("libcu", "libnv")):
        return f"install the system's package that brings {name}"
    if not name.startswith(("libnvinfer", "libnvonnxparser")):
        return 'pip install "onnxruntime-gpu[cuda,cudnn]"'
    cuda = next((one.rsplit(".", 1)[1] for one in linked if one.startswith("libcudart.so.")), "12")
    major = next((int(one.rsplit(".", 1)[1]) for one in linked if one.startswith("libnvinfer.so.")), 10)
    return f'pip install "tensorrt-cu{cuda}>={major},<{major + 1}"'
