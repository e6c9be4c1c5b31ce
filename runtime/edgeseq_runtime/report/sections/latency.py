"""How long a call takes here."""

from __future__ import annotations

import numpy as np

from edgeseq_runtime.bench import BenchRow
from edgeseq_runtime.report.charts import Axis, Line, line_chart
from edgeseq_runtime.report.markup import Html, element, joined
from edgeseq_runtime.report.measured import Report
from edgeseq_runtime.report.scales import figure_text
from edgeseq_runtime.report.tables import table

SHARES = (*range(0, 96, 3), 97, 98, 99, 99.5)  # percent of calls: the points of the curve
TAIL = 4  # times the median; where the slowest are slower, the curve's axis is logarithmic


def section(report: Report) -> Html:
    """Percentiles, and the share of calls done within a time."""
    if report.bench is None:
        return element("p", "Latency was left out of this report (--no-bench).")
    text = (
        f"On {report.bench.device}, {report.bench.precision}, {report.bench.threads} "
        f"thread{'s' * (report.bench.threads != 1)}. A core's clock moves by a quarter between runs: "
        "compare within one run, and compare ratios."
    )
    columns = ("call", "median, µs", "90 %, µs", "99 %, µs", "calls")
    rows = [(_name(row), *map(figure_text, (row.median, row.p90, row.p99)), f"{row.calls:,}") for row in report.bench.rows]
    curves = [_curve(row, report) for row in report.bench.rows if row.mode in report.times]
    return joined(
        [
            element("p", text),
            table("Time of one call, in microseconds", columns, rows, figures=columns[1:], prose=("call",)),
            element("div", curves, class_="charts"),
        ]
    )


def _name(row: BenchRow) -> str:
    what = "one step of a stream" if row.mode == "step" else f"a sequence of {row.T} steps"
    return f"{what}, batch {row.B}"


def _curve(row: BenchRow, report: Report) -> Html:
    times = np.percentile(report.times[row.mode], SHARES)
    x = Axis("time of a call, µs", bool(times[-1] > TAIL * row.median))
    line = Line("calls done, %", "runtime", list(map(float, SHARES)))
    mark = (row.median, "median")
    return line_chart(_name(row), f"{row.calls:,} calls; the slowest half percent is off the chart", times.tolist(), [line], x,
                      Axis("calls done, %", False, 100), mark=mark)  # fmt: skip
