"""A diagram as an SVG picture, and as a table that says the same."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from itertools import pairwise

from edgeseq_runtime.report.diagram import Box, Diagram
from edgeseq_runtime.report.layout import LAYER_GAP, Layout, Point, Size, lay_out
from edgeseq_runtime.report.markup import Html, element, joined
from edgeseq_runtime.report.tables import details, scrolled, table

LINE = 17.0  # pixels
LETTER, BOLD = 7.1, 7.9  # pixels, about
COLUMNS = 24  # letters in a box
MAX_LINES = 5
PADDING = 10.0
MOST = 400  # boxes in a picture


def drawing(diagram: Diagram, label: str) -> Html:
    """The picture in a region that scrolls sideways, the bodies of its nodes, and the table, the last two folded."""
    if len(diagram.boxes) > MOST:
        return element("p", f"{label}: {len(diagram.boxes):,} boxes would be too many to read, so they are not drawn.")
    texts = [_lines(box) for box in diagram.boxes]
    layout = lay_out([_size(lines) for lines in texts], diagram.edges)
    bodies = [
        details(f"{inside}: {body.diagram.nodes} node{'s' * (body.diagram.nodes != 1)}", drawing(body.diagram, inside))
        for box in diagram.boxes
        for body in box.bodies
        for inside in (f"inside {box.title}" + (f", {body.name}" if body.name else ""),)
    ]
    return joined(
        [
            scrolled(_picture(diagram, texts, layout, label), f"Drawing: {label}", panel=True),
            *bodies,
            details(f"The {label} as a table", _table(diagram, label)),
        ]
    )


def _lines(box: Box) -> list[tuple[str, str]]:
    """Class and text of each line in a box."""
    names = textwrap.wrap(box.title, COLUMNS) or ["?"]
    if len(names) > MAX_LINES:
        names = [*names[: MAX_LINES - 1], names[MAX_LINES - 1][: COLUMNS - 1] + "…"]
    facts = [short for fact in box.facts for short in textwrap.wrap(fact, COLUMNS)[:2]]
    if box.kind != "simple" and box.weights:
        facts.append(f"{box.weights:,} weights")
    return [*(("name", name) for name in names), *(("fact", fact) for fact in facts)]


def _size(lines: list[tuple[str, str]]) -> Size:
    longest = max(len(text) * (BOLD if kind == "name" else LETTER) for kind, text in lines)
    return Size(max(longest, 44) + 2 * PADDING, len(lines) * LINE + PADDING)


def _picture(diagram: Diagram, texts: list[list[tuple[str, str]]], layout: Layout, label: str) -> Html:
    recurrent = sum(box.kind == "recurrent" for box in diagram.boxes)
    width, height = (round(size) for size in layout.size)
    return element(
        "svg",
        [_arrow(points) for _, points in sorted(layout.arrows.items())],
        [_drawn(*one) for one in zip(diagram.boxes, texts, layout.corners, strict=True)],
        class_="graph",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=f"{label}: {diagram.nodes} nodes, {recurrent} of them recurrent, in {len(diagram.boxes)} boxes; table below",
    )


def _drawn(box: Box, lines: list[tuple[str, str]], corner: Point) -> Html:
    size = _size(lines)
    middle = corner.x + size.width / 2
    round_ = size.height / 2 if box.kind in ("input", "output") else 4
    rectangle = element(
        "rect", x=_px(corner.x), y=_px(corner.y), width=_px(size.width), height=_px(size.height), rx=_px(min(round_, 14))
    )
    text = [
        element("text", line, class_=kind, x=_px(middle), y=_px(corner.y + PADDING / 2 + LINE * (index + 0.75)))
        for index, (kind, line) in enumerate(lines)
    ]
    title = element("title", f"{box.title} {' '.join(box.facts)}")
    return element("g", title, rectangle, text, class_=f"box {box.kind}")


def _arrow(points: list[Point]) -> Html:
    """A smooth line with a head: vertical at every point it goes through."""
    steps = [f"M{_px(points[0].x)} {_px(points[0].y)}"]
    for a, b in pairwise(points):
        reach = max((b.y - a.y) / 2, LAYER_GAP / 3)
        steps.append(f"C{_px(a.x)} {_px(a.y + reach)} {_px(b.x)} {_px(b.y - reach)} {_px(b.x)} {_px(b.y)}")
    end = points[-1]
    head = f"M{_px(end.x - 4)} {_px(end.y - 7)}L{_px(end.x)} {_px(end.y)}L{_px(end.x + 4)} {_px(end.y - 7)}"
    return element("path", class_="arrow", d="".join(steps) + head)


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _table(diagram: Diagram, label: str) -> Html:
    sources = defaultdict(list)
    for source, target in sorted(diagram.edges):
        sources[target].append(source + 1)
    rows = [
        (number, box.kind, f"{box.title} {', '.join(box.facts)}", box.nodes or "", f"{box.weights:,}" if box.weights else "",
         ", ".join(map(str, sources[number - 1])))
        for number, box in enumerate(diagram.boxes, 1)
    ]  # fmt: skip
    columns = ("box", "kind", "what", "nodes", "weights", "reads from box")
    return table(
        f"Boxes of the drawing, {label}, in the order of the graph", columns, rows, figures=("nodes", "weights"), prose=("what",)
    )
