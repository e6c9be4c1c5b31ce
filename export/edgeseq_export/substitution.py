"""What stands in for recurrent layers and packed sequences while a module is traced.

A `PackedSequence` holds, for the duration of the trace, the padded tensor (T, B, ...) as its `data` and the lengths (B,) as its
`batch_sizes`: element-wise work on `data` and rebuilding from parts keep their meaning, and nothing is sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from edgeseq import Recurrent
from edgeseq.loops import Loop
from edgeseq_export.layer_weights import directions, operator_of
from edgeseq_export.recurrent_layer import run_recurrent
from edgeseq_export.scan import State, scan_over_time
from edgeseq_export.while_loop import run_loop
from edgeseq_runtime.errors import UnsupportedModule

ops = torch.ops.edgeseq


class Substitution:
    """The interceptor of a trace."""

    def layer(self, original: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if isinstance(module, nn.RNNBase):
            return _run_layers(module, *args, **kwargs)
        if isinstance(module, nn.RNNCellBase):
            return _run_cell(module, *args, **kwargs)
        if isinstance(module, Loop):
            return run_loop(module, *args, **kwargs)
        assert isinstance(module, Recurrent)
        return run_recurrent(module, *args, **kwargs)

    def pack(
        self, original: Callable[..., Any], input: Tensor, lengths: Any, batch_first: bool, enforce_sorted: bool
    ) -> PackedSequence:
        if not isinstance(lengths, Tensor):
            raise UnsupportedModule(
                "pack_padded_sequence is called with a Python list of lengths, which would be frozen into the graph; "
                "make the lengths a tensor input of forward and pass that tensor on"
            )
        return PackedSequence(input.transpose(0, 1) if batch_first else input, lengths.to(torch.int64))

    def pad(
        self,
        original: Callable[..., Any],
        sequence: PackedSequence,
        batch_first: bool,
        padding_value: float,
        total_length: int | None,
    ) -> tuple[Tensor, Tensor]:
        y, lengths = sequence.data, sequence.batch_sizes
        if total_length is None:
            y = ops.trim(y, lengths)
        elif not statically_known_true(total_length == y.shape[0]):
            y = ops.trim(y, lengths)
            y = F.pad(y, [0, 0] * (y.dim() - 1) + [0, total_length - y.shape[0]])
        if padding_value != 0.0 or not getattr(sequence, "zero_padded", False):
            y = torch.where(_live(y, lengths), y, padding_value)
        return (y.transpose(0, 1) if batch_first else y), lengths

    def max_pool1d(
        self,
        original: Callable[..., Any],
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Tensor:
        # PyTorch's own makes the length a constant in a trace; over a plane one row high it does not.
        kernel, step = _across(1, kernel_size), _across(1, stride or kernel_size)
        plane = F.max_pool2d(input.unsqueeze(-2), kernel, step, _across(0, padding), _across(1, dilation), ceil_mode)
        return plane.squeeze(-2)


def _across(first: int, size: Any) -> tuple[int, int]:
    """A size along a row, a number or a sequence of one, as a size over a plane."""
    (along,) = size if isinstance(size, (tuple, list)) else (size,)
    return first, along


def _live(y: Tensor, lengths: Tensor) -> Tensor:
    """True where a step lies inside its sequence: (T, B, 1, ...) for y (T, B, ...)."""
    steps = torch.arange(y.shape[0], device=y.device)
    live = steps[:, None] < lengths[None, :]
    return live.reshape(*live.shape, *[1] * (y.dim() - 2))


def _run_layers(module: nn.RNNBase, input: Any, hx: Any = None) -> tuple[Any, Any]:
    """`nn.RNN`, `nn.LSTM` or `nn.GRU`, one operator a layer."""
    packed = isinstance(input, PackedSequence)
    x = input.data if packed else input
    lengths = input.batch_sizes if packed else None
    unbatched = x.dim() == 2
    flip = module.batch_first and not packed and not unbatched
    states = _as_states(hx)
    if unbatched:
        x, states = x.unsqueeze(1), states and [s.unsqueeze(1) for s in states]
    elif flip:
        x = x.transpose(0, 1)  # (T, B, I)
    y, ends = _run_stack(module, x, lengths, states)
    if unbatched:
        y, ends = y.squeeze(1), [s.squeeze(1) for s in ends]
    elif flip:
        y = y.transpose(0, 1)
    return (y if lengths is None else _zero_padded(y, lengths)), (tuple(ends) if isinstance(module, nn.LSTM) else ends[0])


def _zero_padded(y: Tensor, lengths: Tensor) -> PackedSequence:
    """A packed sequence known to hold zeros past the lengths, as recurrent nodes leave them."""
    sequence = PackedSequence(y, lengths)
    sequence.zero_padded = True  # type: ignore[attr-defined]
    return sequence


def _run_stack(module: nn.RNNBase, x: Tensor, lengths: Tensor | None, states: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
    D = directions(module)
    run = _projected_layer if getattr(module, "proj_size", 0) else _native_layer
    ends = []
    for layer in range(module.num_layers):
        own = None
        if states is not None:
            own = states if module.num_layers == 1 else [s[layer * D : (layer + 1) * D] for s in states]
        x, *end = run(module, layer, x, lengths, own)  # (T, B, D*H), then (D, B, H) a state
        ends.append(end)
    return x, [torch.cat(of_layers) if len(of_layers) > 1 else of_layers[0] for of_layers in zip(*ends, strict=True)]


def _native_layer(
    module: nn.RNNBase, layer: int, x: Tensor, lengths: Tensor | None, states: list[Tensor] | None
) -> tuple[Tensor, ...]:
    W, R = getattr(module, f"onnx_W{layer}"), getattr(module, f"onnx_R{layer}")
    b = getattr(module, f"onnx_b{layer}", None)
    direction = "bidirectional" if module.bidirectional else "forward"
    return _native_node(module, x, (W, R, b), lengths, states, direction)


def _native_node(
    module: nn.Module,
    x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor | None],
    lengths: Tensor | None,
    states: Sequence[Tensor] | None,
    direction: str,
) -> tuple[Tensor, ...]:
    lengths = None if lengths is None else lengths.to(torch.int32)
    W, R, b = weights
    D = W.shape[0]
    h0, c0 = (*(states or ()), None, None)[:2]
    operator = operator_of(module)
    if operator == "LSTM":
        outputs = ops.lstm(x, W, R, b, lengths, h0, c0, None, direction, ["Sigmoid", "Tanh", "Tanh"] * D)
    elif operator == "GRU":
        outputs = ops.gru(x, W, R, b, lengths, h0, direction, True)
    else:
        outputs = ops.rnn(x, W, R, b, lengths, h0, direction, {"tanh": "Tanh", "relu": "Relu"}[module.nonlinearity])  # type: ignore[index]
    return tuple(outputs)


def _projected_layer(
    module: nn.RNNBase, layer: int, x: Tensor, lengths: Tensor | None, states: list[Tensor] | None
) -> tuple[Tensor, ...]:
    """A layer of `nn.LSTM(proj_size=...)`, which ONNX has no node for: one Scan a direction (Sak et al., 2014)."""
    B = x.shape[1]
    runs = []
    for direction, suffix in enumerate([f"_l{layer}", f"_l{layer}_reverse"][: directions(module)]):
        weight_hh, weight_hr = getattr(module, "weight_hh" + suffix), getattr(module, "weight_hr" + suffix)
        bias = getattr(module, "bias_ih" + suffix) + getattr(module, "bias_hh" + suffix) if module.bias else None
        projected = F.linear(x, getattr(module, "weight_ih" + suffix), bias)  # (T, B, 4H)
        if states is None:
            state: State = (x.new_zeros(B, module.proj_size), x.new_zeros(B, module.hidden_size))
        else:
            state = tuple(s[direction] for s in states)

        def step(state: State, projected: Tensor, weight_hh: Tensor = weight_hh, weight_hr: Tensor = weight_hr) -> Any:
            h, c = state
            i, f, g, o = (projected + F.linear(h, weight_hh)).chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = F.linear(torch.sigmoid(o) * torch.tanh(c), weight_hr)
            return (h, c), h

        runs.append(scan_over_time(step, state, projected, lengths, reverse=direction == 1))
    y = torch.cat([y for y, _ in runs], dim=-1) if len(runs) > 1 else runs[0][0]
    h_n, c_n = (torch.stack(ends) for ends in zip(*(ends for _, ends in runs), strict=True))
    return y, h_n, c_n


def _run_cell(module: nn.RNNCellBase, input: Tensor, hx: Any = None) -> Any:
    """`nn.RNNCell`, `nn.LSTMCell` or `nn.GRUCell` as a sequence of one step."""
    states = _as_states(hx)
    unbatched = input.dim() == 1
    x = (input.unsqueeze(0) if unbatched else input).unsqueeze(0)  # (1, B, I)
    if states is not None:
        states = [(s.unsqueeze(0) if unbatched else s).unsqueeze(0) for s in states]  # (1, B, H)
    weights = (getattr(module, "onnx_W"), getattr(module, "onnx_R"), getattr(module, "onnx_b", None))  # noqa: B009
    _, *ends = _native_node(module, x, weights, None, states, "forward")
    ends = [s.squeeze(0).squeeze(0) if unbatched else s.squeeze(0) for s in ends]
    return tuple(ends) if isinstance(module, nn.LSTMCell) else ends[0]


def _as_states(hx: Any) -> list[Tensor] | None:
    if hx is None:
        return None
    return list(hx) if isinstance(hx, (tuple, list)) else [hx]
