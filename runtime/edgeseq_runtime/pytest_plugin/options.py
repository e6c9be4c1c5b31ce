"""What the command line of pytest asks of the plugin."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from edgeseq_runtime.device import load_device
from edgeseq_runtime.errors import EdgeseqError
from edgeseq_runtime.suite.find import find_bundles


def require_devices(names: Iterable[str]) -> None:
    """Every device must exist.

    Raises:
        pytest.UsageError: one does not.
    """
    try:
        for name in names:
            load_device(name)
    except EdgeseqError as error:
        raise pytest.UsageError(f"--edgeseq-device: {error}") from error


def bundles_asked_for(paths: Iterable[str], folder: Path) -> tuple[Path, ...]:
    """The bundles meant by `--edgeseq-bundles`; relative paths start at `folder`.

    Raises:
        pytest.UsageError: one is not there, or a folder holds none.
    """
    try:
        found = find_bundles(folder / path for path in paths)
    except EdgeseqError as error:
        raise pytest.UsageError(f"--edgeseq-bundles: {error}") from error
    for path in found:
        if not path.is_file():
            raise pytest.UsageError(f"--edgeseq-bundles: there is no {path}")
    return found
