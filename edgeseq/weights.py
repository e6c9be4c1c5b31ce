"""Weights from a file, by formats that can't run code: safetensors, or PyTorch's with `weights_only=True`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


class WeightsError(ValueError):
    """A weights file can't be read safely, or does not fit the module."""


def read_weights(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Tensors by name from `.safetensors`, or from a `torch.save`d state dict of tensors.

    A file that needs arbitrary pickled objects is refused: unpickling runs code.

    Raises:
        WeightsError: no such file, unreadable, or it holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path} is no readable safetensors file: {error}") from error
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    # torch.load reports damage and refused pickles by these.
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path} can't be read as plain weights ({type(error).__name__}): it is damaged, or holds "
            "objects that run code when loaded; save them with "
            "safetensors.torch.save_file(module.state_dict(), ...) or torch.save(module.state_dict(), ...)"
        ) from error
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise WeightsError(f"{path} holds a {type(weights).__name__} that is no state dict of tensors; save module.state_dict()")
    return weights


def load_weights(module: nn.Module, path: str | PathLike[str]) -> None:
    """Read weights into `module`; every name must match, in both directions, with its shape.

    Raises:
        WeightsError: unreadable, or names or shapes differ; the module is then left as it was.
    """
    weights = read_weights(path)
    problems = misfits(weights, module.state_dict())
    if problems:
        shown = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise WeightsError(f"{path} does not fit {type(module).__name__}: {shown}")
    module.load_state_dict(weights)


def misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What keeps the tensors `found` from being those `expected`: names and shapes, in both directions."""
    problems = [f"missing {name}" for name in expected.keys() - found.keys()]
    problems += [f"unknown {name}" for name in found.keys() - expected.keys()]
    problems += [
        f"{name} is {tuple(found[name].shape)} and should be {tuple(expected[name].shape)}"
        for name in expected.keys() & found.keys()
        if found[name].shape != expected[name].shape
    ]
    return sorted(problems)
