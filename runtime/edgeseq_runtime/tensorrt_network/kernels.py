"""What each kind of layer computes, in NumPy, in the dtype that TensorRT declares.

The equations are those of TensorRT's operator reference. A kernel is made once for a layer, its settings resolved, and
then called with arrays. Products in half precision are summed in float32, as TensorRT sums them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.tensorrt_network import arithmetic, indexing, windows
from edgeseq_runtime.tensorrt_network.kernel import Kernel
from edgeseq_runtime.tensorrt_network.network import Layer

KERNELS: Mapping[str, Callable[[Layer], Kernel]] = {**arithmetic.KERNELS, **indexing.KERNELS, **windows.KERNELS}


def kernel_of(layer: Layer) -> Kernel:
    """What computes a layer.

    Raises:
        UsageError: nothing here does.
    """
    if layer.kind not in KERNELS:
        raise UsageError(f"TensorRT's network has the {layer}, which is not interpreted here; known are {sorted(KERNELS)}")
    return KERNELS[layer.kind](layer)
