"""A bundle with the variants of its model that keep their gate."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path

import msgspec

from edgeseq_quantize.layers import SMALLEST
from edgeseq_quantize.report import FP32, REFUSED, SKIPPED, WRITTEN, QuantizeReport, VariantRow
from edgeseq_quantize.speed import Times, sequence_times, step_times
from edgeseq_quantize.trial import Demands, Trial, try_variant, worst_row
from edgeseq_quantize.variants import VARIANTS, variants_named
from edgeseq_runtime.bundle import Bundle, RelativeGate, open_bundle, with_precision
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.metric import MAX_LOSS, Metric, require_bound
from edgeseq_runtime.parity import installed_versions
from edgeseq_runtime.plan import make_plan
from edgeseq_runtime.session import open_session
from edgeseq_runtime.tensors.spec import Array

STEPS = 100  # of the whole sequence that is timed
SMALLER = 0.9  # largest share of fp32's bytes at which a variant that is not faster gains something

Progress = Callable[[int, int], None]  # (variants tried, variants in all)


def quantize(
    path: str | PathLike[str],
    *,
    out: str | PathLike[str] | None = None,
    variants: Collection[str] = tuple(VARIANTS),
    gate: RelativeGate | None = None,
    metric: Metric | None = None,
    max_loss: float = MAX_LOSS,
    calibration: Sequence[Mapping[str, Array]] = (),
    smallest: int = SMALLEST,
    device: str = "auto",
    threads: int = 1,
    seconds: float = 0.5,
    progress: Progress = lambda done, total: None,
) -> QuantizeReport:
    """Try variants of a bundle's model on this CPU, and write those that keep their gate and gain something.

    Each is compared with the bundle's float64 reference, whole and streamed, as `edgeseq parity` does. Where one is too far off,
    the layers that are farthest off alone are put back into fp32, one by one, until it holds or none is left.

    Args:
        path: a `.edgeseq` bundle.
        out: where to write; into the bundle itself unless said. Nothing is written where no variant holds.
        variants: names of `VARIANTS`.
        gate: how far from float64 each may be; the variant's own unless said.
        metric: takes a session and returns a number, higher is better, on data of the user's own.
        max_loss: how much lower it may be than the fp32 model's.
        calibration: inputs of the user's own, by name, on which the fp32 model and the variant must agree within the gate, too.
        smallest: weights of a matrix below which a layer stays in fp32.
        device: a CPU that variants are run on; "native" is this machine's with edgeseq's own kernels.
        threads: how many share one operator.
        seconds: to time each model in each mode, about; 0 times nothing.
        progress: told after each variant.

    Raises:
        UsageError: no such file or variant, no reference values, or a metric that can't be taken of the fp32 model.
        InputError: calibration inputs do not fit the model.
        BundleError: the bundle can't be trusted or read.
        DeviceError: no such device.
        ProviderError: ONNX Runtime is not there, or what the device needs.
    """
    chosen = variants_named(variants)
    require_bound(max_loss)
    if smallest < 1 or threads < 1 or not 0 <= seconds < math.inf:
        raise UsageError(f"smallest {smallest}, threads {threads}, seconds {seconds}: give 1 or more of each, and a time")
    bundle = open_bundle(path)
    fp32 = open_session(bundle, make_plan(bundle, device, threads=threads))
    trials: dict[str, Trial] = {}
    for done, variant in enumerate(chosen, 1):
        demands = Demands(gate or variant.gate, metric, max_loss, tuple(calibration), smallest, device)
        trials[variant.name] = try_variant(bundle, variant, demands, threads)
        progress(done, len(chosen))
    timed = {name: trial.measured.session for name, trial in trials.items() if trial.measured and VARIANTS[name].timed}
    sessions = {FP32: fp32, **timed}
    example = bundle.reference()[0].draw_inputs(0)
    steps = step_times(sessions, example, seconds) if seconds else {}
    sequences = sequence_times(sessions, example, STEPS, seconds) if seconds else {}
    whole = VariantRow(name=FP32, verdict=FP32, bytes=len(bundle.model()))
    rows = [_timed(row, steps, sequences) for row in (whole, *(_row(name, trials) for name in trials))]
    rows = [_staying(_gaining(row, whole.bytes), bundle) for row in rows]
    written = _write(bundle, rows, trials, Path(path if out is None else out))
    return QuantizeReport(
        path=str(path),
        name=bundle.name,
        written=written,
        device=fp32.plan.device,
        threads=threads,
        steps=STEPS,
        versions=installed_versions(fp32),
        rows=tuple(rows),
    )


def _row(name: str, trials: Mapping[str, Trial]) -> VariantRow:
    measured, layers, problem = trials[name]
    if problem:
        return VariantRow(name=name, verdict=REFUSED, reason=f"it can't be run here: {problem}", layers=layers)
    if measured is None:
        reasons = "; ".join(dict.fromkeys(f"{row.operator}: {row.reason}" for row in layers)) or "it has no layer with weights"
        return VariantRow(name=name, verdict=SKIPPED, reason=f"nothing to quantise: {reasons}", layers=layers)
    row = VariantRow(
        name=name,
        verdict=REFUSED if measured.problem else WRITTEN,
        reason=measured.problem,
        bytes=len(measured.model),
        relative=measured.parity.worst("relative"),
        relative999=measured.parity.worst("relative999"),
        worst=worst_row(measured.parity),
        calibration=measured.calibration,
        metric=measured.parity.metric,
        gate=measured.gate,
        layers=layers,
    )
    for other, (same, *_) in trials.items():
        if other == name:
            break
        if same is not None and same.model == measured.model:
            return msgspec.structs.replace(row, verdict=SKIPPED, reason=f"it is the same as {other}")
    return row


def _timed(row: VariantRow, steps: Mapping[str, Times], sequences: Mapping[str, Times]) -> VariantRow:
    nothing = Times(math.nan, math.nan)
    step, sequence = steps.get(row.name, nothing), sequences.get(row.name, nothing)
    return msgspec.structs.replace(
        row, step=step.median, step_gain=step.gain, sequence=sequence.median, sequence_gain=sequence.gain
    )


def _gaining(row: VariantRow, fp32_bytes: int) -> VariantRow:
    """The row, refused where it would be written for nothing."""
    smaller = row.bytes <= SMALLER * fp32_bytes
    if row.verdict != WRITTEN or smaller or max(row.step_gain, row.sequence_gain, key=_known) > 1:
        return row
    timed = not math.isnan(row.sequence_gain)
    reason = "it is neither smaller nor faster than fp32" if timed else "it is not smaller than fp32, and was not timed"
    return msgspec.structs.replace(row, verdict=REFUSED, reason=reason)


def _staying(row: VariantRow, bundle: Bundle) -> VariantRow:
    """The row, with a remark where the bundle already has such a variant, which is not touched."""
    if row.verdict not in (REFUSED, SKIPPED) or row.name not in bundle.manifest.precisions:
        return row
    return msgspec.structs.replace(row, reason=f"{row.reason}; the {row.name} that the bundle already has stays as it is")


def _known(gain: float) -> float:
    return -1.0 if math.isnan(gain) else gain


def _write(bundle: Bundle, rows: Sequence[VariantRow], trials: Mapping[str, Trial], path: Path) -> str:
    """Write all variants that are to be written at once; the file, or nothing where there is none."""
    chosen = [row for row in rows if row.verdict == WRITTEN]
    with tempfile.TemporaryDirectory(prefix="edgeseq-quantize-") as folder:
        for index, row in enumerate(chosen):
            measured = trials[row.name].measured
            assert measured is not None  # or it would not be written
            target = path if index == len(chosen) - 1 else Path(folder) / f"{row.name}.edgeseq"
            written = with_precision(bundle, row.name, measured.model, measured.gate, target, provenance=_provenance(row))
            bundle = open_bundle(written)
    return str(path) if chosen else ""


def _provenance(row: VariantRow) -> dict[str, str]:
    parts: dict[bool, list[str]] = {True: [], False: []}
    for layer in row.layers:
        parts[layer.quantised].append(f"{layer.operator} '{layer.name}'")
    noted = {"made by": "edgeseq quantize", "quantised": ", ".join(parts[True])}
    return {**noted, **({"in fp32": ", ".join(parts[False])} if parts[False] else {})}
