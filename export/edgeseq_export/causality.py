"""Which layer keeps a module from being streamed, and what to write in its place.

The module runs in float64, on a whole sequence and on its chunks with the states carried, and every submodule's inputs and
outputs are kept. The layer at fault is the first to finish whose inputs are the same both ways and whose outputs are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeseq import Recurrent
from edgeseq_export.reference import evaluate64, float64_copy
from edgeseq_export.request import BATCH
from edgeseq_export.streaming_advice import Fault, Kind, class_of
from edgeseq_export.subject import Subject

Tensors = dict[str, Tensor]

ATTEMPTS = 4  # draws on which a fault may show
TOLERANCE = 1e-9  # of a tensor's largest value
OTHER_SIZE = 8  # of axes that are neither time nor batch


class Call(NamedTuple):
    """One call of a submodule."""

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]


def find_fault(subject: Subject, T: str, chunks: Sequence[int]) -> Fault | None:
    """The first layer whose outputs differ between a sequence along axis T and its chunks; None where none can be made out."""
    model = float64_copy(subject.model)
    for seed in range(ATTEMPTS):
        try:
            fault = _fault_on(_Runs(subject, model, T, chunks, seed))
        # The user's forward can raise anything at sizes, such as a batch of one, that it was not written for.
        except Exception:
            return None
        if fault is not None:
            return fault
    return None


def failing_layer(subject: Subject, T: str, steps: int) -> str:
    """The innermost submodule that raises at a length of T, in words; empty where none does."""
    model = float64_copy(subject.model)
    with _watched(model) as watch:
        try:
            _Runs(subject, model, T, (steps,), 0).whole()
        # The user's forward can raise anything at a length that it was not written for.
        except Exception:
            name = next((name for name, _ in reversed(watch.open) if name), "")
            return f"'{name}', of class {class_of(model.get_submodule(name))}" if name else ""
    return ""


class _Runs:
    """The runs of a module on one draw. The batch is one sequence, so that time stays one axis where axes are flattened."""

    def __init__(self, subject: Subject, model: nn.Module, T: str, chunks: Sequence[int], seed: int) -> None:
        self.subject = subject
        self.model = model
        self.T = T
        self.chunks = chunks
        self.steps = sum(chunks)
        sizes = {axis: 1 if axis == BATCH else OTHER_SIZE for axis in subject.request.sizes()} | {T: self.steps}
        draw = subject.draws(seed=4000 + seed)
        self.inputs = self._of_length(draw(sizes), self.steps)
        self._other = self._of_length(draw(sizes), self.steps)

    def whole(self) -> list[Call]:
        """The calls on the whole sequence."""
        return self._run(self.inputs)[0]

    def in_chunks(self) -> list[list[Call]]:
        """The calls on each chunk, its state that of the chunk before."""
        calls, start = [], 0
        state = {name: self.inputs[name] for name in self.subject.request.state or {}}
        for steps in self.chunks:
            chunk = {name: self._cut(name, tensor, start, steps) for name, tensor in self.inputs.items()}
            made, outputs = self._run({**self._of_length(chunk, steps), **state})
            state = {source: outputs[target] for source, target in (self.subject.request.state or {}).items()}
            calls.append(made)
            start += steps
        return calls

    def with_another_end(self, start: int) -> list[Call]:
        """The calls on a sequence whose steps from `start` on are others."""

        def spliced(name: str, tensor: Tensor) -> Tensor:
            if self.T not in self.subject.kinds[name].axes:
                return tensor
            kept, other = self._cut(name, tensor, 0, start), self._cut(name, self._other[name], start, self.steps - start)
            return torch.cat([kept, other], dim=self.subject.kinds[name].axes.index(self.T))

        return self._run({name: spliced(name, tensor) for name, tensor in self.inputs.items()})[0]

    def _run(self, inputs: Mapping[str, Tensor]) -> tuple[list[Call], Tensors]:
        with _watched(self.model) as watch:
            outputs = evaluate64(self.model, inputs, self.subject.dtypes)
        return watch.calls, dict(zip(self.subject.output_names, outputs, strict=True))

    def _cut(self, name: str, tensor: Tensor, start: int, steps: int) -> Tensor:
        axes = self.subject.kinds[name].axes
        return tensor.narrow(axes.index(self.T), start, steps) if self.T in axes else tensor

    def _of_length(self, inputs: Tensors, steps: int) -> Tensors:
        """The inputs with lengths that fill the time axis."""
        counting = {name for name, axis in self.subject.lengths.items() if axis == self.T}
        return {name: torch.full_like(tensor, steps) if name in counting else tensor for name, tensor in inputs.items()}


class _Watch:
    """Calls in the order in which they end, and those that have begun."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.open: list[tuple[str, list[Tensor]]] = []

    def begin(self, name: str) -> Callable[..., None]:
        return lambda _module, args, kwargs: self.open.append((name, _tensors((args, kwargs))))

    def end(self, _module: nn.Module, _args: Any, outputs: Any) -> None:
        self.calls.append(Call(*self.open.pop(), _tensors(outputs)))


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Watch]:
    """Every call in the model but those inside a `Recurrent`, whose steps are calls of their own."""
    watch, hooks = _Watch(), []
    inside = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, Recurrent))
    try:
        for name, module in model.named_modules():
            if not name.startswith(inside):
                hooks.append(module.register_forward_pre_hook(watch.begin(name), with_kwargs=True))
                hooks.append(module.register_forward_hook(watch.end))
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(values: Any) -> list[Tensor]:
    """Copies, because what comes later may write in place."""
    return [leaf.detach().clone() for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _fault_on(runs: _Runs) -> Fault | None:
    whole, pieces = runs.whole(), runs.in_chunks()
    names = [call.name for call in whole]
    if any([call.name for call in piece] != names for piece in pieces):
        return None
    for index, (call, *parts) in enumerate(zip(whole, *pieces, strict=True)):
        if _same_inputs(call, parts) and not _same_outputs(call, parts):
            layer = runs.model.get_submodule(call.name)
            return Fault(call.name, layer, _kind(runs, index, call, parts), _first_inside(runs, index, whole, pieces))
    return None


def _same_inputs(call: Call, parts: Sequence[Call]) -> bool:
    """The chunks' inputs are the whole's; of what has no time axis the first chunk's. Whole numbers without one may be lengths."""
    found = []
    for tensor, pieces in zip(call.inputs, zip(*(part.inputs for part in parts), strict=True), strict=True):
        if tensor.is_floating_point() or _varying(tensor, pieces):
            found.append(_same(tensor, pieces, pieces[0]))
    # What varies along two axes, such as a mask of steps by steps, can't be compared and says nothing.
    known = [same for same in found if same is not None]
    return all(known) and (bool(known) or not found)


def _same_outputs(call: Call, parts: Sequence[Call]) -> bool:
    """The chunks' outputs are the whole's; of what has no time axis the last chunk's."""
    every = zip(call.outputs, zip(*(part.outputs for part in parts), strict=True), strict=True)
    return all(_same(tensor, pieces, pieces[-1]) is not False for tensor, pieces in every)


def _same(whole: Tensor, pieces: Sequence[Tensor], alone: Tensor) -> bool | None:
    """Whether the pieces make up the whole, or where nothing varies, whether one of them is it; None where that can't be said."""
    axes = _varying(whole, pieces)
    if len(axes) > 1:
        return None
    made = torch.cat(list(pieces), dim=axes[0]) if axes else alone
    return made.shape == whole.shape and _close(made, whole)


def _varying(whole: Tensor, pieces: Sequence[Tensor]) -> list[int]:
    """Axes along which a tensor's size depends on the steps."""
    return [axis for axis in range(whole.dim()) if any(piece.shape[axis] != whole.shape[axis] for piece in pieces)]


def _close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    finite = b[b.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(a, b, rtol=0, atol=TOLERANCE * scale, equal_nan=True)


def _kind(runs: _Runs, index: int, call: Call, parts: Sequence[Call]) -> Kind:
    outputs = zip(call.outputs, zip(*(part.outputs for part in parts), strict=True), strict=True)
    differing = [(n, _varying(t, pieces)) for n, (t, pieces) in enumerate(outputs) if _same(t, pieces, pieces[-1]) is False]
    timed = [(n, axes[0]) for n, axes in differing if axes]
    start = sum(runs.chunks[: len(runs.chunks) // 2])
    if timed and _depends_on_the_future(runs, index, call, timed, start):
        return "future"
    if _state_not_handed_on(parts):
        return "state"
    return "past" if timed else "summary"


def _depends_on_the_future(runs: _Runs, index: int, call: Call, timed: Sequence[tuple[int, int]], start: int) -> bool:
    """Whether outputs before a step change with the inputs after it, in a layer with an output for every so many inputs."""
    other = runs.with_another_end(start)[index]
    for n, axis in timed:
        steps, exact = divmod(call.outputs[n].shape[axis] * start, runs.steps)
        if not exact and not _close(other.outputs[n].narrow(axis, 0, steps), call.outputs[n].narrow(axis, 0, steps)):
            return True
    return False


def _state_not_handed_on(parts: Sequence[Call]) -> bool:
    """Whether a layer takes as many tensors without a time axis as it returns, and gets others than those it returned."""

    def states(tensors: Callable[[Call], list[Tensor]]) -> list[list[Tensor]]:
        every = zip(*(tensors(part) for part in parts), strict=True)
        return [list(pieces) for pieces in every if pieces[0].is_floating_point() and not _varying(pieces[0], pieces)]

    given, returned = states(lambda call: call.inputs), states(lambda call: call.outputs)
    if not given or len(given) != len(returned):
        return False
    pairs = [pair for ins, outs in zip(given, returned, strict=True) for pair in zip(ins[1:], outs[:-1], strict=True)]
    return not all(a.shape == b.shape and _close(a, b) for a, b in pairs)


def _first_inside(runs: _Runs, index: int, whole: Sequence[Call], pieces: Sequence[Sequence[Call]]) -> tuple[str, nn.Module] | None:
    """The first submodule of the layer at fault whose inputs differ: the fault lies in the layer's own code before that call."""
    prefix = f"{whole[index].name}." if whole[index].name else ""
    for call, *parts in zip(whole[:index], *(piece[:index] for piece in pieces), strict=True):
        if call.name.startswith(prefix) and not _same_inputs(call, parts):
            return call.name, runs.model.get_submodule(call.name)
    return None
