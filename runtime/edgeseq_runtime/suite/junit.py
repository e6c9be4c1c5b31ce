"""JUnit XML, as Jenkins and GitLab read it: a test suite a bundle and device, a test case a row.

Elements and attributes are those of Jenkins' schema for JUnit (junit-10.xsd), and `error`, which its schema calls `errors` and its
reader, like every other one, `error`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import PurePath
from xml.etree import ElementTree

from edgeseq_runtime.interface import size_text
from edgeseq_runtime.metric import MetricRow
from edgeseq_runtime.parity import ParityReport, ParityRow
from edgeseq_runtime.suite.outcome import Outcome, failures, metric_text

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(outcomes: Sequence[Outcome], ended: datetime | None = None) -> bytes:
    """The document. `ended` is when the last one was measured; now unless said."""
    ended = ended or datetime.now(timezone.utc)
    suites = [_suite(outcome, ended - timedelta(seconds=outcome.seconds)) for outcome in outcomes]
    totals = {name: str(sum(int(suite.get(name, "0")) for suite in suites)) for name in ("tests", "failures", "errors")}
    seconds = _time(sum(one.seconds for one in outcomes))
    root = ElementTree.Element("testsuites", {"name": "edgeseq parity", **totals, "time": seconds})
    root.extend(suites)
    ElementTree.indent(root, " ")
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _suite(outcome: Outcome, started: datetime) -> ElementTree.Element:
    cases = list(_cases(outcome))
    counts = {tag: sum(case.find(tag) is not None for case in cases) for tag in ("failure", "error", "skipped")}
    suite = ElementTree.Element(
        "testsuite",
        name=_clean(f"{outcome.job.path} on {outcome.device}, {outcome.job.precision}"),
        tests=str(len(cases)),
        failures=str(counts["failure"]),
        errors=str(counts["error"]),
        skipped=str(counts["skipped"]),
        time=_time(outcome.seconds),
        timestamp=started.strftime("%Y-%m-%dT%H:%M:%S"),
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(outcome).items():
        ElementTree.SubElement(properties, "property", name=_clean(name), value=_clean(value))
    suite.extend(cases)
    return suite


def _cases(outcome: Outcome) -> list[ElementTree.Element]:
    # Readers make packages and classes of the dots.
    name = ".".join(part for part in PurePath(outcome.job.path).with_suffix("").parts if part.strip("./\\"))
    class_name = _clean(f"{name}.{outcome.device}")
    report = outcome.report
    if report is None:
        case = _case(class_name, f"{outcome.job.precision} opens", outcome.seconds)
        _add(case, "error", outcome.error, outcome.error, type=outcome.error_type)
        return [case]
    cases = [_row_case(class_name, report, row) for row in report.rows]
    if report.metric is not None:
        cases.append(_metric_case(class_name, report, report.metric))
    if not report.passed and not report.count("fail"):
        case = _case(class_name, f"{report.precision} is gated", 0)
        _add(case, "failure", failures(report)[0], "", type="parity")
        cases.append(case)
    return cases


def _row_case(class_name: str, report: ParityReport, row: ParityRow) -> ElementTree.Element:
    case = _case(class_name, f"{report.precision} {size_text(row.sizes)} {row.mode} {row.output}", row.seconds)
    bounds = report.gate.bounds(row.discrete)
    gated = [f"{name} {getattr(row, name):.4g} (gate {bound:g})" for name, bound in bounds.items()]
    figures = ", ".join([*gated, f"max abs {row.max_abs:.3g}"])
    if row.verdict == "fail":
        _add(case, "failure", row.reason, f"{row.reason}\n{figures}\nshape {list(row.shape)}", type="parity")
    elif row.verdict == "skip":
        _add(case, "skipped", row.reason, "")
    else:
        _add(case, "system-out", None, "; ".join(part for part in (figures, row.reason) if part))
    return case


def _metric_case(class_name: str, report: ParityReport, row: MetricRow) -> ElementTree.Element:
    case = _case(class_name, f"{report.precision} metric {row.name}", row.seconds)
    if row.verdict == "fail":
        _add(case, "failure", row.reason, metric_text(row), type="parity")
    else:
        _add(case, "system-out", None, metric_text(row))
    return case


def _case(class_name: str, name: str, seconds: float) -> ElementTree.Element:
    return ElementTree.Element("testcase", classname=class_name, name=_clean(name), time=_time(seconds))


def _add(case: ElementTree.Element, tag: str, message: str | None, text: str, **attributes: str) -> None:
    if message is not None:
        attributes["message"] = _clean(message)
    ElementTree.SubElement(case, tag, attributes).text = _clean(text) or None


def _properties(outcome: Outcome) -> dict[str, str]:
    report = outcome.report
    if report is None:
        return {"device": outcome.device, "precision": outcome.job.precision}
    return {
        "bundle": report.name,
        "sha256": report.sha256,
        "device": report.device,
        "precision": report.precision,
        "providers": ", ".join(report.providers),
        "threads": str(report.threads),
        "gate": str(report.gate),
        **{f"version.{name}": found for name, found in report.versions.items()},
        **{f"provenance.{name}": found for name, found in report.provenance.items()},
    }


def _time(seconds: float) -> str:
    return f"{seconds:.3f}"


def _clean(text: str) -> str:
    """Without the characters that XML can't hold."""
    return _NOT_XML.sub("?", text)
