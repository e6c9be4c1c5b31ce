"""Why edgeseq is behind where it is behind, from the measurements: sentences, none of them about who it is by heart.

Two things are told apart. What a call costs beside computing is what the gait network takes: its weights fill 20 kB, so that
next to nothing of its time is arithmetic. What is left is the kernels': how fast they read weights or multiply, of what the
machine can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from peers.statistics import fastest, ratios, spread

Record = Mapping[str, Any]
EMPTY = "gait-step"  # the network that is nearly all call
CLOSE = 1.03  # a ratio that is told as level
OURS = ("edgeseq", "edgeseq_native", "edgeseq_tuned")
NO_PEER = (*OURS, "edgeseq_int8", "onnxruntime_plain")


class Gap(NamedTuple):
    """A workload, edgeseq's faster plan and the fastest peer."""

    record: Record
    ours: str
    peer: str
    ratio: float

    @property
    def microseconds(self) -> tuple[float, float]:
        """Medians, edgeseq's and the peer's."""
        times = self.record["candidates"]
        return spread(times[self.ours]["microseconds"]).median, spread(times[self.peer]["microseconds"]).median


def reasons(records: Sequence[Record], titles: Mapping[str, str]) -> Iterator[str]:
    """A paragraph a number of threads, and a line a workload that edgeseq is behind on."""
    gaps = [gap for gap in map(gap_of, records) if gap]
    for threads in sorted({gap.record["threads"] for gap in gaps}):
        own = [gap for gap in gaps if gap.record["threads"] == threads]
        behind = [gap for gap in own if gap.ratio > CLOSE]
        ahead = sum(gap.ratio < 1 / CLOSE for gap in own)
        yield (
            f"With {'one thread' if threads == 1 else f'{threads} threads'}, of {len(own)} workloads in fp32, edgeseq is ahead of "
            f"every peer on {ahead}, within {CLOSE - 1:.0%} of the best on {len(own) - ahead - len(behind)}, and behind on "
            f"{len(behind)}{':' if behind else '.'}"
        )
        yield ""
        for gap in sorted(behind, key=lambda gap: -gap.ratio):
            yield f"- {sentence(gap, own, titles)}"
        if behind:
            yield ""
    yield from remedies([gap for gap in gaps if gap.ratio > CLOSE])


def gap_of(record: Record) -> Gap | None:
    """Edgeseq against the best peer; None where either is missing."""
    times = {name: found["microseconds"] for name, found in record["candidates"].items()}
    ours = {name: times[name] for name in OURS if name in times}
    peers = {name: each for name, each in times.items() if name not in NO_PEER}
    if not ours or not peers:
        return None
    first, peer = fastest(ours), fastest(peers)
    return Gap(record, first, peer, ratios(ours[first], peers[peer]).median)


def sentence(gap: Gap, all_gaps: Sequence[Gap], titles: Mapping[str, str]) -> str:
    """One workload: the ratio, and what the difference is made of."""
    mine, theirs = gap.microseconds
    told = f"{gap.record['title']}: {gap.ratio:.2f} times {titles[gap.peer]} ({mine:,.1f} against {theirs:,.1f} µs)"
    call = call_difference(gap, all_gaps)
    if gap.record["workload"] == EMPTY:
        return f"{told}. Next to nothing of it is arithmetic (the limit is {limit_of(gap.record):.1f} µs): it is what a call costs."
    efficiency = ", ".join(
        f"{titles[name]} {limit_of(gap.record) / time:.0%}" for name, time in ((gap.ours, mine), (gap.peer, theirs))
    )
    what = "reading" if gap.record["limit"]["bound"] == "reading" else "multiplying"
    if gap.record["group"] == "step" and call is not None:
        share = min(1.0, max(0.0, call / (mine - theirs)))
        return (
            f"{told}. {share:.0%} of the difference is what a call costs, the rest the kernels: of the rate of {what} {efficiency}."
        )
    return f"{told}. Of the rate of {what}, {efficiency}."


def call_difference(gap: Gap, all_gaps: Sequence[Gap]) -> float | None:
    """Microseconds that a call of edgeseq's costs more than one of that peer's, as the gait network shows."""
    for other in all_gaps:
        times = other.record["candidates"]
        if other.record["workload"] == EMPTY and gap.peer in times and gap.ours in times:
            return spread(times[gap.ours]["microseconds"]).median - spread(times[gap.peer]["microseconds"]).median
    return None


def limit_of(record: Record) -> float:
    """Microseconds."""
    return spread(record["limit"]["microseconds"]).median


def remedies(behind: Sequence[Gap]) -> Iterator[str]:
    """What it would take, of those that apply."""
    found = [text for applies, text in REMEDIES if any(applies(gap) for gap in behind)]
    if found:
        yield "What it would take:"
        yield ""
        yield from (f"- {' '.join(text.split())}" for text in found)


REMEDIES: tuple[tuple[Callable[[Gap], bool], str], ...] = (
    (
        lambda gap: gap.record["workload"] == EMPTY,
        """What a call costs is the stream's checks in Python and the way into the library; it takes a loop over steps outside of
        Python.""",
    ),
    (
        lambda gap: gap.record["group"] == "step" and gap.record["workload"] != EMPTY,
        """At one sequence and one step nearly all of the time is reading weights. Once they are read at the memory's rate, it takes
        narrower ones: int8.""",
    ),
    (
        lambda gap: gap.record["group"] in {"sequence", "throughput"},
        """Weights larger than the second cache are read from beyond it at each step, beside the products: it takes fetching the
        next part of them while this one is multiplied.""",
    ),
    (
        lambda gap: gap.record["group"] == "scan",
        """A loop's body is run instruction by instruction: it takes fewer of them, neighbours fused into one.""",
    ),
)
