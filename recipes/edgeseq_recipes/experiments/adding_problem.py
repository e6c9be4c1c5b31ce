"""The LSTM of the lecture beside the simple RNN on the adding problem: what was seen long ago, and when, decides the answer."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from edgeseq import LSTMCell, Recurrent, RNNCell
from edgeseq.training import History, Schedule
from edgeseq_export import ExportRequest
from edgeseq_recipes.experiments.adding_problem_data import CONSTANT_ERROR, adding_problem
from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_least, at_most
from edgeseq_recipes.run import Run

BATCH = 64
LSTM_RATE = 1e-2
RNN_RATES = (1e-2, 1e-3, 1e-4)  # the simple RNN gets the best of these


class AddingLSTM(nn.Module):
    """An LSTM with peepholes (*Deep Learning*, section 10.10.1) and a read-out of its output at every step."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        cell = LSTMCell(2, hidden_size, squash="sigmoid", peepholes=True)
        with torch.no_grad():
            # A memory of 1 / (1 - σ(3)) = 21 steps to begin with (Jozefowicz et al., 2015: a large forget bias).
            cell.bias[hidden_size : 2 * hidden_size] = 3.0
        self.layer = Recurrent(cell)
        self.readout = nn.Linear(hidden_size, 1)

    def forward(self, x: Tensor, h: Tensor, s: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Answers so far (T, B) to x (T, B, 2), and the state (h, s), both (B, H), after each sequence's last step."""
        y, (h, s) = self.layer(x, (h, s), lengths)  # (T, B, H)
        return self.readout(y).squeeze(-1), h, s

    def answer(self, x: Tensor) -> Tensor:
        """The answers (B,) after the last step."""
        _, (h, _) = self.layer(x)
        answers: Tensor = self.readout(h).squeeze(-1)
        return answers


class AddingRNN(nn.Module):
    """A simple RNN, and a read-out of its last state."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.layer = Recurrent(RNNCell(2, hidden_size))
        self.readout = nn.Linear(hidden_size, 1)

    def answer(self, x: Tensor) -> Tensor:
        """The answers (B,) after the last step."""
        _, (h,) = self.layer(x)
        answers: Tensor = self.readout(h).squeeze(-1)
        return answers


def run_adding_problem(run: Run) -> Findings:
    """Both networks with the same steps, batches and hidden units."""
    T, H, steps = run.pick((100, 64, 2400), (6, 32, 300))
    held_out, answers = adding_problem(torch.Generator().manual_seed(run.seed + 1_000_000), T, run.pick(2000, 500))
    validation = adding_problem(torch.Generator().manual_seed(run.seed + 2_000_000), T, 1000)

    def train(name: str, net: AddingLSTM | AddingRNN, rate: float) -> History:
        def loss(generator: torch.Generator) -> Tensor:
            x, y = adding_problem(generator, T, BATCH)
            return mse_loss(net.answer(x), y)

        def score() -> float:
            return mse_loss(net.answer(validation[0]), validation[1]).item()

        return run.fit(name, net, loss, Schedule(steps, learning_rate=rate, evaluate_every=50, target=0.005), score=score)

    @torch.no_grad()
    def error(net: AddingLSTM | AddingRNN) -> float:
        return mse_loss(net.answer(held_out), answers).item()

    lstm = AddingLSTM(H)
    histories = {"LSTM": train("lstm", lstm, LSTM_RATE)}
    rnns = {f"RNN, rate {rate:g}": (AddingRNN(H), rate) for rate in run.pick(RNN_RATES, RNN_RATES[:1])}
    histories |= {name: train(f"rnn-{rate:g}", net, rate) for name, (net, rate) in rnns.items()}
    best = min(rnns, key=lambda name: histories[name].best)
    with run.figure("adding-problem", ncols=2) as (_, (left, right)):
        draw_scores(left, histories)
        draw_answers(right, lstm, held_out[:, :3], answers[:3])
    return Findings(
        measures=(
            Measure(f"LSTM: held-out mean squared error, T = {T}", error(lstm), at_most(run.pick(0.01, 0.08))),
            # Near 1/6, the error of answering 1 always.
            Measure("simple RNN: the same", error(rnns[best][0]), run.pick(at_least(0.8 * CONSTANT_ERROR), None)),
            Measure("answering 1 always: the same", mse_loss(torch.ones_like(answers), answers).item()),
        ),
        graphs=(export_request(lstm, H),),
        caption=(
            "Left: error on sequences that are not trained on; the dashed line is the error 1/6 of answering 1 always. Right: what "
            "the LSTM answers as it reads three held-out sequences: its answer moves at the two marked numbers and stays between; "
            "the circles are the sums."
        ),
    )


def export_request(lstm: AddingLSTM, H: int) -> ExportRequest:
    """The LSTM with its state and lengths as inputs."""
    state = torch.zeros(2, H)
    return ExportRequest(
        lstm,
        {"x": torch.rand(12, 2, 2), "h": state, "s": state, "lengths": torch.tensor([12, 7])},
        {"x": ("T", "B", None), "h": ("B", None), "s": ("B", None), "lengths": ("B",)},
        state={"h": "h_out", "s": "s_out"},
        outputs=("answer", "h_out", "s_out"),
        name="adding-problem",
    )


def draw_scores(axes: Axes, histories: dict[str, History]) -> None:
    """Validation error by step."""
    for name, history in histories.items():
        axes.plot(*zip(*history.scores, strict=True), label=name)
    axes.axhline(CONSTANT_ERROR, color="black", linestyle="--", linewidth=1)
    axes.set(yscale="log", xlabel="step", ylabel="mean squared error", title="learning")
    axes.legend()


def draw_answers(axes: Axes, lstm: AddingLSTM, x: Tensor, answers: Tensor) -> None:
    """The answer so far at every step of a few sequences x (T, B, 2)."""
    T, B, _ = x.shape
    with torch.no_grad():
        so_far, _, _ = lstm(x, *lstm.layer.initial_state(x))  # (T, B)
    for b in range(B):
        (line,) = axes.plot(range(1, T + 1), so_far[:, b].numpy())
        for t in x[:, b, 1].nonzero().flatten().tolist():
            axes.axvline(t + 1, color=line.get_color(), linestyle=":", linewidth=1)
        axes.plot(T, answers[b].item(), "o", color=line.get_color(), fillstyle="none", clip_on=False)
    axes.set(xlabel="t", ylabel="answer so far", title="reading")


RECIPE = Recipe(
    name="adding-problem",
    row="10",
    title="LSTM as in the lecture",
    claim="The LSTM solves the adding problem at T = 100 (error below 0.01); the simple RNN with the same budget does not.",
    exported_as="ONNX LSTM with activations and P",
    run=run_adding_problem,
)
