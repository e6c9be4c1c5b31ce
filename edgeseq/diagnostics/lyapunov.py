"""Lyapunov exponents of a driven recurrence by the QR method.

Benettin et al., 1980; for recurrent networks Engelken, Wolf and Abbott, *Lyapunov spectra of chaotic recurrent neural networks*,
2023: n orthonormal directions are carried along by the Jacobians and made orthonormal again after every step; the mean logarithms
of what that takes are the exponents. The largest is the rate at which neighbouring states part, and gradients grow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeseq.diagnostics.jacobians import push_forward
from edgeseq.diagnostics.recurrence import DiagnosticsError, Recurrence

WARM_UP = 0.2


def lyapunov_exponents(recurrence: Recurrence, count: int = 1, *, warm_up: float = WARM_UP) -> Tensor:
    """The `count` largest exponents of each sequence, in natural logarithms a step: (B, count), largest first.

    Args:
        recurrence: what to follow; exponents are those of the trajectory that it takes.
        count: from 1 to the n features of the state, which gives the whole spectrum.
        warm_up: share of each sequence's steps, its first, in which the directions align and nothing is counted.
    """
    B, n = recurrence.initial.shape
    if not 1 <= count <= n:
        raise DiagnosticsError(f"{count} exponents were asked for; the state has {n} features, so there are 1 to {n}")
    if not 0 <= warm_up < 1:
        raise DiagnosticsError(f"warm_up is {warm_up}; it is a share of the steps, from 0 to below 1")
    states, first = recurrence.states(), (recurrence.lengths * warm_up).long()
    Q = _directions(recurrence.initial, count)  # (B, n, count)
    total = Q.new_zeros(B, count)
    T = len(recurrence.inputs)
    for t, x in enumerate(recurrence.inputs):
        live = recurrence.live(t)[:, None]
        moved = push_forward(recurrence.step, states[t], x, Q.mT).mT  # (B, n, count)
        following, R = torch.linalg.qr(moved)
        Q = torch.where(live[..., None], following, Q)
        counted = (t >= T - recurrence.lengths + first)[:, None]
        total = total + torch.where(counted, R.diagonal(dim1=1, dim2=2).abs().log(), 0.0)
    return (total / (recurrence.lengths - first)[:, None]).sort(dim=1, descending=True).values


def _directions(like: Tensor, count: int) -> Tensor:
    """Orthonormal directions (B, n, count), the same at every call, aligned with no axis."""
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(like.shape[1], count, generator=generator, dtype=torch.float64)
    directions: Tensor = torch.linalg.qr(random)[0].to(like)
    return directions.expand(len(like), -1, -1)
