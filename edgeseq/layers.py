"""Cells run over time: the one place that knows about direction, lengths, initial state, stacking and dropout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells import Cell, State
from edgeseq.fused import fused_cell, run_fused


class SequenceLayer(nn.Module, ABC):
    """A layer over sequences given whole or in chunks: its state comes in and goes out.

    The outputs of the chunks, each given the state that the one before it returned, are those of the whole. `RecurrentStack`
    stacks such layers. A runtime's stream begins with a state of zeros, so zeros have to be a right initial state of a layer that
    streams.
    """

    @property
    @abstractmethod
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each state tensor of one sequence, without the batch."""

    def initial_state(self, x: Tensor) -> State:
        """Zeros (B, ...) for each of `state_shapes`; x (T, B, ...) says B and device, and dtype where it is floating-point."""
        dtype = x.dtype if x.is_floating_point() else next((p.dtype for p in self.parameters()), torch.get_default_dtype())
        return tuple(x.new_zeros(x.shape[1], *shape, dtype=dtype) for shape in self.state_shapes)

    @abstractmethod
    def forward(self, x: Tensor, state: Sequence[Tensor] | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """From x (T, B, I), the state (each (B, ...), the initial one where omitted) and lengths (B,) to y (T, B, O) and the state.

        With lengths y is zero at and past a sequence's length, and the state is that after its own last step.
        """


class Recurrent(SequenceLayer):
    """One layer: a cell run over time, or two cells in opposite directions.

    A cell that is PyTorch's own (`RNNCell`, `GRUCell`, `LSTMCell(squash="tanh", peepholes=False)`) runs in PyTorch's fused
    kernels, every other step by step. Either way the cell's `project` and `step` are what runs, not its `forward`: hooks belong
    on the layer.

    Args:
        cell: the step.
        reverse: run it from the last step of each sequence to its first.
        backward: a second cell, which runs from last to first beside the first one; the outputs are concatenated.
    """

    def __init__(self, cell: Cell, *, reverse: bool = False, backward: Cell | None = None) -> None:
        super().__init__()
        if reverse and backward is not None:
            raise ValueError("reverse=True is for a single cell; with backward=... the first cell runs forward")
        self.cell = cell
        self.backward = backward
        self.reverse = reverse

    @property
    def directions(self) -> tuple[tuple[Cell, bool], ...]:
        """Each cell and whether it runs from last to first."""
        forward = (self.cell, self.reverse)
        return (forward,) if self.backward is None else (forward, (self.backward, True))

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each state tensor without the batch, the forward cell's first."""
        return tuple(shape for cell, _ in self.directions for shape in cell.state_shapes)

    def initial_state(self, x: Tensor) -> State:
        """The cells' initial states for the input x (T, B, ...)."""
        return tuple(s for cell, _ in self.directions for s in cell.initial_state(x))

    def forward(self, x: Tensor, state: Sequence[Tensor] | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Run over every time step.

        Args:
            x: (T, B, I).
            state: initial state, each (B, ...) as `state_shapes`; the cells' own (zeros, mostly) where omitted.
            lengths: (B,) integers in 1..T. At and past a sequence's length the output is zero and the state stays; a reversed
                cell begins at each sequence's own last step.

        Returns:
            y (T, B, O), with two cells (T, B, O + O'), and the state after each cell's last step.

        Raises:
            ValueError: x, a state or lengths has another shape, or lengths other values.
        """
        require_sequences(x, lengths)
        initial = self.initial_state(x) if state is None else tuple(state)
        require_states(initial, self.state_shapes, x.shape[1])
        outputs: list[Tensor] = []
        ends: State = ()
        for cell, reverse in self.directions:
            own, initial = initial[: len(cell.state_shapes)], initial[len(cell.state_shapes) :]
            y, end = run_over_time(cell, x, own, lengths, reverse=reverse)
            outputs.append(y)
            ends += end
        return (torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]), ends

    def extra_repr(self) -> str:
        return "reverse=True" if self.reverse else ""


def require_sequences(x: Tensor, lengths: Tensor | None) -> None:
    """At least one step of x (T, B, ...), and lengths (B,) in 1..T.

    Raises:
        ValueError: x or lengths has another shape, or lengths other values.
    """
    if x.dim() < 2 or x.shape[0] == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; it has to be (T, B, ...) with at least one step")
    if lengths is None:
        return
    T, B = x.shape[:2]
    if lengths.shape != (B,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(f"lengths is {tuple(lengths.shape)} of {lengths.dtype}; it has to be ({B},) integers, one a sequence of x")
    # While a graph is captured there are no values yet.
    if not torch.compiler.is_compiling() and bool(((lengths < 1) | (lengths > T)).any()):
        raise ValueError(f"lengths are {int(lengths.min())} to {int(lengths.max())}; with x of {T} steps they have to be in 1..{T}")


def require_states(state: State, shapes: Sequence[tuple[int, ...]], batch: int) -> None:
    """As many tensors as the layer has, each of its rank and of the input's batch; sizes may depend on the input.

    Raises:
        ValueError: there are others.
    """
    if len(state) != len(shapes):
        raise ValueError(f"state has {len(state)} tensors, the layer has {len(shapes)}: {tuple(shapes)}")
    for number, (tensor, shape) in enumerate(zip(state, shapes, strict=True)):
        if tensor.dim() != 1 + len(shape) or tensor.shape[0] != batch:
            raise ValueError(f"state tensor {number} has shape {tuple(tensor.shape)}; for this x it has to be {(batch, *shape)}")


def run_over_time(cell: Cell, x: Tensor, state: State, lengths: Tensor | None, *, reverse: bool) -> tuple[Tensor, State]:
    """One cell over x (T, B, I) in one direction: outputs (T, B, O) and the last state."""
    fused = fused_cell(cell)
    if fused is not None:
        return run_fused(fused, x, state, lengths, reverse=reverse)
    T = x.shape[0]
    steps = _steps(cell.project(x))
    outputs: list[Tensor] = [x] * T
    for t in reversed(range(T)) if reverse else range(T):
        following, y = cell.step(state, steps[t])
        if lengths is not None:
            live = t < lengths  # (B,)
            following = tuple(_where(live, new, old) for new, old in zip(following, state, strict=True))
            y = _where(live, y, torch.zeros_like(y))
        state, outputs[t] = following, y
    return torch.stack(outputs), state


def _steps(projected: Any) -> Sequence[Any]:
    """What `Cell.project` gave, one time step after the other."""
    # The gradient of unbind is one stack; that of indexing would be a tensor of all T steps for each of them.
    if isinstance(projected, (tuple, list)):
        return list(zip(*(part.unbind(0) for part in projected), strict=True))
    return projected.unbind(0)  # type: ignore[no-any-return]


def _where(live: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` for the live sequences (B,), `old` for the others; both (B, ...)."""
    return torch.where(live.reshape(-1, *[1] * (new.dim() - 1)), new, old)


class RecurrentStack(SequenceLayer):
    """Layers on top of each other, each reading the one below, with dropout between them.

    Args:
        layers: from the input upwards: `Recurrent`, those of `edgeseq.streaming`, other stacks.
        dropout: share of features zeroed between two layers while training.
    """

    def __init__(self, *layers: SequenceLayer, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.dropout = dropout

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each state tensor without the batch, the lowest layer's first."""
        return tuple(shape for layer in self._each() for shape in layer.state_shapes)

    def initial_state(self, x: Tensor) -> State:
        """The layers' initial states for the input x (T, B, I), which says B, dtype and device."""
        return tuple(s for layer in self._each() for s in layer.initial_state(x))

    def forward(self, x: Tensor, state: Sequence[Tensor] | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """As `Recurrent.forward`; the state is that of every layer, the lowest first."""
        remaining = None if state is None else tuple(state)
        if remaining is not None:
            require_states(remaining, self.state_shapes, x.shape[1])
        ends: State = ()
        for number, layer in enumerate(self._each()):
            if number and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            own = None if remaining is None else remaining[len(ends) : len(ends) + len(layer.state_shapes)]
            x, end = layer(x, own, lengths)  # (T, B, O)
            ends += end
        return x, ends

    def _each(self) -> Sequence[SequenceLayer]:
        return list(self.layers)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}"
