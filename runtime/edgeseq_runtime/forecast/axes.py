"""The sizes that a model is prepared for: least, usual and greatest of each named axis."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.interface import BATCH, Interface, named_axes

USUAL_STEPS, MOST_STEPS = 100, 1000  # of a sequence, in pieces that can be streamed
MOST_SEQUENCES = 8  # at once


class AxisRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sizes of one axis: TensorRT's optimisation profile speaks of min, opt and max."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return str(self.min) if self.min == self.max else f"{self.min}:{self.opt}:{self.max}"


Ranges = dict[str, AxisRange]


def axis_ranges(interface: Interface, asked: Sequence[str] = ()) -> Ranges:
    """The range of every named axis of the inputs: what was asked for, such as "T=1:100:2000", else a default.

    Raises:
        UsageError: a text that is no range, an axis that the inputs don't have, or sizes that the model can't have.
    """
    ranges = {axis: _default(interface, axis) for axis in named_axes(interface.inputs) if axis.isidentifier()}
    values = _value_names(interface, ranges)
    for axis, found in map(parsed_range, asked):
        if axis not in ranges and axis not in values:
            has = ", ".join(ranges) or "fixed sizes only"
            raise UsageError(
                f"the model has no axis '{axis}'; its inputs have: {has}" + (f"; and values: {', '.join(values)}" if values else "")
            )
        if axis in ranges:
            ranges[axis] = found
    pieces = ranges.get(interface.time_axis)
    if pieces and interface.chunk > 1 and any(size % interface.chunk for size in (pieces.min, pieces.opt, pieces.max)):
        raise UsageError(
            f"axis {interface.time_axis} was given {pieces}, and this model takes multiples of {interface.chunk} time steps"
        )
    return ranges


def value_ranges(interface: Interface, asked: Sequence[str] = ()) -> Ranges:
    """The range of the values of every input that may set a size or how often a loop runs: whole numbers, few and fixed in number.

    Raises:
        UsageError: a text that is no range.
    """
    names = _value_names(interface, named_axes(interface.inputs))
    ranges = dict.fromkeys(names, AxisRange(1, USUAL_STEPS, MOST_STEPS))
    return ranges | {name: found for name, found in map(parsed_range, asked) if name in ranges}


def _value_names(interface: Interface, axes: Iterable[str]) -> tuple[str, ...]:
    return tuple(
        spec.name
        for spec in interface.data_inputs
        if spec.dtype in ("int32", "int64")
        and spec.name not in {*interface.lengths, *axes}
        and len(spec.shape) <= 1
        and all(isinstance(size, int) for size in spec.shape)
    )


def _default(interface: Interface, axis: str) -> AxisRange:
    if axis == BATCH:
        return AxisRange(1, 1, MOST_SEQUENCES)
    piece = interface.chunk if axis == interface.time_axis else 1
    return AxisRange(piece, piece * USUAL_STEPS, piece * MOST_STEPS)


def parsed_range(text: str) -> tuple[str, AxisRange]:
    """A name and its range, from a text such as "T=1:100:2000" or "T=1".

    Raises:
        UsageError: the text is no range, or its sizes are not in order.
    """
    found = re.fullmatch(r"(\w+)=(\d{1,9})(?::(\d{1,9}):(\d{1,9}))?", text)
    if found is None:
        raise UsageError(f"'{text}' is no range of an axis; give NAME=MIN:OPT:MAX, such as T=1:100:2000, or NAME=SIZE")
    least = int(found[2])
    ranged = AxisRange(least, int(found[3] or least), int(found[4] or least))
    if not 1 <= ranged.min <= ranged.opt <= ranged.max:
        raise UsageError(f"axis {found[1]} was given {ranged}; it must be 1 <= MIN <= OPT <= MAX")
    return found[1], ranged


def usual_sizes(ranges: Mapping[str, AxisRange]) -> dict[str, int]:
    """Each axis at its usual size."""
    return {axis: one.opt for axis, one in ranges.items()}


def greatest_sizes(ranges: Mapping[str, AxisRange]) -> dict[str, int]:
    """Each axis at its greatest."""
    return {axis: one.max for axis, one in ranges.items()}
