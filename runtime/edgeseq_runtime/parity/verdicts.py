"""From what was computed for an output, beside what PyTorch computed, to its row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgeseq_runtime.bundle import AnyGate, CaseArrays, judge
from edgeseq_runtime.chunks import cut
from edgeseq_runtime.interface import Interface
from edgeseq_runtime.parity.report import EXACT, ParityRow
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array


class Piece(NamedTuple):
    """What was computed for one draw, or for one sequence of it, beside what PyTorch computed."""

    got: Array
    torch32: Array
    float64: Array


Pieces = dict[str, list[Piece]]  # by output


def judged_row(
    interface: Interface, spec: TensorSpec, mode: str, case: CaseArrays, pieces: list[Piece], gate: AnyGate
) -> ParityRow:
    """The verdict on everything computed for one output at one case."""
    exact = mode == EXACT
    problem = next((text for piece in pieces if (text := _misfit(str(piece.float64.dtype) if exact else spec.dtype, piece))), "")
    if problem:
        return failed_row(spec, mode, case, problem)
    horizon = case.case.horizon.get(spec.name)
    at = interface.steps_position(spec)
    if horizon is not None and at is None and horizon < case.case.sizes.get(interface.time_axis, 0):
        return failed_row(spec, mode, case, f"chaotic after {horizon} steps, and has no time axis to cut", verdict="skip")
    scope = ""
    if horizon is not None and at is not None:
        pieces = within_horizon(pieces, at, horizon)
        scope = f"first {horizon} steps; the rest is chaotic"
    got, torch32, float64 = (np.concatenate([array.reshape(-1) for array in arrays]) for arrays in zip(*pieces, strict=True))
    verdict = judge(got, torch32, float64, gate, exact=exact)
    return ParityRow(
        output=spec.name,
        mode=mode,
        sizes=case.case.sizes,
        shape=tuple(case.float64[spec.name].shape[1:]),
        verdict="pass" if verdict.passed else "fail",
        reason="; ".join(part for part in (verdict.reason, scope) if part),
        **(verdict.distance._asdict() if verdict.distance else {}),
    )


def within_horizon(pieces: list[Piece], time_axis: int, horizon: int) -> list[Piece]:
    """What is gated of each: the leading steps, before the recurrence is chaotic."""
    return [Piece(*(cut(array, time_axis, 0, horizon) for array in piece)) for piece in pieces]


def _misfit(dtype: str, piece: Piece) -> str:
    """What is wrong with an output before any number is compared; empty if nothing."""
    if piece.got.shape != piece.float64.shape:
        return f"shape {piece.got.shape}, PyTorch's is {piece.float64.shape}"
    return "" if piece.got.dtype == dtype else f"dtype {piece.got.dtype}, declared {dtype}"


def failed_row(spec: TensorSpec, mode: str, case: CaseArrays, reason: str, verdict: str = "fail") -> ParityRow:
    """A row without figures."""
    return ParityRow(
        output=spec.name,
        mode=mode,
        sizes=case.case.sizes,
        shape=tuple(case.float64[spec.name].shape[1:]),
        verdict=verdict,
        reason=reason,
    )
