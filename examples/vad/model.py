"""Silero's 16 kHz voice-activity network, as a user of edgeseq would write it: a plain `nn.Module`.

Its weights come from the installed package silero-vad; the definition is our own. Two things differ from the vendor's in
form and in nothing else:

- it takes T frames of B clips at once. Only the LSTM needs time in order; all before it runs over the T * B frames together.
- a frame gives the convolutions just four positions in time, so each is written as the matrix product it then is. A frame
  of one clip costs ONNX Runtime a quarter less time so than with `Conv` nodes.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn
from vendor import WEIGHTS, vendor_file

from edgeseq_export import ExportRequest

FRAME = 512  # new samples in a frame: 32 ms
CONTEXT = 64  # samples of the frame before that a frame sees again
HOP = 128
WINDOW = 2 * HOP  # samples under one window of the short-time Fourier transform
POSITIONS = (CONTEXT + FRAME + CONTEXT) // HOP - 1  # of the window in a frame: 4
BINS = WINDOW // 2 + 1
H = 128


class VoiceActivity(nn.Module):
    """Probability of speech in each frame.

    Shapes: x (T, B, 512) samples in -1..1; context (B, 64), the last samples of the frame before; h and c (1, B, 128).
    All three states are zeros at the start of a clip.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stft = nn.Linear(WINDOW, 2 * BINS, bias=False)  # real parts, then imaginary parts
        self.conv1 = nn.Linear(3 * BINS, 128)  # of three neighbouring positions, to one
        self.conv2 = nn.Linear(4 * 128, 2 * 64)  # of all four positions, to two
        self.conv3 = nn.Linear(2 * 64, 64)
        self.conv4 = nn.Linear(64, 128)
        self.lstm = nn.LSTM(128, H)
        self.head = nn.Parameter(torch.zeros(H))
        self.head_bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, context: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns probability (T, B) and the three states after the last frame."""
        T, B, _ = x.shape
        tails = torch.cat([context.unsqueeze(0), x[..., -CONTEXT:]])  # (T+1, B, 64)
        frames = torch.cat([tails[:-1], x], dim=-1)  # (T, B, 576)
        features = self.features(frames.reshape(T * B, CONTEXT + FRAME))  # (T*B, 128)
        y, (h, c) = self.lstm(features.reshape(T, B, H), (h, c))  # (T, B, 128)
        probability = torch.sigmoid(F.relu(y) @ self.head + self.head_bias)  # (T, B)
        return probability, tails[-1], h, c

    def features(self, frames: Tensor) -> Tensor:
        """What the LSTM sees of each frame: (N, 576) -> (N, 128)."""
        blocks = F.pad(frames, (0, CONTEXT), mode="reflect").reshape(-1, POSITIONS + 1, HOP)
        spectrum = self.stft(torch.cat([blocks[:, :-1], blocks[:, 1:]], dim=-1))  # (N, 4, 258)
        power = spectrum * spectrum
        magnitude = torch.sqrt(power[..., :BINS] + power[..., BINS:])  # (N, 4, 129)
        m = F.pad(magnitude, (0, 0, 1, 1))  # a position of zeros on either side
        m = torch.cat([m[:, :-2], m[:, 1:-1], m[:, 2:]], dim=-1)  # (N, 4, 387)
        m = F.relu(self.conv1(m.reshape(-1, 3 * BINS)))  # (N*4, 128)
        m = F.relu(self.conv2(m.reshape(-1, 4 * 128)))  # (N, 128)
        m = F.relu(self.conv3(m))  # (N, 64)
        return F.relu(self.conv4(m))  # (N, 128)


def pretrained() -> VoiceActivity:
    """The network with silero-vad's weights.

    They are read from the vendor's ONNX file, which is data and runs nothing. The package's own `.safetensors` holds other
    weights than its `.jit` and `.onnx` files do: with those the probabilities differ by up to 0.58.

    Raises:
        VendorMissing: silero-vad is not installed.
    """
    graph = onnx.load(vendor_file(WEIGHTS)).graph
    weights = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    model = VoiceActivity()
    model.load_state_dict(state_from_vendor(weights))
    return model.eval()


def state_from_vendor(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vendor's weights under this definition's names and in its shapes."""

    def conv(number: int) -> tuple[Tensor, Tensor]:
        prefix = f"model.encoder.{number - 1}.reparam_conv"
        return weights[f"{prefix}.weight"], weights[f"{prefix}.bias"]

    weight, bias = conv(1)
    linear = {
        "conv1": (weight.transpose(1, 2).flatten(1), bias),  # (128, 3*129): position by position
        "conv2": matrix_of_conv1d(*conv(2), stride=2, length=POSITIONS),
        "conv3": matrix_of_conv1d(*conv(3), stride=2, length=2),
        "conv4": matrix_of_conv1d(*conv(4), stride=1, length=1),
    }
    lstm = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return {
        "stft.weight": weights["model.stft.forward_basis_buffer"].squeeze(1),
        **{f"{name}.weight": weight for name, (weight, _) in linear.items()},
        **{f"{name}.bias": bias for name, (_, bias) in linear.items()},
        **{f"lstm.{name}_l0": weights[f"model.decoder.rnn.{name}"] for name in lstm},
        "head": weights["model.decoder.decoder.2.weight"].flatten(),
        "head_bias": weights["model.decoder.decoder.2.bias"].squeeze(),
    }


def matrix_of_conv1d(weight: Tensor, bias: Tensor, *, stride: int, length: int) -> tuple[Tensor, Tensor]:
    """A convolution with one zero of padding over `length` positions, as weight and bias of an `nn.Linear`.

    Its columns are what the convolution makes of each unit input. Rows and columns run over the channels of the first
    position, then of the second, and so on.
    """
    channels = weight.shape[1]
    units = torch.eye(length * channels).reshape(-1, length, channels).transpose(1, 2)
    columns = F.conv1d(units, weight, stride=stride, padding=1).transpose(1, 2)  # (length*channels, positions, out)
    return columns.flatten(1).T.contiguous(), bias.repeat(columns.shape[1])


def request() -> ExportRequest:
    """What `edgeseq export examples/vad/model.py:request` exports."""
    T, B = 6, 2
    generator = torch.Generator().manual_seed(0)
    return ExportRequest(
        model=pretrained(),
        inputs={
            "x": 0.1 * torch.randn(T, B, FRAME, generator=generator),
            "context": 0.1 * torch.randn(B, CONTEXT, generator=generator),
            "h": torch.zeros(1, B, H),
            "c": torch.zeros(1, B, H),
        },
        axes={"x": ("T", "B", None), "context": ("B", None), "h": (None, "B", None), "c": (None, "B", None)},
        state={"context": "context_out", "h": "h_out", "c": "c_out"},
        outputs=("probability", "context_out", "h_out", "c_out"),
        name="vad",
    )
