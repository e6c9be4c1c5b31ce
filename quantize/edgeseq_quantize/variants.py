"""The variants of a model: which layers each of them changes, how, and the gate that it is held to unless another is given."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from edgeseq_quantize.half import half_layers, in_half
from edgeseq_quantize.layers import Layer, Method, find_layers, quantise_layers
from edgeseq_runtime.bundle import LOW_PRECISION_GATES, RelativeGate
from edgeseq_runtime.errors import UsageError

# Narrower than what any correct program of 8 bits keeps (docs/low-precision.md): a variant has to be of use, not only right.
GATE = RelativeGate(relative=0.02, relative999=0.16, unequal=0.02)


class Variant(NamedTuple):
    """One way to make a model smaller."""

    name: str  # of its precision in the bundle
    text: str
    layers: Callable[[bytes], tuple[Layer, ...]]  # of a serialised model
    build: Callable[[bytes, Collection[str]], bytes]  # a serialised model with the named layers changed
    gate: RelativeGate = GATE
    by_layers: bool = True  # changes its layers alone; else all the rest, too, and layers of any size
    timed: bool = True  # whether what it takes on this CPU says anything


def _by_integers(name: str, text: str, method: Method) -> Variant:
    return Variant(
        name=name,
        text=text,
        layers=lambda model: find_layers(model, method),
        build=lambda model, names: quantise_layers(model, names, method),
    )


def _in_half(model: bytes, names: Collection[str]) -> bytes:
    return in_half(model, keep={layer.name for layer in half_layers(model)} - set(names))


VARIANTS = {
    one.name: one
    for one in (
        _by_integers("int8", "LSTM by ONNX Runtime's own operator of integers; GRU, RNN and products as w8", Method(8, True)),
        _by_integers("w8", "8-bit weights, and every row rounded by itself: members of a batch stay independent", Method(8, False)),
        _by_integers("w4", "as w8, with 4-bit weights", Method(4, False)),
        Variant(
            name="fp16",
            text="for GPUs: every float in half precision, recurrences kept in float32 where they must be; not timed here",
            layers=half_layers,
            build=_in_half,
            gate=LOW_PRECISION_GATES["fp16"],
            by_layers=False,
            timed=False,
        ),
    )
}


def variants_named(names: Collection[str]) -> tuple[Variant, ...]:
    """The variants of these names.

    Raises:
        UsageError: there is no such variant, or none is named.
    """
    unknown = [name for name in names if name not in VARIANTS]
    if unknown or not names:
        raise UsageError(f"there is no variant {', '.join(map(repr, unknown)) or '(none named)'}; there are: {', '.join(VARIANTS)}")
    return tuple(VARIANTS[name] for name in VARIANTS if name in names)
