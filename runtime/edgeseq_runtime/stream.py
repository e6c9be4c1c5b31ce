"""Feed a model piece by piece, its state kept between the pieces.

Each state tensor has two buffers, kept where the model computes. One call is bound to read the first and write the second, another
to read the second and write the first; a step runs the one whose turn it is, so state is never copied. Inputs and outputs have
buffers of their own, made when a chunk of some length is seen first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeseq_runtime.errors import InputError, StreamError
from edgeseq_runtime.interface import BATCH, Interface, named_axes, shape_at, zeros_at
from edgeseq_runtime.pieces import check_piece
from edgeseq_runtime.snapshot import pack_snapshot, unpack_snapshot
from edgeseq_runtime.tensors import KnownInputs, TensorSpec, check_inputs
from edgeseq_runtime.tensors.spec import Array
from edgeseq_runtime.timing import KEPT, StepClock, StepTimes

if TYPE_CHECKING:
    from edgeseq_runtime.backends.model import BoundCall, Buffer, Model

MAX_CHUNK_SIZES = 16  # sets of buffers kept; the one unused longest makes room for a new one

Shapes = tuple[tuple[int, ...], ...]


class Chunk(NamedTuple):
    """What a step on inputs of certain shapes needs: buffers, and the two calls bound to them and to the state."""

    known: KnownInputs  # copies what it takes to the buffers
    buffers: dict[str, Array]  # of the inputs
    outputs: dict[str, Array]  # without those whose size the model computes
    computed: bool  # whether there are such
    calls: tuple[BoundCall, BoundCall]


class Stream:
    """One stream of `batch` sequences. Made by `Session.stream`.

    A stream belongs to one thread at a time; streams of one session are independent and may run at the same time.
    """

    def __init__(self, model: Model, interface: Interface, batch: int, identity: str = "") -> None:
        _require_state(interface)
        if not isinstance(batch, int) or batch < 1:
            raise StreamError(f"a stream of batch {batch} was asked for; give 1 or more")
        self.batch = batch
        self._model = model
        self._interface = interface
        self._identity = identity
        self._clock = StepClock()
        self._names = tuple(spec.name for spec in interface.data_inputs)
        self._held: dict[str, Array] = {}
        self._sizes = dict.fromkeys(named_axes(interface.state_inputs), batch)
        self._buffers = (self._zero_state(), self._zero_state())
        self._turn = 0  # which of the two buffers holds the state
        self._chunks: OrderedDict[Shapes, Chunk] = OrderedDict()
        self._chunk: Chunk | None = None
        self._busy = threading.Lock()

    def step(self, inputs: Mapping[str, Array], *, copy: bool = True) -> dict[str, Array]:
        """Feed the next piece of the sequences, of any length; the state goes on from the last one.

        Args:
            inputs: every input but the state's and those held, with the stream's batch, of a multiple of the model's `chunk` steps
                (mostly 1).
            copy: True gives arrays of the caller's own. False gives the stream's own buffers, good until its next step, and
                allocates nothing: on inputs of the names, dtypes and shapes of the last step it makes integers and tuples, less
                than 2 KiB at a time, all gone when it returns. Outputs whose size the model computes, such as `max(lengths)`, are
                allocated in any case.

        Returns:
            Every output but the state's, for which see `state`.

        Raises:
            InputError: an input does not fit; the state is as before.
            StreamError: another thread is using this stream.
        """
        if not self._busy.acquire(False):
            raise _two_threads()
        try:
            start = perf_counter_ns()
            chunk = self._chunk
            if chunk is None or not chunk.known.take(inputs):
                chunk = self._chunk = self._known_chunk(inputs) or self._checked_chunk(inputs)
            call = chunk.calls[self._turn]
            call()
            self._turn = 1 - self._turn
            outputs = chunk.outputs
            if copy:
                outputs = {}
                for name in chunk.outputs:  # as a loop: a comprehension is one more call before Python 3.12
                    outputs[name] = chunk.outputs[name].copy()
            if chunk.computed:
                outputs = outputs | call.computed()
            clock = self._clock
            clock.ring[clock.steps % KEPT] = perf_counter_ns() - start
            clock.steps += 1
            return outputs
        finally:
            self._busy.release()

    @property
    def times(self) -> StepTimes:
        """How many steps there were, and what the last of them took, checks and copies included."""
        return self._clock.times()

    def hold(self, inputs: Mapping[str, Array]) -> None:
        """Give inputs that stay the same from step to step, such as a memory to attend to; the steps that follow leave them out.

        They are copied once. Holding others takes their place, `hold({})` ends it; `reset` and `restore` leave them as they are.

        Raises:
            InputError: a name is no input of a step or has the time axis, or an array does not fit; what was held still is.
        """
        interface = self._interface
        specs = [spec for spec in interface.data_inputs if spec.name in inputs]
        moving = [spec.name for spec in specs if interface.time_position(spec) is not None or spec.name in interface.step_lengths]
        if moving or len(specs) < len(inputs):
            raise InputError(
                f"{moving or sorted(set(inputs) - {spec.name for spec in specs})} can't be held; what a stream can hold are the "
                f"inputs without the time axis '{interface.time_axis}': {[s.name for s in self._holdable()]}"
            )
        checked, sizes = check_inputs(specs, inputs, interface.lengths)
        self._require_batch(sizes)
        self._acquire()
        try:
            self._held = {name: array.copy(order="C") for name, array in checked.items()}
            self._names = tuple(spec.name for spec in interface.data_inputs if spec.name not in checked)
            self._chunks.clear()
            self._chunk = None
        finally:
            self._busy.release()

    def _holdable(self) -> list[TensorSpec]:
        interface = self._interface
        return [s for s in interface.data_inputs if interface.time_position(s) is None and s.name not in interface.step_lengths]

    def reset(self) -> None:
        """Set the state to zeros."""
        self._acquire()
        try:
            for buffer in self._buffers[self._turn].values():
                buffer.clear()
        finally:
            self._busy.release()

    @property
    def state(self) -> dict[str, Array]:
        """A copy of the state by input name. Setting it copies a snapshot in, checked first.

        Raises:
            InputError: when set, a name is missing or unknown, or a dtype or shape differs; the state is as before.
        """
        self._acquire()
        try:
            return {name: buffer.read() for name, buffer in self._buffers[self._turn].items()}
        finally:
            self._busy.release()

    @state.setter
    def state(self, snapshot: Mapping[str, Array]) -> None:
        checked, sizes = check_inputs(self._interface.state_inputs, snapshot)
        self._require_batch(sizes)
        self._acquire()
        try:
            for name, buffer in self._buffers[self._turn].items():
                buffer.write(checked[name])
        finally:
            self._busy.release()

    def select(self, rows: Array) -> None:
        """Go on with other sequences of the stream: number i becomes a copy of what number `rows[i]` was.

        Raises:
            InputError: rows are not as many integers as the batch, each of a sequence of the stream; the state is as before.
        """
        order = np.asarray(rows)
        fits = order.shape == (self.batch,) and np.issubdtype(order.dtype, np.integer)
        if not fits or order.min() < 0 or order.max() >= self.batch:
            raise InputError(f"rows are {order!r}; give {self.batch} integers from 0 to {self.batch - 1}")
        self._acquire()
        try:
            old, new = self._buffers[self._turn], self._buffers[1 - self._turn]
            for spec in self._interface.state_inputs:
                if BATCH in spec.shape:
                    new[spec.name].take(old[spec.name], order.astype(np.intp), spec.shape.index(BATCH))
                else:
                    new[spec.name].write(old[spec.name].read())
            self._turn = 1 - self._turn
        finally:
            self._busy.release()

    def snapshot(self) -> bytes:
        """The state as bytes that outlive the process; `restore` takes them in any stream of the same bundle and precision."""
        return pack_snapshot(self._identity, self.state)

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot.

        Raises:
            SnapshotError: the bytes are no snapshot, are damaged, or belong to another bundle or precision; the state is as before.
            InputError: it was taken of another batch; the state is as before.
        """
        self.state = unpack_snapshot(snapshot, self._identity)

    def _acquire(self) -> None:
        if not self._busy.acquire(False):
            raise _two_threads()

    def _known_chunk(self, inputs: Mapping[str, Array]) -> Chunk | None:
        """The chunk for inputs that only repeat names, dtypes and shapes that have passed the full check, holding them."""
        if not isinstance(inputs, Mapping):
            return None
        shapes = self._shapes(inputs)
        chunk = self._chunks.get(shapes)
        if chunk is None or not chunk.known.take(inputs):
            return None
        self._chunks.move_to_end(shapes)
        return chunk

    def _checked_chunk(self, inputs: Mapping[str, Array]) -> Chunk:
        """The chunk for inputs about which everything has been checked, holding them."""
        checked, sizes = check_piece(self._interface, inputs, self._held)
        self._require_batch(sizes)
        shapes = self._shapes(checked)
        chunk = self._chunks.get(shapes)
        if chunk is None:
            chunk = self._chunks[shapes] = self._new_chunk(checked, {**self._sizes, **sizes})
            if len(self._chunks) > MAX_CHUNK_SIZES:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(shapes)
        for name, buffer in chunk.buffers.items():
            buffer[...] = checked[name]
        return chunk

    def _shapes(self, inputs: Mapping[str, Array]) -> Shapes:
        """Of a step's inputs; of what is no array there is none."""
        return tuple(inputs[name].shape for name in self._names if isinstance(inputs.get(name), np.ndarray))

    def _require_batch(self, sizes: Mapping[str, int]) -> None:
        for axis, size in self._sizes.items():
            if sizes.get(axis, size) != size:
                raise InputError(
                    f"axis '{axis}' has size {sizes[axis]}, the stream was made for {size}; "
                    f"make another: session.stream(batch={sizes[axis]})"
                )

    def _new_chunk(self, arrays: Mapping[str, Array], sizes: dict[str, int]) -> Chunk:
        interface = self._interface
        own = {name: np.empty(arrays[name].shape, arrays[name].dtype) for name in self._names}
        inputs = {**own, **self._held}
        declared = {spec.name: zeros_at(spec, sizes) for spec in interface.data_outputs}
        outputs = {name: array for name, array in declared.items() if array is not None}
        first, second = ({name: buffer.bound for name, buffer in state.items()} for state in self._buffers)
        specs = [spec for spec in interface.data_inputs if spec.name in own]
        return Chunk(
            known=KnownInputs(specs, arrays, sizes, interface.lengths, own),
            buffers=own,
            outputs=outputs,
            computed=len(outputs) < len(declared),
            calls=(
                self._model.bind({**inputs, **first}, {**declared, **_continued(interface, second)}),
                self._model.bind({**inputs, **second}, {**declared, **_continued(interface, first)}),
            ),
        )

    def _zero_state(self) -> dict[str, Buffer]:
        specs = self._interface.state_inputs
        zeros = {spec.name: np.zeros(shape_at(spec, self._sizes) or (), spec.dtype) for spec in specs}
        return {name: self._model.buffer(name, array) for name, array in zeros.items()}


def _two_threads() -> StreamError:
    return StreamError("two threads use one stream at the same time; give each its own: session.stream()")


def _require_state(interface: Interface) -> None:
    if not interface.state:
        raise StreamError(
            "this model declares no state, so it can't be fed piece by piece; export it with its state as inputs and "
            'outputs and name the pairs, for instance state={"h": "h_out", "c": "c_out"}'
        )
    axes = named_axes(interface.state_inputs)
    others = [axis for axis in axes if axis != BATCH]
    if others and (len(axes) > 1 or BATCH in named_axes(interface.inputs) or not others[0].isidentifier()):
        raise StreamError(f"the state has the axes {list(axes)}; a stream can only choose the batch, '{BATCH}': use run")


def _continued(interface: Interface, buffers: Mapping[str, Any]) -> dict[str, Any]:
    """What is bound for state by the name of the output that is written to them."""
    return {output: buffers[name] for name, output in interface.state.items()}
