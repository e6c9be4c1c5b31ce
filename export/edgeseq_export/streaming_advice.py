"""What to say of a layer that can't be streamed: how it fails, and what to write in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import nn

from edgeseq import SequenceLayer
from edgeseq.streaming import CausalConv1d

Kind = Literal["future", "past", "summary", "state"]

_FOUND: dict[Kind, str] = {
    "future": "is not causal: what it gives for a step depends on later steps",
    "past": "forgets its past: what it gives in a chunk depends on the steps before, and it keeps nothing of them",
    "summary": "sums up all the steps it is given, and the steps of a chunk are not those of the sequence",
    "state": "is not given in a chunk the state that it returned from the chunk before",
}


class Fault(NamedTuple):
    """A layer that can't be streamed, in words as a string.

    Where the fault lies in its own forward, `within` is the submodule that gets to see it first.
    """

    name: str  # empty for the module itself
    layer: nn.Module
    kind: Kind
    within: tuple[str, nn.Module] | None

    def __str__(self) -> str:
        found = f"'{self.name}', of class {class_of(self.layer)}," if self.name else f"{class_of(self.layer)} itself"
        place = ""
        if self.within is not None:
            name, layer = self.within
            place = f" (by its own forward, before that calls '{name}', of class {class_of(layer)})"
        return f"{found} {_FOUND[self.kind]}{place}. {_way_out(self)}"


def class_of(layer: nn.Module) -> str:
    """The layer's class as users write it."""
    kind = type(layer)
    package = next((name for prefix, name in _PACKAGES.items() if kind.__module__.startswith(prefix)), "")
    return f"{package}{kind.__name__}"


_PACKAGES = {
    "torch.nn.": "nn.",
    "edgeseq.layers": "edgeseq.",
    "edgeseq.models.": "edgeseq.models.",
    "edgeseq.streaming.": "edgeseq.streaming.",
}


def _way_out(fault: Fault) -> str:
    """What to write instead."""
    if fault.kind == "state":
        return "Return each state from forward, and pair it in state={...} with the input that it continues"
    own = next((advice(fault) for kinds, advice in _ADVICE if isinstance(fault.layer, kinds)), None)
    if own is None and fault.within is not None and isinstance(fault.within[1], nn.Conv1d):
        return f"Write {_CONV} in place of padding and nn.Conv1d"
    return own or (
        "Of what a forward does over time, edgeseq.streaming has counterparts that keep a state: CausalConv1d for padding and "
        "convolution, CausalPool1d for pooling and means, WindowNorm for normalisation, FrameStack for neighbouring frames, Delay "
        "for a shift. What counts steps takes the count as a state. Attention over a sequence that is still coming has none"
    )


def _recurrent(fault: Fault) -> str:
    if fault.kind == "future":
        return "Give it one direction, from the first step to the last, and train it so"
    return "Take its state as an input of forward, call it with that, return what it returns, and pair the two in state={...}"


def _convolution(fault: Fault) -> str:
    assert isinstance(fault.layer, nn.Conv1d)
    try:
        _, look_ahead = CausalConv1d.from_conv1d(fault.layer)
    except ValueError as error:
        return f"Write {_CONV}. This one can't be converted: {error}"
    return f"Write {_CONV}; CausalConv1d.from_conv1d makes one of this layer, which gives the same outputs {look_ahead} steps later"


def _always(text: str) -> Callable[[Fault], str]:
    return lambda _: text


_CONV = "edgeseq.streaming.CausalConv1d (its state: the frames before a chunk)"
_ADVICE: tuple[tuple[tuple[type[nn.Module], ...], Callable[[Fault], str]], ...] = (
    ((nn.RNNBase, SequenceLayer), _recurrent),
    ((nn.Conv1d,), _convolution),
    (
        (nn.MultiheadAttention, nn.Transformer, nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
        _always(
            "Attention needs the whole sequence: attend to a memory that is given whole, along another axis than the stream's, or "
            "write a recurrent layer such as nn.GRU"
        ),
    ),
    (
        (nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d, nn.AvgPool1d, nn.LPPool1d, nn.MaxPool1d),
        _always("Write edgeseq.streaming.CausalPool1d, over the last frames, which it keeps as its state"),
    ),
    (
        (nn.GroupNorm, nn.InstanceNorm1d, nn.LayerNorm),
        _always("Write edgeseq.streaming.WindowNorm, over the last frames, which it keeps as its state"),
    ),
    (
        (nn.ConstantPad1d, nn.ReflectionPad1d, nn.ReplicationPad1d),
        _always(f"It pads every chunk anew: write {_CONV} in place of padding and convolution"),
    ),
)
