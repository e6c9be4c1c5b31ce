"""Every comparison with its error in the unit of the gate, against the gate; and the user's metric."""

from __future__ import annotations

import math
from collections import defaultdict

from edgeseq_runtime.bundle import AnyGate, Gate
from edgeseq_runtime.interface import size_text
from edgeseq_runtime.parity import ParityRow
from edgeseq_runtime.report.charts import ratio_bar
from edgeseq_runtime.report.markup import Child, Html, element, joined
from edgeseq_runtime.report.measured import Report
from edgeseq_runtime.report.scales import figure_text
from edgeseq_runtime.report.tables import details, table

SYMBOLS = {"pass": "✓", "fail": "✗", "skip": "–"}
SHOWN = 8  # reasons of one kind
TINY = 1e-12  # in place of a gate of zero
FEW = 24  # comparisons that are in sight at once
WORDS = {"fail": "failed", "skip": "not compared", "pass": "passed with a remark"}


def section(report: Report) -> Html:
    """What is compared, what did not pass and why, and every row."""
    rows = report.parity.rows
    unfolded = len(rows) <= FEW or any(row.verdict == "fail" for row in rows)
    every = details(f"All {len(rows)} comparisons", _table(report), unfolded=unfolded)
    return joined([element("p", _explained(report)), _metric(report), _remarks(rows), _worst(report), every])


def _explained(report: Report) -> Html:
    """The two figures, and what is allowed of them."""
    gate = report.parity.gate
    unit, equal = (
        ("in units of PyTorch's own float32 error", "Equal programs are near 1. ")
        if isinstance(gate, Gate)
        else ("as a share of the rms of that result", "Of whole numbers it is the share of unequal ones. ")
    )
    allowed = " and ".join(f"{name} ≤ {bound:g}" for name, bound in gate.bounds(discrete=False).items())
    whole = "" if isinstance(gate, Gate) else f", and {gate.unequal:g} of unequal whole numbers"
    return joined(
        [
            element("strong", gate.figures[0]),
            f" is the rms error of the runtime against PyTorch's float64 result, {unit}; ",
            element("strong", gate.figures[1]),
            f" is the same ratio at the 99.9th percentile of |error|. {equal}"
            f"Allowed for {report.parity.precision} is {allowed}{whole}: the line across each bar, "
            "whose scale is logarithmic, from a hundredth of the gate to a hundred times it.",
        ]
    )


def _metric(report: Report) -> Html | None:
    """The user's metric, where there is one."""
    row = report.parity.metric
    if row is None:
        return None
    values = (_verdict(row.verdict), *map(figure_text, (row.fp32, row.measured, row.loss, row.max_loss)), row.reason)
    columns = ("metric", "verdict", "of fp32 on a CPU", "measured", "loss", "allowed", "remark")
    return table("The user's metric", columns, [(element("bdi", row.name), *values)], figures=columns[2:6], prose=("remark",))


def _remarks(rows: tuple[ParityRow, ...]) -> Html | None:
    """Reasons, each once, with the rows it is given for; figures over the gate speak for themselves in the table."""
    by_reason: dict[tuple[str, str], list[ParityRow]] = defaultdict(list)
    for verdict in WORDS:
        for row in rows:
            if row.verdict == verdict and row.reason and not (verdict == "fail" and _measured(row)):
                by_reason[verdict, row.reason].append(row)
    shown = list(by_reason.items())
    items = [
        element("li", element("strong", f"{len(found)} {WORDS[verdict]}: ", class_=verdict), _where(found), f": {reason}")
        for (verdict, reason), found in shown[:SHOWN]
    ]
    if len(shown) > SHOWN:
        items.append(element("li", f"{len(shown) - SHOWN} further remarks: in the table"))
    return element("ul", items, class_="remarks") if items else None


def _where(rows: list[ParityRow]) -> Html:
    outputs = [element("bdi", name) for name in dict.fromkeys(row.output for row in rows)]
    first = f", at {size_text(rows[0].sizes)}" + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")
    return joined([outputs[0], [[", ", output] for output in outputs[1:]], f" ({rows[0].mode}{first})"])


def _worst(report: Report) -> Html:
    """The worst comparison of each output."""
    by_output: dict[str, list[ParityRow]] = defaultdict(list)
    for row in report.parity.rows:
        by_output[row.output].append(row)
    gate = report.parity.gate
    found = [max(rows, key=lambda row: _severity(row, gate)) for rows in by_output.values()]
    cells = [(*_cells(row, gate)[:4], f"{row.mode}, {size_text(row.sizes)}", len(by_output[row.output])) for row in found]
    columns = ("output", "verdict", *gate.figures, "at", "comparisons")
    return table("The worst comparison of each output", columns, cells, figures=(*gate.figures, "comparisons"))


def _severity(row: ParityRow, gate: AnyGate) -> tuple[int, float]:
    """Failures above passes above what was not compared; among them, by distance from the gate."""
    return ("skip", "pass", "fail").index(row.verdict), excess(row, gate)


def excess(row: ParityRow, gate: AnyGate) -> float:
    """How many times what is allowed the worse of a row's figures is."""
    figures: list[float] = [getattr(row, name) / max(bound, TINY) for name, bound in gate.bounds(row.discrete).items()]
    return max(figures)


def _table(report: Report) -> Html:
    gate = report.parity.gate
    columns = ("output", "verdict", *gate.figures, "largest |error|", "mode", "sizes", "shape", "remark")
    rows = [_cells(row, gate) for row in sorted(report.parity.rows, key=_failed_first)]
    caption = "Comparisons: one output at one set of sizes, all draws pooled"
    return table(caption, columns, rows, figures=(*gate.figures, "largest |error|"), prose=("remark",), id_="rows")


def _failed_first(row: ParityRow) -> bool:
    return row.verdict != "fail"


def _cells(row: ParityRow, gate: AnyGate) -> tuple[Child, ...]:
    return (
        element("bdi", row.output),
        _verdict(row.verdict),
        *(_ratio(row, getattr(row, name), bound) for name, bound in gate.bounds(row.discrete).items()),
        _number(row, row.max_abs),
        row.mode,
        size_text(row.sizes),
        f"[{', '.join(map(str, row.shape))}]",
        row.reason,
    )


def _verdict(verdict: str) -> Html:
    return element("span", element("span", SYMBOLS[verdict], aria_hidden="true"), f" {verdict}", class_=f"verdict {verdict}")


def _ratio(row: ParityRow, value: float, gate: float) -> Html:
    return joined([_number(row, value), " ", ratio_bar(value, max(gate, TINY)) if _measured(row) else None])


def _number(row: ParityRow, value: float) -> Html:
    """A figure that can be sorted by; a dash where nothing was measured."""
    if not _measured(row):
        return element("data", "–", value="-1" if row.verdict == "skip" else "1e999")
    return element("data", figure_text(value), value="1e999" if math.isinf(value) else f"{value:.6g}")


def _measured(row: ParityRow) -> bool:
    return math.isfinite(row.max_abs)
