"""One run of a recipe: its folder, its seed, its fits and its pictures."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from edgeseq.training import History, Loss, Schedule, Score, fit, save_weights
from edgeseq.training.fit import MakeOptimizer
from edgeseq_recipes.recipe import Fitted
from edgeseq_recipes.screen import show_fitted, watching
from edgeseq_runtime.errors import UsageError

T = TypeVar("T")

CHECKPOINTS = "checkpoints"
WIDEST = 1000  # pixels
DOTS_PER_INCH = 110
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.figsize": (8.0, 3.6),
    "font.size": 9.0,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}


class Run:
    """Where a recipe runs and how.

    Args:
        folder: where everything goes; made if it is not there.
        seed: of the fits and of PyTorch's own generator.
        quick: the short version.
        resume: go on from the checkpoints in the folder; otherwise they are deleted.
    """

    def __init__(self, folder: Path, *, seed: int = 0, quick: bool = False, resume: bool = False) -> None:
        self.folder = folder
        self.seed = seed
        self.quick = quick
        self.resume = resume
        self.fits: list[Fitted] = []
        self.figures: list[str] = []
        try:
            (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"can't make the folder {folder}: {error.strerror}; name another with --out") from error
        if not resume:
            for stale in (folder / CHECKPOINTS).glob("*.safetensors"):
                stale.unlink()
        torch.manual_seed(seed)

    def pick(self, full: T, quick: T) -> T:
        """The value for this version, full or quick."""
        return quick if self.quick else full

    def fit(
        self,
        name: str,
        model: nn.Module,
        loss: Loss,
        schedule: Schedule,
        *,
        score: Score | None = None,
        optimizer: MakeOptimizer | None = None,
    ) -> History:
        """`edgeseq.training.fit` with a checkpoint, progress on the terminal, and `<folder>/<name>.safetensors` when done.

        The schedule's seed is added to the run's: fits whose schedules name none see the same batches. PyTorch's own generator
        is seeded anew afterwards, so that what follows does not depend on whether this fit was run or read back.
        """
        if name in {fitted.name for fitted in self.fits}:
            raise ValueError(f"this run has a fit '{name}' already; its weights would be overwritten")
        checkpoint = self.folder / CHECKPOINTS / f"{name}.safetensors"
        schedule = replace(schedule, seed=schedule.seed + self.seed)
        with watching(name, schedule) as watch:
            history = fit(
                model, loss, schedule, score=score, optimizer=optimizer, checkpoint=checkpoint, resume=self.resume, watch=watch
            )
        save_weights(model, self.folder / f"{name}.safetensors")
        self.fits.append(Fitted(name, sum(parameter.numel() for parameter in model.parameters()), history))
        show_fitted(self.fits[-1])
        torch.manual_seed(zlib.crc32(f"{self.seed} after {name}".encode()))
        return history

    @contextmanager
    def figure(self, name: str, **subplots: Any) -> Iterator[tuple[Figure, Any]]:
        """A figure and its axes, as `matplotlib.pyplot.subplots` takes arguments, written to `<folder>/<name>.png` at the end.

        It is at most 1000 pixels wide.
        """
        if name in self.figures:
            raise ValueError(f"this run has a figure '{name}' already; it would be overwritten")
        with rc_context(STYLE), warnings.catch_warnings():
            # PyTorch 2.13's tensors become arrays by NumPy 1's protocol, which NumPy 2 remarks on.
            warnings.filterwarnings("ignore", "__array", DeprecationWarning)
            figure = Figure(figsize=subplots.pop("figsize", None), layout="constrained")
            FigureCanvasAgg(figure)
            yield figure, figure.subplots(**subplots)
            dots = min(DOTS_PER_INCH, WIDEST / figure.get_figwidth())
            # Without the version of Matplotlib, which it writes into every file.
            figure.savefig(self.folder / f"{name}.png", dpi=dots, metadata={"Software": None})
        self.figures.append(name)
