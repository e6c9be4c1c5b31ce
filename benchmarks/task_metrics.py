"""What two models of this project are for, as metrics for `edgeseq parity` and `edgeseq quantize`: higher is better.

edgeseq quantize build/vad.edgeseq --metric benchmarks/task_metrics.py:speech
edgeseq quantize build/train/gait-phase/gait-phase.edgeseq --metric benchmarks/task_metrics.py:gait
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edgeseq_recipes.experiments.gait_data import read_test, squared_error
from edgeseq_recipes.experiments.gait_phase import HORIZONS, scored_rows
from edgeseq_runtime import Session

sys.path.append(str(Path(__file__).parent.parent / "examples" / "vad"))

from clip import read_clip  # type: ignore[import-not-found]
from segments import false_alarms, find_segments, overlap, total  # type: ignore[import-not-found]


def speech(session: Session) -> float:
    """Share of the demo clip's labelled time that is found, less the share of the clip that is falsely found."""
    clip = read_clip()
    stream = session.stream()
    probabilities = [stream.step({"x": frame[None, None]})["probability"].item() for frame in clip.frames()]
    found = find_segments(probabilities, len(clip.samples))
    share: float = overlap(found, clip.labels).recall - total(false_alarms(found, clip.labels)) / clip.seconds
    return share


def gait(session: Session) -> float:
    """1 less the mean squared error of sine and cosine over the clear rows of the test file, now and ahead."""
    recording = read_test()
    rows = scored_rows(recording, 1)
    stream = session.stream()
    steps = [stream.step({"x": sample}) for sample in recording.signal.astype(np.float32)[:, None, None]]
    errors = []
    for output, (_, lead) in HORIZONS.items():
        clear = recording.clear[rows + lead]
        found = np.stack([steps[row][output][0, 0] for row in rows])
        errors.append(squared_error(found[clear], recording.phase[rows + lead][clear]))
    return 1 - float(np.mean(errors))
