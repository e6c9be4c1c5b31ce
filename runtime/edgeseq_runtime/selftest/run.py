"""The self-test: environment, session, parity and a short bench, one after the other; a step that fails doesn't stop the others."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata, resources
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from edgeseq_runtime.bench import OURS, BenchReport, measure_bench
from edgeseq_runtime.bundle import Bundle, open_bundle
from edgeseq_runtime.detect import Machine, detect_machine
from edgeseq_runtime.detect.nvml import LIBRARY
from edgeseq_runtime.device import Device, load_device
from edgeseq_runtime.errors import EdgeseqError
from edgeseq_runtime.forecast import make_forecast
from edgeseq_runtime.forecast.software import provider_text
from edgeseq_runtime.parity import ParityReport, measure_parity
from edgeseq_runtime.plan import Plan, make_plan
from edgeseq_runtime.selftest.board import Board, read_board
from edgeseq_runtime.selftest.checks import MISSING, Check
from edgeseq_runtime.selftest.environment import environment_checks
from edgeseq_runtime.session import Session, open_session
from edgeseq_runtime.suite.record import record_bytes
from edgeseq_runtime.tensors.distance import Float64

KIND, FORMAT = "edgeseq self-test", 1
PASS, FAIL, SKIP = "pass", "fail", "skip"
BUILT_IN = "selftest.edgeseq"
NAMED = 8  # nodes on the CPU that are named

Value = TypeVar("Value")
Tell = Callable[[str], None]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the test."""

    name: str
    verdict: str  # "pass", "fail", or "skip" where there was nothing to do it with
    text: str
    seconds: float


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was found; what could not be measured is None."""

    time: str
    version: str  # of edgeseq
    bundle: str
    sha256: str
    plan: Plan
    profile: Device
    machine: Machine
    board: Board
    checks: tuple[Check, ...]
    steps: tuple[Step, ...]
    assignment: dict[str, tuple[str, ...]]  # execution provider -> nodes, where the backend tells
    parity: ParityReport | None
    bench: BenchReport | None
    times: dict[str, Float64]  # of the bench: mode -> microseconds of every call

    @property
    def passed(self) -> bool:
        """Whether nothing that the device needs is missing, and every step passed."""
        return all(check.verdict != MISSING for check in self.checks) and all(step.verdict == PASS for step in self.steps)

    @property
    def to_do(self) -> tuple[Check, ...]:
        """What there is something to do about, what the device needs first."""
        return tuple(sorted((check for check in self.checks if check.do), key=lambda check: check.verdict != MISSING))

    def to_json(self) -> dict[str, Any]:
        """The self-test as JSON values; `record` is one of `edgeseq parity --record`."""
        fields = ("time", "version", "bundle", "sha256", "plan", "profile", "machine", "board", "checks", "steps", "assignment")
        return {
            "kind": KIND,
            "format": FORMAT,
            "passed": self.passed,
            **{name: msgspec.to_builtins(getattr(self, name)) for name in fields},
            "record": json.loads(record_bytes(self.parity, self.profile)) if self.parity else None,
            "bench": self.bench.to_json() if self.bench else None,
        }


@contextmanager
def builtin_bundle() -> Iterator[Path]:
    """The bundle that comes with edgeseq, made by benchmarks/selftest_bundle.py: an LSTM and a GRU that stream."""
    with resources.as_file(resources.files(__package__).joinpath(BUILT_IN)) as path:
        yield path


def run_selftest(
    path: Path,
    *,
    device: Device | str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    seconds: float = 0.3,
    root: Path = Path("/"),
    tell: Tell = lambda step: None,
) -> SelfTest:
    """Test this machine with a bundle.

    Args:
        path: a `.edgeseq` bundle with reference values.
        device: a profile or its name.
        precision: one that the bundle holds.
        threads: how many share one operator.
        seconds: for the times of a step and of a sequence, each.
        root: the folder that stands for the machine's root; what runs, runs here all the same.
        tell: told the name of each step as it begins.

    Raises:
        UsageError, BundleError, DeviceError: the request can't be carried out on any machine; nothing was tested.
    """
    bundle, profile = open_bundle(path), device if isinstance(device, Device) else load_device(device)
    plan = make_plan(bundle, profile, precision=precision, threads=threads)
    steps = _Steps(tell)
    machine = detect_machine(root, nvml=LIBRARY if root == Path("/") else None)
    board = read_board(root)

    def environment() -> tuple[Check, ...]:
        return environment_checks(machine, board, profile, plan, _needed(bundle, profile, plan), root)

    checks = steps.take("environment", environment, _counted)
    session = steps.take("session", lambda: open_session(bundle, plan), _opened)
    parity, bench, times = None, None, dict[str, Float64]()
    if session is None:
        steps.skip("parity", "there is no session to compare")
        steps.skip("bench", "there is no session to time")
    else:
        parity = steps.take("parity", lambda: measure_parity(path, session=session), _compared, lambda report: report.passed)

        def keep(mode: str, who: str, nanoseconds: Sequence[int]) -> None:
            if who == OURS:
                times[mode] = np.asarray(nanoseconds, np.float64) / 1e3

        def timed() -> BenchReport:
            return measure_bench(path, device=profile, precision=precision, threads=threads, seconds=seconds, observe=keep)

        bench = steps.take("bench", timed, _timed)
    return SelfTest(
        time=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=metadata.version("edgeseq"),
        bundle=bundle.name,
        sha256=bundle.sha256,
        plan=plan,
        profile=profile,
        machine=machine,
        board=board,
        checks=checks or (),
        steps=tuple(steps.done),
        assignment=session.assignment if session else {},
        parity=parity,
        bench=bench,
        times=times,
    )


class _Steps:
    """Takes steps, and keeps what became of each."""

    def __init__(self, tell: Tell) -> None:
        self.done: list[Step] = []
        self._tell = tell

    def take(
        self,
        name: str,
        step: Callable[[], Value],
        text: Callable[[Value], str] = lambda value: "",
        good: Callable[[Value], bool] = lambda value: True,
    ) -> Value | None:
        """The step's value; None where it failed, whatever the error: the next ones are to be taken all the same."""
        self._tell(name)
        start = time.perf_counter()
        try:
            value = step()
            self._add(name, PASS if good(value) else FAIL, text(value), start)
        except EdgeseqError as error:
            self._add(name, FAIL, str(error), start)
            return None
        except Exception as error:  # a backend on a board that nobody has tried may raise anything
            self._add(name, FAIL, f"{type(error).__name__}: {error}", start)
            return None
        return value

    def skip(self, name: str, text: str) -> None:
        """Note a step that can't be taken."""
        self.done.append(Step(name=name, verdict=SKIP, text=text, seconds=0.0))

    def _add(self, name: str, verdict: str, text: str, start: float) -> None:
        self.done.append(Step(name=name, verdict=verdict, text=text, seconds=time.perf_counter() - start))


