"""Set-up of the whole suite."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("torch") is not None:
    import torch

    # Small modules run several times faster on one thread than on two that wait for each other.
    torch.set_num_threads(1)
