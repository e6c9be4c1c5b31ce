"""A piece of a stream's input, checked before the model sees it."""

from __future__ import annotations

from collections.abc import Mapping

from edgeseq_runtime.errors import InputError
from edgeseq_runtime.interface import Interface
from edgeseq_runtime.tensors import check_inputs
from edgeseq_runtime.tensors.spec import Array


def check_piece(
    interface: Interface, inputs: Mapping[str, Array], held: Mapping[str, Array] | None = None
) -> tuple[dict[str, Array], dict[str, int]]:
    """The arrays of a step as the model takes them, those held included, and the sizes of their named axes.

    Args:
        interface: of the model.
        inputs: every input but the state's and those held.
        held: inputs that the stream keeps, checked before.

    Raises:
        InputError: an input does not fit, is the stream's own business, or has steps that are no multiple of the model's `chunk`.
    """
    if isinstance(inputs, Mapping):
        carried = [name for name in inputs if name in interface.state]
        if carried:
            raise InputError(f"the stream keeps {carried} itself; leave them out, or set the stream's state before the step")
        twice = [name for name in inputs if name in (held or {})]
        if twice:
            raise InputError(f"the stream holds {twice}; leave them out of the step, or hold others: stream.hold({{...}})")
        inputs = {**inputs, **(held or {})}
    checked, sizes = check_inputs(interface.data_inputs, inputs, interface.lengths)
    steps = sizes.get(interface.time_axis, interface.chunk)
    if steps % interface.chunk:
        raise InputError(f"a piece of {steps} steps was given; this model streams in multiples of {interface.chunk} steps")
    return checked, sizes
