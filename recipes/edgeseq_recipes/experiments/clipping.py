"""Gradient clipping, by norm and by value: on a cliff of the error surface, and in a training run that diverges without."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from torch import Tensor, nn

from edgeseq.training import History, Schedule, fit
from edgeseq_recipes.experiments.adding_problem_data import adding_problem
from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_least, at_most
from edgeseq_recipes.run import Run

# The cliff.
UNIT_STEPS = 50  # time steps of the unit
START = (5.6, -2.6)  # (w, b): where the descent begins
DESCENT_RATE, DESCENT_NORM, DESCENT_STEPS = 0.3, 0.3, 200
W_RANGE, B_RANGE = (4.0, 6.0), (-3.2, -1.6)

# The training run.
HIDDEN, BATCH = 64, 32
RATE, MOMENTUM = 0.1, 0.9
WINDOW = 50  # steps that the picture's running mean is over
CLIPPING: dict[str, dict[str, float]] = {"unclipped": {}, "by-norm": {"clip_norm": 0.1}, "by-value": {"clip_value": 0.001}}


class Unit(nn.Module):
    """A recurrent net of one unit, h[t] = w σ(h[t-1]) + b from h[0] = 1/2 (Pascanu, Mikolov and Bengio, 2013, figure 6)."""

    def __init__(self, w: float, b: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self) -> Tensor:
        """Its error after 50 steps."""
        return unit_error(self.w, self.b)


def unit_error(w: Tensor, b: Tensor) -> Tensor:
    """(σ(h[50]) - 0.7)² at every (w, b), of the same shape."""
    h = torch.full_like(w, 0.5)
    for _ in range(UNIT_STEPS):
        h = w * torch.sigmoid(h) + b
    return (torch.sigmoid(h) - 0.7).square()


class Descent(NamedTuple):
    """Gradient descent over the unit's error."""

    path: Tensor  # (steps + 1, 2): w and b, then after every step
    best: float  # the least error on it

    @property
    def longest_step(self) -> float:
        """The largest distance between two points that follow each other."""
        return float(torch.linalg.vector_norm(self.path.diff(dim=0), dim=1).max())


def descend(clip_norm: float | None) -> Descent:
    """From START, with its gradient clipped or not."""
    unit, path = Unit(*START), [START]

    def score() -> float:
        path.append((unit.w.item(), unit.b.item()))
        return float(unit.forward())

    history = fit(
        unit,
        lambda _: unit(),
        Schedule(DESCENT_STEPS, clip_norm=clip_norm, evaluate_every=1),
        score=score,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=DESCENT_RATE),
    )
    return Descent(torch.tensor(path), history.best)


class RectifierNet(nn.Module):
    """A simple RNN of rectifiers that begins as the identity (Le, Jaitly and Hinton, 2015), and the last state's read-out."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.rnn = nn.RNN(2, hidden_size, nonlinearity="relu")
        self.readout = nn.Linear(hidden_size, 1)
        U, W, *biases = self.rnn.parameters()
        nn.init.eye_(W)
        nn.init.normal_(U, std=0.1)
        for bias in biases:
            nn.init.zeros_(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Answers (B,) to x (T, B, 2)."""
        _, h = self.rnn(x)  # (1, B, H)
        answers: Tensor = self.readout(h).squeeze()  # (B,)
        return answers


class Trained(NamedTuple):
    """One training run, and what it came to."""

    history: History
    error: float  # mean squared, on sequences that neither training nor the choice of the weights saw

    @property
    def growth(self) -> float:
        """Largest loss over the first one; infinite where it stopped being a number."""
        return math.inf if self.history.stopped == "diverged" else max(self.history.losses) / self.history.losses[0]


