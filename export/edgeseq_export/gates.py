"""Gate orders, written once, and PyTorch's weights laid out as ONNX's recurrent operators take them.

A PyTorch layer stacks its gates along the first axis of `weight_ih` and `weight_hh` and keeps two biases; ONNX stacks the
directions first, orders the gates otherwise and takes both biases in one tensor. Sources: the documentation of `nn.LSTM` and
`nn.GRU`; the ONNX operators LSTM, GRU and RNN, version 14.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# In ONNX's letters i, o, f, c for LSTM (PyTorch's g is ONNX's c) and z, r, h for GRU (PyTorch's n is ONNX's h).
TORCH_GATES = {"LSTM": "ifco", "GRU": "rzh", "RNN": "h"}
ONNX_GATES = {"LSTM": "iofc", "GRU": "zrh", "RNN": "h"}
TORCH_PEEPHOLES = "ifo"
ONNX_PEEPHOLES = "iof"


def reorder(stacked: Tensor, source: str, target: str) -> Tensor:
    """Blocks along the first axis, one a letter of `source`, put in the order of `target`."""
    blocks = dict(zip(source, stacked.chunk(len(source)), strict=True))
    return torch.cat([blocks[gate] for gate in target])


def onnx_weights(operator: str, directions: Sequence[Tensor]) -> Tensor:
    """`weight_ih` or `weight_hh` of each direction, (G*H, I): ONNX's W or R, (D, G*H, I)."""
    return torch.stack([reorder(w, TORCH_GATES[operator], ONNX_GATES[operator]) for w in directions])


def onnx_biases(operator: str, input_biases: Sequence[Tensor], hidden_biases: Sequence[Tensor]) -> Tensor:
    """Both biases of each direction, (G*H,): ONNX's B, (D, 2*G*H)."""
    order = TORCH_GATES[operator], ONNX_GATES[operator]
    return torch.stack([torch.cat([reorder(b, *order) for b in pair]) for pair in zip(input_biases, hidden_biases, strict=True)])


def onnx_peepholes(peephole: Tensor) -> Tensor:
    """Peepholes (3, H) for i, f, o: ONNX's P, (1, 3*H)."""
    return reorder(peephole, TORCH_PEEPHOLES, ONNX_PEEPHOLES).reshape(1, -1)
