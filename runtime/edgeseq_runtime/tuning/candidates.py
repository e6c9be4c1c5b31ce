"""What can be changed about a plan for a CPU without changing what it computes, and what each change has to bring.

Other options of ONNX Runtime were measured and bring nothing to these models (docs/compile.md), so they are not tried each time.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from edgeseq_runtime.device import load_device
from edgeseq_runtime.plan import GraphLevel, Plan

PREPACKING = {"session.disable_prepacking": "1"}
BLOCKING = {"session.intra_op.allow_spinning": "0"}
# Left to itself, a thread of ONNX Runtime waits for work in a loop for 20 ms and more after each call, which keeps a core busy.
# 50 us are enough from one product to the next and from one call to the next. Since 1.26; older ones do as they always do.
SPINNING = {"session.intra_op.spin_duration_us": "50"}

NATIVE = "native"  # the device that says how edgeseq's own kernels are run
OWN_KERNELS = "own kernels"

_WAITING = {
    "blocking": ("products large enough to be shared, and to wake a thread for", BLOCKING),
    "spinning": ("products large enough to be shared, by threads that wait in a loop", SPINNING),
    "spinning, unpacked": ("both", {**SPINNING, **PREPACKING}),
}

FREE, CORES = 1.01, 1.15  # times faster that a change has to be, at least: one that takes nothing else, one that takes more cores


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a model, as changes of the plan."""

    name: str
    why: str  # it may be faster
    native: bool = False  # with edgeseq's own kernels in place of ONNX Runtime
    session_options: dict[str, str] = {}
    threads: int | None = None
    graph_level: GraphLevel | None = None
    required: float = FREE

    def applied(self, plan: Plan) -> Plan:
        """The plan with the changes."""
        if self.native:
            own = load_device(NATIVE)
            threads = 1 if self.threads is None else self.threads
            return msgspec.structs.replace(
                plan, backend=own.backend, providers=own.providers, provider_options={}, session_options={}, threads=threads
            )
        return msgspec.structs.replace(
            plan,
            session_options={**plan.session_options, **self.session_options},
            threads=plan.threads if self.threads is None else self.threads,
            graph_level=plan.graph_level if self.graph_level is None else self.graph_level,
        )


def candidates_for(plan: Plan, max_threads: int) -> tuple[Candidate, ...]:
    """Every change worth a measurement, those that take the least first.

    Args:
        plan: what is run otherwise.
        max_threads: that may share one operator.
    """
    return (*_free(), *(one for threads in _thread_counts(max_threads) for one in _threaded(threads, plan)))


def _free() -> Iterator[Candidate]:
    yield Candidate(
        name=OWN_KERNELS,
        why="a call of a node of ONNX Runtime takes longer than the arithmetic of a small one",
        native=True,
    )
    yield Candidate(
        name="unpacked weights",
        why="a product with one vector may read weights faster as they are stored than packed into blocks for matrices",
        session_options=PREPACKING,
    )
    yield Candidate(
        name="extended graph",
        why="a layout that suits large convolutions may cost more than it brings on small ones",
        graph_level="extended",
    )
    yield Candidate(name="basic graph", why="a fused operator may be slower than its parts", graph_level="basic")


def _thread_counts(most: int) -> list[int]:
    """1, 2, 4 ... and the most."""
    counts = [1 << power for power in range(most.bit_length())]
    return counts if most in counts else [*counts, most]


def _threaded(threads: int, plan: Plan) -> Iterator[Candidate]:
    required = CORES if threads > plan.threads else FREE
    if threads > 1:
        yield Candidate(
            name=f"{OWN_KERNELS}, {threads} threads",
            why="products large enough to be shared, by threads that wait in a loop for 100 us",
            native=True,
            threads=threads,
            required=required,
        )
    if threads == 1:
        if plan.threads > 1:
            yield Candidate(name="1 thread", why="threads that wait for each other cost time", threads=1, required=required)
        return
    for way, (why, options) in _WAITING.items():
        yield Candidate(name=f"{threads} threads, {way}", why=why, threads=threads, session_options=options, required=required)
