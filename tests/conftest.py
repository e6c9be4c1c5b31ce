"""Set-up of the whole suite."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("torch") is not None:
    import torch

    # Small modules run several times faster on one thread than on two that wait for each other.
    torch.set_num_threads(1)

    @pytest.fixture(autouse=True)
    def seeded():
        """The same weights and inputs at every run of a test."""
        torch.manual_seed(0)
