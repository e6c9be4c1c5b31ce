"""Sound files."""

import wave

import numpy as np
import pytest

from edgeseq_runtime import TensorSpec
from edgeseq_runtime.errors import InputError, UsageError
from edgeseq_runtime.interface import Interface
from edgeseq_runtime.wav import Sound, read_wav, sound_as_input


def write(path, data, width, channels=1, rate=16_000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return path


@pytest.mark.parametrize(
    ("width", "data"),
    [
        (1, bytes([0, 64, 128, 192])),
        (2, b"\x00\x80\x00\xc0\x00\x00\x00\x40"),
        (3, b"\x00\x00\x80\x00\x00\xc0\x00\x00\x00\x00\x00\x40"),
        (4, b"\x00\x00\x00\x80\x00\x00\x00\xc0\x00\x00\x00\x00\x00\x00\x00\x40"),
    ],
)
def test_samples_of_every_width_are_the_same_numbers(width, data, tmp_path):
    sound = read_wav(write(tmp_path / "a.wav", data, width, rate=8000))
    assert sound.samples.dtype == np.float32
    assert sound.samples.tolist() == [-1.0, -0.5, 0.0, 0.5]
    assert sound.rate == 8000


def test_what_is_no_mono_pcm_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"2 channels; mix it down .*sox"):
        read_wav(write(tmp_path / "a.wav", bytes(8), 2, channels=2))
    with pytest.raises(UsageError, match="No such file"):
        read_wav(tmp_path / "none.wav")
    for data in (b"", b"RIFF", b"noise" * 20):
        (tmp_path / "b.wav").write_bytes(data)
        with pytest.raises(UsageError, match="as PCM sound"):
            read_wav(tmp_path / "b.wav")


def mapped(shape, samples, name=None, **others):
    specs = [TensorSpec("x", "float32", shape), *(TensorSpec(other, "float32", one) for other, one in others.items())]
    return sound_as_input(Interface(tuple(specs), ()), Sound(np.asarray(samples, np.float32), 16_000), name)


def test_a_waveform_goes_in_as_it_is():
    assert mapped(("B", "T"), [1, 2, 3]).array.tolist() == [[1, 2, 3]]
    assert mapped(("T", "B"), [1, 2, 3]).array.tolist() == [[1], [2], [3]]
    assert mapped(("B", 1, "T"), [1, 2]).array.tolist() == [[[1, 2]]]


@pytest.mark.parametrize(("shape", "expected"), [(("T", "B", 2), [[[1, 2]], [[3, 0]]]), (("B", "T", 2), [[[1, 2], [3, 0]]])])
def test_frames_are_filled_up_with_zeros_and_say_so(shape, expected):
    made = mapped(shape, [1, 2, 3])
    assert made.array.tolist() == expected
    assert "2 frames of 2, the last filled up with 1 zeros" in made.note
    assert "filled" not in mapped(shape, [1, 2, 3, 4]).note


def test_an_input_is_chosen_by_what_fits_or_by_name():
    assert mapped(("T", "B", 2), [1], other=("B", 7)).input == "x"
    assert mapped(("B", "T"), [1], name="other", other=("B", "T")).input == "other"
    with pytest.raises(UsageError, match=r"\['x', 'other'\] take sound; name one with --input"):
        mapped(("B", "T"), [1], other=("B", "T"))
    with pytest.raises(UsageError, match="no input takes sound under the name 'z'"):
        mapped(("B", "T"), [1], name="z")
    with pytest.raises(UsageError, match=r"no input takes sound; .*x: float32"):
        mapped(("B", 3, "T"), [1])


def test_an_empty_sound_is_refused():
    with pytest.raises(InputError, match="no samples"):
        mapped(("B", "T"), [])
