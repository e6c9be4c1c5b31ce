"""The page: its sections one after the other."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from edgeseq_runtime.files import write_file
from edgeseq_runtime.report.document import document, navigation, part
from edgeseq_runtime.report.markup import Html
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
    write_file(path, page_html(report).encode("utf-8"), what="the report")
    return path


def page_html(report: Report) -> Html:
    """The page as one string, complete without its script."""
    title = f"{'PASS' if report.parity.passed else 'FAIL'}: {report.bundle.name} - edgeseq report"
    header = [headline.heading(report), navigation([(section.anchor, section.title) for section in SECTIONS])]
    content = [headline.section(report), [part(one.anchor, one.title, one.content(report)) for one in SECTIONS]]
    return document(title, header, content, f"Made by edgeseq {report.parity.versions['edgeseq']} on {report.made}.")
