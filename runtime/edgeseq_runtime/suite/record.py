"""A record of one parity run: what was measured on which board, in a form that can be carried elsewhere and collected.

Its sha256 covers everything else in it, so that a record that was edited is noticed. It is no signature: who means to deceive can
compute it anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from edgeseq_runtime.device import Device
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.parity import ParityReport

FORMAT = 1
KIND = "edgeseq parity record"


class RecordedRow(msgspec.Struct, frozen=True):
    """As much of a row as a summary needs; a figure that is infinite is null."""

    verdict: str
    k: float | None
    k999: float | None
    relative: float | None = None
    relative999: float | None = None


class RecordedMetric(msgspec.Struct, frozen=True):
    """As much of a metric as a summary needs."""

    name: str
    verdict: str
    loss: float | None


class RecordedReport(msgspec.Struct, frozen=True):
    """As much of a report as a summary needs."""

    name: str
    sha256: str
    device: str
    precision: str
    versions: dict[str, str]
    passed: bool
    gate: dict[str, float]
    rows: tuple[RecordedRow, ...]
    metric: RecordedMetric | None = None


class Record(msgspec.Struct, frozen=True):
    """A record that was read. `intact` is whether its hash is that of its content, and its verdict that of its rows."""

    path: str
    time: str
    machine: dict[str, str]
    report: RecordedReport
    intact: bool

    @property
    def verdict(self) -> str:
        """One of "pass", "fail" and "changed"."""
        if not self.intact:
            return "changed"
        return "pass" if self.report.passed else "fail"

    def worst(self, figure: str) -> float:
        """The largest `k`, `relative` or the like of the rows that were gated; NaN where none was, or by something else."""
        if figure not in self.report.gate:
            return math.nan
        gated = [getattr(row, figure) for row in self.report.rows if row.verdict != "skip"]
        return max((math.inf if value is None else value for value in gated), default=math.nan)


def record_bytes(report: ParityReport, device: Device, at: datetime | None = None) -> bytes:
    """The record of a report that was measured here with a device's profile; `at` is when, now unless said."""
    content = {
        "kind": KIND,
        "format": FORMAT,
        "time": (at or datetime.now(timezone.utc)).astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine(),
        "profile": msgspec.to_builtins(device),
        "report": report.to_json(),
    }
    return json.dumps({**content, "sha256": _digest(content)}, indent=1).encode() + b"\n"


def read_record(path: Path) -> Record:
    """A record, whether or not it was changed since.

    Raises:
        UsageError: it can't be read, is no record, or has a format that this release doesn't read.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"can't read the record {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no record of edgeseq parity: {error}; write it again with --record") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UsageError(f'{path} is no record of edgeseq parity: its "kind" is not "{KIND}"; write it with --record')
    if content.get("format") != FORMAT:
        raise UsageError(f"{path} has format {content.get('format')}; this release of edgeseq reads format {FORMAT}")
    stated = content.pop("sha256", None)
    try:
        report = msgspec.convert(content.get("report"), RecordedReport)
        parts = (msgspec.convert(content.get("time"), str), msgspec.convert(content.get("machine"), dict[str, str]))
    except msgspec.ValidationError as error:
        raise UsageError(f"{path} does not follow the schema of a record: {error}; write it again with --record") from error
    verdicts = {row.verdict for row in report.rows} | ({report.metric.verdict} if report.metric else set())
    agrees = report.passed == ("pass" in verdicts and "fail" not in verdicts)
    return Record(str(path), *parts, report, intact=agrees and stated == _digest(content))


def machine() -> dict[str, str]:
    """What this machine says of itself; what it does not say is left out."""
    said = {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count() or ""),
        "board": _text(Path("/proc/device-tree/model")),
    }
    return {name: text for name, text in said.items() if text}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found.get("model name") or found.get("Model") or found.get("Hardware") or platform.processor()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""


def _digest(content: dict[str, Any]) -> str:
    """Of the content's canonical form: keys in order, no white space."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
