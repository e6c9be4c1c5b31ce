"""In which order the layers of a network are computed, with its loops and conditionals as steps that hold steps.

TensorRT gives one flat list of layers. A loop's body is every layer that depends on what its iterators and recurrences give;
whatever does not is computed once, before the loop. A branch of a conditional is computed only where it is chosen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.tensorrt_network.kernel import Kernel, choose
from edgeseq_runtime.tensorrt_network.kernels import kernel_of
from edgeseq_runtime.tensorrt_network.network import Layer, Network

_LOOP_KINDS = ("TRIP_LIMIT", "RECURRENCE", "ITERATOR", "LOOP_OUTPUT")


class Call(NamedTuple):
    """One layer."""

    layer: Layer
    kernel: Kernel


class Choice(NamedTuple):
    """The output of a conditional: the value of `sources[0]` where the condition holds, else of `sources[1]`."""

    layer: Layer
    condition: str
    branches: tuple[tuple[Step, ...], tuple[Step, ...]]
    sources: tuple[str, str]


class Loop(NamedTuple):
    """A loop. It ends after `trips` rounds, or in the first where `condition` is false; either may be missing."""

    name: str
    trips: str | None
    condition: str | None
    before_condition: tuple[Step, ...]  # in each round, what the condition needs
    body: tuple[Step, ...]
    iterators: tuple[Layer, ...]
    recurrences: tuple[Layer, ...]
    outputs: tuple[Layer, ...]


Step = Call | Choice | Loop


def schedule(network: Network, known: Iterable[str] = ()) -> tuple[Step, ...]:
    """The steps that compute a network's outputs, where the tensors `known` by name are there already.

    Raises:
        UsageError: a layer is of a kind, or has a setting, that is not interpreted here.
    """
    planner = _Planner(network, frozenset(known))
    checks = [layer for layer in network.layers if layer.kind == "ASSERTION"]
    targets = [spec.name for spec in network.outputs] + [name_of(layer, 0) for layer in checks]
    steps, _ = planner.order(targets, None, set())
    return (*steps, *(Call(layer, kernel_of(layer)) for layer in checks))


class _Planner:
    def __init__(self, network: Network, known: frozenset[str]) -> None:
        self._known = known
        self._layers = network.layers
        self._producer = {tensor.name: at for at, layer in enumerate(network.layers) for tensor in layer.outputs}
        self._loops: dict[str, list[Layer]] = defaultdict(list)
        self._conditions: dict[str, str] = {}
        for layer in network.layers:
            if layer.kind in _LOOP_KINDS:
                self._loops[layer.group].append(layer)
            if layer.kind == "CONDITION":
                self._conditions[layer.group] = name_of(layer, 0)
        self._inside = self._loops_around()
        self._planned: dict[str, tuple[Loop, list[str]]] = {}

    def order(self, targets: Iterable[str], loop: str | None, done: set[str]) -> tuple[list[Step], list[str]]:
        """Steps within one loop's body, or outside of all (None), for `targets`; and what they need from outside that loop."""
        steps: list[Step] = []
        needs: list[str] = []
        stack = [(name, False) for name in reversed(list(targets))]
        while stack:
            name, ready = stack.pop()
            if name in done or name in self._known or name not in self._producer:
                continue
            at = self._producer[name]
            layer = self._layers[at]
            if loop is not None and loop not in self._inside[at]:
                needs.append(name)
            elif layer.group == loop and layer.kind in ("RECURRENCE", "ITERATOR"):
                continue  # the loop itself gives it
            elif ready:
                step, outside = self._step(layer, loop, done)
                steps.append(step)
                needs += outside
                done.update(_computed(step))
            else:
                stack.append((name, True))
                stack += [(before, False) for before in reversed(self._before(layer))]
        return steps, needs

    def _step(self, layer: Layer, loop: str | None, done: set[str]) -> tuple[Step, list[str]]:
        if layer.kind == "LOOP_OUTPUT":
            return self._loop(layer.group)[0], []
        if layer.kind == "CONDITIONAL_OUTPUT":
            sources = (name_of(layer, 0), name_of(layer, 1))
            (then, first), (otherwise, second) = (self.order([source], loop, set(done)) for source in sources)
            return Choice(layer, self._conditions[layer.group], (tuple(then), tuple(otherwise)), sources), first + second
        return Call(layer, kernel_of(layer)), []

    def _before(self, layer: Layer) -> list[str]:
        if layer.kind == "LOOP_OUTPUT":
            return self._loop(layer.group)[1]
        if layer.kind == "CONDITIONAL_OUTPUT":
            return [self._conditions[layer.group]]
        return [tensor.name for tensor in layer.inputs if tensor is not None]

    def _loop(self, name: str) -> tuple[Loop, list[str]]:
        if name not in self._planned:
            self._planned[name] = self._planned_loop(name)
        return self._planned[name]

    def _planned_loop(self, name: str) -> tuple[Loop, list[str]]:
        parts = {kind: tuple(layer for layer in self._loops[name] if layer.kind == kind) for kind in _LOOP_KINDS}
        limits = {choose(layer, "kind", {"COUNT": "count", "WHILE": "while"}): name_of(layer, 0) for layer in parts["TRIP_LIMIT"]}
        done: set[str] = set()
        condition = limits.get("while")
        first, needs = self.order([] if condition is None else [condition], name, done)
        nexts = [name_of(layer, 1) for layer in parts["RECURRENCE"]]
        body, further = self.order([*nexts, *(name_of(layer, 0) for layer in parts["LOOP_OUTPUT"])], name, done)
        initial = [name_of(layer, 0) for layer in (*parts["RECURRENCE"], *parts["ITERATOR"])]
        lengths = [name_of(layer, 1) for layer in parts["LOOP_OUTPUT"] if len(layer.inputs) > 1]
        trips = limits.get("count")
        outside = [*initial, *lengths, *needs, *further, *([] if trips is None else [trips])]
        loop = Loop(
            name=name,
            trips=trips,
            condition=condition,
            before_condition=tuple(first),
            body=tuple(body),
            iterators=parts["ITERATOR"],
            recurrences=parts["RECURRENCE"],
            outputs=parts["LOOP_OUTPUT"],
        )
        return loop, outside

    def _loops_around(self) -> list[frozenset[str]]:
        """For each layer, the loops in whose rounds it gives different values."""
        inside: list[frozenset[str]] = [frozenset()] * len(self._layers)
        changed = True
        while changed:
            changed = False
            for at, layer in enumerate(self._layers):
                found = inside[at].union(*(inside[self._producer[n]] for n in self._sources(layer) if n in self._producer))
                if layer.kind in ("RECURRENCE", "ITERATOR"):
                    found |= {layer.group}
                if layer.kind == "LOOP_OUTPUT":
                    found -= {layer.group}
                if found != inside[at]:
                    inside[at], changed = found, True
        return inside

    def _sources(self, layer: Layer) -> Iterator[str]:
        """Every tensor that a layer's values depend on directly; a loop's output, on everything its loop is given."""
        for part in self._loops[layer.group] if layer.kind == "LOOP_OUTPUT" else (layer,):
            yield from (tensor.name for tensor in part.inputs if tensor is not None)
        if layer.kind == "CONDITIONAL_OUTPUT":
            yield self._conditions[layer.group]


def name_of(layer: Layer, at: int) -> str:
    """The name of one of a layer's inputs.

    Raises:
        UsageError: the layer lacks it.
    """
    tensor = layer.inputs[at] if at < len(layer.inputs) else None
    if tensor is None:
        raise UsageError(f"the {layer} of TensorRT's network lacks its input {at}")
    return tensor.name


def _computed(step: Step) -> Iterator[str]:
    layers = step.outputs if isinstance(step, Loop) else (step.layer,)
    return (tensor.name for layer in layers for tensor in layer.outputs)
