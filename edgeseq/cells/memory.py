"""A cell with an explicit memory: the Neural Turing Machine (Graves, Wayne and Danihelka, 2014; *Deep Learning*, section 10.12).

Each stage of its addressing is a function of one equation of the paper. B sequences, K heads, N rows of memory, M numbers a row;
an address (B, K, N) is a weight for every row, and sums to 1 over the rows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells.cell import Cell, State
from edgeseq.cells.lstm import LSTMCell

CONTROLLERS = ("feed-forward", "lstm")
EMPTY = 1e-3  # added to the product of norms of equation 6, which is 0/0 where a row is empty
TINIEST = 1e-30  # added to a weight before its logarithm


def read(memory: Tensor, address: Tensor) -> Tensor:
    """r = Σ_i w(i) M(i), equation 2: memory (B, N, M), address (B, K, N) -> what each head reads (B, K, M)."""
    return address @ memory


def write(memory: Tensor, address: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """M(i) Π_k [1 - w_k(i) e_k] + Σ_k w_k(i) a_k, equations 3 and 4: every head erases, then every head adds.

    Memory (B, N, M), address (B, K, N), erase (B, K, M) in 0..1, add (B, K, M) -> memory (B, N, M).
    """
    kept = 1 - address.unsqueeze(-1) * erase.unsqueeze(-2)  # (B, K, N, M)
    return memory * kept.prod(dim=1) + address.transpose(1, 2) @ add


def similarity(key: Tensor, memory: Tensor) -> Tensor:
    """The cosine of each key (B, K, M) and each row of memory (B, N, M), equation 6: (B, K, N); an empty row resembles nothing."""
    norms = key.norm(dim=-1).unsqueeze(-1) * memory.norm(dim=-1).unsqueeze(-2)  # (B, K, N)
    return key @ memory.transpose(1, 2) / (norms + EMPTY)


def content_address(key: Tensor, strength: Tensor, memory: Tensor) -> Tensor:
    """softmax(β K[k, M(i)]) over the rows, equation 5: key (B, K, M), strength β > 0 (B, K, 1) -> address (B, K, N)."""
    return torch.softmax(strength * similarity(key, memory), dim=-1)


def interpolate(content: Tensor, previous: Tensor, gate: Tensor) -> Tensor:
    """g w^c + (1 - g) w, equation 7: addresses (B, K, N) by content and of the last step, gate g in 0..1 (B, K, 1)."""
    return previous + gate * (content - previous)


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
        self.input_size, self.hidden_size = input_size, hidden_size
        self.rows, self.width = rows, width
        self.read_heads, self.write_heads, self.shifts = read_heads, write_heads, shifts
        self.lstm = LSTMCell(input_size, hidden_size, squash="tanh", peepholes=False) if controller == "lstm" else None
        self.input = nn.Linear(input_size, hidden_size) if controller == "feed-forward" else None
        self.from_reads = nn.Linear(read_heads * width, hidden_size * (1 if self.lstm is None else 4), bias=False)
        self.heads = nn.Linear(hidden_size, sum(self._head_sizes))
        self.state_shapes = (
            (rows, width),
            (read_heads, rows),
            (write_heads, rows),
            (read_heads, width),
            *(() if self.lstm is None else self.lstm.state_shapes),
        )
        self.sources: Tensor
        self.register_buffer("sources", shift_sources(rows, shifts), persistent=False)

    @property
    def controller(self) -> str:
        """What computes the heads' parameters: "feed-forward" or "lstm"."""
        return "feed-forward" if self.lstm is None else "lstm"

    @property
    def output_size(self) -> int:
        """Features of the output: the controller's and those read."""
        return self.hidden_size + self.read_heads * self.width

    @property
    def _head_sizes(self) -> tuple[int, int, int]:
        """Numbers that all heads emit to find their addresses, and that the write heads emit to erase and to add."""
        written = self.write_heads * self.width
        return (self.read_heads + self.write_heads) * (self.width + self.shifts + 3), written, written

    def initial_state(self, x: Tensor) -> State:
        """An empty memory, every head at row 0; x is the whole input (T, B, I)."""
        memory, *addresses, reads, h, s = (*super().initial_state(x), None, None)[:6]
        raise NotImplementedError

    def project(self, x: Tensor) -> Tensor:
        """U x + b of the controller: (..., I) -> (..., H), of an LSTM (..., 4H)."""
        projected: Tensor = self.input(x) if self.lstm is None else self.lstm.project(x)
        return projected
