"""Does a model compute, on this device, what PyTorch computes? Answered from the bundle alone.

Every reference case is run whole; where there is state, also piece by piece through a stream. Shapes, dtypes and not-a-number
come first; then the distance from PyTorch's float64 result, pooled over the draws of a case (`edgeseq_runtime.tensors.distance`),
in units of PyTorch's own rounding error or, below float32, of the output's rms: as the bundle's gate for the precision says. Where
it is asked for, the graph is evaluated in float64 besides, without any runtime (`edgeseq_runtime.graph_checks`). A
metric of the user's own may be asked for besides (`edgeseq_runtime.metric`).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path

import numpy as np

from edgeseq_runtime.bundle import EXACT_GATE, AnyGate, Bundle, CaseArrays, open_bundle
from edgeseq_runtime.device import Device
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.graph_checks import DRAWS, Evaluate, graph_in_float64
from edgeseq_runtime.interface import interface_of
from edgeseq_runtime.metric import MAX_LOSS, Metric, MetricRow, measure_metric
from edgeseq_runtime.parity.report import EXACT, ParityReport, ParityRow
from edgeseq_runtime.parity.rows import Audience, Observer, Progress, exact_rows, runtime_rows
from edgeseq_runtime.plan import make_plan
from edgeseq_runtime.session import Session, open_session


def measure_parity(
    path: str | PathLike[str],
    *,
    device: Device | str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    session: Session | None = None,
    at: Mapping[str, int] | None = None,
    metric: Metric | None = None,
    max_loss: float = MAX_LOSS,
    exact: bool = False,
    progress: Progress = lambda done, total: None,
    observe: Observer = lambda spec, mode, case, pieces: None,
) -> ParityReport:
    """Compare every output with the bundle's reference at every case.

    Args:
        path: a `.edgeseq` bundle; a plain `.onnx` holds no reference.
        device: a profile or its name.
        precision: one that the bundle holds; it has gates of its own.
        threads: how many share one operator.
        session: measure this one instead of opening the bundle with the three options above.
        at: the sizes of the one reference case to compare; every case unless said.
        metric: takes a session and returns a number, higher is better, on data of the user's own; it is taken of the fp32 model on
            the local CPU, too.
        max_loss: how much lower it may be than the fp32 model's.
        exact: evaluate the graph in float64, too, which tells a graph that is a little off from kernels that round; fp32 alone.
        progress: told after each draw.
        observe: shown the arrays behind each row that could be computed; they are let go after that.

    Raises:
        UsageError: no such file, precision or sizes, no reference values, a model that the backend can't load, a metric that
            can't be taken of the fp32 model, or `exact` without the exporter or below fp32.
        EdgeseqError: the graph has an operator that is not evaluated in float64.
        BundleError: the bundle can't be trusted or read.
        ProviderError: the device's backend or provider is not there.
    """
    if Path(path).suffix == ".onnx":
        raise UsageError(f"{path} is a plain ONNX model and holds no reference values; export it to a bundle to prove it")
    bundle = open_bundle(path)
    if session is None:
        session = open_session(bundle, make_plan(bundle, device, precision=precision, threads=threads))
    cases = _cases(bundle, at)
    evaluate = _evaluator(bundle, session.plan.precision) if exact else None
    gate = bundle.manifest.gate(session.plan.precision)
    # The user's code first: where it is wrong, that is told at once.
    taken = None if metric is None else measure_metric(bundle, session, metric, max_loss)
    rows = tuple(runtime_rows(session, cases, gate, Audience(cases, session, progress, observe)))
    if evaluate is not None:
        rows = (*rows, *exact_rows(evaluate, session.interface, cases))
    return _report(bundle, session, gate, rows, taken)


def _cases(bundle: Bundle, at: Mapping[str, int] | None) -> tuple[CaseArrays, ...]:
    cases = bundle.reference()
    chosen = tuple(case for case in cases if at is None or case.case.sizes == at)
    if not chosen:
        found = (
            f" at {at}; it has: {[case.case.sizes for case in cases]}" if cases else ", so nothing can be proved; export it again"
        )
        raise UsageError(f"{bundle.path} holds no reference values{found}")
    return chosen


def _evaluator(bundle: Bundle, precision: str) -> Evaluate:
    if precision != "fp32":
        raise UsageError(f"an exact comparison is of the fp32 graph, and {precision} was asked for: its weights are rounded")
    return graph_in_float64(bundle.model(), [spec.name for spec in bundle.outputs])


def measure_graph(path: str | PathLike[str], *, model: bytes | None = None, draws: int = DRAWS) -> tuple[ParityRow, ...]:
    """The rows of mode "exact" alone: no runtime takes part.

    Args:
        path: a `.edgeseq` bundle.
        model: the serialised graph to hold against its reference; its own unless given.
        draws: how many of each reference case.

    Raises:
        UsageError: no such file, no reference values, or the exporter is not installed.
        BundleError: the bundle can't be trusted or read.
        EdgeseqError: the graph has an operator that is not evaluated in float64.
    """
    bundle = open_bundle(path)
    evaluate = graph_in_float64(bundle.model() if model is None else model, [spec.name for spec in bundle.outputs])
    return tuple(exact_rows(evaluate, interface_of(bundle.manifest), _cases(bundle, None), draws))


def _report(bundle: Bundle, session: Session, gate: AnyGate, rows: tuple[ParityRow, ...], metric: MetricRow | None) -> ParityReport:
    return ParityReport(
        path=str(bundle.path),
        name=bundle.name,
        sha256=bundle.sha256,
        device=session.plan.device,
        precision=session.plan.precision,
        providers=session.providers,
        threads=session.plan.threads,
        gate=gate,
        exact_gate=EXACT_GATE if any(row.mode == EXACT for row in rows) else None,
        versions=installed_versions(session),
        provenance=bundle.manifest.provenance,
        rows=rows,
        metric=metric,
    )


def installed_versions(session: Session) -> dict[str, str]:
    """What a measurement was made with."""
    return {
        "edgeseq": version("edgeseq"),
        session.plan.backend: session.backend_version,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
