"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgeseq.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from edgeseq.training.interrupts import deferred_interrupts

Loss = Callable[[torch.Generator], Tensor]  # a fresh batch's loss, drawn with the generator
Score = Callable[[], float]  # lower is better
Watch = Callable[[int, float, float | None], None]  # step, its loss, its score where it was evaluated
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

FINAL_RATE = 0.1  # share of the learning rate that cosine decay ends at


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a model is trained, and when it is done."""

    steps: int
    learning_rate: float = 1e-3  # of the default optimizer
    clip_norm: float | None = 1.0  # largest Euclidean norm of the whole gradient; taken before `clip_value`
    clip_value: float | None = None  # largest magnitude of each of its elements
    decay: Literal["none", "cosine"] = "none"  # of the learning rate: to a tenth of it at the last step
    evaluate_every: int = 100  # steps between two calls of `score`
    patience: int | None = None  # evaluations without a better score before stopping early
    target: float | None = None  # stop as soon as the score is at most this
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("steps", "learning_rate", "clip_norm", "clip_value", "evaluate_every", "patience")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it has to be positive")
        if self.decay not in ("none", "cosine"):
            raise ValueError(f"decay is {self.decay!r}; choose 'none' or 'cosine'")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it has to be 0 or more")

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step, counted from 1."""
        if self.decay == "none" or self.steps == 1:
            return 1.0
        return FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * (step - 1) / (self.steps - 1))) / 2


@dataclass(frozen=True)
class History:
    """What happened."""

    steps: int  # taken
    losses: tuple[float, ...]  # one a step
    gradient_norms: tuple[float, ...]  # before clipping, one a step
    scores: tuple[tuple[int, float], ...]  # (step, score)
    best: float  # best score, NaN where all are; the last loss where nothing was scored
    stopped: str  # "finished", "target", "patience" or "diverged": a loss or gradient that is not finite


def fit(
    model: nn.Module,
    loss: Loss,
    schedule: Schedule,
    *,
    score: Score | None = None,
    optimizer: MakeOptimizer | None = None,
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> History:
    """Train `model` in place; it ends in eval mode, with its best-scored weights where there is a score.

    Every step draws from two independent generators seeded from (schedule.seed, step): the one that `loss` is given and PyTorch's
    own, which dropout uses. A run that is resumed so takes the very steps of one that was never interrupted, bit for bit.

    Args:
        model: trained in place.
        loss: a scalar to minimise, on a batch drawn with the generator it is given; called in training mode.
        schedule: steps, learning rate, clipping, evaluation, when to stop, seed.
        score: lower is better; called every `schedule.evaluate_every` steps and after the last, in eval mode without gradients.
        optimizer: makes one from the parameters; `torch.optim.Adam` by default. Its learning rate decays as the schedule's does.
        checkpoint: a safetensors file, written at every evaluation, at the end and at Ctrl-C.
        resume: go on from `checkpoint` if it is there. A run that is done is not run again.
        watch: told after every step.

    Raises:
        CheckpointError: the checkpoint is damaged or of another run.
        KeyboardInterrupt: at Ctrl-C, after the step under way and its checkpoint.
    """
    if score is None and not (schedule.target is None and schedule.patience is None):
        raise ValueError("schedule has a target or patience for a score, and there is no score; give one")
    if resume and checkpoint is None:
        raise ValueError("resume=True and no checkpoint to resume from; name its file")
    make = optimizer or (lambda parameters: torch.optim.Adam(parameters, lr=schedule.learning_rate))
    progress = Progress(model, make(model.parameters()))
    rates = [group["lr"] for group in progress.optimizer.param_groups]
    settings = {**_settings(schedule), "learning_rates": rates}
    if resume and checkpoint is not None and Path(checkpoint).exists():
        load_checkpoint(checkpoint, progress, settings, schedule.steps)
    with deferred_interrupts() as interrupted:
        while not _stopped(progress, schedule):
            _take_step(progress, loss, schedule, rates)
            due = progress.step % schedule.evaluate_every == 0 or bool(_stopped(progress, schedule))
            if due and score is not None and math.isfinite(progress.gradient_norms[-1]):
                _evaluate(progress, score)
            if checkpoint is not None and (due or interrupted()):
                save_checkpoint(checkpoint, progress, settings)
            if watch is not None:
                watch(progress.step, progress.losses[-1], _score_of_last_step(progress))
            if interrupted():
                raise KeyboardInterrupt
    if progress.best_weights:
        model.load_state_dict(progress.best_weights)
    model.eval()
    return _history(progress, schedule)


def _take_step(progress: Progress, loss: Loss, schedule: Schedule, rates: list[float]) -> None:
    """One update; none where the loss or its gradient is not finite, which only goes into the history."""
    step, parameters = progress.step + 1, list(progress.model.parameters())
    batch, dropout = np.random.SeedSequence((schedule.seed, step)).generate_state(2, np.uint64).tolist()
    torch.manual_seed(dropout)
    for group, rate in zip(progress.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * schedule.rate(step)
    progress.model.train()
    progress.optimizer.zero_grad()
    value = loss(torch.Generator().manual_seed(batch))
    value.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(parameters, schedule.clip_norm or math.inf)
    if schedule.clip_value is not None:
        nn.utils.clip_grad_value_(parameters, schedule.clip_value)
    progress.losses.append(value.item())
    progress.gradient_norms.append(norm.item() if math.isfinite(value.item()) else math.nan)
    if math.isfinite(progress.gradient_norms[-1]):
        progress.optimizer.step()


def _evaluate(progress: Progress, score: Score) -> None:
    progress.model.eval()
    with torch.no_grad():
        found = float(score())
    if _better(found, progress.scores):
        progress.best_weights = {name: tensor.detach().clone() for name, tensor in progress.model.state_dict().items()}
    progress.scores.append((progress.step, found))


def _better(found: float, scores: list[tuple[int, float]]) -> bool:
    return found < min((score for _, score in scores if not math.isnan(score)), default=math.inf)


def _stopped(progress: Progress, schedule: Schedule) -> str:
    """Why the run is over; empty while it is not."""
    scores = [score for _, score in progress.scores]
    if progress.step and not math.isfinite(progress.gradient_norms[-1]):
        return "diverged"
    if schedule.target is not None and scores and scores[-1] <= schedule.target:
        return "target"
    if progress.step >= schedule.steps:
        return "finished"
    if schedule.patience is not None and _evaluations_without_a_better(scores) >= schedule.patience:
        return "patience"
    return ""


def _evaluations_without_a_better(scores: list[float]) -> int:
    numbers = [math.inf if math.isnan(score) else score for score in scores]
    return len(numbers) - 1 - numbers.index(min(numbers)) if numbers else 0


def _score_of_last_step(progress: Progress) -> float | None:
    return progress.scores[-1][1] if progress.scores and progress.scores[-1][0] == progress.step else None


def _settings(schedule: Schedule) -> dict[str, Any]:
    """What a run can't change when it goes on; how long it may take it can, unless the learning rate decays over its length."""
    free = {"patience", "target"} | ({"steps"} if schedule.decay == "none" else set())
    return {name: value for name, value in asdict(schedule).items() if name not in free}


def _history(progress: Progress, schedule: Schedule) -> History:
    best = min((s for _, s in progress.scores if not math.isnan(s)), default=math.nan if progress.scores else progress.losses[-1])
    return History(
        steps=progress.step,
        losses=tuple(progress.losses),
        gradient_norms=tuple(progress.gradient_norms),
        scores=tuple(progress.scores),
        best=best,
        stopped=_stopped(progress, schedule),
    )
