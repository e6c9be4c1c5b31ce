"""`edgeseq compile`: make ready what a device runs: a tuned plan for a CPU, engines for TensorRT, edgeseq's own kernels."""

from __future__ import annotations

import json
import warnings
from typing import Annotated, Any

import typer

from edgeseq_runtime.bundle import Bundle, open_bundle
from edgeseq_runtime.cli.options import (
    AxisOption,
    BatchOption,
    BundleArgument,
    DebugOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
)
from edgeseq_runtime.console import OUT, pairs, progress, table, working
from edgeseq_runtime.errors import ProviderError, UsageError
from edgeseq_runtime.interface import interface_of
from edgeseq_runtime.plan import Plan, make_plan
from edgeseq_runtime.provider_needs import FILES, TENSORRT
from edgeseq_runtime.session import open_session
from edgeseq_runtime.tuning import Tried, Tuning, tune_plan
from edgeseq_runtime.tuning.record import DEFAULT
from edgeseq_runtime.tuning.workload import workload_for

FIGURES = ("gain", "at least", "at most", "required")

WorkloadOption = Annotated[
    str | None, typer.Option("--workload", help="What to be fast at, step or sequence; the step where there is state.")
]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="Time steps in a call; 1 of a step, 100 of a sequence.")]
SecondsOption = Annotated[float, typer.Option("--seconds", min=0.01, help="To measure for, about.")]
MostThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="That may share one operator at most; the machine's cores if left out.")
]
AnewOption = Annotated[bool, typer.Option("--anew", help="Measure even if a choice is kept.")]
CapabilityOption = Annotated[
    str | None,
    typer.Option("--capability", help="An engine for any GPU of this compute capability, such as 8.6, which need not be here."),
]
BackendOption = Annotated[str | None, typer.Option("--backend", help="Another than the device's own; see edgeseq plan --help.")]


