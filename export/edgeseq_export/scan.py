"""A loop-free step run over time as one Scan, with all that does not depend on the state left outside its body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

State = tuple[Tensor, ...]
Step = Callable[[State, Any], tuple[State, Tensor]]


def scan_over_time(
    step: Step, state: Sequence[Tensor], projected: Any, lengths: Tensor | None, *, reverse: bool
) -> tuple[Tensor, State]:
    """Outputs (T, B, ...) and the last state of `step` over `projected`: (T, B, G), or a tuple or list of such tensors.

    With `lengths` (B,), a step at or past a sequence's length leaves the state and gives zeros. Scanned backwards, a
    sequence's first live step is therefore its own last one, from the initial state, and nothing needs to be flipped by hand.
    """
    several = isinstance(projected, (tuple, list))
    parts = tuple(projected) if several else (projected,)
    T = parts[0].shape[0]
    sequences = list(parts)
    if lengths is not None:
        steps = torch.arange(T, device=parts[0].device)
        sequences.append((steps[:, None] < lengths[None, :]).unsqueeze(-1))  # (T, B, 1)

    def body(carried: list[Tensor], inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        now = tuple(inputs[: len(parts)])
        following, y = step(tuple(carried), now if several else now[0])
        if lengths is not None:
            live = inputs[-1]
            y = _where(live, y, _zero(y))
            following = tuple(_where(live, new, old) for new, old in zip(following, carried, strict=True))
        # The scan operator refuses an output that is also a carried state, and a carried state that is not contiguous.
        return [s.contiguous() for s in following], [y.clone()]

    # Nor does it take one tensor for two states, such as zeros for both h and s.
    last, (outputs,) = scan(body, [s.clone().contiguous() for s in state], sequences, dim=0, reverse=reverse)
    return outputs, tuple(last)


def _where(live: Tensor, new: Tensor, old: Tensor | float) -> Tensor:
    """`new` (B, ...) for the sequences that are live (B, 1), `old` for the others."""
    live = live.squeeze(-1) if new.dim() == 1 else live.reshape(-1, *[1] * (new.dim() - 1)) if new.dim() > 2 else live
    if new.dtype == torch.bool:
        return (live & new) | (~live & old)  # ONNX Runtime has no Where of booleans
    return torch.where(live, new, old)


def _zero(y: Tensor) -> float:
    """A zero that leaves the dtype of `y` as it is."""
    return False if y.dtype == torch.bool else 0.0 if y.is_floating_point() else 0
