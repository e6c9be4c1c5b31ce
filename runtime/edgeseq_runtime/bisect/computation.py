"""What a graph computes inside: its values, on a device, with ONNX Runtime's graph optimisation or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from edgeseq_runtime.bisect.expose import Value, expose
from edgeseq_runtime.bisect.graphs import Graph, read_graph
from edgeseq_runtime.errors import InputError, UsageError
from edgeseq_runtime.plan import Plan
from edgeseq_runtime.session import load_model
from edgeseq_runtime.tensors.spec import Array

if TYPE_CHECKING:
    from edgeseq_runtime.backends.model import Model

TOGETHER = 256  # values that one run gives; more are taken in several

Axes = tuple[int | str, ...]


class Seen(NamedTuple):
    """A value that was computed, and the axes that ONNX Runtime knows of it."""

    array: Array
    axes: Axes


class Computation:
    """A graph and how it is run."""

    def __init__(self, model: bytes, plan: Plan, *, optimise: bool) -> None:
        self.model = model
        self.plan = plan
        self.optimise = optimise

    @cached_property
    def graph(self) -> Graph:
        """The graph, to read."""
        return read_graph(self.model)

    @cached_property
    def _loaded(self) -> Model:
        return self._load(self.model)

    def outputs(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's own outputs.

        Raises:
            UsageError: the backend can't load the graph.
            InputError: it can't compute it on these inputs.
        """
        return self._loaded.run(inputs)

    def values(
        self, values: Sequence[Value], inputs: Mapping[str, Array], dtypes: Mapping[Value, str] | None = None
    ) -> dict[Value, Seen]:
        """These values, all at once or, where that can't be, in parts; those that can't be shown at all are left out."""
        found: dict[Value, Seen] = {}
        for start in range(0, len(values), TOGETHER):
            found |= self._values(values[start : start + TOGETHER], inputs, dtypes)
        return found

    def _values(
        self, values: Sequence[Value], inputs: Mapping[str, Array], dtypes: Mapping[Value, str] | None
    ) -> dict[Value, Seen]:
        try:
            exposed = expose(self.model, values, dtypes)
            loaded = self._load(exposed.model)
            outputs, axes = loaded.run(inputs), loaded.axes()
        # A type that NumPy lacks, a value that changes its size from step to step: it is one of these, the others can be shown.
        except (UsageError, InputError):
            half = len(values) // 2
            parts = (values[:half], values[half:]) if half else ()
            return {value: seen for part in parts for value, seen in self._values(part, inputs, dtypes).items()}
        found = ((value, outputs[name], axes.get(name, ())) for value, name in exposed.names.items())
        return {value: Seen(array, axis) for value, array, axis in found if isinstance(array, np.ndarray)}

    def _load(self, model: bytes) -> Model:
        return load_model(model, self.plan, optimise=self.optimise)

    def with_model(self, model: bytes) -> Computation:
        """Another graph run in the same way."""
        return Computation(model, self.plan, optimise=self.optimise)


def same_way(one: Computation, other: Computation) -> bool:
    """Whether equal nodes give equal bits in both: one backend and its providers, nothing optimised."""
    plans = [msgspec.structs.replace(each.plan, device="", precision="", hazards=()) for each in (one, other)]
    return plans[0] == plans[1] and not one.optimise and not other.optimise
