"""Products of state Jacobians: how the gradient changes on its way back through time.

dL/dh_k = (∂h_t/∂h_k)ᵀ dL/dh_t, with ∂h_t/∂h_k = ∏ ∂h_i/∂h_{i-1} for i = t down to k+1 (Pascanu, Mikolov and Bengio, 2013,
equations 4 and 5; *Deep Learning*, section 10.7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edgeseq.cells import Cell
from edgeseq.diagnostics.recurrence import DiagnosticsError, Recurrence, Step, cell_step, flatten


def pull_back(step: Step, state: Tensor, x: Tensor, cotangents: Tensor) -> Tensor:
    """gᵀ ∂s'/∂s for m gradients g of each sequence's next state: (B, m, n) -> (B, m, n)."""
    B, m, n = cotangents.shape
    with torch.enable_grad():
        states = state.detach().repeat_interleave(m, dim=0).requires_grad_()  # (B*m, n)
        following = step(states, x.repeat_interleave(m, dim=0))
        (gradient,) = torch.autograd.grad(following, states, cotangents.reshape(B * m, n), materialize_grads=True)
    return gradient.reshape(B, m, n)


def push_forward(step: Step, state: Tensor, x: Tensor, tangents: Tensor) -> Tensor:
    """∂s'/∂s v for m directions v of each sequence's state: (B, m, n) -> (B, m, n)."""
    B, m, n = tangents.shape
    with torch.enable_grad():
        states = state.detach().repeat_interleave(m, dim=0).requires_grad_()  # (B*m, n)
        following = step(states, x.repeat_interleave(m, dim=0))
        # wᵀ ∂s'/∂s is linear in w: its gradient along the directions is ∂s'/∂s v, whatever w is.
        w = torch.zeros_like(following, requires_grad=True)
        (pulled,) = torch.autograd.grad(following, states, w, create_graph=True, materialize_grads=True)
        (moved,) = torch.autograd.grad(pulled, w, tangents.reshape(B * m, n), materialize_grads=True)
    return moved.reshape(B, m, n)


def state_jacobian(step: Cell | Callable[..., Any], state: Tensor | Sequence[Tensor], x: Tensor) -> Tensor:
    """∂s'/∂s of one time step: (B, n, n), row i the gradient of the next state's feature i.

    Args:
        step: a cell, or a function of a state (B, n) and an input that returns the next state (B, n).
        state: (B, n); for a cell its tuple of tensors, which are concatenated to one state of n features.
        x: the step's input (B, I).
    """
    if isinstance(step, Cell):
        parts = (state,) if isinstance(state, Tensor) else tuple(state)
        step, state = cell_step(step, parts), flatten(parts)
    if not isinstance(state, Tensor):
        raise DiagnosticsError("the state of a plain step function is one tensor (B, n); concatenate its parts in the function")
    B, n = state.shape
    identity = torch.eye(n, dtype=state.dtype, device=state.device).expand(B, n, n)
    return pull_back(step, state, x, identity)


def jacobian_product(recurrence: Recurrence, start: int = 0, end: int | None = None) -> Tensor:
    """∂s_end/∂s_start over the batch: (B, n, n); `end` is the last state where omitted."""
    T = len(recurrence.inputs)
    end = T if end is None else end
    if not 0 <= start <= end <= T:
        raise DiagnosticsError(f"states {start} to {end} were asked for; there are 0 to {T}, and start comes first")
    states = recurrence.states()
    product = _identity(recurrence)
    for t in reversed(range(start, end)):
        product = product @ _jacobian_at(recurrence, states, t)
    return product


def gradient_norms(recurrence: Recurrence, distance: int | None = None) -> Tensor:
    """‖∂s_T/∂s_{T-k}‖₂ for k = 0..distance: the most by which a gradient grows on its way k steps back from the last state.

    Returns:
        (distance+1, B), 1 at k = 0; NaN where k is longer than the sequence. The product is kept in range by its logarithm, so
        that only a result beyond float64 is inf.
    """
    return sweep(recurrence, distance)[0]


def mean_jacobian(recurrence: Recurrence) -> Tensor:
    """∂s_t/∂s_{t-1} averaged over steps and sequences: (n, n)."""
    return sweep(recurrence, None)[1]


def sweep(recurrence: Recurrence, distance: int | None) -> tuple[Tensor, Tensor]:
    """`gradient_norms` and `mean_jacobian` of the last `distance` steps, from one pass back through time."""
    T = len(recurrence.inputs)
    K = T if distance is None else distance
    if not 0 < K <= T:
        raise DiagnosticsError(f"distance {K} was asked for; the input has {T} steps")
    states = recurrence.states()
    product = _identity(recurrence)
    logarithm = product.new_zeros(len(product))  # (B,)
    logarithms = [logarithm]
    total, count = torch.zeros_like(product[0]), 0
    for t in reversed(range(T - K, T)):
        live = recurrence.live(t)
        jacobian = _jacobian_at(recurrence, states, t)
        total, count = total + jacobian[live].sum(0), count + int(live.sum())
        product = product @ jacobian
        norm = torch.linalg.matrix_norm(product, 2)  # (B,)
        product = product / norm.clamp(min=torch.finfo(norm.dtype).tiny)[:, None, None]
        logarithm = logarithm + norm.log()
        logarithms.append(torch.where(live, logarithm, torch.nan))
    return torch.stack(logarithms).exp(), total / count


def output_gradients(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """‖∂y_T/∂x_{T-k}‖ (Frobenius) for k = 0..T-1 of any map of a sequence x (T, B, I) to y (T, B, O): (T, B).

    It sees every path from input to output: all layers, both directions, skip connections.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = function(x)
    if y.dim() != 3 or y.shape[:2] != x.shape[:2]:
        raise DiagnosticsError(f"the function maps x {tuple(x.shape)} to {tuple(y.shape)}; it must keep T and B: (T, B, O)")
    squares = x.new_zeros(x.shape[:2])  # (T, B)
    for feature in range(y.shape[2]):
        (gradient,) = torch.autograd.grad(y[-1, :, feature].sum(), x, retain_graph=True)
        squares += gradient.square().sum(-1)
    return squares.sqrt().flip(0)


def _identity(recurrence: Recurrence) -> Tensor:
    B, n = recurrence.initial.shape
    return torch.eye(n, dtype=recurrence.initial.dtype, device=recurrence.initial.device).repeat(B, 1, 1)


def _jacobian_at(recurrence: Recurrence, states: Tensor, t: int) -> Tensor:
    """∂s_{t+1}/∂s_t (B, n, n); the identity for a sequence that has not begun."""
    jacobian = state_jacobian(recurrence.step, states[t], recurrence.inputs[t])
    return torch.where(recurrence.live(t)[:, None, None], jacobian, _identity(recurrence))
