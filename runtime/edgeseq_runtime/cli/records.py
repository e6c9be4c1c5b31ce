"""`edgeseq records`: what `edgeseq parity --record` wrote on many boards, in one table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from edgeseq_runtime.cli.options import DebugOption, JsonOption
from edgeseq_runtime.cli.suite import gated_text
from edgeseq_runtime.console import ERR, OUT, table
from edgeseq_runtime.errors import EdgeseqError
from edgeseq_runtime.suite.record import Record, read_record

FIGURES = ("k", "relative")

RecordsArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Records that edgeseq parity --record wrote.")]


def records_command(files: RecordsArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Check records of parity and show them together; exit 1 if one failed or was changed, 2 if one can't be read."""
    records: list[Record] = []
    unread: dict[str, str] = {}
    for path in files:
        try:
            records.append(read_record(path))
        except EdgeseqError as error:
            unread[str(path)] = str(error)
    records.sort(key=lambda record: (record.report.name, record.report.sha256, record.report.device, record.path))
    if as_json:
        print(json.dumps({"records": [_as_json(record) for record in records], "unread": unread}, indent=1))
    else:
        _print(records)
    for message in unread.values():
        ERR.print(f"error: {message}", soft_wrap=True)
    if code := 2 if unread else int(any(record.verdict != "pass" for record in records)):
        raise typer.Exit(code)


def _print(records: Sequence[Record]) -> None:
    figures = [name for name in FIGURES if name == "k" or any(name in record.report.gate for record in records)]
    worst = tuple(f"worst {name}" for name in figures)
    columns = ("bundle", "sha256", "device", "precision", *worst, "verdict", "record")
    OUT.print(table(columns, [_cells(record, figures) for record in records], right=worst))
    for record in records:
        if record.verdict == "changed":
            OUT.print(f"changed: {record.path} is not what edgeseq wrote; measure again", soft_wrap=True)
    counts = {verdict: sum(record.verdict == verdict for record in records) for verdict in ("pass", "fail", "changed")}
    OUT.print("\n" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


def _cells(record: Record, figures: Sequence[str]) -> tuple[str, ...]:
    report = record.report
    identity = (report.name, report.sha256[:8], report.device, report.precision)
    worst = [gated_text(name, record.worst(name)) if name in report.gate else "-" for name in figures]
    return (*identity, *worst, record.verdict, Path(record.path).name)


def _as_json(record: Record) -> dict[str, Any]:
    report = record.report
    return {
        "path": record.path,
        "time": record.time,
        "machine": record.machine,
        **{name: getattr(report, name) for name in ("name", "sha256", "device", "precision", "versions")},
        "verdict": record.verdict,
        **{
            name: worst if math.isfinite(worst := record.worst(name)) else None for name in ("k", "k999", "relative", "relative999")
        },
        "metric": msgspec.to_builtins(report.metric),
    }
