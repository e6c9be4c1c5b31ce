"""Which candidate is taken: arithmetic, and contests among calls whose times are known."""

import itertools
import time
import weakref
from statistics import median

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.plan import plan_for_device
from edgeseq_runtime.tuning import Gain, contest, measure
from edgeseq_runtime.tuning.candidates import Candidate, candidates_for
from edgeseq_runtime.tuning.choose import better_half, gain_of, is_clear, ratios
from edgeseq_runtime.tuning.contest import CHOSEN, OVERTAKEN, SHORT, UNCERTAIN, Contest
from edgeseq_runtime.tuning.measure import Took

PLAN = plan_for_device("cpu")
# How many signs may point the other way in a sign test at 5 %, one-sided: W. J. Conover, Practical Nonparametric Statistics.
SIGN_TEST = {5: 0, 6: 0, 7: 0, 8: 1, 9: 1, 10: 1, 11: 2, 12: 2, 13: 3, 14: 3, 15: 3, 16: 4, 17: 4, 18: 5, 19: 5, 20: 5}


@pytest.mark.parametrize(("count", "others"), SIGN_TEST.items())
def test_bounds_are_those_of_a_sign_test(count, others):
    gain = gain_of([1.0 + place for place in np.random.default_rng(count).permutation(count)])
    assert (gain.low, gain.high) == (1.0 + others, float(count - others))
    assert gain.median == median(range(1, count + 1))
    assert gain.rounds == count


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_rounds_have_no_bounds(count):
    gain = gain_of([3.0] * count)
    assert gain == Gain(3.0, 0.0, None, count)
    assert gain.reaches(100)
    assert not is_clear(gain, 1.0)


def test_the_true_gain_is_below_the_bound_once_in_twenty():
    rng = np.random.default_rng(7)
    # Skewed, as times are: a call is sometimes much longer and never much shorter.
    drawn = 1.2 * np.exp(rng.exponential(0.3, (2000, 8)) - 0.3 * np.log(2))
    misses = sum(gain_of(list(row)).low > 1.2 for row in drawn)
    above = sum(gain_of(list(row)).high < 1.2 for row in drawn)
    assert 20 < misses <= 100
    assert 20 < above <= 100


