"""Which versions a plan meets on a device, what the engine is built with, and how to install it."""

from __future__ import annotations

import msgspec

from edgeseq_runtime.device import Device
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.forecast.findings import OBSERVED, READ, Finding
from edgeseq_runtime.jetpack import JetPack, load_jetpack, version_of
from edgeseq_runtime.plan import Plan
from edgeseq_runtime.provider_needs import COMPILER

PYTHON = (3, 10)  # the oldest that edgeseq runs on
STRONG, WEAK = "strong: each tensor has the type that the graph gives it", "weak: the builder chooses among the types allowed"
TYPING_SOURCE = "https://docs.nvidia.com/deeplearning/tensorrt/11.0.0/inference-library/precision-control.html"
APT = "sudo apt install nvidia-jetpack  # brings CUDA, cuDNN, TensorRT and their Python bindings"
VENV = "python3 -m venv --system-site-packages .venv  # so that the board's TensorRT is seen"


class Software(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan runs with."""

    backend: str
    version: str  # of the backend, as far as the device says
    typing: str | None = None  # of a TensorRT network
    network_flags: tuple[str, ...] = ()
    builder_flags: tuple[str, ...] = ()  # set; one with "no " before it must be cleared
    jetpack: str | None = None
    python: str | None = None
    cuda: str | None = None
    install: tuple[str, ...] = ()  # commands, in order


def provider_text(name: str) -> str:
    """An execution provider of ONNX Runtime as its maker writes it."""
    short = name.removesuffix("ExecutionProvider")
    return "TensorRT" if short == "Tensorrt" else short


def chosen_jetpack(device: Device, asked: str | None) -> JetPack | None:
    """The JetPack release to plan for: the one asked for, else the newest that runs on the device.

    Raises:
        UsageError: it does not run on the device.
        DeviceError: it is not known.
    """
    runs = device.jetpack.releases if device.jetpack else ()
    if asked is not None and asked not in runs:
        has = f"it runs JetPack {', '.join(runs)}" if runs else "it is no Jetson module"
        raise UsageError(f"JetPack {asked} was asked for on '{device.name}'; {has}")
    return load_jetpack(asked or runs[-1]) if runs else None


def software_of(plan: Plan, jetpack: JetPack | None) -> Software:
    """Backend, versions, flags and commands."""
    if plan.backend == "tensorrt":
        return _engine(plan, jetpack)
    if plan.backend == "native":
        return Software(backend="edgeseq's own kernels", version="this release's", install=("pip install edgeseq", COMPILER))
    extra = "gpu" if "CUDAExecutionProvider" in plan.providers else "ort"
    version = "1.19 or newer"
    install = [f'pip install "edgeseq[{extra}]"']
    if extra == "gpu" and jetpack is not None:
        version = jetpack.onnxruntime_gpu or "no build is known for this JetPack"
        install = [APT, VENV, "pip install edgeseq", "pip install an onnxruntime-gpu built for this JetPack (jetson-containers)"]
    return Software(
        backend="ONNX Runtime, " + ", then ".join(provider_text(name) for name in plan.providers),
        version=version,
        jetpack=jetpack.release if jetpack else None,
        python=jetpack.python if jetpack else None,
        cuda=jetpack.cuda if jetpack else None,
        install=tuple(install),
    )


def _engine(plan: Plan, jetpack: JetPack | None) -> Software:
    version = jetpack.tensorrt[-1] if jetpack and jetpack.tensorrt else None
    if jetpack is not None:
        said = version or "not known for this JetPack"
        install: tuple[str, ...] = (APT, VENV, "pip install edgeseq")
    else:
        said = "8.5 to 11, or TensorRT-RTX, whichever is installed"
        install = ("pip install tensorrt", "pip install edgeseq")
    typing, network, builder = typing_of(version, plan.precision)
    return Software(
        backend="TensorRT engine",
        version=said,
        typing=typing,
        network_flags=network,
        builder_flags=builder,
        jetpack=jetpack.release if jetpack else None,
        python=jetpack.python if jetpack else None,
        cuda=jetpack.cuda if jetpack else None,
        install=install,
    )


def typing_of(version: str | None, precision: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """How a network is typed in a version of TensorRT, and the flags of network and builder; without a version, those of 10.

    TensorRT 11 has strong typing alone, and no flags for precisions; 10 has both; 8 needs `EXPLICIT_BATCH`.
    """
    exact = ("no TF32",) if precision == "fp32" else ()
    major = version_of(version)[0] if version else 10
    if major >= 11:
        return STRONG, (), exact
    if major == 10:
        return STRONG, ("STRONGLY_TYPED",), exact
    allowed = {"fp16": ("FP16",), "int8": ("INT8", "FP16")}.get(precision, ())
    return WEAK, ("EXPLICIT_BATCH",), (*allowed, *exact)


def software_findings(plan: Plan, jetpack: JetPack | None) -> list[Finding]:
    """What goes wrong with these versions."""
    found = []
    newest = version_of(jetpack.tensorrt[-1])[0] if jetpack and jetpack.tensorrt else 11
    if plan.backend == "tensorrt" and newest >= 11:
        text = "TensorRT 11 has no weak typing, so no flag lowers the precision: it is the graph's"
        found.append(
            _finding("typing", text, f"plan a precision that the bundle holds; this one is {plan.precision}", TYPING_SOURCE)
        )
    if plan.backend == "onnxruntime" and "TensorrtExecutionProvider" in plan.providers:
        text, remedy = "onnxruntime-gpu 1.31 looks for TensorRT 10 and does not find 11", "install TensorRT 10 beside it"
        found.append(_finding("provider", text, remedy, "onnxruntime-gpu 1.31.0", OBSERVED))
    if jetpack is not None and "CUDAExecutionProvider" in plan.providers and version_of(jetpack.release) >= (7,):
        text = "that the aarch64 wheel of onnxruntime-gpu runs on a Jetson module is not established"
        found.append(_finding("wheel", text, "check `edgeseq parity` on the board", "onnxruntime-gpu 1.31.1, its list of wheels"))
    if jetpack is not None and (jetpack.python is None or version_of(jetpack.python) < PYTHON):
        has = f"Python {jetpack.python}" if jetpack.python else "a Python whose version has no source here"
        text = f"JetPack {jetpack.release} comes with {has}, and edgeseq needs 3.10"
        found.append(
            _finding(
                "python", text, "look at `python3 --version`; a newer Python does not see the board's TensorRT", "pyproject.toml"
            )
        )
    return found


def _finding(rule: str, text: str, remedy: str, source: str, kind: str = READ) -> Finding:
    return Finding(rule=f"software: {rule}", subject="", text=text, remedy=remedy, kind=kind, source=source)
