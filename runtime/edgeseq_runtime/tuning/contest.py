"""Heats among candidates, each beside the default, and a final between the best and the default.

The better half of them goes on until one is left; what that one is worth is then measured anew: the best of several is partly the
luckiest. If it does not win its final, the best of the others has one. Two sessions of one plan differ by up to a tenth for as long
as they live, by where their memory lies, so each sitting opens all of them anew, and in a final gives one ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from statistics import median
from typing import NamedTuple

from edgeseq_runtime.errors import EdgeseqError
from edgeseq_runtime.plan import Plan
from edgeseq_runtime.tuning.candidates import Candidate
from edgeseq_runtime.tuning.choose import better_half, gain_of, is_clear, ratios
from edgeseq_runtime.tuning.measure import Call, Took, timed_rounds
from edgeseq_runtime.tuning.record import DEFAULT, Gain, Tried

HEAT = 4  # candidates that are open at a time, beside the default: each holds the weights once more
HEAT_SITTINGS, HEAT_ROUNDS = 3, (1, 2)  # rounds at least and at most
SITTINGS, SITTING_ROUNDS = 8, (1, 4)
FINAL = 0.5  # of the time
PARTS = 1000  # that progress is told in
SHORT, OVERTAKEN, UNCERTAIN, CHOSEN = "falls short", "overtaken", "not certain", "chosen"  # what became of a candidate

Open = Callable[[Plan], Call]  # opens a session, and gives the workload as a call
Prove = Callable[[Plan], str]  # why a plan does not compute what it has to; "" where it does
Progress = Callable[[int, int], None]  # (parts done, parts in all)


class Outcome(NamedTuple):
    """Who won, and how everyone did."""

    winner: Candidate | None  # None: the default
    gain: Gain | None  # the winner's in the final
    default_us: float  # microseconds a call, by the clock that both were compared by
    chosen_us: float
    tried: tuple[Tried, ...]


class Sitting(NamedTuple):
    """One candidate beside the default, in sessions that were opened for it."""

    ratios: tuple[float, ...]  # a round each
    default: float  # seconds a call, by the clock that they are compared by
    candidate: float


class Contest:
    """One contest, held once."""

    def __init__(self, plan: Plan, opened: Open, prove: Prove, seconds: float, progress: Progress) -> None:
        self._plan = plan
        self._opened = opened
        self._prove = prove
        self._seconds = seconds
        self._progress = progress
        self._spent = 0.0  # of the seconds, by the stages that are over
        self._tried: dict[str, Tried] = {}
        self._default_us = 0.0

    def held(self, candidates: Sequence[Candidate]) -> Outcome:
        """Find the candidate that is certainly faster than the plan, if there is one."""
        found = (self._final(one) for one in self._finalists(candidates))
        outcome = next((one for one in found if one), None)
        self._progress(PARTS, PARTS)
        return outcome or Outcome(None, None, self._default_us, self._default_us, tuple(self._tried.values()))

    def _finalists(self, candidates: Sequence[Candidate]) -> Iterator[Candidate]:
        """The best, and if that does not win, the best of the others."""
        best = self._best(candidates)
        if best is None:
            return
        yield best
        gains = {one.name: self._tried[one.name].gain for one in candidates if one is not best}
        others = better_half({name: gain for name, gain in gains.items() if gain}, {one.name: one.required for one in candidates})
        yield from (one for one in candidates if one.name in others[:1])

    def _best(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The one that is left when the better half of the candidates has gone on, again and again."""
        blocks = sum(size + ceil(size / HEAT) for size in _halvings(len(candidates)))
        remaining = list(candidates)
        while remaining:
            heats = [remaining[start : start + HEAT] for start in range(0, len(remaining), HEAT)]
            gains: dict[str, Gain] = {}
            for heat in heats:
                gains |= self._heat(heat, (1 - FINAL) * self._seconds * (len(heat) + 1) / blocks)
            ahead = better_half(gains, {one.name: one.required for one in remaining})
            for one in remaining:
                if one.name in gains:
                    self._note(one, gains[one.name], _standing(gains[one.name], one.required))
            last = len(remaining) <= 1
            remaining = [one for name in ahead for one in remaining if one.name == name]
            if last:
                break
        return remaining[0] if remaining else None

    def _heat(self, heat: Sequence[Candidate], seconds: float) -> dict[str, Gain]:
        """The gains of candidates that are open at the same time."""
        found = self._sittings(heat, HEAT_SITTINGS, HEAT_ROUNDS, seconds)
        return {name: gain_of([ratio for one in sittings for ratio in one.ratios]) for name, sittings in found.items()}

    def _final(self, best: Candidate) -> Outcome | None:
        """The outcome if the best candidate is proved, and certainly as much faster as it has to be."""
        if problem := self._prove(best.applied(self._plan)):
            self._note(best, self._tried[best.name].gain, f"left out: {problem}")
            return None
        sittings = self._sittings([best], SITTINGS, SITTING_ROUNDS, FINAL * self._seconds)[best.name]
        gain = gain_of([median(one.ratios) for one in sittings])
        if not is_clear(gain, best.required):
            self._note(best, gain, UNCERTAIN)
            return None
        self._note(best, gain, CHOSEN)
        default_us, chosen_us = (1e6 * median(getattr(one, who) for one in sittings) for who in ("default", "candidate"))
        return Outcome(best, gain, default_us, chosen_us, tuple(self._tried.values()))

    def _sittings(
        self, candidates: Sequence[Candidate], count: int, rounds: tuple[int, int], seconds: float
    ) -> dict[str, list[Sitting]]:
        told = self._stage(seconds)
        found: dict[str, list[Sitting]] = {}
        for number in range(count):
            times = self._times(candidates, number, rounds, seconds / count)
            default = times.pop(DEFAULT)
            self._default_us = 1e6 * median(self._clock(self._plan, took) for took in default)
            for one in candidates:
                if one.name in times:
                    found.setdefault(one.name, []).append(self._sitting(one.applied(self._plan), default, times[one.name]))
            told((number + 1) / count)
        return found

    def _times(
        self, candidates: Sequence[Candidate], number: int, rounds: tuple[int, int], seconds: float
    ) -> dict[str, list[Took]]:
        """Times in sessions that live no longer than this. What is opened first, and has other memory for it, changes."""
        plans = {DEFAULT: self._plan, **{one.name: one.applied(self._plan) for one in candidates}}
        calls: dict[str, Call] = {}
        for name in list(plans) if number % 2 else list(plans)[::-1]:
            try:
                calls[name] = self._opened(plans[name])
            except EdgeseqError as error:
                if name == DEFAULT:
                    raise
                self._note(next(one for one in candidates if one.name == name), None, f"can't be opened: {error}")
        return timed_rounds(calls, rounds, seconds, number * rounds[1])

    def _sitting(self, plan: Plan, default: Sequence[Took], times: Sequence[Took]) -> Sitting:
        found = ratios(default, times, alone=self._alone(plan))
        return Sitting(tuple(found), *(median(self._clock(plan, took) for took in rounds) for rounds in (default, times)))

    def _alone(self, plan: Plan) -> bool:
        """Whether a plan and the default run on the calling thread alone."""
        return plan.threads == self._plan.threads == 1

    def _clock(self, plan: Plan, took: Took) -> float:
        """Seconds by the clock that the plan and the default are compared by."""
        return took.own if self._alone(plan) else took.wall

    def _note(self, one: Candidate, gain: Gain | None, outcome: str) -> None:
        self._tried[one.name] = Tried(name=one.name, why=one.why, gain=gain, required=one.required, outcome=outcome)

    def _stage(self, seconds: float) -> Callable[[float], None]:
        """Begin a stage that may take so long; the result is told which share of it is over."""
        before, self._spent = self._spent, self._spent + seconds
        return lambda share: self._progress(int(PARTS * min(1.0, (before + share * seconds) / self._seconds)), PARTS)


def _standing(gain: Gain, required: float) -> str:
    """Of one that is left behind; one that goes on is judged again."""
    return OVERTAKEN if gain.reaches(required) else SHORT


def _halvings(count: int) -> list[int]:
    """How many are left after each halving, until it is one."""
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(ceil(sizes[-1] / 2))
    return sizes[:-1] or sizes
