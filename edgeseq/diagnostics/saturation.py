"""Which share of gates and units sits where the slope is nearly flat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgeseq.diagnostics.recurrence import Recurrence

aten = torch.ops.aten
GATES = (aten.sigmoid.default, aten.sigmoid_.default, aten.hardsigmoid.default, aten.hardsigmoid_.default)
UNITS = (aten.tanh.default, aten.tanh_.default)


@dataclass(frozen=True)
class Saturation:
    """Shares in 0..1; None where the layer has no such function.

    Attributes:
        closed: of all values of logistic sigmoids, those below 0.1 (Karpathy, Johnson and Fei-Fei, 2015: "left-saturated").
        open: those above 0.9 ("right-saturated").
        units: of all values of tanh, those above 0.9 in magnitude.
    """

    closed: float | None
    open: float | None
    units: float | None


class _Activations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the values that sigmoids and tanhs give while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gates = self.closed = self.open = self.units = self.flat = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in GATES:
            self._count_gates(result)
        elif func in UNITS:
            self.units += result.numel()
            self.flat += int((result.abs() > 0.9).sum())
        return result

    def _count_gates(self, values: Tensor) -> None:
        self.gates += values.numel()
        self.closed += int((values < 0.1).sum())
        self.open += int((values > 0.9).sum())


@torch.no_grad()
def saturation(recurrence: Recurrence) -> Saturation:
    """Counted over all live steps of all sequences."""
    counts = _Activations()
    states = recurrence.states()
    for t, x in enumerate(recurrence.inputs):
        live = recurrence.live(t)
        state, inputs = states[t][live], x[live]
        with counts:
            recurrence.step(state, inputs)
    return Saturation(
        closed=_share(counts.closed, counts.gates), open=_share(counts.open, counts.gates), units=_share(counts.flat, counts.units)
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
