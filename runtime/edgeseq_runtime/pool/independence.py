"""Which models can be pooled: those in which the members of a batch don't see each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgeseq_runtime.errors import InputError, StreamError
from edgeseq_runtime.interface import BATCH, Interface, named_axes, shape_at
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

if TYPE_CHECKING:
    from edgeseq_runtime.backends.model import Model

Arrays = dict[str, Array]

TOLERANCE = 1e-3  # of an output's largest value; kernels for another batch size differ by 1e-6 of it
LOUD = 1e4


def require_poolable(interface: Interface) -> None:
    """Check by its declaration that a model's streams can share a batch.

    Raises:
        StreamError: it has no state; a tensor has no batch axis; a state has another axis; an output's size is computed.
    """
    if not interface.state:
        raise StreamError(
            "this model declares no state, so it has no streams to pool; export it with its state as inputs and outputs and "
            'name the pairs, for instance state={"h": "h_out", "c": "c_out"}'
        )
    for spec in (*interface.inputs, *interface.outputs):
        if spec.shape.count(BATCH) != 1:
            raise StreamError(f"a pool joins streams along the axis '{BATCH}', which must be once in each tensor; found {spec}")
    for spec in interface.state_inputs:
        others = [axis for axis in named_axes([spec]) if axis != BATCH]
        if others:
            raise StreamError(f"the state {spec} has the axes {others} besides the batch; a pool keeps states of one size: use run")
    known = dict.fromkeys(named_axes(interface.inputs), 1)
    for spec in interface.outputs:
        if shape_at(spec, known) is None:
            raise StreamError(f"the size of the output {spec} is computed by the model; a pool can't share it out: use stream")


def require_independent(model: Model, interface: Interface) -> None:
    """Check by running it that a member of a batch does not change when its neighbour does.

    A sequence of small numbers is run alone, beside one of huge numbers, and beside one of NaN. This finds what no declaration
    tells: a model quantised at run time takes one scale from the whole batch, so a loud stream would silence the others.

    Raises:
        StreamError: it does change.
    """
    sizes = {**dict.fromkeys(named_axes(interface.inputs), 1), interface.time_axis: interface.chunk}
    try:
        alone = model.run(_pair(interface, sizes, None))
        for neighbour in (LOUD, np.nan):
            _require_same(interface, alone, model.run(_pair(interface, sizes, neighbour)), neighbour)
    except InputError:
        return  # such small inputs make no sense to this model, which then can't be tried without real ones


def _require_same(interface: Interface, alone: Arrays, together: Arrays, neighbour: float) -> None:
    for spec in interface.outputs:
        ours, theirs = (_first(spec, outputs[spec.name]) for outputs in (alone, together))
        if not np.allclose(ours, theirs, rtol=0, atol=TOLERANCE * max(float(np.abs(ours).max(initial=0)), 1e-30), equal_nan=True):
            raise StreamError(
                f"the streams of this model can't share a batch: its output '{spec.name}' for one sequence changes when the other "
                f"sequence of the batch holds {neighbour:g}. Quantisation at run time does that; use session.stream() for each"
            )


def _pair(interface: Interface, sizes: dict[str, int], neighbour: float | None) -> Arrays:
    """Inputs of a small sequence, alone where there is no neighbour."""
    rng = np.random.default_rng(0)
    return {
        spec.name: np.concatenate(list(_members(interface, spec, sizes, neighbour, rng)), spec.shape.index(BATCH))
        for spec in interface.inputs
    }


def _members(
    interface: Interface, spec: TensorSpec, sizes: dict[str, int], neighbour: float | None, rng: np.random.Generator
) -> Iterator[Array]:
    shape = shape_at(spec, {**sizes, BATCH: 1})
    kind = np.dtype(spec.dtype).kind
    assert shape is not None  # inputs have no computed sizes
    if kind == "f":
        small = (0.1 * rng.standard_normal(shape)).astype(spec.dtype)
    else:
        small = np.full(shape, spec.name in interface.lengths, spec.dtype)  # a token 0; a length 1
    yield small
    if neighbour is not None:
        yield np.full(shape, neighbour, spec.dtype) if kind == "f" else small


def _first(spec: TensorSpec, array: Array) -> Array:
    first: Array = np.take(array, 0, spec.shape.index(BATCH)).astype(np.float64)
    return first
