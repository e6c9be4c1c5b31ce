"""Labels that depend on a later input: what two directions know and one can't."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq import Cell, GRUCell, LSTMCell, Recurrent, RNNCell
from edgeseq.models import BidirectionalRNN
from edgeseq.training import Schedule
from edgeseq_export import ExportRequest
from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_least, between
from edgeseq_recipes.run import Run

TYPES = 3  # of marks
FILLERS = 2  # symbols that mean nothing
SYMBOLS = "ABC··"
MARKED = 0.25  # share of the inner steps
SHORTEST, LONGEST = 8, 24
BATCH = 64
HELD_OUT = 4000
HIDDEN = 24
KINDS: Mapping[str, Callable[[int, int], Cell]] = {
    "rnn": RNNCell,
    "lstm": partial(LSTMCell, squash="tanh", peepholes=False),
    "gru": GRUCell,
}


class Batch(NamedTuple):
    """Sequences of marks of `TYPES` types with fillers between; the first and the last step of each sequence is a mark.

    A step's label is the pair of the last mark's type at or before it and the first one's at or after it.
    """

    symbols: Tensor  # (T, B) int64: a mark's type, or TYPES and more for fillers
    lengths: Tensor  # (B,)
    previous: Tensor  # (T, B) int64: step of the last mark at or before
    following: Tensor  # (T, B) int64: step of the first mark at or after; both mean nothing past a sequence's length

    @property
    def x(self) -> Tensor:
        """The symbols one-hot (T, B, TYPES + FILLERS)."""
        return F.one_hot(self.symbols, TYPES + FILLERS).float()

    @property
    def labels(self) -> Tensor:
        """The pair as one number below TYPES² (T, B)."""
        return TYPES * self.symbols.gather(0, self.previous) + self.symbols.gather(0, self.following)

    @property
    def live(self) -> Tensor:
        """Which steps are within their sequence (T, B)."""
        return torch.arange(len(self.symbols))[:, None] < self.lengths

    @property
    def to_next(self) -> Tensor:
        """Steps to the next mark (T, B): 0 at a mark."""
        return self.following - torch.arange(len(self.symbols))[:, None]


def draw(generator: torch.Generator, B: int) -> Batch:
    """Lengths uniform in SHORTEST..LONGEST, marks at a quarter of the inner steps, types and fillers uniform."""
    T = LONGEST
    lengths = torch.randint(SHORTEST, LONGEST + 1, (B,), generator=generator)
    steps = torch.arange(T)[:, None].expand(T, B)
    marked = (torch.rand(T, B, generator=generator) < MARKED) | (steps == 0) | (steps == lengths - 1)
    marked &= steps < lengths
    types = torch.randint(TYPES, (T, B), generator=generator)
    fillers = TYPES + torch.randint(FILLERS, (T, B), generator=generator)
    previous = torch.where(marked, steps, 0).cummax(0).values
    following = torch.where(marked, steps, T - 1).flip(0).cummin(0).values.flip(0)
    return Batch(torch.where(marked, types, fillers), lengths, previous, following)


class Ceiling(NamedTuple):
    """The accuracy that no predictor with one direction can expect to exceed, and by how much chance moves it.

    At a mark both types of the label are its own. At any other step the next mark's type is uniform over K types and independent
    of all that lies before, lengths and places of marks included; whatever the answer, it is right with probability 1/K at most.
    With m the share of marks among the steps:

        accuracy <= m + (1 - m) / K

    and by symmetry from last to first. The n steps of one gap share their next mark, so that their hits vary by at most
    n² (1/K) (1 - 1/K); gaps are independent.
    """

    accuracy: float
    deviation: float


def ceiling(batch: Batch) -> Ceiling:
    """For the places of the marks in these sequences."""
    steps, gaps = batch.live.sum().item(), batch.live & (batch.to_next > 0)
    outside = gaps.sum().item() / steps  # 1 - m
    B = len(batch.lengths)
    places = (batch.following * B + torch.arange(B))[gaps]  # one number a gap, at each of its steps
    squares = places.bincount().square().sum().item()
    return Ceiling(1 - outside + outside / TYPES, math.sqrt(squares * (TYPES - 1)) / TYPES / steps)


class OneDirection(nn.Module):
    """A recurrent layer in one direction and a linear read-out."""

    def __init__(self, cell: Cell, hidden_size: int, output_size: int, *, reverse: bool) -> None:
        super().__init__()
        self.layer = Recurrent(cell, reverse=reverse)
        self.readout = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """From x (T, B, I) and lengths (B,) to o (T, B, O)."""
        o: Tensor = self.readout(self.layer(x, None, lengths)[0])
        return o


def networks(kind: str) -> dict[str, nn.Module]:
    """Both directions, and each alone with a state as large as those of the two together."""
    cell, features, labels = KINDS[kind], TYPES + FILLERS, TYPES**2
    return {
        "both directions": BidirectionalRNN(cell, features, HIDDEN, labels),
        "forward": OneDirection(cell(features, 2 * HIDDEN), 2 * HIDDEN, labels, reverse=False),
        "backward": OneDirection(cell(features, 2 * HIDDEN), 2 * HIDDEN, labels, reverse=True),
    }


def accuracy(net: nn.Module, batch: Batch) -> float:
    """Share of the live steps whose label is found."""
    with torch.no_grad():
        found = net(batch.x, batch.lengths).argmax(-1) == batch.labels  # (T, B)
    return float(found[batch.live].float().mean())


def train(run: Run, name: str, net: nn.Module) -> None:
    """Cross-entropy over the live steps."""
    watched = draw(torch.Generator().manual_seed(run.seed + 1_000_000), 500)

    def loss(generator: torch.Generator) -> Tensor:
        batch = draw(generator, BATCH)
        return F.cross_entropy(net(batch.x, batch.lengths)[batch.live], batch.labels[batch.live])

    steps = run.pick(400, 60)
    schedule = Schedule(steps, learning_rate=1e-2, decay="cosine", evaluate_every=100, target=0.0005)
    run.fit(name, net, loss, schedule, score=lambda: 1 - accuracy(net, watched))


def run_later_input(run: Run) -> Findings:
    """Every kind of cell in both directions and in each."""
    held_out = draw(torch.Generator().manual_seed(run.seed + 2_000_000), HELD_OUT)
    limit = ceiling(held_out)
    chance = 4 * limit.deviation
    measures = [Measure("ceiling of one direction, from the places of the marks", limit.accuracy)]
    nets: dict[str, dict[str, nn.Module]] = {}
    for kind in run.pick(tuple(KINDS), ("gru",)):
        nets[kind] = networks(kind)
        for direction, net in nets[kind].items():
            train(run, f"{kind}-{direction.replace(' ', '-')}", net)
            both = direction == "both directions"
            wanted = run.pick(
                at_least(0.99) if both else between(limit.accuracy - 0.02, limit.accuracy + chance),
                at_least(limit.accuracy + 0.1) if both else between(limit.accuracy - 0.1, limit.accuracy + chance),
            )
            measures.append(Measure(f"{kind}, {direction}: held-out accuracy", accuracy(net, held_out), wanted))
    with run.figure("later-input", ncols=2, figsize=(9.0, 3.4), width_ratios=(3, 2)) as (_, (left, right)):
        draw_sequence(left, nets["gru"], held_out)
        draw_distances(right, nets["gru"], held_out)
    return Findings(
        tuple(measures),
        graphs=tuple(graph(kind, own["both directions"], held_out) for kind, own in nets.items()),
        caption=(
            "The label of a step is the types of the marks before and after it. Left: what GRUs give the right label of each step "
            "of one sequence; read forward the mark to come is a guess, read backward the mark that was. Right: over all held-out "
            "sequences, by the distance to the next mark."
        ),
    )


def graph(kind: str, net: nn.Module, batch: Batch) -> ExportRequest:
    """The trained network as one graph."""
    inputs = {"x": batch.x[:, :3], "lengths": batch.lengths[:3]}
    return ExportRequest(net, inputs, {"x": ("T", "B", None), "lengths": ("B",)}, outputs=("o",), name=f"bidirectional-{kind}")


def draw_sequence(axes: Axes, nets: Mapping[str, nn.Module], batch: Batch) -> None:
    """Probability of the right label, step by step, for the first of the longest sequences."""
    which = int(batch.lengths.argmax())
    T = int(batch.lengths[which])
    with torch.no_grad():
        given = [net(batch.x, batch.lengths)[:T, which].softmax(-1) for net in nets.values()]  # (T, TYPES²) each
    right = torch.stack([p.gather(1, batch.labels[:T, which, None]).squeeze(1) for p in given])  # (3, T)
    image = axes.imshow(right, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.figure.colorbar(image, ax=axes, label="probability of the right label")
    axes.set(yticks=range(len(nets)), yticklabels=[name.replace(" ", "\n") for name in nets], xlabel="step and its symbol")
    axes.set(xticks=range(T), xticklabels=[SYMBOLS[s] for s in batch.symbols[:T, which]], title="one held-out sequence")
    axes.grid(visible=False)


def draw_distances(axes: Axes, nets: Mapping[str, nn.Module], batch: Batch) -> None:
    """Accuracy against the distance to the next mark."""
    distances = range(9)
    for name, net in nets.items():
        with torch.no_grad():
            found = (net(batch.x, batch.lengths).argmax(-1) == batch.labels).float()
        means = [found[batch.live & (batch.to_next == distance)].mean().item() for distance in distances]
        axes.plot(distances, means, "o-", markersize=3, label=name)
    axes.axhline(1 / TYPES, color="grey", linestyle=":", label="guess of one type")
    axes.set(xlabel="steps to the next mark", ylabel="accuracy", ylim=(0, 1.05), title="held-out sequences")
    axes.legend(loc="center right")


RECIPE = Recipe(
    name="later-input",
    row="4",
    title="Bidirectional RNN: simple, LSTM and GRU",
    claim="A label that depends on a later input is found by two directions, and by one only as often as a guess is right.",
    exported_as="one bidirectional node a layer",
    run=run_later_input,
)
