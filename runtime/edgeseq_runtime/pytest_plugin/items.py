"""A bundle as a file of tests: an item a device and size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgeseq_runtime.bundle import open_bundle
from edgeseq_runtime.errors import EdgeseqError
from edgeseq_runtime.interface import size_text
from edgeseq_runtime.parity import ParityReport, measure_parity
from edgeseq_runtime.suite.outcome import failures


class ParityFailure(Exception):
    """What is reported in place of a traceback."""


def devices_of(config: pytest.Config) -> list[str]:
    """The devices that bundles are proved on."""
    return config.getoption("edgeseq_device") or ["auto"]


class BundleFile(pytest.File):
    """A `.edgeseq` file; one that can't be opened is one item that fails, so that the others are seen."""

    def collect(self) -> Iterator[pytest.Item]:
        """An item a device and size, named alike on every machine."""
        precision = self.config.getoption("edgeseq_precision")
        try:
            sizes = {size_text(case.sizes): case.sizes for case in open_bundle(self.path).manifest.reference}
        except EdgeseqError:
            sizes = {}
        for device in devices_of(self.config):
            for text, at in sizes.items() or [("", None)]:
                # `-k` knows no equals sign.
                parts = (Path(device).stem if device.endswith(".toml") else device, precision, *text.replace("=", "").split())
                yield ParityItem.from_parent(self, name=f"parity[{'-'.join(parts)}]", device=device, precision=precision, at=at)


class ParityItem(pytest.Item):
    """Parity on one device at one set of sizes."""

    def __init__(self, *, device: str, precision: str, at: Mapping[str, int] | None, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.device = device
        self.precision = precision
        self.at = at

    def runtest(self) -> None:
        """Fails with the rows that failed; skips where nothing can be gated at these sizes, and something at others."""
        report = self._measure(self.at)
        self.user_properties += _properties(report)
        if report.passed:
            return
        if not report.count("fail") and self._measure(None).count("pass"):
            pytest.skip("; ".join(sorted({row.reason for row in report.rows})))
        raise ParityFailure(failure_text(report))

    def _measure(self, at: Mapping[str, int] | None) -> ParityReport:
        return measure_parity(self.path, device=self.device, precision=self.precision, at=at)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The rows that failed, or what edgeseq says is wrong; a traceback only for what nobody expected."""
        if isinstance(excinfo.value, ParityFailure | EdgeseqError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """The file, and a heading."""
        return self.path, None, f"{self.path.name}: {self.name}"


def failure_text(report: ParityReport) -> str:
    """The rows that failed, their figures and gates."""
    lines = [
        f"{report.path} does not compute on {report.device} what PyTorch computes ({report.precision}, gate {report.gate})",
        *(f"  {line}" for line in failures(report)),
        f"{report.count('pass')} pass, {report.count('fail')} fail, {report.count('skip')} skip; worst "
        + ", ".join(f"{name} {report.worst(name):.3g}" for name in report.gate.figures)
        + f"; sha256 {report.sha256[:16]}, "
        + ", ".join(f"{name} {found}" for name, found in report.versions.items()),
    ]
    return "\n".join(lines)


def _properties(report: ParityReport) -> list[tuple[str, object]]:
    """What `--junit-xml` notes of an item."""
    figures = {name: f"{report.worst(name):.4g}" for name in report.gate.figures}
    versions = {f"version.{name}": found for name, found in report.versions.items()}
    return [*{"device": report.device, "sha256": report.sha256, **figures, **versions}.items()]
