"""One variant tried: built, held to its gate, and with layers put back into float32 until it holds."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgeseq_quantize.layers import Layer
from edgeseq_quantize.report import LayerRow
from edgeseq_quantize.variants import Variant
from edgeseq_runtime.bundle import Bundle, RelativeGate, judge, open_bundle, with_precision
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.interface import size_text
from edgeseq_runtime.metric import MAX_LOSS, Metric
from edgeseq_runtime.parity import ParityReport, measure_parity
from edgeseq_runtime.plan import make_plan
from edgeseq_runtime.session import Session, open_session
from edgeseq_runtime.tensors.spec import Array

Arrays = Mapping[str, Array]


class Demands(NamedTuple):
    """What a variant must keep."""

    gate: RelativeGate
    metric: Metric | None = None
    max_loss: float = MAX_LOSS
    calibration: tuple[Arrays, ...] = ()  # inputs of the user's own
    smallest: int = 0  # weights of a layer below which it stays in fp32
    device: str = "auto"  # where it must


class Measured(NamedTuple):
    """A model held to the demands."""

    model: bytes
    names: frozenset[str]  # layers that are quantised
    gate: RelativeGate
    session: Session
    parity: ParityReport
    calibration: float  # largest relative error on the user's inputs; not a number where there are none
    problem: str  # why it does not keep what was demanded; empty where it does

    @property
    def relative(self) -> float:
        """The largest error that counts: on the reference values, and on the user's inputs."""
        found = [value for value in (self.parity.worst("relative"), self.calibration) if not math.isnan(value)]
        return max(found, default=math.inf)


class Trial(NamedTuple):
    """What became of a variant."""

    measured: Measured | None  # None where there was nothing to quantise, or what was made can't be run
    layers: tuple[LayerRow, ...]
    problem: str = ""  # why it can't be run


def try_variant(bundle: Bundle, variant: Variant, demands: Demands, threads: int) -> Trial:
    """Quantise every layer that can be and is large enough; where that is too far off, put the worst layers back, one by one.

    Raises:
        EdgeseqError: what the session, the metric or the reference values raise.
    """
    layers = variant.layers(bundle.model())
    reasons = {layer.name: _reason(layer, demands.smallest if variant.by_layers else 0) for layer in layers}
    names = frozenset(name for name, reason in reasons.items() if not reason)
    if variant.by_layers and not names:
        return Trial(None, _rows(layers, names, reasons, {}))

    def measure(some: Collection[str]) -> Measured:
        return _measured(bundle, variant, frozenset(some), demands, threads)

    alone: dict[str, float] = {}
    try:
        best = measure(names)
    except UsageError as error:
        if demands.metric is not None:  # which the error may be of
            raise
        return Trial(None, _rows(layers, names, reasons, alone), str(error))
    if best.problem:
        quick = demands._replace(metric=None)  # what takes long says nothing of a layer's own error
        some = names if len(names) > 1 else ()
        alone = {name: _measured(bundle, variant, frozenset([name]), quick, threads).relative for name in some}
        alone = alone or dict.fromkeys(names, best.relative)
        best = _mixed(best, alone, measure, reasons, least=1 if variant.by_layers else 0)
    return Trial(best, _rows(layers, best.names, reasons, alone))


def _mixed(
    whole: Measured,
    alone: Mapping[str, float],
    measure: Callable[[Collection[str]], Measured],
    reasons: dict[str, str],
    least: int,
) -> Measured:
    """The variant with as many of its worst layers in fp32 as it needs; the whole one where no mixture keeps the demands."""
    worst_first = sorted(alone, key=lambda name: -alone[name])
    for count in range(1, len(worst_first) + 1 - least):
        found = measure(worst_first[count:])
        if not found.problem:
            reasons.update(dict.fromkeys(worst_first[:count], "breaks the gate"))
            return found
    return whole


def _reason(layer: Layer, smallest: int) -> str:
    if layer.refusal:
        return layer.refusal
    return "" if layer.weights >= smallest else f"fewer weights than {smallest}"


def _rows(
    layers: Collection[Layer], names: Collection[str], reasons: Mapping[str, str], alone: Mapping[str, float]
) -> tuple[LayerRow, ...]:
    """In the order of the graph; with errors, the largest first."""
    rows = [
        LayerRow(
            name=layer.name,
            operator=layer.operator,
            weights=layer.weights,
            quantised=layer.name in names,
            reason=reasons[layer.name],
            relative=alone.get(layer.name, math.nan),
        )
        for layer in layers
    ]
    return tuple(sorted(rows, key=lambda row: -alone.get(row.name, -1.0)))


def _measured(bundle: Bundle, variant: Variant, names: frozenset[str], demands: Demands, threads: int) -> Measured:
    model = variant.build(bundle.model(), names)
    with tempfile.TemporaryDirectory(prefix="edgeseq-quantize-") as folder:
        path = with_precision(bundle, variant.name, model, demands.gate, Path(folder) / "variant.edgeseq")
        device = demands.device if variant.timed else "auto"  # what is for GPUs is computed by ONNX Runtime alone
        session = open_session(made := open_bundle(path), make_plan(made, device, precision=variant.name, threads=threads))
        parity = measure_parity(path, session=session, metric=demands.metric, max_loss=demands.max_loss)
    calibration, off = _on_inputs(bundle, session, demands, threads)
    return Measured(model, names, demands.gate, session, parity, calibration, _problem(parity) or off)


def _problem(parity: ParityReport) -> str:
    for row in parity.rows:
        if row.verdict == "fail":
            return f"{row.output}, {row.mode}, {size_text(row.sizes)}: {row.reason}"
    if parity.metric is not None and parity.metric.verdict == "fail":
        return f"metric {parity.metric.name}: {parity.metric.reason}"
    return "" if parity.passed else "no reference value could be gated"


def worst_row(parity: ParityReport) -> str:
    """The output with the largest error, and how it was computed."""
    rows = [row for row in parity.rows if row.verdict != "skip"]
    worst = max(rows, key=lambda row: row.relative, default=None)
    return f"{worst.output}, {worst.mode}, {size_text(worst.sizes)}" if worst else ""


def _on_inputs(bundle: Bundle, session: Session, demands: Demands, threads: int) -> tuple[float, str]:
    """The largest relative error on the user's inputs, and what breaks the gate there. The fp32 model's outputs are the truth."""
    if not demands.calibration:
        return math.nan, ""
    exact = open_session(bundle, make_plan(bundle, demands.device, threads=threads))
    largest, problem = 0.0, ""
    for number, inputs in enumerate(demands.calibration, 1):
        expected, found = exact.run(inputs), session.run(inputs)
        for name, truth in expected.items():
            verdict = judge(found[name][None], truth[None], _in_float64(truth)[None], demands.gate)
            largest = max(largest, verdict.distance.relative if verdict.distance else math.inf)
            if not verdict.passed and not problem:
                problem = f"{name} on calibration inputs {number}: {verdict.reason}"
    return largest, problem


def _in_float64(array: Array) -> Array:
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array