def test_a_ratio_is_of_times_of_one_round():
    default, times = [Took(2.0, 1.0), Took(6.0, 5.0)], [Took(1.0, 0.25), Took(2.0, 2.5)]
    assert ratios(default, times, alone=False) == [2.0, 3.0]
    assert ratios(default, times, alone=True) == [4.0, 2.0]
    coarse = [Took(1.0, 0.0), Took(2.0, 2.5)]  # a clock that does not tell
    assert ratios(default, coarse, alone=True) == [2.0, 3.0]
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        ratios(default, times[:1], alone=False)


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.floats(0.5, 3), st.floats(0, 0.5), st.floats(1, 1.5)), min_size=1))
def test_the_better_half_goes_on(drawn):
    gains = {name: Gain(middle, middle - spread, middle + spread, 6) for name, (middle, spread, _) in drawn.items()}
    required = {name: least for name, (_, _, least) in drawn.items()}
    ahead = better_half(gains, required)
    assert len(ahead) <= (len(gains) + 1) // 2
    able = [name for name in gains if gains[name].high >= required[name]]
    score = {name: gains[name].median / required[name] for name in gains}
    assert set(ahead) <= set(able)
    assert len(ahead) == min(len(able), (len(gains) + 1) // 2)
    left = [score[name] for name in able if name not in ahead]
    assert all(score[name] >= max(left, default=0) for name in ahead)
    assert [score[name] for name in ahead] == sorted((score[name] for name in ahead), reverse=True)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_turns_are_fair(count):
    names = "abcde"[:count]
    rounds = [measure.turns(names, number) for number in range(2 * count)]
    for name in names:
        assert sorted(one.index(name) for one in rounds) == sorted([*range(count), *range(count)])
    for one, other in itertools.permutations(names, 2):
        before = sum(order.index(one) < order.index(other) for order in rounds)
        assert before == count


class Clock:
    """A clock that only calls move on."""

    def __init__(self):
        self.now = self.used = self.own = 0.0
        self.busy = 0.0  # seconds for which another thread goes on using a core

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self.used

    def thread_time(self):
        return self.own

    def pass_time(self, seconds, waiting=0.0):
        """Time of a call, and how long others have the core meanwhile."""
        self.now += seconds + waiting
        self.own += seconds
        self.used += min(self.busy, seconds + waiting)
        self.busy -= min(self.busy, seconds + waiting)

    def sleep(self, seconds):
        self.pass_time(0.0, seconds)


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(measure, "time", made)
    return made


def lasting(clock, seconds):
    """A call that takes what `seconds()` says."""
    return lambda: clock.pass_time(seconds())


def test_a_call_s_time_is_the_median_of_its_block(clock):
    times = iter([9.0, 1.0, 2.0, 3.0, 4.0, 0.5])
    # The first wakes threads and is not counted.
    assert measure.block(lasting(clock, lambda: next(times)), 5, 1e9) == pytest.approx((2.0, 2.0))
    times = iter([9.0])
    assert measure.block(lasting(clock, lambda: next(times)), 1, 1e9) == pytest.approx((9.0, 9.0))


def test_a_block_that_takes_too_long_ends(clock):
    calls = []
    measure.block(lambda: calls.append(clock.pass_time(1.0)), 1000, 5.0)
    assert 1 < len(calls) <= 7


def test_a_block_waits_for_threads_that_still_spin(clock):
    clock.busy = 0.02
    measure.settle()
    assert clock.busy == 0
    clock.busy = 1e9
    before = clock.now
    measure.settle()  # and not for ever
    assert clock.now - before < 1


def test_no_block_begins_while_threads_of_another_spin(clock):
    left = []

    def spinning():
        clock.pass_time(1e-3)
        clock.busy = 0.01

    def quiet():
        left.append(clock.busy)
        clock.pass_time(1e-3)

    measure.timed_rounds({"spinning": spinning, "quiet": quiet}, (4, 4), 0.008)
    assert len(left) > 4
    assert set(left) == {0}


def test_rounds_fit_the_time_and_blocks_are_alike(clock):
    counts = {"slow": 0, "fast": 0}

    def call(name, seconds):
        counts[name] += 1
        clock.pass_time(seconds)

    calls = {"slow": lambda: call("slow", 2e-3), "fast": lambda: call("fast", 1e-4)}
    times = measure.timed_rounds(calls, (2, 6), 1.0)
    assert times == {"slow": [pytest.approx((2e-3, 2e-3))] * 6, "fast": [pytest.approx((1e-4, 1e-4))] * 6}
    assert clock.now == pytest.approx(1.0, rel=0.2)
    assert counts["fast"] / counts["slow"] == pytest.approx(20, rel=0.2)
    assert measure.timed_rounds({"slow": lasting(clock, lambda: 10.0)}, (2, 6), 1.0) == {"slow": [pytest.approx((10.0, 10.0))] * 2}


def test_every_sitting_begins_with_another(clock, monkeypatch):
    firsts, rounds = [], contest.timed_rounds
    monkeypatch.setattr(contest, "timed_rounds", lambda *given: firsts.append((given[1], given[3])) or rounds(*given))
    held(clock, {"a": 1.5, "b": 1.0})
    assert [first for kind, first in firsts if kind == contest.SITTING_ROUNDS] == [4 * number for number in range(8)]
    assert [first for kind, first in firsts if kind == contest.HEAT_ROUNDS] == [0, 2, 4] * 2
    order = []
    calls = {name: lambda name=name: order.append(name) or clock.pass_time(1.0) for name in "abc"}
    measure.timed_rounds(calls, (1, 1), 1.0, first=2)
    assert order[-3:] == measure.turns("abc", 2)


def held(clock, speeds, *, noise=0.0, required=1.01, prove=lambda plan: "", progress=lambda done, total: None, seed=0, luck=0.0):
    """The outcome of a contest among candidates that are so many times as fast as the plan.

    `noise` is of every call, `luck` of every session.
    """
    rng = np.random.default_rng(seed)
    least = [required] * len(speeds) if isinstance(required, float) else required
    candidates = [
        Candidate(name=name, why="", session_options={"speed": str(speed)}, required=one)
        for (name, speed), one in zip(speeds.items(), least, strict=True)
    ]

    def opened(plan):
        seconds = 1e-3 / float(plan.session_options.get("speed", 1)) * np.exp(rng.normal(0, luck))
        return lasting(clock, lambda: seconds * np.exp(noise * rng.exponential()))

    return Contest(PLAN, opened, prove, 1.0, progress).held(candidates)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.3, 3.0), st.sampled_from([1.01, 1.15])), min_size=1, max_size=11))
