"""Where a trace took one side of a decision on sizes: `if x.shape[0] > 64`, `x[:60]`, `T > S`.

`torch.export` follows the side that the trace's sizes lie on and writes down what it assumed. A module that decides on a size has
no single graph; one that PyTorch itself can't run on the other side (a table of 512 positions) has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import sympy

from edgeseq_export.cases import Oracle
from edgeseq_export.onnx_runner import OnnxRunner
from edgeseq_export.subject import Subject
from edgeseq_runtime.bundle import Gate, judge
from edgeseq_runtime.errors import PostconditionError, UnsupportedModule
from edgeseq_runtime.tensors import TensorSpec

SMALL = (3, 8, 21)
LARGEST = 20_000  # a decision at a larger size is noted and not tried
TRIED = 3  # sizes on the other side of each decision
DRAWS = 8


class Limit(NamedTuple):
    """What a trace assumed of the sizes, in the user's axis names, and where in the code."""

    holds: sympy.Basic
    place: str

    def __str__(self) -> str:
        return f"{self.holds}{f' ({self.place})' if self.place else ''}"


def require_no_decision(
    limits: Sequence[Limit], run: OnnxRunner, subject: Subject, oracle: Oracle, outputs: Sequence[TensorSpec], gate: Gate
) -> None:
    """On the other side of every assumption, the graph agrees with the module or PyTorch itself fails.

    Raises:
        UnsupportedModule: the graph is right only where an assumption holds.
    """
    for limit in limits:
        for sizes in _other_side(limit, tuple(subject.request.sizes())):
            problem = _difference(sizes, run, subject, oracle, outputs, gate)
            if problem:
                raise UnsupportedModule(
                    f"{type(subject.model).__name__} decides on the size of a named axis: its graph is right only where {limit}; "
                    f"at {sizes}, {problem}. A graph has one side of an `if`, and a slice [:n] or [-n:] counts as one: do it "
                    "outside the module, or leave that axis out of axes (None)"
                )


def _other_side(limit: Limit, axes: Sequence[str]) -> list[dict[str, int]]:
    """Some sizes at which the assumption does not hold: the smallest ones."""
    numbers = {abs(int(n)) for n in limit.holds.atoms(sympy.Integer) if 2 <= abs(n) <= LARGEST}
    values = sorted({*SMALL, *(n + d for n in numbers for d in (-1, 0, 1)), *(2 * n for n in numbers)} - {0, 1})
    used = {str(symbol) for symbol in limit.holds.free_symbols}
    choices = [values if axis in used else SMALL[:1] for axis in axes]
    found = (dict(zip(axes, chosen, strict=True)) for chosen in product(*choices))
    violating = [sizes for sizes in found if _is_false(limit, sizes)]
    violating.sort(key=lambda sizes: sum(sizes.values()))
    return violating[: TRIED - 1] + violating[TRIED - 1 :][-1:]


def _is_false(limit: Limit, sizes: Mapping[str, int]) -> bool:
    try:
        value = limit.holds.subs({sympy.Symbol(axis): size for axis, size in sizes.items()})
    except ZeroDivisionError:  # too short for a single frame: T // 160 is 0
        return False
    return bool(value == sympy.false)


def _difference(
    sizes: Mapping[str, int], run: OnnxRunner, subject: Subject, oracle: Oracle, outputs: Sequence[TensorSpec], gate: Gate
) -> str:
    """How the graph differs from the module; empty where it does not, or where PyTorch can't run."""
    draw = subject.draws(seed=3000)
    inputs = [draw(sizes) for _ in range(DRAWS)]
    try:
        own = [oracle.float32(x) for x in inputs]
    # The user's forward can raise anything at a size that it was not written for.
    except Exception:
        return ""
    exact = [oracle.float64(x) for x in inputs]
    try:
        found = [run({name: t.numpy() for name, t in x.items()}) for x in inputs]
    except PostconditionError as error:
        return str(error)
    for position, spec in enumerate(outputs):
        got = [result[spec.name] for result in found]
        if any(a.shape != b[position].shape for a, b in zip(got, own, strict=True)):
            return f"output '{spec.name}' has shape {got[0].shape} and PyTorch's has {own[0][position].shape}"
        own32, exact64 = (np.stack([o[position] for o in outs]) for outs in (own, exact))
        verdict = judge(np.stack(got), own32, exact64, _doubled(gate))
        if not verdict.passed:
            return f"output '{spec.name}' differs: {verdict.reason}"
    return ""


def _doubled(gate: Gate) -> Gate:
    """Fewer draws vary more; taking the wrong side of a decision is thousands of rounding errors off."""
    return Gate(2 * gate.k, 2 * gate.k999)


def limits_of(guards: Iterator[tuple[sympy.Basic, str]], names: Mapping[sympy.Symbol, sympy.Symbol]) -> tuple[Limit, ...]:
    """The inequalities among a trace's guards. Equalities and divisibilities are the module's own, and PyTorch raises on them."""
    found: dict[str, Limit] = {}
    for expression, place in guards:
        if isinstance(expression, (sympy.StrictLessThan, sympy.LessThan, sympy.StrictGreaterThan, sympy.GreaterThan)):
            found.setdefault(str(expression), Limit(expression.xreplace(dict(names)), place))
    return tuple(found.values())
