"""A slice through a recurrent network: repeated composition of one function, along one line of its initial states.

*Deep Learning* (Goodfellow, Bengio and Courville, 2016), figure 10.15.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeseq.diagnostics.recurrence import DiagnosticsError


@dataclass(frozen=True)
class Slice:
    """The projected state against a coordinate of the initial state.

    Attributes:
        coordinates: (P,), along the line of initial states.
        outputs: (T+1, P), row t after t compositions.
    """

    coordinates: Tensor
    outputs: Tensor

    def turns(self, t: int) -> int:
        """How often the function after t compositions changes between increasing and decreasing."""
        differences = self.outputs[t].diff()
        signs = differences[differences != 0].sign()
        return int((signs[1:] != signs[:-1]).sum())


def slice_through_rnn(
    steps: int = 50, *, size: int = 100, gain: float = 1.5, reach: float = 60.0, points: int = 4001, seed: int = 0
) -> Slice:
    """h_t = tanh(W h_{t-1}) from h_0 = a u, seen as y_t = vᵀ h_t, for a from -reach to reach and t = 0..steps.

    u and v are random directions of length one; W is random normal of standard deviation gain / sqrt(size), so that its spectral
    radius is near `gain`. Computed in float64.

    Args:
        steps: compositions.
        size: units of the state.
        gain: above 1 the map is chaotic (Sompolinsky, Crisanti and Sommers, 1988), and the slice folds more at every step.
        reach: largest coordinate of the initial state.
        points: coordinates, evenly spaced.
        seed: of W, u and v.
    """
    if steps < 0 or size < 1 or points < 2:
        raise DiagnosticsError(f"steps={steps}, size={size}, points={points}; at least 0, 1 and 2 are needed")
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(size, size, generator=generator, dtype=torch.float64) * (gain / math.sqrt(size))
    u, v = _direction(size, generator), _direction(size, generator)
    coordinates = torch.linspace(-reach, reach, points, dtype=torch.float64)
    h = coordinates[:, None] * u  # (P, size)
    outputs = [h @ v]
    for _ in range(steps):
        h = torch.tanh(h @ W.T)
        outputs.append(h @ v)
    return Slice(coordinates, torch.stack(outputs))


def _direction(size: int, generator: torch.Generator) -> Tensor:
    """A random direction (size,) of length one."""
    direction = torch.randn(size, generator=generator, dtype=torch.float64)
    direction /= direction.norm()
    return direction