def test_without_noise_the_best_that_brings_enough_is_chosen(drawn):
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "time", clock)
        speeds = {f"candidate {number}": speed for number, (speed, _) in enumerate(drawn)}
        outcome = held(clock, speeds, required=[least for _, least in drawn])
    able = [speed / least for speed, least in drawn if speed >= least * 1.0001]
    if not able:
        assert outcome.winner is None or speeds[outcome.winner.name] >= outcome.winner.required * 0.9999
        return
    assert outcome.winner is not None
    assert speeds[outcome.winner.name] / outcome.winner.required == pytest.approx(max(able), rel=1e-3)
    assert outcome.gain.median == pytest.approx(speeds[outcome.winner.name], rel=1e-3)
    assert outcome.chosen_us == pytest.approx(1000 / speeds[outcome.winner.name], rel=1e-3)
    assert outcome.default_us == pytest.approx(1000, rel=1e-3)
    assert {one.name for one in outcome.tried} == set(speeds)
    assert [one.name for one in outcome.tried if one.outcome == CHOSEN] == [outcome.winner.name]


def test_what_is_no_faster_is_hardly_ever_chosen(clock):
    alike = dict.fromkeys("abcdefg", 1.0)
    chosen = [held(clock, alike, noise=0.1, luck=0.03, seed=seed).winner for seed in range(60)]
    assert sum(winner is not None for winner in chosen) <= 3


def test_a_slower_one_is_never_chosen_and_a_much_faster_one_always(clock):
    for seed in range(20):
        assert held(clock, {"slow": 0.9, "slower": 0.5}, noise=0.1, luck=0.02, seed=seed).winner is None
        assert held(clock, {"slow": 0.9, "fast": 1.3, "even": 1.0}, noise=0.1, luck=0.02, seed=seed).winner.name == "fast"


def test_the_gain_claimed_is_of_fresh_sessions_and_not_the_luckiest_of_the_heats(clock):
    claimed = [held(clock, dict.fromkeys("abcdefg", 1.1), luck=0.04, seed=seed).gain for seed in range(40)]
    assert np.mean([gain.median for gain in claimed if gain]) == pytest.approx(1.1, abs=0.012)


def test_cores_have_to_bring_more(clock):
    outcome = held(clock, {"2 threads": 1.1}, required=1.15)
    assert (outcome.winner, outcome.tried[0].outcome) == (None, SHORT)
    assert held(clock, {"2 threads": 1.2}, required=1.15).winner.name == "2 threads"
    free_first = held(clock, {"free": 1.1, "2 threads": 1.2}, required=[1.01, 1.15])
    assert free_first.winner.name == "free"
    assert [one.outcome for one in free_first.tried] == [CHOSEN, OVERTAKEN]


