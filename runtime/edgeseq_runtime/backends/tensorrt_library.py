"""TensorRT's Python bindings, `tensorrt` 8.5 to 11 or `tensorrt_rtx`, and what differs between them.

Sources: NVIDIA's API reference of 8.5.3, 8.6.1, 10.15 and 11.4 (https://docs.nvidia.com/deeplearning/tensorrt/archives/), the lists
of what 10 and 11 removed (https://docs.nvidia.com/deeplearning/tensorrt/11.4.0/api/migration/tensorrt-10x-to-11x-python-api-reference.html)
and the bindings of tensorrt_rtx 1.7.1. What has a version is told by the version; what came in different versions of the two
packages is told by whether it is there.
"""

from __future__ import annotations

import importlib
import re
from functools import lru_cache
from typing import Any

from edgeseq_runtime.errors import ProviderError

NAMES = ("tensorrt", "tensorrt_rtx")  # packages; the first that is there is used
OLDEST = (8, 5)  # execution by tensors' names and addresses came with it
SHARED_PROFILES = (8, 6)  # from here on several execution contexts may use one optimisation profile, if the builder is told so
ALWAYS_SHARED = (10,)  # and from here on in any case


class Library:
    """One TensorRT: its bindings, its version, and a logger that keeps what it says of errors."""

    def __init__(self, bindings: Any) -> None:
        """Take bindings that have been imported.

        Raises:
            ProviderError: they are older than what runs here.
        """
        self.bindings = bindings
        self.name = str(bindings.__name__)
        self.version = str(bindings.__version__)
        self.rtx = self.name == "tensorrt_rtx"
        self.numbers = tuple(int(number) for number in re.findall(r"\d+", self.version)[:2])
        if not self.rtx and self.numbers < OLDEST:
            raise ProviderError(
                f"tensorrt {self.version} is installed; edgeseq runs engines of {'.'.join(map(str, OLDEST))} or newer "
                "(JetPack 5.1): upgrade it, or choose device 'cpu'"
            )
        self.logger = _logger(bindings)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def since(self, numbers: tuple[int, ...]) -> bool:
        """Whether it is this version of `tensorrt` or newer; TensorRT-RTX counts as the newest."""
        return self.rtx or self.numbers >= numbers

    @property
    def typing_version(self) -> str:
        """The version of `tensorrt` whose typing and flags it has."""
        return "10" if self.rtx else self.version

    @property
    def has_progress(self) -> bool:
        """Whether its builder says how far it is."""
        return hasattr(self.bindings, "IProgressMonitor")

    @property
    def has_timings(self) -> bool:
        """Whether its builder measures kernels on the GPU and can keep the times; TensorRT-RTX's does not measure."""
        return not self.rtx

    @property
    def shares_profiles(self) -> bool:
        """Whether several execution contexts may use one optimisation profile at the same time."""
        return self.since(SHARED_PROFILES)

    def errors(self) -> str:
        """What it has said of errors since the last call; then they are forgotten."""
        said = "; ".join(" ".join(text.split()) for text in self.logger.errors)
        self.logger.errors.clear()
        return said or "it gives no reason"


@lru_cache(maxsize=1)
def find_library() -> Library:
    """The TensorRT of this Python.

    Raises:
        ProviderError: there is none, it can't be imported, or it is too old.
    """
    reasons = []
    for name in NAMES:
        try:
            return Library(importlib.import_module(name))
        except ImportError as error:
            reasons.append(f"{name}: {error}")
    raise ProviderError(f"no TensorRT can be imported ({'; '.join(reasons)})")


def rtx_library() -> Library:
    """TensorRT-RTX, which compiles for GPUs that are not there.

    Raises:
        ProviderError: it can't be imported.
    """
    try:
        return Library(importlib.import_module("tensorrt_rtx"))
    except ImportError as error:
        raise ProviderError(
            f"compiling for a GPU that is not there needs TensorRT-RTX, and importing it failed ({error}); "
            'install it: pip install "edgeseq[tensorrt-rtx]"'
        ) from error


@lru_cache(maxsize=4)
def _logger(bindings: Any) -> Any:
    """One for the process: TensorRT keeps a pointer to the first."""

    class Logger(bindings.ILogger):  # type: ignore[misc]
        """Keeps what TensorRT says of errors, prints nothing: the rest is on conversions that it makes anyway."""

        def __init__(self) -> None:
            bindings.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT."""
            if severity <= bindings.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Logger()
