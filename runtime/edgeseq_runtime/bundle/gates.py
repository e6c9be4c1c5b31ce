"""How far from PyTorch's float64 result still counts as equal: a kind of gate for float32, and one for lower precisions.

In float32 a faithful program is off by PyTorch's own rounding error, so that error is the unit. Half precision and 8-bit weights
are off by their own rounding, thousands of times as much, and PyTorch's is no measure of it: there the unit is the output's rms.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Largest distance from float64 that counts as equal, in units of PyTorch's own rounding error."""

    figures: ClassVar[tuple[str, str]] = ("k", "k999")

    k: float
    k999: float

    def bounds(self, discrete: bool) -> dict[str, float]:
        """Figure -> the largest value allowed, for an output that is `discrete` (integers, booleans) or not."""
        return {"k": self.k, "k999": self.k999}

    def __str__(self) -> str:
        return f"k <= {self.k:g}, k999 <= {self.k999:g}"


class RelativeGate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Largest distance from float64 that counts as equal, as a share of the output's rms; for a precision lower than float32."""

    figures: ClassVar[tuple[str, str]] = ("relative", "relative999")

    relative: float  # rms error
    relative999: float  # 99.9th percentile of |error|
    unequal: float  # share of unequal elements of an output that holds integers or booleans

    def bounds(self, discrete: bool) -> dict[str, float]:
        """Figure -> the largest value allowed, for an output that is `discrete` (integers, booleans) or not."""
        if discrete:
            return dict.fromkeys(self.figures, self.unequal)
        return {"relative": self.relative, "relative999": self.relative999}

    def __str__(self) -> str:
        return f"relative <= {self.relative:g}, relative999 <= {self.relative999:g}, unequal <= {self.unequal:g}"


AnyGate = Gate | RelativeGate

DEFAULT_GATES: dict[str, Gate] = {"fp32": Gate(k=4.0, k999=8.0)}
# Of a graph that is evaluated in float64. Only constants that it holds in float32 keep a correct one from being the same, and their
# share is a part of the rounding that is the unit: a leaky integrator whose constants are most of what is rounded comes to 0.57.
EXACT_GATE = Gate(k=1.0, k999=2.0)
# docs/low-precision.md holds what they are chosen from.
LOW_PRECISION_GATES: dict[str, RelativeGate] = {
    "fp16": RelativeGate(relative=0.01, relative999=0.08, unequal=0.02),
    "bf16": RelativeGate(relative=0.05, relative999=0.4, unequal=0.1),
    "int8": RelativeGate(relative=0.05, relative999=0.4, unequal=0.05),
}
