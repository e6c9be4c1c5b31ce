"""The vendor's TFLite edge models, run as the vendor runs them: on the last 200 rows, anew at every row.

The signal is scaled with the median and the interquartile range of the vendor's training files, as its scaler is; they are
computed here, and the pickle that holds them is not opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from edgeseq_recipes.experiments.gait_data import VALIDATION, Array, Recording, package_folder
from edgeseq_runtime.errors import UsageError

WINDOW = 200
RECORDED = "2026_03_26_15_45_0.0212_best"  # gave the phases recorded in the test file; predicts the phase now
VALIDATED = "2026_03_26_22_54_0.0713"  # the one that the vendor's validation opens; predicts the phase 20 rows ahead


class VendorModel:
    """One edge model, on one thread.

    Args:
        name: its folder.
        scaling: of `vendor_scaling`.

    Raises:
        UsageError: it is not there or has another input than a window of two numbers a row.
    """

    def __init__(self, name: str, scaling: tuple[Array, Array], folder: Path | None = None) -> None:
        path = (folder or package_folder()) / "model" / name / "gru_model_edge.tflite"
        if not path.is_file():
            raise UsageError(f"no edge model at {path}; install ao_compensation_model 0.1.6")
        self._median, self._range = scaling
        self._interpreter: Any = Interpreter(model_path=str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        (source,), (target,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if tuple(source["shape"]) != (1, WINDOW, 2):
            raise UsageError(f"{path} takes {tuple(source['shape'])}; a window (1, {WINDOW}, 2) was expected")
        self._source, self._target = source["index"], target["index"]

    def windows(self, signal: Array) -> Array:
        """Scaled float32 windows (N - 199, 1, 200, 2): the one at index i ends at row i + 199."""
        scaled = ((signal - self._median) / self._range).astype(np.float32)
        return np.lib.stride_tricks.sliding_window_view(scaled, WINDOW, axis=0).transpose(0, 2, 1)[:, None]

    def predict(self, window: Array) -> Array:
        """Sin and cos of the phase at the window's last row: (2,)."""
        self._interpreter.set_tensor(self._source, window)
        self._interpreter.invoke()
        last: Array = self._interpreter.get_tensor(self._target).reshape(-1, 2)[-1]
        return last

    def phases(self, signal: Array, rows: Iterable[int]) -> Array:
        """Sin and cos at each of the rows, each 199 or later: (len(rows), 2)."""
        windows = self.windows(signal)
        return np.stack([self.predict(windows[row - WINDOW + 1]) for row in rows])


def vendor_scaling(recordings: Mapping[str, Recording]) -> tuple[Array, Array]:
    """Median and interquartile range (2,) of the signal over the vendor's training files."""
    signal = np.concatenate([recording.signal for name, recording in recordings.items() if name != VALIDATION])
    low, median, high = np.percentile(signal, (25, 50, 75), axis=0)
    return median, high - low
