"""Long-term dependencies: products of one Jacobian, what they do to a linear map, to a slice, and to training."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.diagnostics import Diagnosis, LinearRecurrence, Recurrence, Slice, diagnose, gradient_norms, slice_through_rnn
from edgeseq.training import Schedule
from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_least, at_most, between
from edgeseq_recipes.run import Run

# The linear recurrence.
SIZE, DISTANCE = 20, 300
RADII = (0.9, 1.0, 1.1)

# The task: a symbol at the first step, noise after it, and the symbol is asked for at the last step.
SYMBOLS, BATCH = 4, 64
SMALL = 0.5  # what a small recurrent weight multiplies lengths by, in every direction
FAINT = 0.01
SLICES = (0, 1, 10, 25, 50)
NETS = {"small": "tanh RNN, W = Q/2", "orthogonal": "tanh RNN, W = Q", "lstm": "LSTM"}
COLOURS = {"small": "C3", "orthogonal": "C0", "lstm": "C2"}


class Growth(NamedTuple):
    """‖∂h_k/∂h_0‖₂ of h_k = W h_{k-1} at k = 0..DISTANCE."""

    radius: float
    predicted: Tensor  # by the eigendecomposition
    measured: Tensor  # by autograd, step by step

    @property
    def difference(self) -> float:
        """Largest relative difference."""
        return float((self.predicted / self.measured - 1).abs().max())

    @property
    def slope(self) -> float:
        """Of the logarithm of the measured norm, a step, over the second half."""
        half = DISTANCE // 2
        k = torch.arange(half, DISTANCE + 1, dtype=torch.float64)
        logarithms = self.measured[half:].log()
        return float(((k - k.mean()) * (logarithms - logarithms.mean())).sum() / (k - k.mean()).square().sum())


def growth(radius: float, *, symmetric: bool, generator: torch.Generator) -> Growth:
    """Of a random W (SIZE, SIZE) with that spectral radius."""
    W = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    W = W + W.T if symmetric else W
    W = W * (radius / torch.linalg.eigvals(W).abs().max())
    linear = LinearRecurrence.of(W)
    predicted = torch.tensor([linear.growth(k) for k in range(DISTANCE + 1)], dtype=torch.float64)
    nothing = torch.zeros(DISTANCE, 1, 0, dtype=torch.float64)  # as input
    h0 = torch.randn(1, SIZE, generator=generator, dtype=torch.float64)
    loop = Recurrence(lambda h, _: h @ W.T, nothing, h0, torch.tensor([DISTANCE]))
    return Growth(radius, predicted, gradient_norms(loop)[:, 0])


class Recall(nn.Module):
    """A recurrent layer, and the last step's read-out.

    Args:
        kind: "small" or "orthogonal", a tanh RNN whose recurrent weight begins as half an orthogonal matrix or a whole one;
            "lstm", whose forget gates begin open.
        hidden_size: units.
    """

    def __init__(self, kind: str, hidden_size: int) -> None:
        super().__init__()
        layer = nn.LSTM if kind == "lstm" else nn.RNN
        self.recurrent: nn.RNNBase = layer(SYMBOLS + 1, hidden_size)
        self.readout = nn.Linear(hidden_size, SYMBOLS)
        for name in ("bias_ih_l0", "bias_hh_l0"):
            nn.init.zeros_(self.recurrent.get_parameter(name))
        if kind == "lstm":
            _, forget, _, _ = self.recurrent.get_parameter("bias_hh_l0").data.chunk(4)  # PyTorch stacks i, f, g, o
            nn.init.constant_(forget, 3.0)
        else:
            nn.init.orthogonal_(self.recurrent.get_parameter("weight_hh_l0"), SMALL if kind == "small" else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, SYMBOLS) of x (T, B, SYMBOLS + 1)."""
        y, _ = self.recurrent(x)  # (T, B, H)
        logits: Tensor = self.readout(y[-1])
        return logits


