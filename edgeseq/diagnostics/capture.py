"""What a network's forward gives to its recurrent layers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from edgeseq.diagnostics.recurrence import DiagnosticsError, Layer, Recurrence, recurrences
from edgeseq.layers import Recurrent


@dataclass(frozen=True)
class Call:
    """One call of a recurrent layer, in float64 on the CPU.

    Attributes:
        layer: a copy.
        x: (T, B, I).
        state: initial state as the layer takes it, or None.
        lengths: (B,), or None.
    """

    layer: Layer
    x: Tensor
    state: Tensor | tuple[Tensor, ...] | None
    lengths: Tensor | None

    def recurrences(self) -> dict[str, Recurrence]:
        """Each layer and direction as a recurrence of its own."""
        return recurrences(self.layer, self.x, self.state, self.lengths)


def recurrent_layers(module: nn.Module) -> dict[str, Layer]:
    """Recurrent layers by module name; the module itself is called by its class.

    Raises:
        DiagnosticsError: there are none.
    """
    found: dict[str, Layer] = {}
    for name, part in module.named_modules():
        if isinstance(part, (nn.RNNBase, Recurrent)):
            found[name or type(part).__name__] = part
    if not found:
        raise DiagnosticsError(
            f"{type(module).__name__} holds no nn.RNN, nn.LSTM, nn.GRU or edgeseq.Recurrent; "
            "put a cell that runs in a loop of your own into edgeseq.Recurrent"
        )
    return found


def recorded_calls(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], sequences: int) -> dict[str, Call]:
    """The longest call of each recurrent layer that one forward in eval mode makes, with its first `sequences` sequences.

    Raises:
        DiagnosticsError: no recurrent layer, or forward calls none of them.
    """
    layers = recurrent_layers(module)
    longest: dict[str, Call] = {}

    def record(name: str, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = _call(layer, inspect.signature(layer.forward).bind(*args, **kwargs).arguments, sequences)
        if name not in longest or len(call.x) > len(longest[name].x):
            longest[name] = call

    with _recording(layers, record), _eval_mode(module), torch.no_grad():
        module(*args, **kwargs)
    if not longest:
        raise DiagnosticsError(f"forward called none of the recurrent layers: {', '.join(layers)}")
    return {name: longest[name] for name in layers if name in longest}


@contextmanager
def _recording(layers: Mapping[str, Layer], record: Any) -> Iterator[None]:
    """Calls `record` before each call of a layer."""

    def hook(name: str) -> Any:
        return lambda layer, args, kwargs: record(name, layer, args, kwargs)

    handles = [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode, and every module's own mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def _call(layer: Layer, given: Mapping[str, Any], sequences: int) -> Call:
    """The call with its batch cut to the first `sequences`."""
    plain = isinstance(layer, nn.RNNBase)
    x, state, lengths = given["input" if plain else "x"], given.get("hx" if plain else "state"), given.get("lengths")
    if isinstance(x, PackedSequence):
        x, lengths = pad_packed_sequence(x)  # (T, B, I)
    elif plain and x.dim() == 2:
        x, state = x[:, None], _each(state, lambda s: s[:, None])
    elif plain and layer.batch_first:
        x = x.transpose(0, 1)
    own: Layer = copy.deepcopy(layer).double().cpu()
    own._forward_pre_hooks.clear()
    if isinstance(own, nn.RNNBase):
        own.batch_first = False
    cut = _each(state, lambda s: _double(s[:, :sequences] if plain else s[:sequences]))
    return Call(own, _double(x[:, :sequences]), cut, None if lengths is None else lengths[:sequences].cpu().long())


def _each(state: Any, function: Any) -> Any:
    """The function of every tensor of a state that is None, a tensor or several."""
    if state is None or isinstance(state, Tensor):
        return None if state is None else function(state)
    return tuple(function(part) for part in state)


def _double(x: Tensor) -> Tensor:
    x = x.detach().cpu()
    return x.double() if x.is_floating_point() else x