@pytest.mark.parametrize(("threads", "chosen"), [(None, True), (2, False)])
def test_one_thread_is_judged_by_its_own_time_and_several_by_the_wall_s(clock, threads, chosen):
    rng = np.random.default_rng(0)

    def opened(plan):
        fast = "speed" in plan.session_options
        # Others have the core for a while, most of all where the candidate would be fast.
        return lambda: clock.pass_time(1e-3 / (1.3 if fast else 1), (2e-3 if fast else 1e-3) * rng.random())

    candidate = Candidate(name="fast", why="", session_options={"speed": "1.3"}, threads=threads)
    outcome = Contest(PLAN, opened, lambda plan: "", 1.0, lambda done, total: None).held([candidate])
    assert (outcome.winner is not None) == chosen
    if chosen:
        assert outcome.gain.median == pytest.approx(1.3)


def test_one_that_computes_something_else_is_left_out(clock):
    outcome = held(clock, {"wrong": 2.0, "even": 1.0}, prove=lambda plan: "outside" if plan.session_options else "")
    assert outcome.winner is None
    assert {one.name: one.outcome for one in outcome.tried}["wrong"] == "left out: outside"
    assert outcome.chosen_us == outcome.default_us
    second = held(
        clock, {"wrong": 2.0, "good": 1.3}, prove=lambda plan: "outside" if plan.session_options["speed"] == "2.0" else ""
    )
    assert (second.winner.name, second.gain.median) == ("good", pytest.approx(1.3))


def test_where_more_threads_do_not_win_their_final_what_takes_nothing_has_one(clock, monkeypatch):
    rounds = contest.timed_rounds

    def timed(calls, count, seconds, first):
        times = rounds(calls, count, seconds, first)
        busy = count == contest.SITTING_ROUNDS and "2 threads" in calls
        return dict.fromkeys(times, times["as planned"]) if busy else times

    monkeypatch.setattr(contest, "timed_rounds", timed)
    outcome = held(clock, {"free": 1.1, "freer": 1.05, "2 threads": 1.5}, required=[1.01, 1.01, 1.15])
    assert outcome.winner.name == "free"
    assert {one.name: one.outcome for one in outcome.tried} == {"free": CHOSEN, "freer": OVERTAKEN, "2 threads": UNCERTAIN}


def test_what_wins_the_heats_has_to_win_the_final(clock, monkeypatch):
    heats = contest.timed_rounds
    finals = []

    def timed(calls, rounds, seconds, first):
        times = heats(calls, rounds, seconds, first)
        if rounds == contest.SITTING_ROUNDS:
            finals.append(list(calls))
            return {name: [Took(1e-3, 1e-3)] * len(one) for name, one in times.items()}
        return times

    monkeypatch.setattr(contest, "timed_rounds", timed)
    outcome = held(clock, {"lucky": 1.5})
    assert (outcome.winner, outcome.tried[0].outcome, outcome.tried[0].gain.median) == (None, UNCERTAIN, 1.0)
    assert len(finals) == contest.SITTINGS
    assert sum(names[0] == "as planned" for names in finals) == contest.SITTINGS // 2  # who is opened first changes
    assert outcome.default_us == outcome.chosen_us


def test_one_that_can_t_be_opened_is_left_out(clock):
    def opened(plan):
        if plan.session_options.get("speed") == "2":
            raise UsageError("no such option")
        return lasting(clock, lambda: 1e-3 / float(plan.session_options.get("speed", 1)))

    candidates = [Candidate(name=name, why="", session_options={"speed": name}) for name in ("2", "1.5")]
    outcome = Contest(PLAN, opened, lambda plan: "", 1.0, lambda done, total: None).held(candidates)
    assert outcome.winner.name == "1.5"
    assert {one.name: (one.outcome, one.gain is None) for one in outcome.tried}["2"] == ("can't be opened: no such option", True)
    alone = Contest(PLAN, opened, lambda plan: "", 1.0, lambda done, total: None).held(candidates[:1])
    assert (alone.winner, [one.outcome for one in alone.tried]) == (None, ["can't be opened: no such option"])


