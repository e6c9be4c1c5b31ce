"""The pytest plugin: `pytest model.edgeseq` proves the bundle, a test item a device and size.

pytest loads this file wherever the package is installed. What needs NumPy or a backend is imported when a bundle is collected or
opened, and not before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from edgeseq_runtime.pytest_plugin.fixture import BundleUnderTest
    from edgeseq_runtime.pytest_plugin.items import BundleFile

SUFFIX = ".edgeseq"
ASKED_FOR = pytest.StashKey[tuple[Path, ...]]()  # the bundles of `--edgeseq-bundles`


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, and the setting `edgeseq_files`."""
    group = parser.getgroup("edgeseq", "numerical parity of edgeseq bundles")
    group.addoption(
        "--edgeseq-device",
        action="append",
        metavar="DEVICE",
        help="a device's name, or a path to a profile (.toml), to prove bundles on; may be repeated (default: auto, this CPU)",
    )
    group.addoption("--edgeseq-precision", default="fp32", help="one that the bundles hold (default: fp32)")
    group.addoption(
        "--edgeseq-bundles",
        action="append",
        metavar="PATH",
        help="prove this bundle, or every bundle in and below this folder, besides what else is collected; may be repeated",
    )
    parser.addini("edgeseq_files", "patterns of the bundles to collect from the folders that pytest walks", "linelist")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse options that make no sense before anything is collected."""
    devices = config.getoption("edgeseq_device")
    bundles = config.getoption("edgeseq_bundles")
    if devices or bundles:
        from edgeseq_runtime.pytest_plugin.options import bundles_asked_for, require_devices

        require_devices(devices or ())
        config.stash[ASKED_FOR] = bundles_asked_for(bundles or (), config.invocation_params.dir)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the bundles of `--edgeseq-bundles`, whichever folders pytest walks, unless they are there already."""
    collected = {item.path for item in items}
    for path in config.stash.get(ASKED_FOR, ()):
        if path not in collected:
            from edgeseq_runtime.pytest_plugin.items import BundleFile

            # As pytest itself collects a node, so that reports count these items too.
            report = session.ihook.pytest_make_collect_report(collector=BundleFile.from_parent(session, path=path))
            session.ihook.pytest_collectreport(report=report)
            items += report.result


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> BundleFile | None:
    """Bundles that were named, and those that match `edgeseq_files`."""
    if file_path.suffix != SUFFIX:
        return None
    patterns = parent.config.getini("edgeseq_files")
    if not parent.session.isinitpath(file_path) and not any(file_path.match(pattern) for pattern in patterns):
        return None
    from edgeseq_runtime.pytest_plugin.items import BundleFile

    return BundleFile.from_parent(parent, path=file_path)


@pytest.fixture
def edgeseq_bundle(request: pytest.FixtureRequest) -> Callable[[str | Path], BundleUnderTest]:
    """Open a bundle by its path, relative to the test's file or to the root: `edgeseq_bundle("models/vad.edgeseq")`.

    What it gives has `session(device=...)`, `parity()` and `assert_parity()`.
    """
    from edgeseq_runtime.pytest_plugin.fixture import open_under_test

    return lambda path: open_under_test(path, request)