def _needed(bundle: Bundle, device: Device, plan: Plan) -> int | None:
    """Bytes at the bundle's greatest sizes, where they can be foretold."""
    try:
        return make_forecast(bundle, device, precision=plan.precision).memory.total
    except EdgeseqError:
        return None


def _counted(checks: Sequence[Check]) -> str:
    verdicts = [check.verdict for check in checks]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))


def _opened(session: Session) -> str:
    text = f"on {', '.join(map(provider_text, session.providers))}; {session.plan.backend} {session.backend_version}"
    on_cpu = session.assignment.get("CPUExecutionProvider", ())
    if len(session.providers) > 1 and session.assignment:
        named = ", ".join(on_cpu[:NAMED]) + (", ..." if len(on_cpu) > NAMED else "")
        text += f"; on the CPU: {len(on_cpu)} nodes ({named})" if on_cpu else "; no node on the CPU"
    return text


def _compared(report: ParityReport) -> str:
    figures = ", ".join(f"worst {name} {report.worst(name):.2g}" for name in report.gate.figures)
    return f"{report.count(PASS)} pass, {report.count(FAIL)} fail, {report.count(SKIP)} skip; {figures}"


def _timed(report: BenchReport) -> str:
    return ", ".join(f"{'a step' if row.mode == 'step' else f'{row.T} steps'} {row.median:.3g} us" for row in report.rows)
