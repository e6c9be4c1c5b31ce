"""HTML and SVG from plain functions. Whatever is not made here is text, and text is escaped: there is no way around it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

VOID = frozenset(("br", "col", "hr", "meta"))
# Control characters, lone surrogates, and characters that turn the direction of what follows: a name could hide behind them.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """Markup. Everything else is text."""

    __slots__ = ()


Child: TypeAlias = "str | int | float | Iterable[Child] | None"
Attribute: TypeAlias = "str | int | float | bool | None"


def escaped(text: object) -> Html:
    """Text as markup; what can't be printed becomes a replacement character."""
    return Html(html.escape(_UNPRINTABLE.sub("\ufffd", str(text)), quote=True))


def element(name: str, /, *children: Child, **attributes: Attribute) -> Html:
    """An element. Names of attributes: `class_` is class, `aria_label` is aria-label; None and False leave one out."""
    given = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None and value is not False)
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{joined(children)}</{name}>")


def joined(children: Iterable[Child]) -> Html:
    """Children one after the other; None is nothing."""
    return Html("".join(_markup(child) for child in children))


def _markup(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, (str, int, float)):
        return escaped(child)
    return joined(child)


def _attribute(key: str, value: Attribute) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escaped(value)}"'
