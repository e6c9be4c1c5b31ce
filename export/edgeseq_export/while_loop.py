"""`edgeseq.loops.Loop` while a module is traced: one `while_loop`, which becomes one ONNX Loop."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from edgeseq.loops import Loop, State


def run_loop(module: Loop, state: State, given: State = ()) -> State:
    """The state in which nothing is left to do, as `Loop.forward`."""

    def unfinished(*carried: Tensor) -> Tensor:
        return module.unfinished(carried, given)

    def step(*carried: Tensor) -> State:
        # The operator refuses an outcome that is one of its inputs, or the same tensor twice.
        return tuple(part.clone() for part in module.step(carried, given))

    last: Any = while_loop(  # type: ignore[no-untyped-call]
        unfinished, step, tuple(part.clone().contiguous() for part in state)
    )
    return tuple(last)
