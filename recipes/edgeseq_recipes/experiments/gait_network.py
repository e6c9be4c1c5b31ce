"""The phase of the gait from a hip sensor: a causal convolution, a GRU, and two readouts; and several such networks together."""

from __future__ import annotations

from collections.abc import Sequence

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


class GaitEnsemble(nn.Module):
    """Networks that start from weights of their own; together they say the mean of what each says.

    What one of them has wrong by chance, the others have not (model averaging: Goodfellow et al., Deep Learning, section 7.11).

    Args:
        members: M networks of the same sizes.
    """

    def __init__(self, members: Sequence[GaitNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor, context: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `GaitNetwork.forward`, with one state for each member: h and h_out are (M, B, H)."""
        found = [member(x, context, own) for member, own in zip(self.members, h[:, None].unbind(), strict=True)]
        now, ahead, contexts, states = zip(*found, strict=True)
        mean_now, mean_ahead = torch.stack(now).mean(dim=0), torch.stack(ahead).mean(dim=0)  # (T, B, 2) each
        return unit(mean_now), unit(mean_ahead), contexts[0], torch.cat(states)

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """Context, which the members share, and h of streams that begin."""
        first = self.members[0]
        assert isinstance(first, GaitNetwork)
        context, h = first.start(batch)
        return context, h.repeat(len(self.members), 1, 1)


def unit(vector: Tensor) -> Tensor:
    """The vector (..., 2) at length 1."""
    return vector / torch.sqrt((vector * vector).sum(dim=-1, keepdim=True) + 1e-12)


def streaming_request(network: GaitNetwork | GaitEnsemble, name: str = "gait-phase") -> ExportRequest:
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
