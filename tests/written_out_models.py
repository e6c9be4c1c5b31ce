"""Cells as users write them: the whole equations in `step`, in PyTorch's elementary functions, nothing projected beforehand.

`CELLS` has what ONNX has a node for, in several ways of writing; `OTHERS` what it has none for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq import Cell, Recurrent
from edgeseq.cells.cell import State


class WholeStep(Cell):
    """A cell that leaves its input to the step: states of H features, one unless said."""

    def __init__(self, input_size: int, hidden_size: int, states: int = 1) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.state_shapes = ((hidden_size,),) * states

    def project(self, x: Tensor) -> Tensor:
        """The input as it is."""
        return x


class FusedLSTM(WholeStep):
    """Four gates in two layers, in PyTorch's order."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, states=2)
        self.input, self.recurrent = nn.Linear(input_size, 4 * hidden_size), nn.Linear(hidden_size, 4 * hidden_size)

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """One step of states (B, H) twice and input (B, I)."""
        h, c = state
        i, f, g, o = (self.input(projected) + self.recurrent(h)).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h, c), h


class ConcatenatedLSTM(WholeStep):
    """One layer of the input and the state side by side, the gates in an order of its own."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, states=2)
        self.gates = nn.Linear(input_size + hidden_size, 4 * hidden_size)

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """One step of states (B, H) twice, the memory first, and input (B, I)."""
        c, h = state
        o, g, i, f = self.gates(torch.cat([projected, h], dim=-1)).chunk(4, dim=-1)
        c = torch.tanh(g) * torch.sigmoid(i) + c * torch.sigmoid(f)
        h = torch.tanh(c) * torch.sigmoid(o)
        return (c, h), h


class SeparateLSTM(WholeStep):
    """A layer a gate, of the input with a bias and of the state without."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, states=2)
        self.x = nn.ModuleDict({gate: nn.Linear(input_size, hidden_size) for gate in "ifgo"})
        self.h = nn.ModuleDict({gate: nn.Linear(hidden_size, hidden_size, bias=False) for gate in "ifgo"})

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """One step of states (B, H) twice and input (B, I)."""
        h, c = state
        i, f, g, o = (self.x[gate](projected) + self.h[gate](h) for gate in "ifgo")
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return (h, c), h


class SeparateGRU(WholeStep):
    """Six matrices; the reset gate on the recurrent product, its bias in it, as PyTorch has it."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.x = nn.ModuleDict({gate: nn.Linear(input_size, hidden_size) for gate in "rzn"})
        self.h = nn.ModuleDict({gate: nn.Linear(hidden_size, hidden_size) for gate in "rzn"})

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """One step of state (B, H) and input (B, I)."""
        (h,) = state
        r = torch.sigmoid(self.x["r"](projected) + self.h["r"](h))
        z = torch.sigmoid(self.x["z"](projected) + self.h["z"](h))
        n = torch.tanh(self.x["n"](projected) + r * self.h["n"](h))
        h = (1 - z) * n + z * h
        return (h,), h


class PaperGRU(WholeStep):
    """The reset gate on the state, the update gate keeping what is new (Cho et al., 2014, has the other way round)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.gates = nn.Linear(input_size + hidden_size, 2 * hidden_size)
        self.candidate = nn.Linear(input_size + hidden_size, hidden_size)

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """One step of state (B, H) and input (B, I)."""
        (h,) = state
        z, r = torch.sigmoid(self.gates(torch.cat([projected, h], dim=-1))).chunk(2, dim=-1)
        n = torch.tanh(self.candidate(torch.cat([projected, r * h], dim=-1)))
        h = h + z * (n - h)
        return (h,), h


class ElmanRNN(WholeStep):
    """h' = tanh(W x + U h + b)"""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.x, self.h = nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, hidden_size)

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """One step of state (B, H) and input (B, I)."""
        h = torch.tanh(self.x(projected) + self.h(state[0]))
        return (h,), h


class ReadRNN(ElmanRNN):
    """An Elman network with relu whose step reads its output from the state itself."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.readout = nn.Linear(hidden_size, 5)

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """One step of state (B, H) and input (B, I), output (B, 5)."""
        h = torch.relu(self.x(projected) + self.h(state[0]))
        return (h,), torch.softmax(self.readout(h), dim=-1)


def normalised(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Layer normalisation over the last axis, written out."""
    mean = x.mean(dim=-1, keepdim=True)
    centred = x - mean
    variance = (centred * centred).mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(variance + 1e-5) * gain + shift


class NormalisedLSTM(WholeStep):
    """An LSTM with layer normalisation written out (Ba, Kiros and Hinton, 2016, equations 20 to 22)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, states=2)
        self.input = nn.Linear(input_size, 4 * hidden_size, bias=False)
        self.recurrent = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.gains = nn.ParameterList([torch.rand(n * hidden_size) + 0.5 for n in (4, 4, 1)])
        self.shifts = nn.ParameterList([torch.randn(n * hidden_size) / 4 for n in (4, 4, 1)])

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """One step of states (B, H) twice and input (B, I)."""
        h, c = state
        x = normalised(self.input(projected), self.gains[0], self.shifts[0])
        i, f, g, o = (x + normalised(self.recurrent(h), self.gains[1], self.shifts[1])).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(normalised(c, self.gains[2], self.shifts[2]))
        return (h, c), h


class MinimalGRU(WholeStep):
    """A gated cell that ONNX has no node for: its candidate is a softsign of a layer of two layers' sum."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.embed = nn.Sequential(nn.Linear(input_size, 2 * hidden_size), nn.ReLU(), nn.Linear(2 * hidden_size, hidden_size))
        self.gate, self.candidate = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, hidden_size)

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """One step of state (B, H) and input (B, I)."""
        (h,) = state
        x = self.embed(projected)
        f = torch.sigmoid(x + self.gate(h))
        h = f * h + (1 - f) * F.softsign(x + self.candidate(h))
        return (h,), h


class Sequence(nn.Module):
    """A cell over x (T, B, I) with its states as inputs and outputs, and lengths where they are given."""

    def __init__(self, cell: Cell, *, reverse: bool = False) -> None:
        super().__init__()
        self.layer = Recurrent(cell, reverse=reverse)

    def forward(self, x: Tensor, *state: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """Outputs (T, B, O) and the states (B, H) after each sequence."""
        y, end = self.layer(x, state or None, lengths)
        return (y, *end)


CELLS: Mapping[str, tuple[Callable[[int, int], Cell], str]] = {
    "LSTM, fused gates": (FusedLSTM, "LSTM"),
    "LSTM, input and state side by side": (ConcatenatedLSTM, "LSTM"),
    "LSTM, a layer a gate": (SeparateLSTM, "LSTM"),
    "GRU, a layer a gate": (SeparateGRU, "GRU"),
    "GRU, reset before the product": (PaperGRU, "GRU"),
    "RNN": (ElmanRNN, "RNN"),
    "RNN, relu and a readout in the step": (ReadRNN, "RNN"),
}
OTHERS: Mapping[str, Callable[[int, int], Cell]] = {
    "LSTM with LayerNorm written out": NormalisedLSTM,
    "gated, softsign of a deep input": MinimalGRU,
}
