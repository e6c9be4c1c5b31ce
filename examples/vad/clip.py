"""The spoken clip, its labels, and the frames a stream is fed with. No PyTorch here."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from segments import Segment

Float32 = npt.NDArray[np.float32]

HERE = Path(__file__).parent
RATE = 16_000  # samples a second
FRAME = 512  # samples in a frame: 32 ms
FRAME_SECONDS = FRAME / RATE


class Clip(NamedTuple):
    """Audio and what is known of it."""

    samples: Float32  # (samples,) in -1..1
    labels: tuple[Segment, ...]  # seconds; each is a spoken file's whole length, so it holds short pauses
    names: tuple[str, ...]  # what is spoken in each label

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE

    def frames(self) -> Float32:
        """The samples in frames, the last one filled up with silence: (T, 512)."""
        T = -(-len(self.samples) // FRAME)
        return np.pad(self.samples, (0, T * FRAME - len(self.samples))).reshape(T, FRAME)


def read_clip(folder: Path = HERE) -> Clip:
    """`speech.wav` and `speech.json` of a folder."""
    with wave.open(str(folder / "speech.wav")) as file:
        form = (file.getframerate(), file.getnchannels(), file.getsampwidth())
        if form != (RATE, 1, 2):
            raise ValueError(f"speech.wav has (rate, channels, bytes a sample) {form}; the model takes ({RATE}, 1, 2)")
        pcm = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    labels = json.loads((folder / "speech.json").read_text(encoding="utf-8"))["speech"]
    return Clip(
        samples=pcm.astype(np.float32) / np.float32(32768),
        labels=tuple(Segment(label["start"], label["end"]) for label in labels),
        names=tuple(label["clip"] for label in labels),
    )
