"""Calls of recurrent layers, cells, packing functions and one pooling, diverted on one thread for the duration of a block.

An exporter has to see every such call however the user's module makes it: through a subclass that calls `super().forward`,
through a name imported long ago, through a shared layer. So the classes' `forward` and the functions' code are diverted at
their source. A call that does not come from an intercepting context runs PyTorch's own code, so other threads notice nothing.
"""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils import rnn as torch_packing

from edgeseq import Recurrent
from edgeseq.loops import Loop

LAYERS: tuple[type[nn.Module], ...] = (nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell, Recurrent, Loop)

# Diverting is process-wide; exports therefore take turns.
_installing = threading.RLock()


class Interceptor(Protocol):
    """What is called instead; `original` is what would have been."""

    def layer(self, original: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any: ...

    def pack(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...

    def pad(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...

    def max_pool1d(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


_active: ContextVar[Interceptor | None] = ContextVar("edgeseq_interceptor", default=None)


def _copy_of(function: types.FunctionType) -> types.FunctionType:
    copy = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_pack_original = _copy_of(torch_packing.pack_padded_sequence)  # type: ignore[arg-type]
_pad_original = _copy_of(torch_packing.pad_packed_sequence)  # type: ignore[arg-type]


# These two lend their code to PyTorch's functions, whose globals they then run under: hence the imports inside.
def _pack_stand_in(input, lengths, batch_first=False, enforce_sorted=True):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    from edgeseq_export.interception import _divert_pack

    return _divert_pack(input, lengths, batch_first, enforce_sorted)


def _pad_stand_in(sequence, batch_first=False, padding_value=0.0, total_length=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    from edgeseq_export.interception import _divert_pad

    return _divert_pad(sequence, batch_first, padding_value, total_length)


def _divert_pack(*args: Any) -> Any:
    interceptor = _active.get()
    return _pack_original(*args) if interceptor is None else interceptor.pack(_pack_original, *args)


def _divert_pad(*args: Any) -> Any:
    interceptor = _active.get()
    return _pad_original(*args) if interceptor is None else interceptor.pad(_pad_original, *args)


_max_pool1d_original = torch.max_pool1d


def _max_pool1d_stand_in(*args: Any, **kwargs: Any) -> Any:
    interceptor = _active.get()
    if interceptor is None:
        return _max_pool1d_original(*args, **kwargs)
    return interceptor.max_pool1d(_max_pool1d_original, *args, **kwargs)


def _diverted_forward(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        interceptor = _active.get()
        if interceptor is None:
            return original(self, *args, **kwargs)
        return interceptor.layer(original, self, *args, **kwargs)

    return forward


@contextmanager
def intercepted(interceptor: Interceptor) -> Iterator[None]:
    """Divert this thread's calls to `interceptor` until the block ends."""
    with _installing:
        functions: tuple[tuple[Any, Any], ...] = (
            (torch_packing.pack_padded_sequence, _pack_stand_in),
            (torch_packing.pad_packed_sequence, _pad_stand_in),
        )
        codes = [function.__code__ for function, _ in functions]
        forwards = [layer.__dict__["forward"] for layer in LAYERS]
        token = _active.set(interceptor)
        try:
            for layer, forward in zip(LAYERS, forwards, strict=True):
                layer.forward = _diverted_forward(forward)
            for function, stand_in in functions:
                function.__code__ = stand_in.__code__
            torch.max_pool1d = _max_pool1d_stand_in
            yield
        finally:
            torch.max_pool1d = _max_pool1d_original
            for (function, _), code in zip(functions, codes, strict=True):
                function.__code__ = code
            for layer, forward in zip(LAYERS, forwards, strict=True):
                layer.forward = forward
            _active.reset(token)
