"""Charts of the errors themselves: over time, over lengths of sequences, and how many are how large."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeseq_runtime.interface import size_text
from edgeseq_runtime.report.charts import Axis, Line, bar_chart, line_chart, x_axis
from edgeseq_runtime.report.markup import Html, element, joined
from edgeseq_runtime.report.measured import Report
from edgeseq_runtime.report.measures import CaseErrors, OutputErrors, StepErrors, bin_edges
from edgeseq_runtime.report.tables import details

RUNTIME, TORCH = "runtime", "PyTorch float32"
AT_ONCE = 6  # charts in sight; further ones are folded
RELATIVE = Axis("rms error / rms of output", True)


def over_time(report: Report) -> Html:
    """Error at each time step at the longest case, and error at each length."""
    lossy = [one for one in report.errors if not one.exact]
    exact = [one.output for one in report.errors if one.exact and one.by_case]
    unknown = [one.output for one in report.errors if not one.by_case and not one.discrete]
    discrete = [one.output for one in report.errors if one.discrete]
    return joined(
        [
            element("p", "Error of the runtime, and of PyTorch's own float32, both against PyTorch's float64; whole sequences."),
            _listed(exact, "equal to the last bit in both, so there is nothing to draw."),
            _listed(discrete, "of whole numbers, which are equal or not: nothing to draw."),
            _listed(unknown, "not compared, so there is nothing to draw; Parity says why."),
            element("h3", "At each time step"),
            _grid([_by_step(one, one.by_step) for one in lossy if one.by_step], "No output has a time axis and an error to draw."),
            element("h3", "At each length of sequence"),
            _grid([_by_case(one, report.interface.time_axis) for one in lossy if one.by_case], "No output has an error to draw."),
        ]
    )


def sizes(report: Report) -> Html:
    """A histogram of |error| for each output."""
    note = "How many elements of an output have an error of which size, all cases pooled; exactly equal ones are counted apart."
    drawn = [_histogram(one) for one in report.errors if not one.exact]
    return joined([element("p", note), _grid(drawn, "No output has an error to draw.")])


def _grid(charts: Sequence[Html], nothing: str) -> Html:
    if not charts:
        return element("p", nothing)
    first = element("div", charts[:AT_ONCE], class_="charts")
    rest = charts[AT_ONCE:]
    more = details(f"{len(rest)} more outputs", element("div", rest, class_="charts")) if rest else None
    return joined([first, more])


def _listed(outputs: Sequence[str], text: str) -> Html | None:
    return element("p", element("bdi", ", ".join(outputs)), ": ", text) if outputs else None


def _by_step(one: OutputErrors, errors: StepErrors) -> Html:
    gathered = f", {len(errors.steps)} points" if len(errors.steps) < errors.steps[-1] else ""
    mark = (float(errors.horizon), "gated up to here") if errors.horizon and errors.horizon < errors.steps[-1] else None
    lines = _lines(errors.runtime.tolist(), errors.torch.tolist())
    note = f"{size_text(errors.sizes)}, all draws pooled{gathered}"
    return line_chart(one.output, note, errors.steps.tolist(), lines, Axis("time step", False), RELATIVE, mark=mark)


def _by_case(one: OutputErrors, axis: str) -> Html:
    """One point a length: where several cases have the same, their rms."""
    lengths = sorted({case.T for case in one.by_case})
    runtime, torch = (
        [_rms([value(case) for case in one.by_case if length == case.T]) for length in lengths] for value in (_runtime, _torch)
    )
    x = x_axis(f"length {axis} (steps)", lengths)
    return line_chart(one.output, f"{len(one.by_case)} cases", lengths, _lines(runtime, torch), x, RELATIVE, dots=True)


def _runtime(case: CaseErrors) -> float:
    return case.runtime


def _torch(case: CaseErrors) -> float:
    return case.torch


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _histogram(one: OutputErrors) -> Html:
    occupied = np.flatnonzero(one.runtime.counts + one.torch.counts)
    low, high = max(int(occupied[0]) // 4 * 4, 0), -(-(int(occupied[-1]) + 1) // 4) * 4
    equal = [
        f"{name} {100 * found.zeros / max(found.total, 1):.1f} %" for name, found in ((RUNTIME, one.runtime), (TORCH, one.torch))
    ]
    runtime, torch = (100 * found.counts[low:high] / max(found.total, 1) for found in (one.runtime, one.torch))
    note = f"{one.runtime.total:,} elements; exactly equal: {', '.join(equal)}"
    edges = bin_edges()[low : high + 1].tolist()
    return bar_chart(
        one.output,
        note,
        edges,
        _lines(runtime.tolist(), torch.tolist()),
        Axis("|error|", True),
        Axis("share of elements, %", False),
    )


def _lines(runtime: Sequence[float], torch: Sequence[float]) -> list[Line]:
    return [Line(RUNTIME, "runtime", runtime), Line(TORCH, "torch", torch)]
