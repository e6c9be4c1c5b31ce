"""From a probability per frame to segments of speech, and how well they meet the labels.

The rule is the one silero-vad publishes: speech begins where the probability reaches `threshold`, and ends where it has
stayed below `release` for `min_silence`; what is shorter than `min_speech` is dropped, what remains is padded. Times are in
whole samples inside, so that no rounding decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Segment(NamedTuple):
    """An interval of time in seconds."""

    start: float
    end: float


@dataclass(frozen=True)
class Rule:
    """When a probability counts as speech. Durations are in milliseconds."""

    threshold: float = 0.5
    release: float = 0.35
    min_silence: int = 100
    min_speech: int = 250
    pad: int = 30

    def __post_init__(self) -> None:
        if not 0 <= self.release <= self.threshold <= 1:
            raise ValueError(f"thresholds must be 0 <= release <= threshold <= 1; found {self.release} and {self.threshold}")
        if min(self.min_silence, self.min_speech, self.pad) < 0:
            raise ValueError(f"durations must not be negative; found {self}")


VENDOR_RULE = Rule()


def find_segments(
    probabilities: Sequence[float] | npt.NDArray[np.floating],
    samples: int,
    *,
    rule: Rule = VENDOR_RULE,
    frame: int = 512,
    rate: int = 16_000,
) -> list[Segment]:
    """Segments of speech in seconds: in order, disjoint, inside the clip.

    Args:
        probabilities: one per frame, in order.
        samples: length of the clip; the last frame may reach beyond it.
        rule: when a probability counts as speech.
        frame: samples in a frame.
        rate: samples a second.
    """
    least = rule.min_speech * rate / 1000
    spoken = [(a, b) for a, b in _spoken(probabilities, samples, rule, frame, rate) if b - a > least]
    return [Segment(a / rate, b / rate) for a, b in _padded(spoken, samples, rule.pad * rate // 1000)]


def _spoken(probabilities: Iterable[float], samples: int, rule: Rule, frame: int, rate: int) -> list[tuple[int, int]]:
    """Speech by hysteresis, in samples."""
    patience = rule.min_silence * rate / 1000
    spoken = []
    start = quiet_since = None
    for index, probability in enumerate(probabilities):
        now = index * frame
        if probability >= rule.threshold:
            start = now if start is None else start
            quiet_since = None
        elif probability < rule.release and start is not None:
            quiet_since = now if quiet_since is None else quiet_since
            if now - quiet_since >= patience:
                spoken.append((start, quiet_since))
                start = quiet_since = None
    if start is not None:
        spoken.append((start, samples))  # still speaking, or not yet silent for long enough
    return spoken


def _padded(spoken: Sequence[tuple[int, int]], samples: int, pad: int) -> list[tuple[int, int]]:
    """Each side moved outwards by `pad`, or by half the gap where the gap is too narrow for both."""
    padded = []
    for index, (start, end) in enumerate(spoken):
        before = start - spoken[index - 1][1] if index else 2 * start  # all of the way to the clip's beginning is free
        after = spoken[index + 1][0] - end if index + 1 < len(spoken) else 2 * (samples - end)
        padded.append((start - min(pad, before // 2), end + min(pad, after // 2)))
    return padded


class Overlap(NamedTuple):
    """How found segments meet labelled ones, measured in time."""

    precision: float  # share of the found time that is labelled
    recall: float  # share of the labelled time that was found
    missed: tuple[Segment, ...]  # labelled segments that no found one touches


def overlap(found: Sequence[Segment], labelled: Sequence[Segment]) -> Overlap:
    """Compare two lists of disjoint segments."""
    shared = sum(_shared(a, b) for a in found for b in labelled)
    return Overlap(
        precision=shared / max(total(found), 1e-9),
        recall=shared / max(total(labelled), 1e-9),
        missed=tuple(label for label in labelled if not any(_shared(label, segment) for segment in found)),
    )


def false_alarms(found: Sequence[Segment], labelled: Sequence[Segment], margin: float = 0.1) -> list[Segment]:
    """Parts of the found segments that lie more than `margin` seconds outside every labelled one."""
    parts = list(found)
    for label in labelled:
        low, high = label.start - margin, label.end + margin
        parts = [
            part
            for start, end in parts
            for part in (Segment(start, min(end, low)), Segment(max(start, high), end))
            if part.end > part.start
        ]
    return parts


def total(segments: Iterable[Segment]) -> float:
    """Seconds in all of them."""
    return sum(end - start for start, end in segments)


def _shared(a: Segment, b: Segment) -> float:
    return max(0.0, min(a.end, b.end) - max(a.start, b.start))
