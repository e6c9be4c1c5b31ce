"""Whether an output counts as equal to its reference: the one rule, used where a bundle is made and where it is run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgeseq_runtime.bundle.gates import AnyGate
from edgeseq_runtime.tensors import Distance, distance
from edgeseq_runtime.tensors.spec import Array


class Verdict(NamedTuple):
    """The outcome for one output at one set of sizes, pooled over the draws."""

    passed: bool
    distance: Distance | None  # None where shapes or dtypes already differ
    reason: str  # empty where it passed without remark


def judge(
    runtime: Array,
    float32: Array,
    float64: Array,
    gate: AnyGate,
    *,
    time_axis: int | None = None,
    horizon: int | None = None,
    exact: bool = False,
) -> Verdict:
    """Compare stacked outputs (draws, ...) with PyTorch's; shape, dtype and NaN come before any distance.

    What the distance is, the gate's kind says: `k` and `k999`, or `relative` and `relative999`.

    `exact` says that `runtime` was computed in float64. With `horizon`, only that many leading steps along `time_axis` are gated:
    beyond, the recurrence is chaotic.
    """
    if runtime.shape != float32.shape:
        return Verdict(False, None, f"shape {runtime.shape[1:]}, PyTorch's is {float32.shape[1:]}")
    dtype = (float64 if exact else float32).dtype
    if runtime.dtype != dtype:
        return Verdict(False, None, f"dtype {runtime.dtype}, PyTorch's is {dtype}")
    if np.issubdtype(runtime.dtype, np.floating) and not np.isfinite(runtime).all():
        return Verdict(False, None, "holds NaN or infinity")
    reason = ""
    if horizon is not None and time_axis is not None:
        runtime, float32, float64 = (np.take(a, range(horizon), axis=time_axis) for a in (runtime, float32, float64))
        reason = f"chaotic: one unit in the last place of the input diverges; gated on the first {horizon} steps"
    found = distance(runtime, float32, float64)
    for name, bound in gate.bounds(found.discrete).items():
        value = getattr(found, name)
        if not value <= bound:
            return Verdict(False, found, f"{name} {value:.3g} exceeds {bound:g}")
    return Verdict(True, found, reason)
