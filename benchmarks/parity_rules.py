"""When is an export called wrong: our rules and four that are in use, on the same outputs.

Ours judges whole sequences and streams, from the bundle, against float64; with `--exact`, the graph in float64, too. The others
compare whole sequences with PyTorch's float32 result, as their tools do: every draw of every case where the tool leaves the inputs
to its user, one draw of one case for optimum's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np
import torch

from edgeseq_runtime.bundle import CaseArrays, ReferenceCase, open_bundle
from edgeseq_runtime.errors import EdgeseqError
from edgeseq_runtime.parity import Observer, ParityReport, ParityRow, Piece, measure_graph, measure_parity
from edgeseq_runtime.session import Session
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

Differs = Callable[[Array, Array], bool]  # (runtime's, PyTorch's float32) -> an alarm


def allclose(got: Array, torch32: Array) -> bool:
    """`numpy.allclose` or `torch.allclose` with both tolerances at 1e-5."""
    return not np.allclose(got, torch32, rtol=1e-5, atol=1e-5)


def assert_close(got: Array, torch32: Array) -> bool:
    """`torch.testing.assert_close` with its defaults for float32: 1.3e-6 relative, 1e-5 absolute."""
    try:
        torch.testing.assert_close(torch.from_numpy(np.ascontiguousarray(got)), torch.from_numpy(np.ascontiguousarray(torch32)))
    except AssertionError:
        return True
    return False


def polygraphy(got: Array, torch32: Array) -> bool:
    """Polygraphy's element-wise rule: an element is wrong where its absolute and its relative error both exceed 1e-5."""
    if not np.issubdtype(torch32.dtype, np.floating):
        return not np.array_equal(got, torch32)
    error = np.abs(got.astype(np.float64) - torch32)
    relative = error / np.maximum(np.abs(torch32), np.finfo(np.float32).tiny)
    return bool((~((error <= 1e-5) | (relative <= 1e-5))).any())


def optimum(got: Array, torch32: Array) -> bool:
    """What optimum's export validates: `numpy.allclose` with `atol=1e-5` and its default relative tolerance, 1e-5."""
    return not np.allclose(torch32, got, atol=1e-5)


OTHERS: dict[str, Differs] = {
    "allclose(1e-5)": allclose,
    "assert_close": assert_close,
    "Polygraphy": polygraphy,
    "optimum, one size": optimum,
}
ONE_SIZE = ("optimum, one size",)
US = "edgeseq parity"
EXACT = "edgeseq parity --exact"
RULES = (US, EXACT, *OTHERS)
EXACT_DRAWS = 2  # of each case: nothing is rounded, and one would do


class Judged(NamedTuple):
    """What every rule says of one bundle."""

    alarms: dict[str, bool]  # by rule
    report: ParityReport | None  # None where the bundle could not be measured, which every rule notices
    reason: str  # why it could not be measured
    exact: tuple[ParityRow, ...] = ()  # of the graph in float64


def judge_by_every_rule(
    path: str | PathLike[str],
    session: Session | None = None,
    observe: Observer = lambda spec, mode, case, pieces: None,
    model: bytes | None = None,
) -> Judged:
    """Measure a bundle once and ask every rule; `observe` is shown the arrays behind each row.

    `model` is the graph behind `session`, where that is not the bundle's own.

    A model that can't be loaded or run is an alarm for every rule: nobody ships it.
    """
    alarms = dict.fromkeys(OTHERS, False)
    example = _like_an_example(open_bundle(path).manifest.reference)

    def compare(spec: TensorSpec, mode: str, case: CaseArrays, pieces: list[Piece]) -> None:
        observe(spec, mode, case, pieces)
        if mode != "whole":
            return
        for name, differs in OTHERS.items():
            if name in ONE_SIZE and case.case != example:
                continue
            compared = pieces[:1] if name in ONE_SIZE else pieces
            alarms[name] = alarms[name] or any(_differ(differs, piece) for piece in compared)

    try:
        report = measure_parity(path, session=session, observe=compare)
    except EdgeseqError as error:
        return Judged(dict.fromkeys(RULES, True), None, str(error))
    if _could_not_run(report):
        alarms = dict.fromkeys(OTHERS, True)
    exact = _exact_rows(path, model)
    inexact = any(row.verdict == "fail" for row in exact)
    return Judged({US: not report.passed, EXACT: not report.passed or inexact, **alarms}, report, "", exact)


def _exact_rows(path: str | PathLike[str], model: bytes | None) -> tuple[ParityRow, ...]:
    """The rows of the graph in float64; none where it has an operator that is not evaluated so."""
    try:
        return measure_graph(path, model=model, draws=EXACT_DRAWS)
    except EdgeseqError:
        return ()


def _like_an_example(cases: Sequence[ReferenceCase]) -> ReferenceCase:
    """The case nearest to the inputs that optimum makes up: 2 sequences of 16 steps."""

    def distance(case: ReferenceCase) -> float:
        return sum(abs(math.log(size / (2 if axis == "B" else 16))) for axis, size in case.sizes.items())

    return min(cases, key=distance)


def _differ(differs: Differs, piece: Piece) -> bool:
    return piece.got.shape != piece.torch32.shape or piece.got.dtype != piece.torch32.dtype or differs(piece.got, piece.torch32)


def _could_not_run(report: ParityReport) -> bool:
    """Whether a whole sequence raised: its row has a reason and no figures."""
    return any(row.mode == "whole" and row.verdict == "fail" and math.isinf(row.max_abs) for row in report.rows)
