"""Time one frame of several voice-activity models, block by block in turn, so that all meet the same clock and load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime
from clip import FRAME, Float32
from vendor import vendor_file

CONTEXT = 64  # samples of the frame before that the vendor's models take in front of each frame


class Contender(Protocol):
    """A model that takes a clip frame by frame."""

    def prepare(self, frames: Float32) -> Float32:
        """The inputs of all steps, made from frames (T, 512): one a row; not timed."""

    def step(self, frame: Float32) -> npt.NDArray[Any]:
        """Probability of speech in the next frame, one value; timed."""


class VendorStream:
    """One of silero-vad's own ONNX files, run by ONNX Runtime as the vendor's package does, on one thread.

    Joining a frame with its context is the caller's work with these files, and is done in `prepare`, outside the timing.
    """

    def __init__(self, name: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(vendor_file(name), options, providers=["CPUExecutionProvider"])
        self._states = [spec.name for spec in self._session.get_inputs() if spec.name not in ("input", "sr")]
        states = [2, 1, 128] if self._states == ["state"] else [1, 1, 128]
        self._feed: dict[str, npt.NDArray[Any]] = {state: np.zeros(states, np.float32) for state in self._states}
        if "state" in self._states:
            self._feed["sr"] = np.array(16_000, np.int64)

    def prepare(self, frames: Float32) -> Float32:
        return with_context(frames)[:, None]

    def step(self, frame: Float32) -> npt.NDArray[Any]:
        self._feed["input"] = frame
        probability, *states = self._session.run(None, self._feed)
        self._feed.update(zip(self._states, states, strict=True))
        return np.asarray(probability)


class Steps(Protocol):
    """What a stream of edgeseq offers."""

    def step(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]: ...


class EdgeseqStream:
    """A stream of the exported bundle."""

    def __init__(self, stream: Steps) -> None:
        self._stream = stream

    def prepare(self, frames: Float32) -> Float32:
        return frames[:, None, None]

    def step(self, frame: Float32) -> npt.NDArray[Any]:
        return self._stream.step({"x": frame})["probability"]


def with_context(frames: Float32) -> Float32:
    """Each frame behind the last 64 samples of the one before, zeros before the first: (T, 512) -> (T, 576)."""
    tails = np.concatenate([np.zeros((1, CONTEXT), np.float32), frames[:-1, FRAME - CONTEXT :]])
    return np.concatenate([tails, frames], axis=1)


class Latency(NamedTuple):
    """Microseconds a frame."""

    median: float
    p90: float
    p99: float


def agreement(contenders: Mapping[str, Contender], frames: Float32) -> dict[str, float]:
    """Largest difference of each from the first, over a whole clip."""
    heard = {
        name: np.array([contender.step(frame).item() for frame in contender.prepare(frames)])
        for name, contender in contenders.items()
    }
    first = next(iter(heard.values()))
    return {name: float(np.abs(values - first).max()) for name, values in heard.items()}


def interleaved(
    contenders: Mapping[str, Contender],
    frames: Float32,
    *,
    passes: int = 10,
    block: int = 47,
    track: Callable[[range], Iterable[int]] = iter,
) -> dict[str, Latency]:
    """Latency of each, measured in turns of `block` frames over `passes` passes of the clip; call `agreement` first to warm up.

    The first frame of a block meets caches that another model has used and is left out.
    """
    inputs = {name: contender.prepare(frames) for name, contender in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    starts = range(0, len(frames), block)
    for turn in track(range(passes)):
        order = list(contenders) if turn % 2 == 0 else list(contenders)[::-1]
        for start, name in ((start, name) for start in starts for name in order):
            times[name] += _timed(contenders[name].step, inputs[name][start : start + block])[1:]
    return {name: Latency(*(float(value) for value in np.percentile(taken, [50, 90, 99]))) for name, taken in times.items()}


def _timed(step: Callable[[Float32], object], frames: Float32) -> list[float]:
    taken = []
    for frame in frames:
        start = time.perf_counter_ns()
        step(frame)
        taken.append((time.perf_counter_ns() - start) / 1000)
    return taken
