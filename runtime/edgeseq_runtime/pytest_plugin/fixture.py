"""What the fixture `edgeseq_bundle` gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseq_runtime.bundle import open_bundle
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.parity import ParityReport, measure_parity
from edgeseq_runtime.plan import make_plan
from edgeseq_runtime.pytest_plugin.items import devices_of, failure_text
from edgeseq_runtime.session import Session, open_session


class BundleUnderTest:
    """A bundle, and how this run of pytest is to open it."""

    def __init__(self, path: Path, devices: list[str], precision: str) -> None:
        self.path = path
        self.bundle = open_bundle(path)
        self.devices = devices  # those of the command line
        self.precision = precision

    def session(self, *, device: str | None = None, threads: int | None = None) -> Session:
        """The bundle opened on a device; on the first of the command line unless said."""
        plan = make_plan(self.bundle, device or self.devices[0], precision=self.precision, threads=threads)
        return open_session(self.bundle, plan)

    def parity(self, *, device: str | None = None, threads: int | None = None) -> ParityReport:
        """Every row, on a device; on the first of the command line unless said."""
        return measure_parity(self.path, device=device or self.devices[0], precision=self.precision, threads=threads)

    def assert_parity(self, *, device: str | None = None, threads: int | None = None) -> None:
        """Fail the test with the rows that failed; on every device of the command line unless said."""
        __tracebackhide__ = True
        reports = [self.parity(device=one, threads=threads) for one in ([device] if device else self.devices)]
        wrong = [failure_text(report) for report in reports if not report.passed]
        if wrong:
            pytest.fail("\n".join(wrong), pytrace=False)


def open_under_test(path: str | Path, request: pytest.FixtureRequest) -> BundleUnderTest:
    """The bundle at a path that is absolute, or relative to the folder of the test's file or to pytest's root.

    Raises:
        UsageError: it is in neither folder.
        BundleError: it can't be trusted or read.
    """
    places = [request.path.parent / path, request.config.rootpath / path]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UsageError(f"there is no bundle {path}; looked for {' and '.join(dict.fromkeys(map(str, places)))}")
    return BundleUnderTest(found, devices_of(request.config), request.config.getoption("edgeseq_precision"))
