"""A network with an explicit memory (*Deep Learning*, section 10.12)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeseq.cells import NTMCell, State
from edgeseq.layers import Recurrent


class NeuralTuringMachine(nn.Module):
    """A Neural Turing Machine run over time, with an affine readout of its controller and of what its heads read.

    Args:
        cell: controller, heads and memory.
        output_size: features O of the output.
    """

    def __init__(self, cell: NTMCell, output_size: int) -> None:
        super().__init__()
        self.cell = cell
        self.layer = Recurrent(cell)
        self.readout = nn.Linear(cell.output_size, output_size)

    def forward(self, x: Tensor, state: Sequence[Tensor] | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """X (T, B, I), the cell's state and `lengths` (B,) -> outputs (T, B, O) and the state after the last step."""
        y, end = self.layer(x, state, lengths)
        logits: Tensor = self.readout(y)  # (T, B, O)
        return logits, end


class StreamingMachine(nn.Module):
    """A Neural Turing Machine whose state has a name each, as an exported graph needs it.

    A stream begins with zeros, and an address of zeros, which no step can give, is taken for the initial one: row 0.
    """

    def __init__(self, machine: NeuralTuringMachine) -> None:
        super().__init__()
        self.machine = machine

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        read_address: Tensor,
        write_address: Tensor,
        reads: Tensor,
        h: Tensor | None = None,
        s: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """X (T, B, I) and the state, (h, s) where the controller is an LSTM -> outputs (T, B, O) and each state's next value."""
        controller = () if h is None or s is None else (h, s)
        state = (memory, begun(read_address), begun(write_address), reads, *controller)
        logits, end = self.machine(x, state, lengths)
        return logits, *end


def begun(address: Tensor) -> Tensor:
    """Addresses (B, K, N), where they are zeros the initial one."""
    first = torch.eye(1, address.shape[-1], dtype=address.dtype, device=address.device)  # (1, N)
    return torch.where(address.sum(dim=-1, keepdim=True) > 0, address, first)
