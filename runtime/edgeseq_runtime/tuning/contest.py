"""Heats among candidates, each beside the default, and a final between the best and the default.

The better half of them goes on until one is left; what that one is worth is then measured anew: the best of several is partly the
luckiest. Two sessions of one plan differ by a few per cent for as long as they live, by where their memory lies, so each sitting of
the final opens both anew and gives one ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from statistics import median
from typing import NamedTuple

from edgeseq_runtime.errors import EdgeseqError
from edgeseq_runtime.plan import Plan
from edgeseq_runtime.tuning.candidates import Candidate
from edgeseq_runtime.tuning.choose import better_half, gain_of, is_clear, ratios
from edgeseq_runtime.tuning.measure import Call, timed_rounds
from edgeseq_runtime.tuning.record import DEFAULT, Gain, Tried

HEAT = 4  # candidates that are open at a time, beside the default: each holds the weights once more
HEAT_ROUNDS = (2, 6)  # at least and at most
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
    default_us: float  # microseconds a call
    chosen_us: float
    tried: tuple[Tried, ...]


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
        best = self._best(candidates)
        outcome = None if best is None else self._final(best)
        self._progress(PARTS, PARTS)
        return outcome or Outcome(None, None, self._default_us, self._default_us, tuple(self._tried.values()))

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
        calls = {DEFAULT: self._opened(self._plan)}
        for one in heat:
            try:
                calls[one.name] = self._opened(one.applied(self._plan))
            except EdgeseqError as error:
                self._note(one, None, f"can't be opened: {error}")
        times = timed_rounds(calls, HEAT_ROUNDS, seconds, self._stage(seconds))
        default = times.pop(DEFAULT)
        self._default_us = 1e6 * median(took.wall for took in default)
        plans = {one.name: one.applied(self._plan) for one in heat}
        return {name: gain_of(ratios(default, took, alone=self._alone(plans[name]))) for name, took in times.items()}

    def _alone(self, plan: Plan) -> bool:
        """Whether a plan and the default run on the calling thread alone."""
        return plan.threads == self._plan.threads == 1

    def _final(self, best: Candidate) -> Outcome | None:
        """The outcome if the best candidate is proved, and certainly as much faster as it has to be."""
        plan, told = best.applied(self._plan), self._stage(FINAL * self._seconds)
        if problem := self._prove(plan):
            self._note(best, self._tried[best.name].gain, f"left out: {problem}")
            return None
        sittings = [self._sitting(plan, number, told) for number in range(SITTINGS)]
        gain = gain_of([ratio for ratio, _, _ in sittings])
        self._default_us = 1e6 * median(default for _, default, _ in sittings)
        if not is_clear(gain, best.required):
            self._note(best, gain, UNCERTAIN)
            return None
        self._note(best, gain, CHOSEN)
        chosen_us = 1e6 * median(chosen for _, _, chosen in sittings)
        return Outcome(best, gain, self._default_us, chosen_us, tuple(self._tried.values()))

    def _sitting(self, plan: Plan, number: int, told: Callable[[float], None]) -> tuple[float, float, float]:
        """The gain in fresh sessions, and seconds a call of the default and of the candidate."""
        plans = {DEFAULT: self._plan, "": plan}
        names = list(plans) if number % 2 else list(plans)[::-1]  # what is opened first has the better memory, or the worse
        calls = {name: self._opened(plans[name]) for name in names}
        seconds = FINAL * self._seconds / SITTINGS
        times = timed_rounds(calls, SITTING_ROUNDS, seconds, lambda share: told((number + share) / SITTINGS))
        default, chosen = times[DEFAULT], times[""]
        gain = median(ratios(default, chosen, alone=self._alone(plan)))
        return gain, median(took.wall for took in default), median(took.wall for took in chosen)

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
