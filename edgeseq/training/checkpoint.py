"""A training run in one safetensors file: model, optimizer, best weights and histories; the rest in its metadata as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgeseq.weights import misfits

FORMAT = 1
_METADATA = "edgeseq_training"
_DIGEST = "edgeseq_training_sha256"


class CheckpointError(ValueError):
    """A checkpoint can't be read, or is not of the run that is to go on from it."""


@dataclass
class Progress:
    """All that changes while a model is trained."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)  # one a step
    gradient_norms: list[float] = field(default_factory=list)  # one a step
    scores: list[tuple[int, float]] = field(default_factory=list)  # (step, score)
    best_weights: dict[str, Tensor] = field(default_factory=dict)  # empty before the first score

    @property
    def step(self) -> int:
        """Steps taken."""
        return len(self.losses)


def save_checkpoint(path: str | PathLike[str], progress: Progress, settings: Mapping[str, Any]) -> None:
    """Write a run to `path`; what was there stays until all of it is on the disk.

    Args:
        path: a `.safetensors` file.
        progress: the run.
        settings: what the run was made with, as JSON values; `load_checkpoint` compares them.
    """
    tensors = {f"model/{name}": tensor for name, tensor in progress.model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in progress.best_weights.items()}
    state = progress.optimizer.state_dict()
    numbers: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                numbers.setdefault(str(index), {})[key] = value
    for name in ("losses", "gradient_norms"):
        tensors[f"history/{name}"] = torch.tensor(getattr(progress, name), dtype=torch.float64)
    tensors["history/scores"] = torch.tensor(progress.scores, dtype=torch.float64).reshape(-1, 2)  # (evaluations, 2)
    metadata = {
        "format": FORMAT,
        "step": progress.step,
        **settings,
        "optimizer": {"class": type(progress.optimizer).__name__, "groups": state["param_groups"], "numbers": numbers},
    }
    text = _json(metadata, progress.optimizer)
    _write(Path(path), tensors, {_METADATA: text, _DIGEST: _digest(tensors, text)})


def load_checkpoint(path: str | PathLike[str], progress: Progress, settings: Mapping[str, Any], steps: int) -> None:
    """Read a run into `progress`, whose model and optimizer were made as at its beginning.

    Raises:
        CheckpointError: unreadable, of another model, optimizer or settings, or past `steps`; `progress` is then left as it was.
    """
    metadata, tensors = _read(Path(path))
    model, best = _group(tensors, "model"), _group(tensors, "best")
    weights = progress.model.state_dict()
    problems = [
        f"{name} was {metadata.get(name)!r} and is {value!r}" for name, value in settings.items() if metadata.get(name) != value
    ]
    if metadata["step"] > steps:
        problems.append(f"it took {metadata['step']} steps and {steps} are asked for")
    problems += misfits(model, weights) + (misfits(best, weights) if best else [])
    problems += _optimizer_misfits(metadata["optimizer"], progress.optimizer)
    if problems:
        shown = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise CheckpointError(
            f"asked to go on from {path}, which is of another run: {shown}; run with what it was made with, or start anew "
            "without resuming"
        )
    progress.model.load_state_dict(model)
    progress.optimizer.load_state_dict(_optimizer_state(metadata["optimizer"], _group(tensors, "optimizer")))
    progress.losses = tensors["history/losses"].tolist()
    progress.gradient_norms = tensors["history/gradient_norms"].tolist()
    progress.scores = [(int(step), score) for step, score in tensors["history/scores"].tolist()]
    progress.best_weights = best


def save_weights(model: nn.Module, path: str | PathLike[str]) -> None:
    """Write a module's parameters and buffers to `path` (safetensors), for `edgeseq.load_weights`; whole or not at all."""
    _write(Path(path), model.state_dict(), {})


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    # safetensors refuses tensors that share memory, as tied weights do.
    data = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _json(metadata: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> str:
    try:
        return json.dumps(metadata)
    except TypeError as error:
        raise CheckpointError(
            f"{type(optimizer).__name__} keeps more than tensors and numbers ({error}), which no checkpoint holds; train without "
            "one, or with an optimizer such as SGD, RMSprop or Adam"
        ) from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            text = found.get(_METADATA, "{}")
            metadata = json.loads(text)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no readable checkpoint: {error}; delete it and start anew, or resume from a copy"
        ) from error
    if metadata.get("format") != FORMAT:
        other = metadata.get("format", "none, so it was not written by edgeseq.training")
        raise CheckpointError(f"{path} should be a checkpoint of format {FORMAT}; found {other}; start anew without resuming")
    if found.get(_DIGEST) != _digest(tensors, text):
        raise CheckpointError(f"{path} is damaged: it holds other values than were written; delete it and start anew")
    return metadata, tensors


def _digest(tensors: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tuple(tensors[name].shape)} {values.dtype} ".encode())
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _group(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    prefix = f"{group}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _optimizer_misfits(found: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> Iterator[str]:
    if found["class"] != type(optimizer).__name__:
        yield f"the optimizer was {found['class']} and is {type(optimizer).__name__}"
        return
    groups = found["groups"], json.loads(json.dumps(optimizer.state_dict()["param_groups"], default=str))
    before, now = ([len(group["params"]) for group in each] for each in groups)
    if before != now:
        yield f"its parameter groups had {before} parameters and have {now}"
        return
    for old, new in zip(*groups, strict=True):
        # The learning rate is the schedule's to change.
        for name in sorted((old.keys() & new.keys()) - {"params", "lr"}):
            if old[name] != new[name]:
                yield f"{found['class']}'s {name} was {old[name]} and is {new[name]}"


def _optimizer_state(found: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in found["numbers"].items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor
    # JSON has no tuples, which Adam's betas are.
    groups = [
        {key: tuple(v) if isinstance(v, list) and key != "params" else v for key, v in group.items()} for group in found["groups"]
    ]
    return {"state": state, "param_groups": groups}
