"""One HTML file that holds everything it shows: its style and its script inside, and a policy that forbids it the network."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from edgeseq_runtime.report.markup import Child, Html, element, joined


def document(title: str, header: Child, content: Child, made: str) -> Html:
    """A page as one string, complete without its script.

    Args:
        title: of the window.
        header: what stands above the content.
        content: the main part.
        made: by what and when, at the end.
    """
    style, script = (Html(resources.files(__package__).joinpath(name).read_text("utf-8")) for name in ("page.css", "page.js"))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", style),
    )
    body = element(
        "body",
        element("a", "Skip to the content", class_="skip", href="#content"),
        element("header", header),
        element("main", content, id_="content", tabindex=-1),
        element("footer", element("p", made)),
        element("script", script),
    )
    return joined([Html("<!doctype html>\n"), element("html", head, body, lang="en"), Html("\n")])


def navigation(parts: list[tuple[str, str]]) -> Html:
    """Links to the parts of a page, each an anchor and a title."""
    links = [element("li", element("a", title, href=f"#{anchor}")) for anchor, title in parts]
    return element("nav", element("ul", links), aria_label="Parts of the report")


def part(anchor: str, title: str, content: Child) -> Html:
    """A part of a page under its heading."""
    heading = element("h2", title, id_=f"{anchor}-title")
    return element("section", heading, content, id_=anchor, aria_labelledby=f"{anchor}-title")


def _policy(style: str, script: str) -> str:
    """Nothing from anywhere, and of what is inside only this style and this script."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )
