"""What the files of kernels share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.tensorrt_network.network import Layer

# Arrays are Any here: NumPy's operators have no one type over all dtypes. An input that the layer lacks is None.
Kernel = Callable[[Sequence[Any]], Sequence[Any]]


def axes_of(mask: int, rank: int) -> tuple[int, ...]:
    """The axes whose bits are set in TensorRT's mask."""
    return tuple(axis for axis in range(rank) if mask >> axis & 1)


def one_axis(layer: Layer) -> int:
    """The only axis of the layer's mask."""
    (axis,) = axes_of(layer.settings["axes"], mask_rank(layer))
    return axis


def mask_rank(layer: Layer) -> int:
    """The rank of what the layer's mask is about: of its first input."""
    first = layer.inputs[0]
    return 0 if first is None else len(first.shape)


def choose(layer: Layer, setting: str, known: dict[str, Any]) -> Any:
    """What one value of an enumeration stands for.

    Raises:
        UsageError: the value is not known here.
    """
    found = layer.settings[setting]
    if found not in known:
        raise UsageError(f"the {layer} of TensorRT's network has {setting} {found}, which is not interpreted here: {sorted(known)}")
    return known[found]
