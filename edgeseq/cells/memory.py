"""A cell with an explicit memory: the Neural Turing Machine (Graves, Wayne and Danihelka, 2014; *Deep Learning*, section 10.12).

Each stage of its addressing is a function of one equation of the paper. B sequences, K heads, N rows of memory, M numbers a row;
an address (B, K, N) is a weight for every row, and sums to 1 over the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells.cell import Cell, State
from edgeseq.cells.lstm import LSTMCell

EMPTY = 1e-3  # added to the product of norms of equation 6, which is 0/0 where a row is empty
TINIEST = 1e-30  # added to a weight before its logarithm


def read(memory: Tensor, address: Tensor) -> Tensor:
    """Σ_i w(i) M(i), equation 2: memory (B, N, M), address (B, K, N) -> what each head reads (B, K, M)."""
    return address @ memory


def write(memory: Tensor, address: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """M(i) Π_k [1 - w_k(i) e_k] + Σ_k w_k(i) a_k, equations 3 and 4: every head erases, then every head adds.

    Memory (B, N, M), address (B, K, N), erase (B, K, M) in 0..1, add (B, K, M) -> memory (B, N, M).
    """
    kept = 1 - address.unsqueeze(-1) * erase.unsqueeze(-2)  # (B, K, N, M)
    return memory * kept.prod(dim=1) + address.transpose(1, 2) @ add


def similarity(key: Tensor, memory: Tensor) -> Tensor:
    """The cosine of each key (B, K, M) and each row of memory (B, N, M), equation 6: (B, K, N); an empty row resembles nothing."""
    lengths = torch.linalg.vector_norm(key, dim=-1, keepdim=True), torch.linalg.vector_norm(memory, dim=-1)  # (B, K, 1), (B, N)
    norms = lengths[0] * lengths[1].unsqueeze(1)  # (B, K, N)
    cosine: Tensor = key @ memory.transpose(1, 2) / (norms + EMPTY)
    return cosine


def content_address(key: Tensor, strength: Tensor, memory: Tensor) -> Tensor:
    """softmax(β K[k, M(i)]) over the rows, equation 5: key (B, K, M), strength β > 0 (B, K, 1) -> address (B, K, N)."""
    return torch.softmax(strength * similarity(key, memory), dim=-1)


def interpolate(content: Tensor, previous: Tensor, gate: Tensor) -> Tensor:
    """(1 - g) w + g w^c, equation 7: addresses (B, K, N) by content and of the last step, gate g in 0..1 (B, K, 1)."""
    return (1 - gate) * previous + gate * content


def shift(address: Tensor, weights: Tensor, sources: Tensor) -> Tensor:
    """Σ_j w(j) s(i - j), equation 8, indices modulo N: address (B, K, N), weights of the shifts s (B, K, S) -> (B, K, N).

    `sources` (S N) is what `shift_sources` gives for the S shifts.
    """
    B, K, N = address.shape
    shifted = address.index_select(-1, sources).reshape(B, K, -1, N)  # (B, K, S, N)
    return (weights.unsqueeze(-2) @ shifted).squeeze(-2)


def shift_sources(rows: int, shifts: int) -> Tensor:
    """The row i - d modulo N that row i is moved from, for each shift d from -(S-1)/2 to (S-1)/2: (S N)."""
    distances = torch.arange(shifts) - shifts // 2
    return ((torch.arange(rows) - distances.unsqueeze(-1)) % rows).flatten()


def sharpen(address: Tensor, power: Tensor) -> Tensor:
    """w(i)^γ / Σ_j w(j)^γ, equation 9, which is softmax(γ log w): address (B, K, N), power γ >= 1 (B, K, 1) -> (B, K, N).

    A power of the weights themselves underflows where many rows share the address.
    """
    return torch.softmax(power * torch.log(address + TINIEST), dim=-1)


class Addressing(NamedTuple):
    """What the heads emit to find their addresses, K heads in all."""

    key: Tensor  # (B, K, M)
    strength: Tensor  # β > 0, (B, K, 1)
    gate: Tensor  # g in 0..1, (B, K, 1)
    shifts: Tensor  # s >= 0, sums to 1, (B, K, S)
    power: Tensor  # γ >= 1, (B, K, 1)


class FeedForward(Cell):
    """A layer that remembers nothing, tanh(U x + b), as a controller."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.state_shapes = ()
        self.input = nn.Linear(input_size, hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """U x + b: (..., I) -> (..., H)."""
        projected: Tensor = self.input(x)
        return projected

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """No state and U x + b (B, H) -> no state and h (B, H)."""
        return (), torch.tanh(projected)


def _feed_forward(input_size: int, hidden_size: int) -> tuple[Cell, int]:
    return FeedForward(input_size, hidden_size), hidden_size


def _lstm(input_size: int, hidden_size: int) -> tuple[Cell, int]:
    return LSTMCell(input_size, hidden_size, squash="tanh", peepholes=False), 4 * hidden_size


# Each makes a cell, and says how many pre-activations the cell's `project` gives.
CONTROLLERS: dict[str, Callable[[int, int], tuple[Cell, int]]] = {"feed-forward": _feed_forward, "lstm": _lstm}


class NTMCell(Cell):
    """The Neural Turing Machine: a controller that reads and writes a memory through heads.

        h          = controller(x, r)                            feed-forward: tanh(U x + V r + b)
        w^c        = softmax(β K[k, M])                          by content             (5, 6)
        w^g        = g w^c + (1 - g) w                           or where it was before (7)
        w~         = Σ_j w^g(j) s(i - j)                         moved                  (8)
        w'         = w~^γ / Σ w~^γ                               and sharpened          (9)
        M'         = M Π [1 - w' e] + Σ w' a                     written, w' of the write heads (3, 4)
        r'         = Σ_i w'(i) M'(i)                             read, w' of the read heads     (2)

    with k, β = softplus, g = σ, s = softmax, γ = 1 + softplus of each head, and e = σ, a of each write head, affine in h.

    All heads find their addresses in M, the memory before the step; what is read is read after it was written. The output is
    (h, r'), (B, H + R M), for an affine readout outside the recurrence. The state is the memory (B, N, M), the addresses of the
    read heads (B, R, N) and of the write heads (B, W, N), what was read (B, R, M), and (h, s), (B, H) each, of an LSTM controller.
    It begins empty, with every head at row 0.

    Args:
        input_size: features I of the input.
        hidden_size: features H of the controller.
        rows: N of the memory.
        width: M, numbers a row.
        read_heads: R.
        write_heads: W.
        shifts: S, odd: a head moves by at most (S - 1)/2 rows a step.
        controller: "feed-forward" or "lstm".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rows: int,
        width: int,
        read_heads: int = 1,
        write_heads: int = 1,
        shifts: int = 3,
        controller: str = "feed-forward",
    ) -> None:
        super().__init__()
        if controller not in CONTROLLERS:
            raise ValueError(f"controller is {controller!r}; choose one of {', '.join(map(repr, CONTROLLERS))}")
        if shifts % 2 == 0 or not 0 < shifts <= rows:
            raise ValueError(f"shifts is {shifts} and rows {rows}; shifts has to be odd, so that 0 is among them, and at most rows")
        self.rows, self.width, self.shifts = rows, width, shifts
        self.read_heads, self.write_heads = read_heads, write_heads
        self.controller, preactivations = CONTROLLERS[controller](input_size, hidden_size)
        self.from_reads = nn.Linear(read_heads * width, preactivations, bias=False)
        self.heads = nn.Linear(hidden_size, sum(self._emitted))
        self.output_size = hidden_size + read_heads * width
        self.state_shapes = (
            (rows, width),
            (read_heads, rows),
            (write_heads, rows),
            (read_heads, width),
            *self.controller.state_shapes,
        )
        self.sources: Tensor
        self.register_buffer("sources", shift_sources(rows, shifts), persistent=False)
        self.reset_gates()

    def reset_gates(self) -> None:
        """Gates biased to 1/4, so that heads begin by moving from where they were rather than by searching."""
        with torch.no_grad():
            by_head = self.heads.bias[: self._emitted[0]].view(self.read_heads + self.write_heads, -1)
            by_head[:, self.width + self.shifts] = math.log(1 / 3)

    @property
    def _emitted(self) -> list[int]:
        """Numbers that the heads emit: all of them to find their addresses, the write heads to erase, and to add."""
        written = self.write_heads * self.width
        return [(self.read_heads + self.write_heads) * (self.width + self.shifts + 3), written, written]

    def initial_state(self, x: Tensor) -> State:
        """An empty memory and every head at row 0, for the whole input x (T, B, I)."""
        state = super().initial_state(x)
        for address in state[1:3]:
            address[..., 0] = 1
        return state

    def project(self, x: Tensor) -> Tensor:
        """What the controller needs of the input: (..., I) -> (..., G)."""
        projected: Tensor = self.controller.project(x)
        return projected

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """The state and `project`'s (B, G) -> the next state and (h, r') (B, H + R M)."""
        memory, read_address, write_address, reads, *inner = state
        following, h = self.controller.step(tuple(inner), projected + self.from_reads(reads.flatten(1)))
        emitted, erase, add = torch.split(self.heads(h), self._emitted, dim=-1)
        previous = torch.cat([read_address, write_address], dim=1)  # (B, R + W, N)
        address = self.address(memory, previous, self.addressing(emitted))
        read_address, write_address = torch.split(address, [self.read_heads, self.write_heads], dim=1)
        memory = write(memory, write_address, torch.sigmoid(self.per_row(erase)), self.per_row(add))
        reads = read(memory, read_address)
        return (memory, read_address, write_address, reads, *following), torch.cat([h, reads.flatten(1)], dim=-1)

    def addressing(self, emitted: Tensor) -> Addressing:
        """What the heads emit (B, K (M + S + 3)), brought into its ranges."""
        by_head = emitted.reshape(-1, self.read_heads + self.write_heads, self.width + self.shifts + 3)  # (B, K, M + S + 3)
        key, shifts, gate, positive = torch.split(by_head, [self.width, self.shifts, 1, 2], dim=-1)
        strength, power = F.softplus(positive).chunk(2, dim=-1)  # (B, K, 1) each
        return Addressing(key, strength, torch.sigmoid(gate), torch.softmax(shifts, dim=-1), 1 + power)

    def address(self, memory: Tensor, previous: Tensor, emitted: Addressing) -> Tensor:
        """Equations 5 to 9: from the addresses of the last step to those of this one, (B, K, N) each."""
        content = content_address(emitted.key, emitted.strength, memory)
        there = interpolate(content, previous, emitted.gate)
        return sharpen(shift(there, emitted.shifts, self.sources), emitted.power)

    def per_row(self, emitted: Tensor) -> Tensor:
        """(B, W M) -> (B, W, M)."""
        return emitted.reshape(-1, self.write_heads, self.width)

    def extra_repr(self) -> str:
        return f"rows={self.rows}, width={self.width}, read_heads={self.read_heads}, write_heads={self.write_heads}"
