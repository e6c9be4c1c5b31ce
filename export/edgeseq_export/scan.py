"""A loop-free step run over time as one Scan, with all that does not depend on the state left outside its body."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

State = tuple[Tensor, ...]
Step = Callable[[State, Tensor], tuple[State, Tensor]]


def scan_over_time(
    step: Step, state: Sequence[Tensor], projected: Tensor, lengths: Tensor | None, *, reverse: bool
) -> tuple[Tensor, State]:
    """Outputs (T, B, O) and the last state of `step` over `projected` (T, B, G).

    With `lengths` (B,), a step at or past a sequence's length leaves the state and gives zeros. Scanned backwards, a
    sequence's first live step is therefore its own last one, from the initial state, and nothing needs to be flipped by hand.
    """
    T = projected.shape[0]
    sequences = [projected]
    if lengths is not None:
        steps = torch.arange(T, device=projected.device)
        sequences.append((steps[:, None] < lengths[None, :]).unsqueeze(-1))  # (T, B, 1)

    def body(carried: list[Tensor], inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        following, y = step(tuple(carried), inputs[0])
        if lengths is not None:
            live = inputs[1]
            y = torch.where(live, y, 0.0)
            following = tuple(torch.where(live, new, old) for new, old in zip(following, carried, strict=True))
        # The scan operator refuses an output that is also a carried state.
        return list(following), [y.clone()]

    last, (outputs,) = scan(body, [s.contiguous() for s in state], sequences, dim=0, reverse=reverse)
    return outputs, tuple(last)
