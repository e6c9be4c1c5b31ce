"""The phase of the gait from a sensor at the hip: trained on the vendor's recordings, measured beside the vendor's edge models."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from edgeseq.training import Schedule
from edgeseq_export import ExportNotice, export_request
from edgeseq_recipes.experiments.gait_data import (
    RATE,
    VALIDATION,
    Array,
    Recording,
    angular_error,
    read_test,
    read_training,
    reference_phase,
    squared_error,
)
from edgeseq_recipes.experiments.gait_network import LEAD, GaitEnsemble, GaitNetwork, streaming_request
from edgeseq_recipes.experiments.gait_vendor import RECORDED, VALIDATED, WINDOW, VendorModel, vendor_scaling
from edgeseq_recipes.experiments.gait_windows import Windows
from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_most
from edgeseq_recipes.run import Run
from edgeseq_runtime import Session, load

SETTLED = 60  # rows of a training window that are not learned from: the state starts at zero
MEMBERS = 3
STEPS = 1600
STRETCH = (3200, 4400)  # rows that are drawn: a stop and a start

# Which of our outputs each vendor's model is compared with, and how many rows ahead that is.
HORIZONS = {"now": (RECORDED, 0), "ahead": (VALIDATED, LEAD)}
Phases = dict[str, Array]  # by output: (rows, 2) sin and cos


def run(run: Run) -> Findings:
    """Train on all recordings but one, stop by that one, and stream the test file through the exported bundle."""
    recordings, test = read_training(), read_test()
    vendor = {name: VendorModel(name, vendor_scaling(recordings)) for name in (RECORDED, VALIDATED)}
    network = trained_network(run, recordings)
    session = exported_session(network, run.folder)
    tested = compared(session, vendor, test, every=run.pick(1, 8))
    validation = compared(session, vendor, recordings[VALIDATION], every=run.pick(10, 60))
    latencies = measured_latencies(session, vendor, test, rounds=run.pick(40, 5))
    draw(run, tested)
    return Findings(
        measures=(
            *error_measures("test, clear rows", tested, clear=True, highest=run.pick(1.0, 4.0)),
            *error_measures("test, all rows", tested, clear=False, highest=run.pick(1.0, 4.0)),
            *angle_measures("test, clear rows", tested),
            *error_measures("validation walk", validation, clear=True, highest=run.pick(1.0, 15.0)),
            *latency_measures(latencies),
        ),
        graphs=(streaming_request(network),),
        caption=(
            "The hip angle, and the phase that follows it, where a walker stops and starts again; below, how many rows of the "
            "test file are within an angle of the phase, for our network and for the vendor's edge model of the same task."
        ),
    )


def trained_network(run: Run, recordings: Mapping[str, Recording]) -> GaitEnsemble:
    """The networks, each trained on windows of its own, without the one that chooses the weights.

    Their weights are kept where the error of all together on that one is least.
    """
    learned = [relabelled(recording) for name, recording in recordings.items() if name != VALIDATION]
    signal = np.concatenate([recording.signal for recording in learned])
    mean, scale = (torch.tensor(value, dtype=torch.float32) for value in (signal.mean(axis=0), signal.std(axis=0)))
    members = [GaitNetwork(mean, scale) for _ in range(MEMBERS)]
    network = GaitEnsemble(members)
    windows = Windows(learned, LEAD)
    steps, batch = run.pick((400, 32), (200, 8))

    def member_loss(member: GaitNetwork, generator: torch.Generator) -> Tensor:
        x, now, ahead = windows.draw(generator, steps, batch)  # (T, B, 2) each
        found_now, found_ahead, _, _ = member(x, *member.start(batch))
        off = torch.cat([found_now - now, found_ahead - ahead], dim=-1)[SETTLED:]  # (T - SETTLED, B, 4)
        return off.square().mean()

    def loss(generator: torch.Generator) -> Tensor:
        return torch.stack([member_loss(member, generator) for member in members]).mean()

    validation = recordings[VALIDATION]
    rows = scored_rows(validation, every=1)[: run.pick(None, 3000)]

    def score() -> float:
        found = network_phases(network, validation.signal[: rows[-1] + 1], rows)
        return sum(squared_error(found[name], validation.phase[rows + lead]) for name, (_, lead) in HORIZONS.items())

    schedule = Schedule(
        steps=run.pick(STEPS, 50), learning_rate=run.pick(4e-3, 1e-2), decay="cosine", evaluate_every=run.pick(100, 50)
    )
    run.fit("gait-phase", network, loss, schedule, score=score)
    return network


def relabelled(recording: Recording) -> Recording:
    """With the phase that the test file is measured by, in place of labels that now and then follow no rule."""
    phase, clear = reference_phase(recording.signal[:, 0])
    return replace(recording, phase=phase, clear=clear)


def exported_session(network: GaitEnsemble, folder: Path) -> Session:
    """The network as what runs on a device: a bundle, opened on one thread of the CPU."""
    path = folder / "gait-phase.edgeseq"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportNotice)
        export_request(streaming_request(network), path)
    return load(path, device="cpu", threads=1)


def scored_rows(recording: Recording, every: int) -> Array:
    """The rows that are compared: from the first with a whole window, to the last whose phase `LEAD` rows ahead is known."""
    return np.arange(WINDOW - 1, len(recording) - LEAD, every)


def network_phases(network: GaitEnsemble, signal: Array, rows: Array) -> Phases:
    x = torch.tensor(signal, dtype=torch.float32)[:, None]  # (T, 1, 2)
    now, ahead, _, _ = network(x, *network.start(1))
    return {"now": now[rows, 0].numpy(), "ahead": ahead[rows, 0].numpy()}


@dataclass(frozen=True)
class Compared:
    """Both at work on the same rows of a recording."""

    recording: Recording
    rows: Array  # (R,)
    ours: Phases
    theirs: Phases

    def phases(self, output: str, *, clear: bool) -> tuple[Array, Array, Array]:
        """True phase, ours and the vendor's, (rows, 2) each; `clear`: without the rows whose phase is not clear."""
        target = self.rows + HORIZONS[output][1]
        kept = self.recording.clear[target] if clear else np.ones(len(target), bool)
        return self.recording.phase[target][kept], self.ours[output][kept], self.theirs[output][kept]