def train(run: Run, name: str) -> Trained:
    """The same weights, batches and learning rate every time; only the clipping differs."""
    T, steps = run.pick((30, 3000), (12, 400))
    torch.manual_seed(run.seed)
    net = RectifierNet(HIDDEN)
    validation, held_out = (adding_problem(torch.Generator().manual_seed(run.seed + n), T, 1000) for n in (1_000_000, 2_000_000))

    def error(x: Tensor, answers: Tensor) -> float:
        return nn.functional.mse_loss(net(x), answers).item()

    def loss(generator: torch.Generator) -> Tensor:
        x, y = adding_problem(generator, T, BATCH)
        return nn.functional.mse_loss(net(x), y)

    schedule = Schedule(steps, **{"clip_norm": None, **CLIPPING[name]}, decay="cosine", evaluate_every=100)  # type: ignore[arg-type]
    history = run.fit(
        name,
        net,
        loss,
        schedule,
        score=lambda: error(*validation),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM),
    )
    with torch.no_grad():
        return Trained(history, error(*held_out))


def run_clipping(run: Run) -> Findings:
    """Both halves of the claim."""
    free, clipped = descend(None), descend(DESCENT_NORM)
    trained = {name: train(run, name) for name in CLIPPING}
    with run.figure("clipping", ncols=2, figsize=(8.8, 3.8), width_ratios=(1, 1)) as (_, (left, right)):
        draw_cliff(left, free, clipped)
        draw_losses(right, {name: one.history for name, one in trained.items()})
    wanted = at_most(run.pick(0.05, 0.1))
    return Findings(
        measures=(
            Measure("longest step over the cliff, unclipped", free.longest_step, at_least(1.0)),
            Measure(
                "longest step over the cliff, clipped by norm", clipped.longest_step, at_most(DESCENT_RATE * DESCENT_NORM * 1.001)
            ),
            Measure("least error on the way, clipped by norm", clipped.best, at_most(0.001)),
            Measure("unclipped training: largest loss over the first", trained["unclipped"].growth, at_least(10.0)),
            Measure("held-out mean squared error, clipped by norm", trained["by-norm"].error, wanted),
            Measure("held-out mean squared error, clipped by value", trained["by-value"].error, wanted),
        ),
        caption=(
            "Left: the error of a one-unit recurrent net after 50 steps, over its weight and its bias; descent leaps off the "
            "cliff, and with its gradient's norm clipped follows it. Right: a rectifier RNN on the adding problem, from the same "
            "weights, with the same batches and learning rate."
        ),
    )


def draw_cliff(axes: Axes, free: Descent, clipped: Descent) -> None:
    """The error surface with both ways down."""
    w, b = torch.meshgrid(torch.linspace(*W_RANGE, 300), torch.linspace(*B_RANGE, 300), indexing="xy")
    colours = axes.pcolormesh(
        w.numpy(), b.numpy(), unit_error(w, b).clamp(min=1e-5).numpy(), norm=LogNorm(), cmap="viridis", rasterized=True
    )
    axes.figure.colorbar(colours, ax=axes, label="error")
    axes.plot(*free.path.T.numpy(), "o-", color="tab:red", markersize=3, label="unclipped")
    axes.plot(*clipped.path.T.numpy(), "o-", color="white", markersize=2, label="clipped by norm")
    axes.set(xlim=W_RANGE, ylim=B_RANGE, xlabel="w", ylabel="b", title="h[t] = w σ(h[t-1]) + b, 50 steps")
    axes.legend(loc="lower left", frameon=True, facecolor="grey")


def draw_losses(axes: Axes, histories: dict[str, History]) -> None:
    """Loss by step, a running mean where there are enough."""
    for name, history in histories.items():
        losses = torch.tensor(history.losses)
        if history.steps > WINDOW:
            losses = losses.unfold(0, WINDOW, 1).mean(dim=-1)
        axes.plot(losses.numpy(), label=f"{name}: {history.stopped} at step {history.steps}")
    axes.set(yscale="log", xlabel="step", ylabel="mean squared error", ylim=(1e-3, 1e4), title="the adding problem")
    axes.legend()


RECIPE = Recipe(
    name="clipping",
    row="12",
    title="Gradient clipping, by norm and by value",
    claim="On a cliff of the error surface one gradient step undoes the training before it; with clipped gradients it converges.",
    exported_as="–",
    run=run_clipping,
)
