"""What was found: the node, the step, the row, and the growth of the error."""

from __future__ import annotations

import math
from typing import Any

import msgspec

BARS = "▁▂▃▄▅▆▇█"
SHOWN = 40  # bars of a growth


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """The first value of a graph that leaves its reference."""

    cause: str  # "graph": the graphs differ; "device": the same graph gives other values here; "optimisation": only where
    # ONNX Runtime optimises the graph; "model": the graph computes something else than PyTorch, its node unknown
    node: str  # its name; empty where the node is unknown
    op: str
    path: str  # through the graphs, such as "Scan 'n3' / body / Add 'n7'"
    value: str  # the output that leaves
    kind: str  # "value", "nan", "shape", "dtype", or "error" where the node can't be run
    found: str  # what is there, and what should be
    sizes: dict[str, int]  # of the inputs it was found with
    draw: int = 0
    error: float = math.inf  # rms of the difference over rms of the reference
    allowed: float = 0.0  # the same that rounding explains; 0 where bits must be equal
    step: int | None = None  # the first time step that differs, in the order of time; of a node that runs backwards, the last
    iteration: int | None = None  # of the innermost body; the step in the order in which it runs
    steps: int | None = None
    backwards: bool = False
    row: int | None = None  # of the batch: the one with the largest error
    growth: tuple[float, ...] = ()  # error of each step, over the rms of the reference
    inputs_equal: bool = False  # whether everything that the node reads is still equal, bit for bit
    last_good: str = ""  # with "optimisation": the last value, in order, that is still right
    differences: tuple[str, ...] = ()  # between the two nodes, read from the graphs

    @property
    def ratio(self) -> float | None:
        """Error at the last step over that at the first that has one, in the order in which they run; None without steps."""
        ran = [value for value in (reversed(self.growth) if self.backwards else self.growth) if value > 0]
        return ran[-1] / ran[0] if ran and all(map(math.isfinite, (ran[0], ran[-1]))) else None

    def to_json(self) -> dict[str, Any]:
        """As JSON values; an infinite error is null."""
        made: dict[str, Any] = msgspec.to_builtins(self)
        made["growth"] = [value if math.isfinite(value) else None for value in self.growth]
        made["error"] = self.error if math.isfinite(self.error) else None
        return {**made, "ratio": self.ratio}

    def lines(self) -> list[tuple[str, str]]:
        """What a person reads: pairs of a heading and a text."""
        rows = [
            ("first", self.path or f"output '{self.value}'; which node is not known"),
            ("value", f"'{self.value}': {self.found}"),
        ]
        if self.kind == "value":
            explained = "bits should be equal" if not self.allowed else f"rounding explains {self.allowed:.1e}"
            rows.append(("error", f"{self.error:.1e} of the value's rms; {explained}"))
        if self.step is not None:
            rows.append(("step", self._step_text()))
        elif self.iteration is not None:
            rows.append(("iteration", f"{self.iteration}"))
        if self.row is not None:
            rows.append(("worst row", f"{self.row} of the batch"))
        if len(self.growth) > 1 and self.kind in ("value", "nan"):
            rows.append(("growth", self._growth_text()))
        if self.last_good:
            rows.append(("last good", self.last_good))
        if self.node or self.op:
            rows.append(("its inputs", self._inputs_text()))
        heading = "next" if self.cause == "model" else "differs"
        rows += [("" if index else heading, text) for index, text in enumerate(self.differences)]
        at = " ".join(f"{axis}={size}" for axis, size in sorted(self.sizes.items(), reverse=True))
        rows.append(("found at", f"{at}, draw {self.draw}"))
        return rows

    def _inputs_text(self) -> str:
        if self.inputs_equal:
            return "equal to the reference's, bit for bit"
        return "not all known to the reference" if self.cause == "graph" else "equal to the reference's but for rounding"

    def _step_text(self) -> str:
        of = f"{self.step} of 0..{self.steps - 1}" if self.steps is not None else f"{self.step}"
        return f"{of}, run backwards" if self.backwards else of

    def _growth_text(self) -> str:
        ratio = "" if self.ratio is None else f" last/first {self.ratio:.3g}"
        return f"{bars(self.growth)}{ratio}"


def bars(values: tuple[float, ...]) -> str:
    """Values as a line of bars on a logarithmic scale over the top six decades; a blank is zero."""
    if len(values) > SHOWN:
        width = len(values) / SHOWN
        values = tuple(max(values[int(at * width) : max(int((at + 1) * width), int(at * width) + 1)]) for at in range(SHOWN))
    top = max((value for value in values if math.isfinite(value)), default=0.0)
    return "".join(_bar(value, top) for value in values)


def _bar(value: float, top: float) -> str:
    if value == 0:
        return " "
    if not math.isfinite(value) or not top:
        return BARS[-1]
    return BARS[max(0, min(7, 7 + math.floor(math.log10(value / top) * 7 / 6)))]