def compared(session: Session, vendor: Mapping[str, VendorModel], recording: Recording, *, every: int) -> Compared:
    """Ours streamed sample by sample from the first row on, theirs on the window that ends at each row."""
    rows = scored_rows(recording, every)
    stream = session.stream()
    samples = recording.signal.astype(np.float32)[:, None, None]  # (N, 1, 1, 2)
    found = [stream.step({"x": sample}) for sample in samples]
    ours = {output: np.stack([found[row][output][0, 0] for row in rows]) for output in HORIZONS}
    theirs = {output: vendor[name].phases(recording.signal, rows) for output, (name, _) in HORIZONS.items()}
    return Compared(recording, rows, ours, theirs)


def error_measures(where: str, found: Compared, *, clear: bool, highest: float) -> list[Measure]:
    """The vendor's own measure, as the ratio that is wanted and in figures, for each horizon."""
    measures = []
    for output in HORIZONS:
        true, ours, theirs = found.phases(output, clear=clear)
        mine, other = squared_error(ours, true), squared_error(theirs, true)
        task = f"{where}, phase {output}: squared error"
        measures += [
            Measure(f"{task}, ours / vendor's", mine / other, at_most(highest)),
            Measure(f"{task}, ours", mine),
            Measure(f"{task}, vendor's", other),
        ]
    return measures


def angle_measures(where: str, found: Compared) -> list[Measure]:
    """Mean angle off on clear rows; 3.6 degrees are 1 % of a gait cycle."""
    measures = []
    for output in HORIZONS:
        true, ours, theirs = found.phases(output, clear=True)
        task = f"{where}, phase {output}: mean degrees off"
        measures += [
            Measure(f"{task}, ours", float(angular_error(ours, true).mean())),
            Measure(f"{task}, vendor's", float(angular_error(theirs, true).mean())),
        ]
    return measures


