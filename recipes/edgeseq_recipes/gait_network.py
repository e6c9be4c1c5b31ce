"""The phase of the gait from a hip sensor: a causal convolution, a GRU, and two readouts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseq_export import ExportRequest

INPUTS = 2  # angle, velocity
LEAD = 20  # rows that `ahead` is ahead by
OUTPUTS = ("now", "ahead", "context_out", "h_out")


class GaitNetwork(nn.Module):
    """Phase now and `LEAD` rows ahead, as sin and cos, at every row; nothing later than the row is looked at.

    Args:
        mean, scale: (2,) of the signal, which is normalised inside.
        channels: of the convolution.
        width: rows that the convolution sees.
        hidden: H of the GRU.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, *, channels: int = 16, width: int = 9, hidden: int = 32) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.conv = nn.Conv1d(INPUTS, channels, width)
        self.gru = nn.GRU(channels, hidden)
        self.readout = nn.Linear(hidden, 4)

    def forward(self, x: Tensor, context: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A piece of the signal, of any length.

        Args:
            x: (T, B, 2): angle in rad, velocity in rad/s.
            context: (width - 1, B, 2): the rows before x; zeros at first.
            h: (1, B, H): zeros at first.

        Returns:
            now, ahead: (T, B, 2): sin, cos. context_out, h_out: to go on with.
        """
        T, _, _ = x.shape
        rows = torch.cat([context, x])  # (width - 1 + T, B, 2)
        normal = (rows - self.mean) / self.scale
        seen = torch.tanh(self.conv(normal.permute(1, 2, 0)))  # (B, C, T)
        y, h_out = self.gru(seen.permute(2, 0, 1), h)  # (T, B, H)
        now, ahead = self.readout(y).split(2, dim=-1)  # (T, B, 2) each
        return unit(now), unit(ahead), rows[T:], h_out

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """Context and h of streams that begin."""
        like = self.readout.weight
        return like.new_zeros(self.conv.kernel_size[0] - 1, batch, INPUTS), like.new_zeros(1, batch, self.gru.hidden_size)


def unit(vector: Tensor) -> Tensor:
    """The vector (..., 2) at length 1."""
    return vector / torch.sqrt((vector * vector).sum(dim=-1, keepdim=True) + 1e-12)


def streaming_request(network: GaitNetwork, name: str = "gait-phase") -> ExportRequest:
    """What exports it: time and batch dynamic, the convolution's context and h as state."""
    x = torch.randn(12, 3, INPUTS)
    context, h = network.start(3)
    return ExportRequest(
        network,
        {"x": x, "context": torch.randn_like(context), "h": torch.zeros_like(h)},
        axes={"x": ("T", "B", None), "context": (None, "B", None), "h": (None, "B", None)},
        state={"context": "context_out", "h": "h_out"},
        outputs=OUTPUTS,
        name=name,
    )
