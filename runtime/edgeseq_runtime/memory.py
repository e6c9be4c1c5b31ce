"""Memory that is free and still the process's own."""

from __future__ import annotations

import ctypes
import sys


def give_back_free_memory() -> None:
    """Have glibc return free memory to the system; nothing where the C library is another.

    Loading a model takes blocks as large as its weights, several times. Once a large one has been freed, glibc takes the next ones
    from its heap, where they stay resident after they are freed too: as much again as the weights, for as long as the process runs.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own; musl has none
        if trim is not None:
            trim(ctypes.c_size_t(0))