def compile_command(
    bundle: BundleArgument,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    workload: WorkloadOption = None,
    steps: StepsOption = None,
    batch: BatchOption = 1,
    seconds: SecondsOption = 5.0,
    threads: MostThreadsOption = None,
    backend: BackendOption = None,
    axis: AxisOption = None,
    capability: CapabilityOption = None,
    anew: AnewOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make ready what a device runs: the fastest plan for a CPU, measured here, an engine of TensorRT, or edgeseq's own kernels.

    Each is kept in the user's cache: load(..., tune=True) and edgeseq bench --tune use the plan, every session there the others.
    """
    opened = open_bundle(bundle)
    plan = make_plan(opened, device, precision=precision, backend=backend, axes=axis or ())
    if capability is not None and plan.backend != "tensorrt":
        raise UsageError(f"--capability is of TensorRT's engines, and device '{device}' has none; add --backend tensorrt")
    if plan.backend == "tensorrt":
        _compile_engine(opened, plan, capability, as_json)
    elif plan.backend == "native":
        _compile_kernels(opened, plan, as_json)
    elif TENSORRT in plan.providers:
        _open_with_engines(opened, plan, as_json)
    elif any(name in FILES for name in plan.providers):
        raise UsageError(
            f"device '{plan.device}' runs on {plan.providers[0]}, which compiles nothing ahead; "
            "engines are built with --backend tensorrt or --backend onnxruntime-tensorrt; a CPU's plan is tuned with --device auto"
        )
    else:
        chosen = workload_for(interface_of(opened.manifest), workload, steps, batch)
        with progress("measuring") as told:
            tuning = tune_plan(opened, plan, workload=chosen, seconds=seconds, max_threads=threads, anew=anew, progress=told)
        if as_json:
            _show(tuning.to_json(), as_json)
        else:
            _print(opened, tuning)


def _print(bundle: Bundle, tuning: Tuning) -> None:
    record = tuning.record
    machine = record.facts["machine"]
    versions = ", ".join(f"{name} {found}" for name, found in record.facts["versions"].items())
    cores = len(machine["cores"])
    OUT.print(
        pairs(
            [
                ("model", f"{bundle.name} ({bundle.sha256[:16]}), {tuning.plan.precision}"),
                ("for", f"{record.workload}, at most {record.facts['threads']} threads"),
                ("on", f"{machine['processor'] or machine['architecture']}, {cores} core{'s' * (cores != 1)}"),
                ("with", versions),
            ]
        )
    )
    OUT.print()
    OUT.print(table(("candidate", *FIGURES, "outcome"), list(map(_cells, record.tried)), right=FIGURES))
    OUT.print()
    OUT.print(pairs(_choice(tuning)))


def _cells(tried: Tried) -> tuple[str, ...]:
    gain = tried.gain
    values = (None, None, None) if gain is None else (gain.median, gain.low or None, gain.high)
    measured = tuple("" if value is None else f"{value:.2f}" for value in values)
    return (tried.name, *measured, f"{tried.required:.2f}", tried.outcome)


def _choice(tuning: Tuning) -> list[tuple[str, object]]:
    record = tuning.record
    found: list[tuple[str, object]]
    if record.gain is None:
        found = [("chosen", f"{DEFAULT}: nothing is certainly faster"), ("time", f"{record.default_us:.1f} us a call")]
    else:
        found = [
            ("chosen", record.chosen),
            ("gain", f"{record.gain.median:.2f} times as fast, and certainly {record.gain.low:.2f} times"),
            ("time", f"{record.chosen_us:.1f} us a call instead of {record.default_us:.1f}"),
        ]
    if tuning.plan.threads > 1 and record.chosen != DEFAULT:
        found.append(
            (
                "beware",
                f"{tuning.plan.threads} cores are busy during a call; where others need them, one can take many times as long: "
                "--threads 1 keeps to one",
            )
        )
    where = tuning.path or "not kept"
    found.append(("kept", f"{where} (measured before; --anew measures again)" if tuning.cached else where))
    return found + ([("note", tuning.note)] if tuning.note else [])


def _compile_engine(bundle: Bundle, plan: Plan, capability: str | None, as_json: bool) -> None:
    try:
        from edgeseq_runtime.backends.tensorrt_backend import compile_engine
    except ImportError as error:
        raise ProviderError(
            f"device '{plan.device}' needs TensorRT, and importing its backend failed ({error}); "
            f"'edgeseq selftest --device {plan.device}' names what is missing"
        ) from error
    engine = compile_engine(bundle, plan, capability=capability)
    found = {
        "kept": "not kept" if engine.path is None else str(engine.path),
        "bytes": engine.record.size,
        "seconds": engine.record.seconds,
        "built": engine.built,
        "notes": list(engine.notes),
    }
    _show(found, as_json)


def _open_with_engines(bundle: Bundle, plan: Plan, as_json: bool) -> None:
    """ONNX Runtime's TensorRT provider builds its engines while a session is opened, into the user's cache."""
    with working("building engines"):
        session = open_session(bundle, plan)
    _show({"engine": "of ONNX Runtime's TensorRT provider", "providers": list(session.providers)}, as_json)


def _compile_kernels(bundle: Bundle, plan: Plan, as_json: bool) -> None:
    """The kernels are one library for all models; that it runs this one is seen by opening it."""
    from edgeseq_runtime.native.compiled import NativeNotice, compiled  # which no other device needs

    with working("compiling the kernels"), warnings.catch_warnings():
        warnings.simplefilter("ignore", NativeNotice)  # the notes below say it
        made = compiled()
    open_session(bundle, plan)
    found = {
        "kept": "not kept" if made.path is None else str(made.path),
        "compiler": made.record.compiler,
        "flags": list(made.record.flags),
        "built": made.built,
        "notes": list(made.notes),
    }
    _show(found, as_json)


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=1))
        return
    rows = [(name, _text(value)) for name, value in found.items()]
    OUT.print(pairs([(name, text) for name, text in rows if text]))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "now" if value else "before"
    if isinstance(value, float):
        return f"{value:.1f}"
    return ", ".join(value) if isinstance(value, list) else str(value)
