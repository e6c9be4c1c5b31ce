"""Recurrences as opaque PyTorch operators, and the ONNX nodes they become.

`torch.export` never sees inside these operators, so it neither unrolls a recurrence nor freezes its time axis. They exist in
graphs only: each has a shape rule that keeps time and batch symbolic, and a translation to one ONNX node, and no kernel.

All are time-major: x (T, B, I), W (D, G*H, I), R (D, G*H, H), b (D, 2*G*H), states (D, B, H), outputs (T, B, D*H).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset20
from torch import Tensor

OPSET = 20
_op: Any = opset20  # its own annotations refuse the symbolic values that it is made for

torch.library.define(
    "edgeseq::lstm",
    "(Tensor x, Tensor W, Tensor R, Tensor? b, Tensor? lengths, Tensor? h0, Tensor? c0, Tensor? P, str direction, "
    "str[] activations) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "edgeseq::gru",
    "(Tensor x, Tensor W, Tensor R, Tensor? b, Tensor? lengths, Tensor? h0, str direction, bool reset_after) -> (Tensor, Tensor)",
)
torch.library.define(
    "edgeseq::rnn",
    "(Tensor x, Tensor W, Tensor R, Tensor? b, Tensor? lengths, Tensor? h0, str direction, str activation) -> (Tensor, Tensor)",
)
torch.library.define("edgeseq::trim", "(Tensor y, Tensor lengths) -> Tensor")


def _outputs(x: Tensor, R: Tensor, states: int) -> tuple[Tensor, ...]:
    T, B, _ = x.shape
    D, _, H = R.shape
    return (x.new_empty(T, B, D * H), *(x.new_empty(D, B, H) for _ in range(states)))


def _lstm_shapes(x: Tensor, W: Tensor, R: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return _outputs(x, R, states=2)


def _gru_shapes(x: Tensor, W: Tensor, R: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return _outputs(x, R, states=1)


def _rnn_shapes(x: Tensor, W: Tensor, R: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return _outputs(x, R, states=1)


def _trim_shape(y: Tensor, lengths: Tensor) -> Tensor:
    steps = torch.library.get_ctx().new_dynamic_size(min=1)
    return y.new_empty(steps, *y.shape[1:])


torch.library.register_fake("edgeseq::lstm", _lstm_shapes)
torch.library.register_fake("edgeseq::gru", _gru_shapes)
torch.library.register_fake("edgeseq::rnn", _rnn_shapes)
torch.library.register_fake("edgeseq::trim", _trim_shape)


def _merge_directions(y: Any, directions: int) -> Any:
    """ONNX's Y (T, D, B, H) as PyTorch's (T, B, D*H)."""
    if directions == 1:
        return _op.Squeeze(y, _op.Constant(value_ints=[1]))
    # 0 copies the size of T and of B, so that no shape arithmetic is left in the graph.
    return _op.Reshape(_op.Transpose(y, perm=[0, 2, 1, 3]), _op.Constant(value_ints=[0, 0, -1]))


def _lstm_node(
    x: Any, W: Any, R: Any, b: Any, lengths: Any, h0: Any, c0: Any, P: Any, direction: str, activations: Sequence[str]
) -> Any:
    D, _, H = R.shape
    default = ["Sigmoid", "Tanh", "Tanh"] * D
    chosen = {} if list(activations) == default else {"activations": list(activations)}
    y, h_n, c_n = _op.LSTM(x, W, R, b, lengths, h0, c0, P, direction=direction, hidden_size=H, **chosen)
    return _merge_directions(y, D), h_n, c_n


def _gru_node(x: Any, W: Any, R: Any, b: Any, lengths: Any, h0: Any, direction: str, reset_after: bool) -> Any:
    D, _, H = R.shape
    # PyTorch applies the reset gate after the recurrent product (cuDNN's form), which ONNX calls linear_before_reset.
    y, h_n = _op.GRU(x, W, R, b, lengths, h0, direction=direction, hidden_size=H, linear_before_reset=int(reset_after))
    return _merge_directions(y, D), h_n


def _rnn_node(x: Any, W: Any, R: Any, b: Any, lengths: Any, h0: Any, direction: str, activation: str) -> Any:
    D, _, H = R.shape
    # Left out, the schema's default for two directions would be written into a node of one, and TensorRT refuses that.
    y, h_n = _op.RNN(x, W, R, b, lengths, h0, direction=direction, hidden_size=H, activations=[activation] * D)
    return _merge_directions(y, D), h_n


def _trim_nodes(y: Any, lengths: Any) -> Any:
    first = _op.Constant(value_ints=[0])
    return _op.Slice(y, first, _op.Cast(_op.ReduceMax(lengths, keepdims=1), to=7), first)  # 7 is INT64


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.edgeseq.lstm.default: _lstm_node,
    torch.ops.edgeseq.gru.default: _gru_node,
    torch.ops.edgeseq.rnn.default: _rnn_node,
    torch.ops.edgeseq.trim.default: _trim_nodes,
}
