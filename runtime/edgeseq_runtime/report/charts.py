"""Charts as SVG, with the same figures in a folded table beneath: no chart says anything that only eyes can read.

Drawn at the width of a phone, so that letters stay readable there; colours and dashes come from the page's style sheet.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from edgeseq_runtime.report.markup import Child, Html, element
from edgeseq_runtime.report.scales import Scale, close_log_scale, figure_text, linear_scale, log_scale, span, tick_texts
from edgeseq_runtime.report.tables import details, table

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 344, 12, 186
MANY = 20  # times the smallest x is the largest: from here on x is logarithmic


class Line(NamedTuple):
    """One line of a chart; `kind` is its class in the style sheet, and `name` is written in the legend."""

    name: str
    kind: str
    values: Sequence[float]


class Axis(NamedTuple):
    """What an axis shows, with its unit."""

    title: str
    logarithmic: bool
    high: float = 0.0  # where it ends at least, if it is linear


def line_chart(
    title: str,
    note: Child,
    xs: Sequence[float],
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    dots: bool = False,
    mark: tuple[float, str] | None = None,
) -> Html:
    """Lines over the same x. `mark` is a vertical line at an x, with its name."""
    across = close_log_scale(xs, LEFT, RIGHT) if x.logarithmic else linear_scale(max(xs), LEFT, RIGHT)
    values = [value for line in lines for value in line.values]
    upward = log_scale(values, BOTTOM, TOP) if y.logarithmic else linear_scale(max(*values, y.high), BOTTOM, TOP)
    drawn: list[Child] = [_axes(across, upward, x, y)]
    if mark:
        drawn.append(_mark(across(mark[0]), mark[1]))
    drawn += [_line(line, xs, across, upward, dots) for line in lines]
    rows = [(figure_text(at), *(figure_text(line.values[index]) for line in lines)) for index, at in enumerate(xs)]
    data = table(title, (x.title, *(line.name for line in lines)), rows, figures=(x.title, *(line.name for line in lines)))
    return figure(title, note, _picture(drawn, f"{title}. {_summary(lines)}"), data, lines)


def bar_chart(title: str, note: Child, edges: Sequence[float], lines: Sequence[Line], x: Axis, y: Axis) -> Html:
    """A histogram: shares of each bin between logarithmic edges, the first line filled, others as steps over it."""
    across = log_scale((edges[0], edges[-1]), LEFT, RIGHT)
    upward = linear_scale(max(value for line in lines for value in line.values), BOTTOM, TOP)
    drawn: list[Child] = [_axes(across, upward, x, y)]
    for line in lines:
        path = [f"M{_px(across(edges[0]))} {BOTTOM}"]
        for (low, high), value in zip(pairwise(edges), line.values, strict=True):
            path.append(f"L{_px(across(low))} {_px(upward(value))}L{_px(across(high))} {_px(upward(value))}")
        drawn.append(element("path", class_=f"steps {line.kind}", d="".join(path) + f"L{_px(across(edges[-1]))} {BOTTOM}"))
    rows = [
        (f"{figure_text(low)} to {figure_text(high)}", *(f"{line.values[index]:.2f}" for line in lines))
        for index, (low, high) in enumerate(pairwise(edges))
    ]
    data = table(f"{title}: {y.title}", (x.title, *(line.name for line in lines)), rows, figures=[line.name for line in lines])
    return figure(title, note, _picture(drawn, title), data, lines)


def figure(title: str, note: Child, picture: Html, data: Html, lines: Sequence[Line]) -> Html:
    """A chart under its title, with a legend, what there is to know, and its table."""
    legend = element("ul", [element("li", _key(line), line.name) for line in lines], class_="legend")
    return element(
        "figure",
        element("figcaption", element("strong", title), element("span", note, class_="note") if note else None),
        legend if len(lines) > 1 else None,
        picture,
        details("Figures", data),
    )


def ratio_bar(value: float, gate: float) -> Html:
    """A bar on a logarithmic scale from a hundredth of the gate to a hundred times it, with the gate marked; decoration only."""
    across = Scale(gate / 100, gate * 100, 0, 100, True, ())
    kind = "over" if value > gate else "within"
    return element(
        "svg",
        element("rect", class_="track", x=0, y=2, width=100, height=8, rx=2),
        element("rect", class_=kind, x=0, y=2, width=_px(across(value)), height=8, rx=2) if value > 0 else None,
        element("line", class_="gate", x1=50, x2=50, y1=0, y2=12),
        class_="ratio",
        viewBox="0 0 100 12",
        width=72,
        height=12,
        aria_hidden="true",
    )


def x_axis(title: str, values: Sequence[float]) -> Axis:
    """Logarithmic where the values span much."""
    return Axis(title, span(values) > MANY)


def _summary(lines: Sequence[Line]) -> str:
    return "; ".join(f"{line.name} from {figure_text(min(line.values))} to {figure_text(max(line.values))}" for line in lines)


def _picture(drawn: Sequence[Child], label: str) -> Html:
    return element("svg", drawn, class_="chart", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"Chart: {label}")


def _key(line: Line) -> Html:
    stroke = element("line", x1=1, x2=23, y1=6, y2=6, class_=f"line {line.kind}")
    return element("svg", stroke, viewBox="0 0 24 12", width=24, height=12, aria_hidden="true")


def _line(line: Line, xs: Sequence[float], across: Scale, upward: Scale, dots: bool) -> Html:
    points = [(_px(across(x)), _px(upward(y))) for x, y in zip(xs, line.values, strict=True)]
    circles = [element("circle", cx=x, cy=y, r=3.5, class_=f"dot {line.kind}") for x, y in points] if dots else []
    path = element("polyline", class_=f"line {line.kind}", points=" ".join(f"{x},{y}" for x, y in points))
    return element("g", path, circles)


def _mark(at: float, name: str) -> Html:
    line = element("line", class_="mark", x1=_px(at), x2=_px(at), y1=TOP, y2=BOTTOM)
    left = at > (LEFT + RIGHT) / 2
    side = {"class_": "tick end" if left else "tick", "dx": -4 if left else 4}
    return element("g", line, element("text", name, x=_px(at), y=BOTTOM - 6, **side))


def _axes(across: Scale, upward: Scale, x: Axis, y: Axis) -> Html:
    drawn: list[Html] = []
    for tick, text in zip(upward.ticks, tick_texts(upward.ticks, upward.logarithmic), strict=True):
        at = _px(upward(tick))
        drawn.append(element("line", class_="grid", x1=LEFT, x2=RIGHT, y1=at, y2=at))
        drawn.append(element("text", text, class_="tick end", x=LEFT - 5, y=at, dy="0.35em"))
    for tick, text in zip(across.ticks, tick_texts(across.ticks, across.logarithmic), strict=True):
        at = _px(across(tick))
        drawn.append(element("line", class_="grid", x1=at, x2=at, y1=BOTTOM, y2=BOTTOM + 4))
        drawn.append(element("text", text, class_="tick middle", x=at, y=BOTTOM + 17))
    drawn.append(element("line", class_="axis", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM))
    drawn.append(element("text", x.title, class_="tick end", x=RIGHT, y=HEIGHT - 8))
    drawn.append(element("text", f"↑ {y.title}", class_="tick", x=2, y=HEIGHT - 8))
    return element("g", drawn)


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