def recall_task(generator: torch.Generator, T: int, B: int) -> tuple[Tensor, Tensor]:
    """Inputs x (T, B, SYMBOLS + 1), a one-hot symbol and then noise in -1..1 on a channel of its own, and the symbols (B,)."""
    symbols = torch.randint(SYMBOLS, (B,), generator=generator)
    x = torch.zeros(T, B, SYMBOLS + 1)
    x[0] = F.one_hot(symbols, SYMBOLS + 1).to(x)
    x[1:, :, SYMBOLS] = 2 * torch.rand(T - 1, B, generator=generator) - 1
    return x, symbols


class Trained(NamedTuple):
    """One network, before and after."""

    accuracy: float  # on held-out sequences
    before: Diagnosis
    after: Diagnosis


def train(run: Run, kind: str, T: int) -> Trained:
    """A network on the task, diagnosed in one call before and one after."""
    torch.manual_seed(run.seed)
    net = Recall(kind, run.pick(32, 16))
    held_out, symbols = recall_task(torch.Generator().manual_seed(run.seed + 1_000_000), T, 1000)
    before = diagnose(net, held_out, sequences=8)["recurrent"]

    def loss(generator: torch.Generator) -> Tensor:
        x, y = recall_task(generator, T, BATCH)
        return F.cross_entropy(net(x), y)

    schedule = Schedule(
        run.pick(600, 60 if kind == "small" else 150),
        learning_rate=3e-3 if kind == "lstm" else run.pick(1e-3, 3e-3),
        evaluate_every=25,
        target=run.pick(0.03, 0.3),
    )
    run.fit(kind, net, loss, schedule, score=lambda: F.cross_entropy(net(held_out), symbols).item())
    with torch.no_grad():
        fresh, answers = recall_task(torch.Generator().manual_seed(run.seed + 2_000_000), T, 1000)
        accuracy = (net(fresh).argmax(-1) == answers).double().mean().item()
    return Trained(accuracy, before, diagnose(net, held_out, sequences=8)["recurrent"])


def run_long_term(run: Run) -> Findings:
    """The linear prediction, the slice, and three networks on a task that needs memory."""
    generator = torch.Generator().manual_seed(run.seed)
    growths = {
        kind: [growth(radius, symmetric=kind == "symmetric", generator=generator) for radius in RADII]
        for kind in ("symmetric", "general")
    }
    folded = slice_through_rnn(max(SLICES), gain=2.0, points=run.pick(4001, 1001), seed=run.seed)
    T = run.pick(40, 20)
    trained = {kind: train(run, kind, T) for kind in NETS}
    draw(run, growths, folded, trained)
    return Findings(
        measures=(*linear_measures(growths), *slice_measures(folded), *trained_measures(run, trained, T)),
        caption=(
            "(a) What one step's matrix does to a gradient over many: the eigenvalues predict it. (b, c) Gradient norm against "
            "distance of three networks that have to recall the first symbol. Below: a 100-dimensional tanh RNN along a line of "
            "initial states, after 0 to 50 steps."
        ),
    )


def linear_measures(growths: dict[str, list[Growth]]) -> list[Measure]:
    """Prediction against measurement, and the slopes that the spectral radius gives."""
    difference = max(found.difference for kind in growths.values() for found in kind)
    measures = [Measure("growth, largest relative difference of predicted and measured", difference, at_most(1e-6))]
    for kind, found in growths.items():
        for one in (one for one in found if one.radius != 1.0):
            what = f"slope over log spectral radius, {kind} W of radius {one.radius}"
            measures.append(Measure(what, one.slope / math.log(one.radius), between(0.99, 1.01)))
    return measures


def slice_measures(folded: Slice) -> list[Measure]:
    """The function is linear at first, and folds as it is composed."""
    return [
        Measure("slice, changes of direction after 0 steps", folded.turns(0), at_most(0)),
        Measure(
            "slice, changes of direction after 50 steps over those after 1",
            folded.turns(50) / max(1, folded.turns(1)),
            at_least(10),
        ),
    ]


