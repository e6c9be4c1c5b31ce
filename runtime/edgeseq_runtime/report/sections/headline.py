"""The answer first: one sentence, and the few figures behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgeseq_runtime.bundle import AnyGate, Gate
from edgeseq_runtime.interface import size_text
from edgeseq_runtime.parity import ParityReport, ParityRow
from edgeseq_runtime.report.markup import Html, element, joined
from edgeseq_runtime.report.measured import Report
from edgeseq_runtime.report.scales import figure_text, percent, times_text
from edgeseq_runtime.report.sections.parity import excess
from edgeseq_runtime.report.tables import facts


def heading(report: Report) -> Html:
    """The name of the model and of the page."""
    return element("h1", element("span", "edgeseq report", class_="kicker"), " ", element("bdi", report.bundle.name))


def section(report: Report) -> Html:
    """Verdict, sentence and figures."""
    verdict = "PASS" if report.parity.passed else "FAIL"
    symbol = "✓" if report.parity.passed else "✗"
    return element(
        "section",
        element("h2", element("span", symbol, aria_hidden="true"), f" {verdict}", id_="verdict-title"),
        element("p", sentence(report.parity), class_="sentence"),
        facts(_figures(report)),
        class_=f"headline {verdict.lower()}",
        id_="verdict",
        aria_labelledby="verdict-title",
    )


def sentence(parity: ParityReport) -> Html:
    """What came out, for someone who has one minute."""
    where = f"on {parity.device} in {parity.precision}"
    name = element("bdi", parity.name)
    gated = [row for row in parity.rows if row.verdict != "skip"]
    if not gated and not parity.metric:
        return joined([f"Nothing of {parity.name} could be compared {where}, so nothing is proved."])
    if any(row.verdict == "fail" for row in gated):
        return joined([name, f" does not compute {where} what PyTorch computes: ", *_worst_failure(parity), "."])
    if not gated:
        return joined([f"No output of {parity.name} could be compared {where}", *_metric_clause(parity), "."])
    if parity.passed:
        error = ", and its ".join(_largest_errors(parity.gate, gated))
        return joined([name, f" computes {where} what PyTorch computes: its {error}", *_metric_clause(parity), "."])
    return joined([name, f" is worse {where} at its task than in fp32", *_metric_clause(parity), "."])


def _largest_errors(gate: AnyGate, gated: list[ParityRow]) -> Iterator[str]:
    if isinstance(gate, Gate):
        worst = times_text(max(row.k for row in gated))
        yield f"error is at most {worst} times PyTorch's own rounding error, and up to {gate.k:g} times is allowed"
        return
    errors, shares = ([row.relative for row in gated if row.discrete == discrete] for discrete in (False, True))
    if errors:
        yield f"error is at most {percent(max(errors))} of its outputs' rms, and up to {percent(gate.relative)} is allowed"
    if shares:
        yield f"whole numbers differ in at most {percent(max(shares))}, and up to {percent(gate.unequal)} is allowed"


def _metric_clause(parity: ParityReport) -> Iterator[str | Html]:
    """The user's metric, where there is one."""
    row = parity.metric
    if row is None:
        return
    yield from ("; the user's metric ", element("bdi", row.name))
    if not math.isfinite(row.measured):
        yield f" could not be taken ({row.reason})"
    else:
        yield f" is {figure_text(row.measured, 4)}, in fp32 {figure_text(row.fp32, 4)}, and up to {row.max_loss:g} less is allowed"


def _worst_failure(parity: ParityReport) -> Iterator[str | Html]:
    failed = [row for row in parity.rows if row.verdict == "fail"]
    gate = parity.gate
    row = max(failed, key=lambda one: excess(one, gate))
    yield from ("output ", element("bdi", row.output), f" at {size_text(row.sizes)} ({_mode(row)}) ")
    if not math.isfinite(getattr(row, gate.figures[0])):
        yield f"can't be equal ({row.reason})"
    elif isinstance(gate, Gate):
        if row.k > gate.k:
            yield f"is off by {times_text(row.k)} times PyTorch's own rounding error, and up to {gate.k:g} times is allowed"
        else:
            yield f"has largest errors {times_text(row.k999)} times PyTorch's own, and up to {gate.k999:g} times is allowed"
    elif row.discrete:
        yield f"differs in {percent(row.relative)} of its elements, and up to {percent(gate.unequal)} is allowed"
    elif row.relative > gate.relative:
        yield f"is off by {percent(row.relative)} of its rms, and up to {percent(gate.relative)} is allowed"
    else:
        yield f"has largest errors of {percent(row.relative999)} of its rms, and up to {percent(gate.relative999)} is allowed"


def _mode(row: ParityRow) -> str:
    return "whole sequences" if row.mode == "whole" else "streamed"


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    parity = report.parity
    measured = [row for row in parity.rows if math.isfinite(row.max_abs)]
    # Shares of unequal whole numbers have a bound of their own in some gates; where there are errors too, those are told.
    told = [row for row in measured if not row.discrete] or measured
    for name, bound in parity.gate.bounds(discrete=bool(told) and told[0].discrete).items():
        worst = max((getattr(row, name) for row in (measured if isinstance(parity.gate, Gate) else told)), default=math.nan)
        yield f"worst {name}", f"{figure_text(worst)} of {bound:g} allowed"
    yield "largest |error|", figure_text(max((row.max_abs for row in measured), default=math.nan))
    if (metric := parity.metric) is not None:
        yield (
            f"metric {metric.name}",
            f"{figure_text(metric.measured, 4)}, loss {figure_text(metric.loss)} of {metric.max_loss:g} allowed",
        )
    counts = [(verdict, sum(row.verdict == verdict for row in parity.rows)) for verdict in ("pass", "fail", "skip")]
    yield "comparisons", ", ".join(f"{count} {verdict}" for verdict, count in counts)
    for row in report.bench.rows if report.bench else ():
        steps = "a step" if row.mode == "step" else f"{row.T} steps"
        yield f"median time of {steps}", f"{figure_text(row.median)} µs"
    threads = f"{parity.threads} thread{'s' * (parity.threads != 1)}"
    yield "device", f"{parity.device}, {threads}, {', '.join(parity.providers)}"
