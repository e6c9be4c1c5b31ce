"""Whether a plan computes what the bundle says that it has to: options may change how a product is summed."""

from __future__ import annotations

import math

from edgeseq_runtime.bundle import Bundle
from edgeseq_runtime.parity import measure_parity
from edgeseq_runtime.plan import Plan
from edgeseq_runtime.session import open_session


def problem_of(bundle: Bundle, plan: Plan) -> str:
    """Why results are not within the bundle's gate, at its smallest case of several steps; "" where they are."""
    cases = [case.case for case in bundle.reference()]
    if not cases:
        return "the bundle holds no reference values to prove it by"
    case = min(cases, key=lambda case: (math.prod(case.sizes.values()) == 1, math.prod(case.sizes.values())))
    report = measure_parity(bundle.path, session=open_session(bundle, plan), at=case.sizes)
    return "" if report.passed else f"its results are outside the bundle's gate, {report.gate}"
