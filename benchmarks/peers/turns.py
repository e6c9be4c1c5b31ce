"""Who is timed when. All candidates of a workload are loaded and asleep; in each round each is woken once, in an order drawn anew.

A candidate that raises, ends, is wrong or takes too long is listed with what happened, and the others go on.
"""

from __future__ import annotations

import json
import os
import random
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

HERE = Path(__file__).parent
SHORT = 0.02  # seconds: of less than that, there are several calls to find out how long one takes
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}  # of NumPy in every worker; the runtimes are told their own number


class Failed(Exception):
    """A candidate can't be timed; the message is what is listed."""


class Candidate(Protocol):
    """Something that can be told to make calls and says how long they took."""

    def time(self, calls: int, warm: int) -> Mapping[str, float]:
        """Nanoseconds: median, best, p90 of `calls` calls after `warm` that are not counted; or `Failed`."""
        ...


class Pace(NamedTuple):
    """How long everything may take, in seconds."""

    turn: float = 0.045  # of one candidate in one round
    warm: float = 0.006  # before it, not counted
    rest: float = 0.003  # between turns: threads that still spin go to sleep
    rounds: int = 30
    fewest: int = 7
    total: float = 12.0  # of all rounds of a workload, after which there are no more than `fewest`


QUICK = Pace(rounds=7, fewest=3, total=4.0)


class Worker:
    """A process that holds one workload in one runtime."""

    def __init__(self, name: str, prepared: Path, converted: Path, threads: int, *, limit: float = 120.0) -> None:
        self._limit = limit
        command = [sys.executable, "-m", "peers.worker", name, str(prepared), str(converted), str(threads)]
        self._log = converted / f"worker-{threads}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                cwd=HERE.parent,
                env={**os.environ, **ONE_THREAD},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._buffer = b""

    def loaded(self) -> dict[str, Any]:
        """What loading found.

        Raises:
            Failed: it could not be loaded or run.
        """
        return self._answer()

    def time(self, calls: int, warm: int) -> Mapping[str, float]:
        """One turn.

        Raises:
            Failed: it ended, or did not answer in time.
        """
        self._tell({"calls": calls, "warm": warm})
        return self._answer()

    def end(self) -> dict[str, Any]:
        """Ask for the memory that was needed, and end it.

        Raises:
            Failed: it had ended by itself.
        """
        try:
            self._tell({"end": True})
            return self._answer()
        finally:
            self.kill()

    def kill(self) -> None:
        """End it and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _tell(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Failed(self._how_it_ended()) from error

    def _answer(self) -> dict[str, Any]:
        line = self._line()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(" ".join(str(answer["error"]).split())[:400])
        return answer

    def _line(self) -> bytes:
        out = self._process.stdout
        assert out is not None
        until = time.monotonic() + self._limit
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise Failed(f"no answer after {self._limit:.0f} s")
                piece = os.read(out.fileno(), 1 << 16)
                if not piece:
                    raise Failed(self._how_it_ended())
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with {code}"
        said = self._log.read_text(errors="replace").strip().splitlines()
        return f"{how}: {said[-1][:200]}" if said else how


class Rounds(NamedTuple):
    """Nanoseconds a call of each candidate: the median of each turn, and the fastest call of all."""

    medians: dict[str, list[float]]
    best: dict[str, float]
    failed: dict[str, str]
    between: list[Any]  # what `each_round` gave


def take_turns(candidates: Mapping[str, Candidate], pace: Pace, seed: int, each_round: Callable[[], Any] = lambda: None) -> Rounds:
    """Time every candidate once in each round, the order shuffled by `seed`.

    Only rounds in which all that remain were measured count, so that ratios can be taken round by round.
    """
    order, failed = list(candidates), {}
    counts: dict[str, tuple[int, int]] = {}
    for name in candidates:
        try:
            counts[name] = _counts(candidates[name], pace)
        except Failed as error:
            failed[name] = str(error)
    draw = random.Random(seed)
    measured: list[dict[str, Mapping[str, float]]] = []
    between: list[Any] = []
    start = time.monotonic()
    while len(measured) < pace.rounds and (len(measured) < pace.fewest or time.monotonic() - start < pace.total):
        draw.shuffle(order)
        this: dict[str, Mapping[str, float]] = {}
        between.append(each_round())
        for name in order:
            if name in failed:
                continue
            time.sleep(pace.rest)
            try:
                this[name] = candidates[name].time(*counts[name])
            except Failed as error:
                failed[name] = str(error)
        measured.append(this)
    names = [name for name in candidates if name not in failed]
    return Rounds(
        {name: [this[name]["median"] for this in measured] for name in names},
        {name: min(this[name]["best"] for this in measured) for name in names},
        failed,
        between,
    )


def _counts(candidate: Candidate, pace: Pace) -> tuple[int, int]:
    """How many calls fill a turn, and its warm-up; they warm the candidate up."""
    seconds = candidate.time(1, 1)["median"] * 1e-9
    for _ in range(2 if seconds < SHORT else 0):
        seconds = candidate.time(max(3, int(SHORT / seconds)), 1)["median"] * 1e-9
    return max(1, round(pace.turn / seconds)), max(1 if seconds < 0.05 else 0, round(pace.warm / seconds))


def shuffled(names: Sequence[str], seed: int) -> list[str]:
    """The names in an order of that seed."""
    order = list(names)
    random.Random(seed).shuffle(order)
    return order
