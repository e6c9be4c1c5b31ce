"""Tune a plan: read what was chosen before, or hold a contest, prove the winner and keep the choice."""

from __future__ import annotations

import time
import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgeseq_runtime.bundle import Bundle
from edgeseq_runtime.detect.machine import BRINGS
from edgeseq_runtime.device import Device
from edgeseq_runtime.errors import ProviderError, UsageError
from edgeseq_runtime.interface import interface_of
from edgeseq_runtime.plan import Plan, make_plan
from edgeseq_runtime.session import onnxruntime_backend, open_session
from edgeseq_runtime.tuning.cache import keep, one_at_a_time, read_kept, record_path, tuning_facts, usable_cores
from edgeseq_runtime.tuning.candidates import candidates_for
from edgeseq_runtime.tuning.contest import Contest, Progress
from edgeseq_runtime.tuning.measure import Call
from edgeseq_runtime.tuning.proof import problem_of
from edgeseq_runtime.tuning.record import DEFAULT, Tuning, TuningNotice, TuningRecord
from edgeseq_runtime.tuning.workload import Workload, call_of, example_inputs, workload_for


def tune_plan(
    bundle: Bundle,
    plan: Plan,
    *,
    workload: Workload | None = None,
    seconds: float = 5.0,
    max_threads: int | None = None,
    cache: Path | None = None,
    anew: bool = False,
    progress: Progress = lambda done, total: None,
) -> Tuning:
    """The fastest plan for this bundle on this machine that is certainly faster than the plan given; else that plan.

    What was chosen before for the same bundle, plan, workload, machine and versions is not measured again.

    Args:
        bundle: what to run.
        plan: how it is run otherwise, on a CPU through ONNX Runtime.
        workload: calls to be fast at; a step where there is state, else a sequence of 100 steps, unless said.
        seconds: to measure for, about; a model whose calls take long takes longer.
        max_threads: that may share one operator; the machine's cores unless said. 1 keeps every other core free.
        cache: the folder that choices are kept in; the user's own unless said.
        anew: measure even if a choice is kept.
        progress: told as the measurement goes on.

    Raises:
        UsageError: the plan is not for a CPU through ONNX Runtime, or a number makes no sense.
        ProviderError: ONNX Runtime is not there.
    """
    workload = workload or workload_for(interface_of(bundle.manifest))
    most = _most_threads(max_threads)
    if not 0 < seconds < float("inf"):
        raise UsageError(f"seconds is {seconds}; give the time to measure for, such as 5")
    facts = tuning_facts(bundle, plan, workload, most, _backend_version(plan))
    with one_at_a_time(cache):
        kept = None if anew else read_kept(facts, cache)
        if kept is not None and (found := _restored(plan, kept, most, cache)):
            return found
        return _kept(_measured(bundle, plan, workload, most, seconds, facts, progress), cache)


def tuned_plan(bundle: Bundle, device: Device | str, *, precision: str = "fp32", max_threads: int | None = None) -> Plan:
    """The plan that `edgeseq_runtime.load` uses where it is asked to tune; warns of what did not go as it should.

    Raises:
        UsageError, DeviceError, ProviderError: as `make_plan` and `tune_plan`.
    """
    tuning = tune_plan(bundle, make_plan(bundle, device, precision=precision), max_threads=max_threads)
    if tuning.note:
        warnings.warn(tuning.note, TuningNotice, stacklevel=3)
    return tuning.plan


def _measured(
    bundle: Bundle, plan: Plan, workload: Workload, most: int, seconds: float, facts: dict[str, Any], progress: Progress
) -> Tuning:
    example = example_inputs(bundle)

    def opened(candidate: Plan) -> Call:
        session = open_session(bundle, candidate)
        call = call_of(session, example, workload)
        call()
        if session.prepared_for:
            raise UsageError(
                f"it prepares for what '{', '.join(session.prepared_for)}' holds, anew where that changes: what is measured with "
                "one says nothing of others"
            )
        return call

    start = time.perf_counter()
    outcome = Contest(plan, opened, lambda one: problem_of(bundle, one), seconds, progress).held(candidates_for(plan, most))
    record = TuningRecord(
        facts=facts,
        workload=workload,
        chosen=DEFAULT if outcome.winner is None else outcome.winner.name,
        gain=outcome.gain,
        default_us=outcome.default_us,
        chosen_us=outcome.chosen_us,
        tried=outcome.tried,
        seconds=time.perf_counter() - start,
    )
    return Tuning(plan if outcome.winner is None else outcome.winner.applied(plan), record, None, cached=False)


def _kept(tuning: Tuning, cache: Path | None) -> Tuning:
    try:
        return tuning._replace(path=str(keep(tuning.record, cache)))
    except UsageError as error:
        return tuning._replace(note=f"the choice is used and not kept: {error}")


def find_tuning(
    bundle: Bundle, plan: Plan, *, workload: Workload | None = None, max_threads: int | None = None, cache: Path | None = None
) -> Tuning | None:
    """The choice that `tune_plan` kept for the same arguments; None where there is none. Measures nothing.

    Raises:
        UsageError, ProviderError: as `tune_plan`.
    """
    workload = workload or workload_for(interface_of(bundle.manifest))
    most = _most_threads(max_threads)
    kept = read_kept(tuning_facts(bundle, plan, workload, most, _backend_version(plan)), cache)
    return None if kept is None else _restored(plan, kept, most, cache)


def _most_threads(asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise UsageError(f"at most {asked} threads were asked for; give 1 or more, or leave it out")
    return min(asked or len(usable_cores()), len(usable_cores()))


def _backend_version(plan: Plan) -> str:
    if plan.backend != "onnxruntime" or plan.providers != ("CPUExecutionProvider",):
        raise UsageError(
            f"device '{plan.device}' runs on {', '.join(plan.providers) or plan.backend}, and only CPUs are tuned; "
            "leave tuning out, or choose device 'auto'"
        )
    for package in BRINGS:  # importing ONNX Runtime to ask it takes longer than everything that a plan needs
        with suppress(PackageNotFoundError):
            return version(package)
    return str(onnxruntime_backend(plan).VERSION)


def _restored(plan: Plan, kept: TuningRecord, most: int, cache: Path | None) -> Tuning | None:
    path = str(record_path(kept.facts, cache))
    if kept.chosen == DEFAULT:
        return Tuning(plan, kept, path, cached=True)
    named = [one for one in candidates_for(plan, most) if one.name == kept.chosen]
    if not named or (named[0].native and not _has_own_kernels()):
        return None
    return Tuning(named[0].applied(plan), kept, path, cached=True)


def _has_own_kernels() -> bool:
    """Whether what was measured with them can be run: a compiler may have gone, and what it made with it."""
    from edgeseq_runtime.native.compiled import compiled  # which plans that don't use them do without

    try:
        compiled()
    except ProviderError:
        return False
    return True
