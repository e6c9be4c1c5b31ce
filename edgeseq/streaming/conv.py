"""Convolution over time that sees no frame after its output's own."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells import State
from edgeseq.streaming.window import WindowLayer


class CausalConv1d(WindowLayer):
    """`nn.Conv1d` over the last R = (K - 1)d + 1 frames, of kernel K and dilation d; parameters named and shaped as there.

        y[j] = b + sum_k W[:, :, k] x[(j+1)s - R + kd]

    The stride s is 1 mostly, and then y[t] sees x[t-R+1], ..., x[t]. State: (B, I, max(R - s, 0)), none where there is no overlap.

    Args:
        in_channels: features I of the input.
        out_channels: features O of the output.
        kernel_size: taps K.
        stride: frames s from one output to the next.
        dilation: frames d from one tap to the next.
        groups: groups of channels that are convolved apart.
        bias: whether there is a b.

    Raises:
        ValueError: the sizes make no `nn.Conv1d`.
    """

    time: ClassVar[int] = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, (kernel_size - 1) * dilation + 1, stride)
        start = nn.Conv1d(in_channels, out_channels, kernel_size, groups=groups, bias=bias)
        self.weight = start.weight  # (O, I // groups, K)
        self.bias = start.bias  # (O,)
        self.dilation = dilation
        self.groups = groups

    @classmethod
    def from_conv1d(cls, conv: nn.Conv1d) -> tuple[CausalConv1d, int]:
        """The causal layer that computes what a trained convolution does, and how many outputs later: its look-ahead.

        With P zeros padded before the start, output j of the convolution sees frames up to jd's stride: js - P + R - 1. With
        stride 1 output t + look_ahead here is output t there, look_ahead = R - 1 - P. Where s does not divide R - P, taps of zero
        weight are put behind the kernel's last until it does, and look_ahead = (R - P) / s - 1. The first look_ahead outputs
        belong to no output of the convolution; its last look_ahead outputs come with as many strides of zero frames.

        The layer has copies of the weights, in their dtype.

        Raises:
            ValueError: it is no `nn.Conv1d`, the padding is not of zeros or fills the window, or no zero taps make the stride fit.
        """
        if not isinstance(conv, nn.Conv1d):
            raise ValueError(f"{conv} is no nn.Conv1d; there is a causal form of that alone")
        (K,), (s,), (d,) = conv.kernel_size, conv.stride, conv.dilation
        R, P = (K - 1) * d + 1, _padding_before(conv)
        extra = next((n for n in range(s) if (R + n * d - P) % s == 0), None)
        if extra is None:
            raise ValueError(
                f"{conv} ends its window {R - P} frames after its stride begins, and no number of further taps makes that a "
                f"multiple of its stride {s}; train it with a padding P for which {R} - P is one"
            )
        made = cls(
            conv.in_channels, conv.out_channels, K + extra, stride=s, dilation=d, groups=conv.groups, bias=conv.bias is not None
        )
        weights: dict[str, Any] = {"weight": F.pad(conv.weight.detach(), (0, extra))}
        if conv.bias is not None:
            weights["bias"] = conv.bias.detach()
        made.to(conv.weight).load_state_dict(weights)
        return made, (made.window - P) // s - 1

    def outputs(self, frames: Tensor, state: State, steps: int) -> Tensor:
        """(T // s, B, O) from frames (B, I, H + T)."""
        y = F.conv1d(frames, self.weight, self.bias, stride=self.stride, dilation=self.dilation, groups=self.groups)
        return y.permute(2, 0, 1)

    def extra_repr(self) -> str:
        channels, _, K = self.weight.shape
        options = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        named = "".join(f", {name}={value}" for name, value in options.items() if value != 1)
        return f"{self.features}, {channels}, {K}{named}" + ("" if self.bias is not None else ", bias=False")


def _padding_before(conv: nn.Conv1d) -> int:
    """Zeros before the first frame.

    Raises:
        ValueError: others than zeros, or so many that an output sees nothing else.
    """
    (K,), (d,) = conv.kernel_size, conv.dilation
    if conv.padding_mode != "zeros":
        raise ValueError(
            f"{conv} pads with padding_mode='{conv.padding_mode}': with frames that a stream has not seen yet or no longer has; "
            "train it with padding_mode='zeros'"
        )
    if isinstance(conv.padding, str):
        # PyTorch gives the odd zero of an even window to the end.
        return 0 if conv.padding == "valid" else (K - 1) * d // 2
    (P,) = conv.padding
    if (K - 1) * d < P:
        raise ValueError(
            f"{conv} pads {P} frames before the start of a window of {(K - 1) * d + 1}: its first outputs see none of the input; "
            f"give it a padding of {(K - 1) * d} or less"
        )
    return P
