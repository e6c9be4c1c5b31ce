"""The answer first: one sentence, and the few figures behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgeseq_runtime.interface import size_text
from edgeseq_runtime.parity import ParityReport, ParityRow
from edgeseq_runtime.report.markup import Html, element, joined
from edgeseq_runtime.report.measured import Report
from edgeseq_runtime.report.scales import figure_text, times_text
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
    if not gated:
        return joined([f"Nothing of {parity.name} could be compared {where}, so nothing is proved."])
    if parity.passed:
        worst = max(gated, key=lambda row: row.k)
        return joined(
            [name, f" computes {where} what PyTorch computes: its error is at most {times_text(worst.k)} times PyTorch's own ",
             f"rounding error, and up to {parity.gate.k:g} times is allowed."]
        )  # fmt: skip
    return joined([name, f" does not compute {where} what PyTorch computes: ", *_worst_failure(parity), "."])


def _worst_failure(parity: ParityReport) -> Iterator[str | Html]:
    failed = [row for row in parity.rows if row.verdict == "fail"]
    row = max(failed, key=lambda one: max(one.k / parity.gate.k, one.k999 / parity.gate.k999))
    yield from ("output ", element("bdi", row.output), f" at {size_text(row.sizes)} ({_mode(row)}) ")
    if not math.isfinite(row.k):
        yield f"can't be equal ({row.reason})"
    elif row.k > parity.gate.k:
        yield f"is off by {times_text(row.k)} times PyTorch's own rounding error, and up to {parity.gate.k:g} times is allowed"
    else:
        yield f"has largest errors {times_text(row.k999)} times PyTorch's own, and up to {parity.gate.k999:g} times is allowed"


def _mode(row: ParityRow) -> str:
    return "whole sequences" if row.mode == "whole" else "streamed"


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    parity = report.parity
    measured = [row for row in parity.rows if math.isfinite(row.max_abs)]
    for name, values, gate in (
        ("worst k", [row.k for row in measured], parity.gate.k),
        ("worst k999", [row.k999 for row in measured], parity.gate.k999),
    ):
        yield name, f"{figure_text(max(values, default=math.nan))} of {gate:g} allowed"
    yield "largest |error|", figure_text(max((row.max_abs for row in measured), default=math.nan))
    counts = [(verdict, sum(row.verdict == verdict for row in parity.rows)) for verdict in ("pass", "fail", "skip")]
    yield "comparisons", ", ".join(f"{count} {verdict}" for verdict, count in counts)
    for row in report.bench.rows if report.bench else ():
        steps = "a step" if row.mode == "step" else f"{row.T} steps"
        yield f"median time of {steps}", f"{figure_text(row.median)} µs"
    threads = f"{parity.threads} thread{'s' * (parity.threads != 1)}"
    yield "device", f"{parity.device}, {threads}, {', '.join(parity.providers)}"
