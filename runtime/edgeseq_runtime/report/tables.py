"""Tables, folded parts, and regions that scroll sideways on their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgeseq_runtime.report.markup import Child, Html, element


def table(
    caption: Child,
    columns: Sequence[str],
    rows: Iterable[Sequence[Child]],
    *,
    figures: Sequence[str] = (),
    prose: Sequence[str] = (),
    id_: str | None = None,
) -> Html:
    """A table with a caption. The first cell of a row is its header; columns in `figures` hold numbers, in `prose` sentences."""
    kinds = ["figure" if column in figures else "prose" if column in prose else None for column in columns]
    head = element("tr", [element("th", name, scope="col", class_=kind) for name, kind in zip(columns, kinds, strict=True)])
    body = [
        element(
            "tr",
            element("th", row[0], scope="row", class_=kinds[0]),
            [element("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True)],
        )
        for row in rows
    ]
    made = element("table", element("caption", caption), element("thead", head), element("tbody", body), id_=id_)
    return scrolled(made, str(caption))


def scrolled(content: Child, label: str, *, panel: bool = False) -> Html:
    """A region that scrolls sideways where it is too wide; it can be reached by keyboard and has a name."""
    return element("div", content, class_="scroll panel" if panel else "scroll", tabindex=0, role="region", aria_label=label)


def details(summary: str, *content: Child, unfolded: bool = False) -> Html:
    """Folded until asked for, unless it starts unfolded."""
    return element("details", element("summary", summary), *content, open=unfolded)


def facts(rows: Iterable[tuple[str, Child]]) -> Html:
    """Names and what they stand for."""
    return element("dl", [element("div", element("dt", name), element("dd", value)) for name, value in rows])