@pytest.mark.parametrize("speeds", [{"a": 1.5}, dict.fromkeys("abcdefghijk", 1.0), {"a": 0.1}])
def test_progress_goes_up_to_the_end(clock, speeds):
    told = []
    held(clock, speeds, progress=lambda done, total: told.append((done, total)))
    parts = [done for done, _ in told]
    assert {total for _, total in told} == {contest.PARTS}
    assert parts == sorted(parts)
    assert parts[-1] == contest.PARTS
    assert len(told) > 3


class Opened:
    """A session, as a call."""

    def __init__(self, clock):
        self.clock = clock

    def __call__(self):
        self.clock.pass_time(1e-3)


def test_no_more_sessions_are_open_than_a_heat_has(clock):
    alive, counts = weakref.WeakSet(), []

    def opened(plan):
        made = Opened(clock)
        alive.add(made)
        counts.append(len(alive))
        return made

    candidates = [Candidate(name=str(number), why="") for number in range(11)]
    Contest(PLAN, opened, lambda plan: "", 1.0, lambda done, total: None).held(candidates)
    assert max(counts) == contest.HEAT + 1


@pytest.mark.parametrize(("most", "threads"), [(1, set()), (2, {2}), (6, {2, 4, 6}), (8, {2, 4, 8})])
def test_candidates_keep_to_the_most_threads(most, threads):
    found = candidates_for(PLAN, most)
    assert {one.threads for one in found if one.threads} == threads
    assert len({one.name for one in found}) == len(found)
    for one in found:
        assert one.required == (1.15 if one.threads else 1.01)
        changed = one.applied(PLAN)
        assert changed != PLAN
        assert changed.threads == (one.threads or 1)


def test_a_candidate_changes_what_its_name_says_and_nothing_else():
    for one in candidates_for(PLAN, 4):
        changed = one.applied(PLAN)
        if "own kernels" in one.name:
            own = plan_for_device("native")
            assert changed == msgspec.structs.replace(PLAN, backend=own.backend, providers=own.providers, threads=one.threads or 1)
            continue
        said = {
            "session.disable_prepacking": "1" if "unpacked" in one.name else None,
            "session.intra_op.allow_spinning": "0" if "blocking" in one.name else None,
            "session.intra_op.spin_duration_us": "50" if "spinning" in one.name else None,
        }
        assert changed.session_options == {name: value for name, value in said.items() if value}
        assert changed.graph_level == next((level for level in ("basic", "extended") if level in one.name), "all")
        assert msgspec.structs.replace(changed, session_options={}, graph_level="all", threads=1) == PLAN


def test_a_plan_on_two_threads_may_do_better_on_one():
    plan = plan_for_device("cpu", threads=2)
    found = {one.name: one for one in candidates_for(plan, 2)}
    assert found["1 thread"].applied(plan).threads == 1
    assert {one.required for one in found.values()} == {1.01}


def test_what_the_plan_says_otherwise_stays():
    plan = msgspec.structs.replace(PLAN, session_options={"session.x64quantprecision": "1"})
    for one in candidates_for(plan, 4):
        changed = one.applied(plan)
        if one.native:
            assert changed.session_options == {}  # which are ONNX Runtime's
            assert (changed.precision, changed.hazards, changed.device) == (plan.precision, plan.hazards, plan.device)
            continue
        assert changed.session_options["session.x64quantprecision"] == "1"
        assert (changed.precision, changed.providers, changed.backend) == (plan.precision, plan.providers, plan.backend)


def test_times_of_real_calls():
    took = measure.timed_rounds({"a": lambda: time.sleep(0.002), "b": lambda: time.sleep(0.008)}, (5, 5), 0.2)
    walls = {name: median(one.wall for one in rounds) for name, rounds in took.items()}
    assert 1.5 < walls["b"] / walls["a"] < 6
    assert all(one.own < one.wall / 2 for one in took["b"])  # a thread that sleeps has no core
