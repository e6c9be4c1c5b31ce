"""Gradients on their way back through deep transitions: more layers between two steps shorten their reach, a skip restores it."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells import DeepTransitionCell, RNNCell
from edgeseq.diagnostics import recurrence, state_jacobian
from edgeseq.models import DeepTransitionRNN, HierarchicalRNN
from edgeseq.training import History, Schedule
from edgeseq_export import ExportRequest
from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_least, at_most, between
from edgeseq_recipes.run import Run

FEATURES = 4
HIDDEN = 64
DEPTH = 3
SETTLING = 10  # steps before the gradient is followed
FARTHEST = 12  # steps that it is followed
SEQUENCES = 4
REACHED = 0.01  # share of the gradient that counts as reaching

# What the networks learn.
DELAY = 8  # steps
LENGTH = 20
BATCH = 32

Array = np.ndarray[Any, np.dtype[np.float64]]


class Transition(NamedTuple):
    """From h[t-1] to h[t]."""

    name: str
    depth: int
    skip: bool

    def cell(self) -> DeepTransitionCell:
        """A fresh one, every parameter uniform in ±1/√H."""
        return DeepTransitionCell(FEATURES, HIDDEN, depth=self.depth, skip=self.skip)


SHALLOW = Transition("one layer", 1, False)
DEEP = Transition(f"(b) {DEPTH} layers", DEPTH, False)
SKIPPED = Transition(f"(c) {DEPTH} layers and a skip", DEPTH, True)
TRANSITIONS = (SHALLOW, DEEP, SKIPPED)


def expected_factor(transition: Transition) -> float:
    """By what a gradient's norm changes a step: the mean-field theory of wide random networks (Poole et al., 2016).

    With H large and the parameters uniform in ±1/√H, a matrix has independent elements of variance 1/(3H): it takes a vector to
    elements of a third of its mean square, and so does its transpose with a gradient. A layer's units a are Gaussian of variance
    q, its gradient is multiplied by tanh'(a) too, so that each layer contributes

        χ(q) = E[tanh'(a)²] / 3,    a ~ N(0, q)

    to the factor of the mean square. Layers in a row multiply, parallel paths add: from h' to h

        without skip:   χ_1 χ_2 ... χ_D
        with skip:      χ_1 χ_2 ... χ_D + χ_D     (S and the last layer end in the same units)

    The variances follow from the equations of the cell: q_1 = (E[u²] + E[h²] + 1/H) / 3 and so forth, with h in its
    stationary state. The factor of the norm is the root. As χ <= 1/3, D layers in a row reach D times less far, and a skip
    connection reaches farther than one layer of the same variance would alone.
    """
    bias = 1 / (3 * HIDDEN)
    u = mean_square(np.tanh, FEATURES / (3 * HIDDEN) + bias)
    h = chi = 0.0
    for _ in range(100):
        chi, a = 1.0, 0.0
        for layer in range(transition.depth):
            last = layer == transition.depth - 1
            inputs = (u + h if layer == 0 else a) + (h if transition.skip and last else 0.0)
            q = inputs / 3 + bias
            slope = mean_square(lambda v: 1 - np.tanh(v) ** 2, q) / 3
            chi = chi * slope + (slope if transition.skip and last else 0.0)
            a = mean_square(np.tanh, q)
        h = a
    return math.sqrt(chi)


def mean_square(function: Callable[[Array], Array], variance: float) -> float:
    """E[f(v)²] of v ~ N(0, variance), by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    return float((weights * function(np.sqrt(variance) * nodes) ** 2).sum() / weights.sum())


def factors(cell: DeepTransitionCell, x: Tensor) -> Tensor:
    """Root mean square by which the transition has changed a gradient's norm k = 0..FARTHEST steps back: (FARTHEST + 1,).

    That is ‖∂h[T]/∂h[T-k]‖, the Frobenius norm, over √H, so that it is 1 at k = 0; the mean is over gradients of all directions
    and over the sequences of x (T, B, I).
    """
    cell = copy.deepcopy(cell).double()
    followed = recurrence(cell, x.double())
    states, T = followed.states(), len(x)
    product = torch.eye(HIDDEN, dtype=torch.float64).expand(x.shape[1], -1, -1)  # (B, H, H)
    squares = [torch.ones((), dtype=torch.float64)]
    for t in reversed(range(T - FARTHEST, T)):
        product = product @ state_jacobian(cell, states[t], x[t].double())
        squares.append(product.square().sum((1, 2)).mean() / HIDDEN)
    return torch.stack(squares).sqrt()


def fresh_factors(transition: Transition, seed: int, draws: int) -> Tensor:
    """`factors` of fresh networks over normal inputs, their geometric mean: (FARTHEST + 1,)."""
    logarithms = []
    for draw in range(draws):
        torch.manual_seed(1000 * seed + draw)
        x = torch.randn(SETTLING + FARTHEST, SEQUENCES, FEATURES)
        logarithms.append(factors(transition.cell(), x).log())
    return torch.stack(logarithms).mean(0).exp()


def distance(curve: Tensor) -> float:
    """Steps back at which a gradient falls to `REACHED`, interpolated; beyond `FARTHEST` at the curve's mean factor."""
    logarithms, wanted = curve.log().tolist(), math.log(REACHED)
    for k, (near, far) in enumerate(pairwise(logarithms)):
        if far <= wanted:
            return float(k + (wanted - near) / (far - near))
    return math.inf if logarithms[-1] >= 0 else float(FARTHEST * wanted / logarithms[-1])


def networks() -> dict[str, nn.Module]:
    """What is trained: figure 10.13 a, b and c, and one layer of transition."""
    found: dict[str, nn.Module] = {f"(a) {DEPTH} groups": HierarchicalRNN(RNNCell, FEATURES, HIDDEN, FEATURES, layers=DEPTH)}
    for transition in TRANSITIONS:
        found[transition.name] = DeepTransitionRNN(FEATURES, HIDDEN, FEATURES, depth=transition.depth, skip=transition.skip)
    return found


def recall(generator: torch.Generator, B: int) -> tuple[Tensor, Tensor]:
    """Random symbols x (T, B, I), one-hot, and those of `DELAY` steps before, for the steps that have one (T - DELAY, B)."""
    symbols = torch.randint(FEATURES, (LENGTH, B), generator=generator)
    return F.one_hot(symbols, FEATURES).float(), symbols[:-DELAY]


class Trained(NamedTuple):
    """One network's training, and what it came to."""

    history: History
    missed: float  # share of symbols that it does not recall, of sequences that neither training nor the score saw


def train(run: Run, name: str, net: nn.Module) -> Trained:
    """The symbol of `DELAY` steps ago, at every step."""
    validation, held_out = (recall(torch.Generator().manual_seed(run.seed + n), 200) for n in (1_000_000, 2_000_000))

    def loss(generator: torch.Generator) -> Tensor:
        x, y = recall(generator, BATCH)
        return F.cross_entropy(net(x)[0][DELAY:].flatten(0, 1), y.flatten())

    def missed(x: Tensor, y: Tensor) -> float:
        return float((net(x)[0][DELAY:].argmax(-1) != y).float().mean())

    schedule = Schedule(run.pick(400, 40), learning_rate=2e-3, decay="cosine", evaluate_every=run.pick(50, 40))
    file = "-".join(re.findall(r"\w+", name))
    history = run.fit(file, net, loss, schedule, score=lambda: missed(*validation))
    with torch.no_grad():
        return Trained(history, missed(*held_out))


def run_deep_transitions(run: Run) -> Findings:
    """The gradients of fresh networks against the theory, and what the networks learn."""
    curves = {transition.name: fresh_factors(transition, run.seed, run.pick(20, 4)) for transition in TRANSITIONS}
    theory = {transition.name: expected_factor(transition) for transition in TRANSITIONS}
    nets = networks()
    trained = {name: train(run, name, net) for name, net in nets.items()}
    with run.figure("deep-transitions", ncols=2, figsize=(9.0, 3.6)) as (_, (left, right)):
        draw_gradients(left, curves, theory)
        draw_losses(right, {name: one.history for name, one in trained.items()})
    return Findings(
        (*gradient_measures(run, curves, theory), *recall_measures(run, trained)),
        graphs=tuple(
            graph(letter, nets[name]) for letter, name in zip("abc", (next(iter(nets)), DEEP.name, SKIPPED.name), strict=True)
        ),
        caption=(
            f"Left: a gradient's norm k steps back, averaged over fresh networks (dots) and by the theory (dashed); {DEPTH} layers "
            f"between two steps shorten its reach, a skip connection restores it. Right: learning to recall the symbol of {DELAY} "
            "steps ago."
        ),
    )


def gradient_measures(run: Run, curves: Mapping[str, Tensor], theory: Mapping[str, float]) -> list[Measure]:
    """Reach and factor of each transition, and the claim: (b) shortens, (c) restores."""
    reach = {name: distance(curve) for name, curve in curves.items()}
    measures = [
        Measure(
            "(b) over one layer: distance at which the gradient is down to 1 %",
            reach[DEEP.name] / reach[SHALLOW.name],
            at_most(0.5),
        ),
        Measure("(c) over one layer: the same", reach[SKIPPED.name] / reach[SHALLOW.name], at_least(1.0)),
    ]
    slack = run.pick(0.03, 0.1)
    for name, curve in curves.items():
        own, expected = (curve[5] ** (1 / 5)).item(), theory[name]
        measures.append(
            Measure(f"{name}: factor a step, over 5 steps", own, between((1 - slack) * expected, (1 + slack) * expected))
        )
        measures.append(Measure(f"{name}: distance in steps", reach[name]))
    return measures


def recall_measures(run: Run, trained: Mapping[str, Trained]) -> list[Measure]:
    """What the same number of training steps makes of each network."""
    wanted = {DEEP.name: at_least(0.5), SKIPPED.name: at_most(run.pick(0.01, 0.7))}
    return [Measure(f"{name}: share of symbols not recalled", one.missed, wanted.get(name)) for name, one in trained.items()]


def graph(letter: str, net: nn.Module) -> ExportRequest:
    """A trained network as one graph that streams."""
    state = torch.zeros(DEPTH, 1, HIDDEN) if isinstance(net, HierarchicalRNN) else torch.zeros(1, HIDDEN)
    inputs = {"x": F.one_hot(torch.arange(12)[:, None] % FEATURES, FEATURES).float(), "h": state}
    axes = {"x": ("T", "B", None), "h": (*[None] * (state.dim() - 2), "B", None)}
    return ExportRequest(net, inputs, axes, {"h": "h_out"}, ("o", "h_out"), name=f"deep-{letter}")


def draw_gradients(axes: Axes, curves: Mapping[str, Tensor], theory: Mapping[str, float]) -> None:
    """Measured and expected norm against the distance in time."""
    k = torch.arange(FARTHEST + 1)
    for number, (name, curve) in enumerate(curves.items()):
        axes.plot(k, curve, "o", color=f"C{number}", markersize=4, label=name)
        axes.plot(k, theory[name] ** k, "--", color=f"C{number}", linewidth=1)
    axes.axhline(REACHED, color="grey", linestyle=":")
    axes.set(yscale="log", xlabel="steps back k", ylabel="‖∂h[T]/∂h[T-k]‖ / √H", title="fresh networks", ylim=(1e-6, 2))
    axes.legend(loc="lower left")


def draw_losses(axes: Axes, histories: Mapping[str, History]) -> None:
    """Cross-entropy by step."""
    order = [*(transition.name for transition in TRANSITIONS), next(iter(histories))]
    for name in order:
        axes.plot(histories[name].losses, label=name)
    axes.axhline(math.log(FEATURES), color="grey", linestyle=":", label="guessing")
    axes.set(yscale="log", xlabel="training step", ylabel="cross-entropy in nats", title=f"recall over {DELAY} steps")
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.95))


RECIPE = Recipe(
    name="deep-transitions",
    row="7",
    title="Deep recurrent networks",
    claim="Layers between two time steps lengthen the shortest path, and gradients reach less far; skip connections restore it.",
    exported_as="(a) one node a group; (b), (c) one Scan",
    run=run_deep_transitions,
)
