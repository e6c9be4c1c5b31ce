"""Sound files as a model's input."""

from __future__ import annotations

import wave
from os import PathLike
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseq_runtime.errors import InputError, UsageError
from edgeseq_runtime.interface import BATCH, Interface
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

Samples = npt.NDArray[np.float32]


class Sound(NamedTuple):
    """One channel in [-1, 1], and its samples a second."""

    samples: Samples  # (N,)
    rate: int


class Mapped(NamedTuple):
    """Sound in the shape that one input takes, and how it got there."""

    input: str
    array: Array
    note: str


def read_wav(path: str | PathLike[str]) -> Sound:
    """A mono PCM file of 8, 16, 24 or 32 bits.

    Raises:
        UsageError: no such file, another format, or several channels.
    """
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, RuntimeError, wave.Error) as error:
        raise UsageError(f"can't read {path} as PCM sound: {str(error) or 'it is damaged, or ends too early'}") from error
    if channels != 1:
        raise UsageError(f"{path} has {channels} channels; mix it down to one first (sox {path} -c 1 mono.wav)")
    if width not in (1, 2, 3, 4):
        raise UsageError(f"{path} has samples of {width} bytes; convert it to 16-bit PCM first")
    return Sound(_samples(data[: len(data) - len(data) % width], width), rate)


def _samples(data: bytes, width: int) -> Samples:
    if width == 1:  # 8-bit sound is unsigned, around 128
        return np.asarray((np.frombuffer(data, np.uint8) - 128.0) / 128, np.float32)
    if width == 3:  # a zero byte below each sample makes it 32-bit
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data, width = padded.tobytes(), 4
    return np.asarray(np.frombuffer(data, f"<i{width}") / 2.0 ** (8 * width - 1), np.float32)


def sound_as_input(interface: Interface, sound: Sound, name: str | None = None) -> Mapped:
    """Sound as one input of a model: a waveform `(B, T)` or `(T, B)`, or frames of the input's one fixed size, `(T, B, K)`
    or `(B, T, K)`, the last one filled up with zeros.

    Raises:
        UsageError: no input of that name, or none or several that sound fits.
        InputError: the sound is empty.
    """
    if not len(sound.samples):
        raise InputError("the sound has no samples; give a longer one")
    fitting = [spec for spec in interface.data_inputs if name in (None, spec.name) and _takes_sound(interface, spec)]
    if len(fitting) != 1:
        declared = "; ".join(map(str, interface.data_inputs))
        found = "no input takes" if not fitting else f"{[spec.name for spec in fitting]} take"
        raise UsageError(f"{found} sound{f' under the name {name!r}' if name else ''}; name one with --input; inputs: {declared}")
    return _mapped(interface, fitting[0], sound)


def _takes_sound(interface: Interface, spec: TensorSpec) -> bool:
    fixed = [size for size in spec.shape if isinstance(size, int)]
    names = [size for size in spec.shape if isinstance(size, str)]
    frames = [size for size in fixed if size > 1]
    last = not frames or spec.shape[-1] == frames[0]
    return (
        spec.dtype == "float32"
        and len(frames) <= 1
        and last
        and set(names) <= {interface.time_axis, BATCH}
        and (interface.time_axis in names)
    )


def _mapped(interface: Interface, spec: TensorSpec, sound: Sound) -> Mapped:
    K = next((size for size in spec.shape if isinstance(size, int) and size > 1), 1)
    T = -(-len(sound.samples) // K)
    padded = np.zeros(T * K, np.float32)
    padded[: len(sound.samples)] = sound.samples
    sizes = {interface.time_axis: T, BATCH: 1}
    shape = [size if isinstance(size, int) else sizes[size] for size in spec.shape]
    filled = T * K - len(sound.samples)
    note = f"{len(sound.samples)} samples at {sound.rate} Hz as {spec.name} {shape}"
    note += f": {T} frames of {K}, the last filled up with {filled} zeros" if filled else ""
    return Mapped(spec.name, padded.reshape(shape), note)
