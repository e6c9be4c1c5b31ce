"""Set-up of the whole suite."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

# A console keeps the width that the environment gives where it is made, which would be that of the first test with one of its own.
os.environ.pop("COLUMNS", None)

import edgeseq_runtime.console  # noqa: F401

if find_spec("torch") is not None:
    import torch

    # Small modules run several times faster on one thread than on two that wait for each other.
    torch.set_num_threads(1)

    @pytest.fixture(autouse=True)
    def seeded():
        """The same weights and inputs at every run of a test."""
        torch.manual_seed(0)
