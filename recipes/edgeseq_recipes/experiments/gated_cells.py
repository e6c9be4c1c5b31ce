"""The other gated cells on the adding problem."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgeseq import (
    Cell,
    CoupledLSTMCell,
    GRUCell,
    IndRNNCell,
    LayerNormLSTMCell,
    MinimalGatedCell,
    ProjectedLSTMCell,
    Recurrent,
    RecurrentStack,
)
from edgeseq.cells import State
from edgeseq.training import History, Schedule
from edgeseq_export import ExportRequest
from edgeseq_recipes.experiments.adding_problem_data import CONSTANT_ERROR, adding_problem
from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_most
from edgeseq_recipes.run import Run

FEATURES, HIDDEN, PROJECTED = 2, 32, 16
BATCH, HELD_OUT = 50, 1000
SOLVED = 0.01  # mean squared error

LAYERS: dict[str, Callable[[], tuple[Cell, ...]]] = {
    "gru-reset-after": lambda: (GRUCell(FEATURES, HIDDEN),),
    "gru-reset-before": lambda: (GRUCell(FEATURES, HIDDEN, reset_after=False),),
    "coupled-gates": lambda: (CoupledLSTMCell(FEATURES, HIDDEN),),
    "minimal-gated-unit": lambda: (MinimalGatedCell(FEATURES, HIDDEN),),
    "layer-norm-lstm": lambda: (LayerNormLSTMCell(FEATURES, HIDDEN),),
    "projected-lstm": lambda: (ProjectedLSTMCell(FEATURES, HIDDEN, PROJECTED),),
    # Its units see each other only in the layer above.
    "indrnn": lambda: (IndRNNCell(FEATURES, HIDDEN), IndRNNCell(HIDDEN, HIDDEN)),
}


class Adder(nn.Module):
    """Recurrent layers and the read-out of every step: its last says the sum."""

    def __init__(self, cells: tuple[Cell, ...]) -> None:
        super().__init__()
        self.layers = RecurrentStack(*(Recurrent(cell) for cell in cells))
        self.readout = nn.Linear(PROJECTED if isinstance(cells[-1], ProjectedLSTMCell) else HIDDEN, 1)

    def forward(self, x: Tensor, state: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Answers so far (T, B) to x (T, B, 2), and the state after the last step."""
        y, state = self.layers(x, state, lengths)  # (T, B, H)
        return self.readout(y).squeeze(-1), state


class OneState(nn.Module):
    """An adder with one state tensor, for export."""

    def __init__(self, adder: Adder) -> None:
        super().__init__()
        self.adder = adder

    def forward(self, x: Tensor, h: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Answers (T, B) and the state h (B, H) after x (T, B, 2)."""
        answers, (h,) = self.adder(x, (h,), lengths)
        return answers, h


class TwoStates(OneState):
    """An adder with two state tensors, for export."""

    def forward(self, x: Tensor, h: Tensor, s: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Answers (T, B) and the state after x (T, B, 2)."""
        answers, (h, s) = self.adder(x, (h, s), lengths)
        return answers, h, s


def request(name: str, adder: Adder) -> ExportRequest:
    """The adder as a graph that also streams."""
    shapes = adder.layers.state_shapes
    states = {state: torch.zeros(2, *shape) for state, shape in zip("hs", shapes, strict=False)}
    return ExportRequest(
        OneState(adder) if len(shapes) == 1 else TwoStates(adder),
        {"x": torch.rand(5, 2, FEATURES), **states, "lengths": torch.tensor([5, 3])},
        {"x": ("T", "B", None), "lengths": ("B",), **dict.fromkeys(states, ("B", None))},
        state={state: f"{state}_out" for state in states},
        outputs=("answers", *(f"{state}_out" for state in states)),
        name=name,
    )


def train(run: Run, name: str, adder: Adder, T: int) -> History:
    """One cell, until its held-out error is half of what counts as solved."""
    held_out, sums = adding_problem(torch.Generator().manual_seed(1_000_000 + run.seed), T, HELD_OUT)

    def error(x: Tensor, y: Tensor) -> Tensor:
        answers, _ = adder(x)
        return nn.functional.mse_loss(answers[-1], y)

    return run.fit(
        name,
        adder,
        lambda generator: error(*adding_problem(generator, T, BATCH)),
        Schedule(run.pick(3000, 60), learning_rate=run.pick(5e-3, 1e-2), evaluate_every=run.pick(100, 30), target=SOLVED / 2),
        score=lambda: error(held_out, sums).item(),
    )


def run_gated_cells(run: Run) -> Findings:
    """Every cell in turn, tested on sequences that neither training nor stopping saw."""
    T = run.pick(100, 4)
    unseen, sums = adding_problem(torch.Generator().manual_seed(2_000_000 + run.seed), T, HELD_OUT)
    histories, measures, graphs = {}, [], []
    for name, cells in LAYERS.items():
        adder = Adder(cells())
        with warnings.catch_warnings():
            # PyTorch says so about its own speed.
            warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
            histories[name] = train(run, name, adder, T)
        with torch.no_grad():
            reached = nn.functional.mse_loss(adder(unseen)[0][-1], sums).item()
        measures.append(Measure(f"{name}: mean squared error", reached, at_most(run.pick(SOLVED, 0.8 * CONSTANT_ERROR))))
        graphs.append(request(name, adder))
    with run.figure("gated-cells", figsize=(7.0, 3.8)) as (_, axes):
        for name, history in histories.items():
            axes.plot(*zip(*history.scores, strict=True), "o-", markersize=3, label=name)
        axes.axhline(CONSTANT_ERROR, color="grey", linestyle=":", label="answering 1, always")
        axes.axhline(SOLVED, color="black", linestyle="--", label="solved")
        axes.set(yscale="log", xlabel="training step", ylabel="held-out mean squared error", title=f"Adding problem, T = {T}")
        axes.legend(loc="upper right", fontsize="small")
    return Findings(
        measures=tuple(measures),
        graphs=tuple(graphs),
        caption=(
            f"Held-out error of each cell, H = {HIDDEN}, while it learns to add two marked numbers among {T}. Training stops at "
            "half the error that counts as solved."
        ),
    )


RECIPE = Recipe(
    name="gated-cells",
    row="11",
    title="Other gated cells: GRU in both forms, coupled gates, minimal gated unit, LayerNorm-LSTM, projected LSTM, IndRNN",
    claim="Gates of other shapes than the LSTM's, or units that only see themselves, carry what was seen long ago just as well.",
    exported_as="LSTM, GRU or RNN node where an identity allows it; LayerNorm and projection one Scan",
    run=run_gated_cells,
)