def measured_latencies(
    session: Session, vendor: Mapping[str, VendorModel], test: Recording, *, rounds: int, calls: int = 50
) -> dict[str, list[float]]:
    """Median microseconds a sample in each round; all candidates take turns within a round.

    Ours is all of a step: checks, copies, normalisation. The vendor's is setting the input, invoking and reading the output:
    scaling and keeping the window are left out.
    """
    stream = session.stream()
    samples = test.signal.astype(np.float32)[:, None, None]
    windows = next(iter(vendor.values())).windows(test.signal)
    candidates: dict[str, tuple[Callable[[Array], object], Array]] = {
        "ours": (lambda sample: stream.step({"x": sample}), samples),
        **{name: (model.predict, windows) for name, model in vendor.items()},
    }
    timed: dict[str, list[float]] = {name: [] for name in candidates}
    for start in range(rounds):
        for name, (call, inputs) in candidates.items():
            timed[name].append(_median_time(call, inputs[start * calls : (start + 1) * calls]))
    return timed


def _median_time(call: Callable[[Array], object], inputs: Array) -> float:
    times = []
    for value in inputs:
        began = time.perf_counter()
        call(value)
        times.append(time.perf_counter() - began)
    return 1e6 * median(times)


def latency_measures(latencies: Mapping[str, Sequence[float]]) -> list[Measure]:
    """The ratio, round by round, for each of the vendor's models; then the microseconds."""
    ours = latencies["ours"]
    measures = [Measure("microseconds a sample, ours", median(ours))]
    for output, (name, _) in HORIZONS.items():
        ratio = median(mine / other for mine, other in zip(ours, latencies[name], strict=True))
        measures += [
            Measure(f"time a sample, ours / vendor's of phase {output}", ratio, at_most(1.0)),
            Measure(f"microseconds a sample, vendor's of phase {output}", median(latencies[name])),
        ]
    return measures


def draw(run: Run, found: Compared) -> None:
    """A stretch with a stop and a start, and the distribution of the errors."""
    at = np.flatnonzero((found.rows >= STRETCH[0]) & (found.rows < STRETCH[1]))
    rows = found.rows[at]
    seconds, true, clear = rows / RATE, found.recording.phase[rows], found.recording.clear[rows]
    with run.figure("gait-phase", nrows=3, figsize=(9, 7.5)) as (_, (top, middle, bottom)):
        top.plot(seconds, found.recording.signal[rows, 0], color="black")
        top.set(ylabel="hip angle (rad)", title="test file: a stop and a start")
        reference = np.where(clear, _degrees(true), np.nan)
        middle.plot(seconds, reference, label="reference, where it is clear", color="0.75", linewidth=4)
        middle.plot(seconds, _degrees(found.theirs["now"][at]), label="vendor's", color="tab:orange")
        middle.plot(seconds, _degrees(found.ours["now"][at]), label="ours", color="tab:blue")
        middle.set(ylabel="phase now (degrees)", xlabel="seconds", yticks=(-180, -90, 0, 90, 180), ylim=(-180, 250))
        middle.legend(loc="upper left", ncols=3)
        for output, (_, lead) in HORIZONS.items():
            true, ours, theirs = found.phases(output, clear=True)
            share, line = np.linspace(0, 100, len(true)), "--" if lead else "-"
            bottom.plot(np.sort(angular_error(theirs, true)), share, line, color="tab:orange", label=f"vendor's, {output}")
            bottom.plot(np.sort(angular_error(ours, true)), share, line, color="tab:blue", label=f"ours, {output}")
        bottom.set(xlabel="angle off (degrees)", ylabel="% of clear rows within", xlim=(0, 90), ylim=(0, 100))
        bottom.legend(loc="lower right")


def _degrees(phase: Array) -> Array:
    """Of (N, 2) sin and cos; a gap where the cycle begins anew, so that no line is drawn there."""
    degrees: Array = np.degrees(np.arctan2(phase[:, 0], phase[:, 1]))
    degrees[1:][np.abs(np.diff(degrees)) > 180] = np.nan
    return degrees


RECIPE = Recipe(
    name="gait-phase",
    row="sensor",
    title="A real sensor task, end to end",
    claim="A small network that carries its state answers sooner than one that computes a window anew, at no larger error.",
    exported_as="streaming graph",
    run=run,
)