def trained_measures(run: Run, trained: dict[str, Trained], T: int) -> list[Measure]:
    """Horizons against what the initial weights allow, and what could be learned."""
    small, rest = trained["small"], [trained[kind] for kind in ("orthogonal", "lstm")]
    # ‖∂h_t/∂h_{t-k}‖ <= SMALL^k, as the slope of tanh is at most 1.
    bound = math.floor(math.log(FAINT) / math.log(SMALL))
    return [
        Measure("small W, untrained: horizon", small.before.horizon(FAINT), at_most(bound)),
        Measure(
            "orthogonal W, untrained: largest gradient norm", max(trained["orthogonal"].before.gradient_norms), at_most(1 + 1e-6)
        ),
        Measure(f"small W, trained: horizon; the task needs {T}", small.after.horizon(FAINT), at_most(T / 2)),
        Measure("small W: accuracy; by chance 0.25", small.accuracy, at_most(0.4)),
        *(
            Measure(f"{NETS[kind]}, trained: {what}", reached, at_least(wanted))
            for kind, one in zip(("orthogonal", "lstm"), rest, strict=True)
            for what, reached, wanted in (
                ("horizon", one.after.horizon(FAINT), T),
                ("accuracy", one.accuracy, run.pick(0.99, 0.6)),
            )
        ),
    ]


def draw(run: Run, growths: dict[str, list[Growth]], folded: Slice, trained: dict[str, Trained]) -> None:
    """Growth and gradients above, slices below."""
    with run.figure("long-term", nrows=2, ncols=1, figsize=(9.0, 6.4), height_ratios=(1.35, 1)) as (figure, axes):
        upper, lower = (ax.get_subplotspec() for ax in axes)
        for ax in axes:
            ax.remove()
        growth_ax, before_ax, after_ax = figure.add_subfigure(upper).subplots(1, 3)
        draw_growth(growth_ax, growths["general"])
        draw_gradients(before_ax, {kind: one.before for kind, one in trained.items()}, "(b) before training")
        draw_gradients(after_ax, {kind: one.after for kind, one in trained.items()}, "(c) after training")
        after_ax.sharey(before_ax)
        before_ax.set_ylabel("gradient norm ‖∂s[T]/∂s[T−k]‖")
        before_ax.legend(loc="lower left")
        slices = figure.add_subfigure(lower).subplots(1, len(SLICES))
        draw_slices(slices, folded)


def draw_growth(ax: Axes, growths: list[Growth]) -> None:
    """Lines predicted, dots measured."""
    for colour, one in zip(("C3", "C7", "C1"), growths, strict=True):
        ax.semilogy(one.predicted, color=colour, label=f"radius {one.radius:g}")
        ax.semilogy(range(0, DISTANCE + 1, 15), one.measured[::15], ".", color=colour, markersize=5)
    ax.set(title="(a) predicted (lines), measured (dots)", xlabel="distance k, steps", ylabel="‖∂h[k]/∂h[0]‖ of h[t] = W h[t−1]")
    ax.legend(loc="lower left")


def draw_gradients(ax: Axes, found: dict[str, Diagnosis], title: str) -> None:
    """One line a network."""
    for kind, one in found.items():
        ax.semilogy(one.gradient_norms, color=COLOURS[kind], label=NETS[kind])
    ax.axhline(FAINT, color="C7", linestyle=":", linewidth=1)
    ax.set(title=title, xlabel="distance k, steps")


def draw_slices(axes: list[Axes], folded: Slice) -> None:
    """The projected state along the line of initial states, after some compositions."""
    for ax, t in zip(axes, SLICES, strict=True):
        ax.plot(folded.coordinates, folded.outputs[t], color="C0", linewidth=0.6)
        ax.set(title=f"(d) after {t} step{'s' if t != 1 else ''}", xlabel="coordinate of h[0]")
    axes[0].set_ylabel("projection of h[t]")


RECIPE = Recipe(
    name="long-term",
    row="9",
    title="Long-term dependencies: products of Jacobians",
    claim="A gradient changes by powers of the recurrent map's eigenvalues: below one it vanishes, above one it explodes.",
    exported_as="–",
    run=run_long_term,
)
