"""PyTorch's float32 and float64 answers, obtained without the exporter, and the distance of a runtime's answers from them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from edgeseq_runtime.tensors import Distance, distance

DRAWS = 32


def torch_outputs(module: nn.Module, inputs: Mapping[str, Tensor], dtype: torch.dtype) -> list[np.ndarray]:
    """The module's outputs, computed in one precision throughout."""
    module = copy.deepcopy(module).eval().to(dtype)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # for the tensors that a module makes by itself
    try:
        with torch.no_grad():
            outputs = module(**{name: t.to(dtype) if t.is_floating_point() else t for name, t in inputs.items()})
    finally:
        torch.set_default_dtype(before)
    return [t.numpy() for t in tree_leaves(outputs) if t is not None]


def pooled_distances(
    module: nn.Module, draws: Sequence[Mapping[str, Tensor]], runtime: Sequence[Sequence[np.ndarray]]
) -> list[Distance]:
    """Distance of every output from float64, pooled over the draws; the shapes must already be equal."""
    own32 = [torch_outputs(module, x, torch.float32) for x in draws]
    exact = [torch_outputs(module, x, torch.float64) for x in draws]
    distances = []
    for position in range(len(exact[0])):
        for found, expected in zip(runtime, own32, strict=True):
            assert found[position].shape == expected[position].shape
        flat = (np.concatenate([outputs[position].reshape(-1) for outputs in results]) for results in (runtime, own32, exact))
        distances.append(distance(*flat))
    return distances
