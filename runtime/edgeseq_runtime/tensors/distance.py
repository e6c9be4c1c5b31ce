"""How far a runtime's output is from the truth, in units of PyTorch's own rounding error and of the output itself.

The truth is the module evaluated in float64. PyTorch's float32 result misses it by some rounding error; a faithful export
misses it by about as much, whatever the model's scale or depth. So the measure is a ratio, pooled over many random draws:

    k = rms(runtime - float64) / max(rms(torch32 - float64), 2 * eps * rms(float64))

and the same ratio of the 99.9th percentiles of the absolute errors (`k999`), which a fault in few elements moves first.
Pooling matters: with one draw, a correct export can exceed any fixed gate where PyTorch's own error is small by luck.

A precision lower than float32 has an error of its own, of which PyTorch's is no measure. There the unit is the output:

    relative = rms(runtime - float64) / rms(float64)

and the 99.9th percentile of the absolute errors over the same rms (`relative999`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseq_runtime.tensors.spec import Array

Float64 = npt.NDArray[np.float64]

_EPS = float(np.finfo(np.float32).eps)


class Distance(NamedTuple):
    """Distance of one output from its float64 reference, over everything pooled."""

    k: float  # rms error over PyTorch's own
    k999: float  # 99.9th percentile of |error| over PyTorch's own
    max_abs: float  # largest |runtime - float64|; for integers and booleans, the share of unequal elements
    relative: float  # rms error over the rms of the reference; for integers and booleans, the share of unequal elements
    relative999: float  # 99.9th percentile of |error| over the same; for integers and booleans, that share again
    discrete: bool = False  # integers or booleans


def distance(runtime: Array, torch32: Array, float64: Array) -> Distance:
    """Distance of `runtime` from `float64`, both of any one shape; not-a-number anywhere gives infinite ratios.

    Integer and boolean outputs have no rounding error: k is the ratio of unequal elements, infinite where PyTorch's
    float32 has none unequal.
    """
    if not np.issubdtype(float64.dtype, np.floating):
        return _discrete_distance(runtime, torch32, float64)
    truth = float64.astype(np.float64)
    error = np.abs(runtime.astype(np.float64) - truth)
    if not np.isfinite(error).all():
        return Distance(np.inf, np.inf, np.inf, np.inf, np.inf)
    own = np.abs(torch32.astype(np.float64) - truth)
    scale = _rms(truth)
    floor = 2 * _EPS * scale
    rms, p999 = _rms(error), _p999(error)
    return Distance(
        k=_ratio(rms, max(_rms(own), floor)),
        k999=_ratio(p999, max(_p999(own), floor)),
        max_abs=float(error.max(initial=0.0)),
        relative=_ratio(rms, scale),
        relative999=_ratio(p999, scale),
    )


def relative_error_by_step(values: Array, float64: Array, time_axis: int) -> Float64:
    """Rms error at each time step over the rms of the whole reference: shape (T,)."""
    truth = np.moveaxis(float64.astype(np.float64), time_axis, 0)
    error = np.moveaxis(values.astype(np.float64), time_axis, 0) - truth
    T = truth.shape[0]
    scale = max(_rms(truth), np.finfo(np.float64).tiny)
    return np.asarray(np.sqrt(np.mean(error.reshape(T, -1) ** 2, axis=1)) / scale, dtype=np.float64)


def _discrete_distance(runtime: Array, torch32: Array, truth: Array) -> Distance:
    wrong = float(np.mean(runtime != truth))
    own = float(np.mean(torch32 != truth))
    k = _ratio(wrong, own)
    return Distance(k, k, wrong, wrong, wrong, discrete=True)


def _rms(values: Float64) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def _p999(values: Float64) -> float:
    return float(np.quantile(values, 0.999)) if values.size else 0.0


def _ratio(error: float, scale: float) -> float:
    if error == 0.0:
        return 0.0
    return error / scale if scale > 0.0 else float("inf")
