"""What was tried and chosen, as it is kept and shown."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from edgeseq_runtime.plan import Plan
from edgeseq_runtime.tuning.workload import Workload

DEFAULT = "as planned"


class TuningNotice(UserWarning):
    """A tuned plan is used, and something about it did not go as it should."""


class Gain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many times faster than the default: 1.5 takes two thirds of its time."""

    median: float
    low: float  # the true one is below this with a probability of 1 in 20 at most; 0 where the rounds are too few to tell
    high: float | None  # and above this alike; None there
    rounds: int

    def reaches(self, required: float) -> bool:
        """Whether it may be as large as that, for all that is known."""
        return self.high is None or self.high >= required


class Tried(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One candidate and how it did in the last round of the contest that it took part in."""

    name: str
    why: str
    gain: Gain | None  # None where it could not be measured
    required: float  # the gain that it has to bring
    outcome: str  # what became of it


class TuningRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One measurement, and the choice made from it."""

    facts: dict[str, Any]  # everything that the choice depends on
    workload: Workload
    chosen: str  # candidate, or DEFAULT
    gain: Gain | None  # of the chosen one, in a contest against the default alone
    default_us: float  # microseconds a call, median; of the calling thread's own time where both plans keep to it
    chosen_us: float
    tried: tuple[Tried, ...]
    seconds: float  # that it took


class Tuning(NamedTuple):
    """A tuned plan, and where it comes from."""

    plan: Plan
    record: TuningRecord
    path: str | None  # of the file that the choice is kept in; None where it is not kept
    cached: bool  # it was read rather than measured
    note: str = ""  # what did not go as it should

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self._asdict()))
        return made
