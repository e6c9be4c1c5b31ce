"""The page: its sections one after the other, its style and its script inside, and a policy that forbids it the network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from edgeseq_runtime.bundle.archive import write_atomically
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.report.markup import Html, element, joined
from edgeseq_runtime.report.measured import Report
from edgeseq_runtime.report.sections import errors, headline, latency, model, parity, plans, provenance


class Section(NamedTuple):
    """One part of the page."""

    anchor: str
    title: str
    content: Callable[[Report], Html]


SECTIONS = (
    Section("model", "Model", model.section),
    Section("parity", "Parity", parity.section),
    Section("error-over-time", "Error over time", errors.over_time),
    Section("error-sizes", "Error sizes", errors.sizes),
    Section("latency", "Latency", latency.section),
    Section("plans", "Device plans", plans.section),
    Section("provenance", "Provenance", provenance.section),
)


def write_page(report: Report, path: str | PathLike[str]) -> Path:
    """Write the page whole or not at all.

    Raises:
        UsageError: the file can't be written.
    """
    path = Path(path)
    try:
        write_atomically(path, page_html(report).encode("utf-8"))
    except OSError as error:
        raise UsageError(f"can't write the report {path}: {error.strerror or error}; nothing was written") from error
    return path


def page_html(report: Report) -> Html:
    """The page as one string, complete without its script."""
    style, script = (Html(resources.files(__package__).joinpath(name).read_text("utf-8")) for name in ("page.css", "page.js"))
    title = f"{'PASS' if report.parity.passed else 'FAIL'}: {report.bundle.name} - edgeseq report"
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
        element("header", headline.heading(report), _navigation()),
        element("main", headline.section(report), [_section(one, report) for one in SECTIONS], id_="content", tabindex=-1),
        element("footer", element("p", f"Made by edgeseq {report.parity.versions['edgeseq']} on {report.made}.")),
        element("script", script),
    )
    return joined([Html("<!doctype html>\n"), element("html", head, body, lang="en"), Html("\n")])


def _policy(style: str, script: str) -> str:
    """Nothing from anywhere, and of what is inside only this style and this script."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )


def _navigation() -> Html:
    links = [element("li", element("a", section.title, href=f"#{section.anchor}")) for section in SECTIONS]
    return element("nav", element("ul", links), aria_label="Parts of the report")


def _section(section: Section, report: Report) -> Html:
    heading = element("h2", section.title, id_=f"{section.anchor}-title")
    return element("section", heading, section.content(report), id_=section.anchor, aria_labelledby=f"{section.anchor}-title")
