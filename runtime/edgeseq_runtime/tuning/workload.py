"""What a plan is tuned for: a step of a stream, or whole sequences of some size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from edgeseq_runtime.bench import Arrays, inputs_at
from edgeseq_runtime.bundle import Bundle
from edgeseq_runtime.errors import StreamError, UsageError
from edgeseq_runtime.interface import Interface
from edgeseq_runtime.session import Session

STEPS = 100  # of a sequence, unless said


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Calls to be fast at."""

    mode: Literal["step", "sequence"]  # pieces with the state kept between them, or whole sequences
    T: int  # time steps in a call
    B: int = 1  # sequences at once

    def __str__(self) -> str:
        return f"{self.mode} T={self.T} B={self.B}"


def workload_for(interface: Interface, mode: str | None = None, steps: int | None = None, batch: int = 1) -> Workload:
    """A workload that the model has.

    Args:
        interface: the model's.
        mode: "step" or "sequence"; the step where there is state, unless said.
        steps: in a call; the model's chunk (mostly 1) for a step and 100 for a sequence, unless said.
        batch: sequences at once.

    Raises:
        UsageError: a step of a model without state, another mode, or sizes below 1.
    """
    mode = mode or ("step" if interface.state else "sequence")
    if mode not in ("step", "sequence"):
        raise UsageError(f"there is no workload '{mode}'; there are: step, sequence")
    if mode == "step" and not interface.state:
        raise UsageError("a step was asked for, and this model has no state to keep between steps; choose 'sequence'")
    steps = (interface.chunk if mode == "step" else STEPS) if steps is None else steps
    if steps < 1 or batch < 1:
        raise UsageError(f"steps {steps}, batch {batch}: give 1 or more of each")
    return Workload("step" if mode == "step" else "sequence", steps, batch)


def example_inputs(bundle: Bundle) -> Arrays:
    """One example of each input, where the bundle has any."""
    cases = bundle.reference()
    return cases[0].draw_inputs(0) if cases else {}


def call_of(session: Session, example: Arrays, workload: Workload) -> Callable[[], object]:
    """The workload as a call without arguments."""
    inputs = inputs_at(session.interface, example, workload.T, workload.B)
    if workload.mode == "sequence":
        return lambda: session.run(inputs)
    try:
        stream = session.stream(workload.B)
    except StreamError:  # its state has an axis of its own, which only `run` takes
        return lambda: session.run(inputs)
    stream.state = {name: inputs[name] for name in session.state}
    data = {name: array for name, array in inputs.items() if name not in session.state}
    return lambda: stream.step(data, copy=False)
