"""An RNN as a directed graphical model: it learns a Markov source down to its entropy rate, and sees further than any window."""

from __future__ import annotations

import math

import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn import functional as F

from edgeseq.models import AutoregressiveRNN, FixedWindowModel
from edgeseq.models.graphical import ScoringGraph, StepGraph
from edgeseq.training import Schedule
from edgeseq_export import ExportRequest
from edgeseq_recipes.experiments.markov_source_data import MarkovSource, echo
from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_least, at_most, between
from edgeseq_recipes.run import Run
from edgeseq_runtime.bundle import Generation

V, ORDER = 4, 3
SOURCE_SEED = 0  # the same source whatever the run's seed
TRAINED_STEPS = 40  # T of the training sequences
HIDDEN, EMBEDDING = 48, 8
BATCH = 64
WINDOW = 6  # of the model that has to repeat a token from further back
HELD_OUT = 10**6  # added to the run's seed for what nothing is trained on

Model = AutoregressiveRNN | FixedWindowModel


def step_losses(model: Model, y: Tensor) -> Tensor:
    """-log p(y_t | the tokens before) (T,) in nats, averaged over the sequences of y (T, B)."""
    if isinstance(model, FixedWindowModel):
        logits = model(y)  # (T, B, V)
    else:
        start = torch.full_like(y[:1], model.decoder.start)
        logits, _ = model(torch.cat([start, y[:-1]]))
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").reshape(y.shape).mean(1)


def recurrent() -> AutoregressiveRNN:
    """The RNN of both experiments; T is no part of it."""
    return AutoregressiveRNN(V, HIDDEN, embedding_size=EMBEDDING)


def run_markov_source(run: Run) -> Findings:
    """Learns the source with an RNN and with windows of 1 to 3 tokens; then repeats a token from further back than the window."""
    source = MarkovSource(V, ORDER, SOURCE_SEED)
    rnn, windows = train_on_source(run, source)
    generator = torch.Generator().manual_seed(run.seed + HELD_OUT)
    steps = run.pick(1000, 100)
    with torch.no_grad():
        losses = step_losses(rnn, source.sample(steps, run.pick(600, 200), generator))  # (T,)
        y = source.sample(200, run.pick(1000, 200), generator)
        of_window = {k: step_losses(window, y)[ORDER:].mean().item() for k, window in windows.items()}
        own = source.loss(rnn.sample(200, run.pick(500, 100), generator))
    distance = run.pick(12, 3)
    echoes = {name: learn_echo(run, name, model, distance) for name, model in echo_models(distance).items()}
    with run.figure("markov-source", ncols=3, figsize=(9.0, 3.5)) as (_, (left, middle, right)):
        draw_windows(left, source, of_window, losses[ORDER:].mean().item())
        draw_steps(middle, source, losses)
        draw_echoes(right, echoes, distance)
    rate, window = source.entropy_rate, min(WINDOW, distance - 1)
    blind = source.entropy(ORDER - 1)
    return Findings(
        measures=(
            Measure("RNN: loss over the source's entropy rate", losses[ORDER:].mean().item() / rate, at_most(run.pick(1.02, 1.2))),
            Measure(
                f"RNN: the same over the last fifth of {steps} steps, trained on {TRAINED_STEPS}",
                losses[-steps // 5 :].mean().item() / rate,
                at_most(run.pick(1.02, 1.2)),
            ),
            Measure("RNN: the source's loss on the RNN's samples over its entropy rate", own / rate, at_most(run.pick(1.05, 1.4))),
            Measure(f"window of {ORDER - 1}: loss over the entropy rate", of_window[ORDER - 1] / rate, at_least(1.2)),
            Measure(
                f"window of {ORDER - 1}: loss over the least that any such window can have",
                of_window[ORDER - 1] / blind,
                between(0.98, run.pick(1.02, 1.1)),
            ),
            Measure(
                f"RNN: loss on a token from {distance} steps before, over log V",
                echoes["rnn"][-1].item() / math.log(V),
                at_most(run.pick(0.05, 0.8)),
            ),
            Measure(f"window of {window}: the same", echoes["window"][-1].item() / math.log(V), at_least(0.95)),
        ),
        graphs=graphs(rnn),
        caption=(
            f"Left: a Markov source of order {ORDER}; windows of fewer tokens stay at the entropy that is left when the others are "
            "unknown, the RNN reaches the entropy rate. Middle: it does so at any length, with the parameters it was trained with. "
            f"Right: the last token repeats the first, {distance} steps before; the window of {window} can't know it."
        ),
    )


def train_on_source(run: Run, source: MarkovSource) -> tuple[AutoregressiveRNN, dict[int, FixedWindowModel]]:
    """The RNN and the windows of 1 to 3 tokens, on the same batches."""

    def train(name: str, model: Model, steps: int) -> None:
        def loss(generator: torch.Generator) -> Tensor:
            return -model.log_prob(source.sample(TRAINED_STEPS, BATCH, generator)).mean() / TRAINED_STEPS

        run.fit(name, model, loss, Schedule(steps, learning_rate=1e-2, decay="cosine"))

    rnn, windows = recurrent(), {k: FixedWindowModel(V, k, 64, embedding_size=EMBEDDING) for k in range(1, ORDER + 1)}
    train("rnn", rnn, run.pick(900, 120))
    for k, window in windows.items():
        train(f"window-{k}", window, run.pick(900, 40))
    return rnn, windows


def echo_models(distance: int) -> dict[str, Model]:
    """The RNN, and a window that does not reach back to the token which is repeated."""
    return {"rnn": recurrent(), "window": FixedWindowModel(V, min(WINDOW, distance - 1), 64, embedding_size=EMBEDDING)}


def learn_echo(run: Run, name: str, model: Model, distance: int) -> Tensor:
    """Held-out loss (distance + 1,) of each token in nats, after training to predict sequences whose last repeats their first."""

    def sequences(B: int, seed: int) -> Tensor:
        return echo(V, distance, B, torch.Generator().manual_seed(run.seed + seed))

    def loss(generator: torch.Generator) -> Tensor:
        return -model.log_prob(echo(V, distance, BATCH, generator)).mean() / (distance + 1)

    validation = sequences(500, 2 * HELD_OUT)
    schedule = Schedule(run.pick(2000, 60), learning_rate=1e-2, target=0.005 * math.log(V))
    run.fit(f"echo-{name}", model, loss, schedule, score=lambda: step_losses(model, validation)[-1].item())
    with torch.no_grad():
        return step_losses(model, sequences(4000, 3 * HELD_OUT))


def graphs(rnn: AutoregressiveRNN) -> tuple[ExportRequest, ExportRequest]:
    """Scores of whole sequences, and one step after the other."""
    B = 3
    y, h = torch.arange(6 * B).reshape(6, B) % V, torch.zeros(B, HIDDEN)
    score = ExportRequest(
        ScoringGraph(rnn),
        {"y": y, "lengths": torch.tensor([6, 2, 4])},
        {"y": ("T", "B"), "lengths": ("B",)},
        outputs=("log_prob",),
        name="markov-source-score",
    )
    step = ExportRequest(
        StepGraph(rnn),
        {"previous": torch.arange(6 * B).reshape(6, B) % (V + 1), "h": h},
        {"previous": ("T", "B"), "h": ("B", None)},
        state={"h": "h_out"},
        outputs=("log_probs", "h_out"),
        name="markov-source-step",
        generation=Generation(form="step", tokens="previous", scores="log_probs", start=rnn.decoder.start),
    )
    return score, step


def draw_windows(axes: Axes, source: MarkovSource, of_window: dict[int, float], of_rnn: float) -> None:
    """Loss by how far back a model sees, and the least it can be."""
    known = range(ORDER + 1)
    axes.plot(known, [source.entropy(k) for k in known], "k--", label="exact H(y | last k)")
    axes.plot(list(of_window), list(of_window.values()), "o", color="tab:orange", label="window of k, trained")
    axes.axhline(of_rnn, color="tab:blue", label="RNN, trained")
    axes.set(xlabel="k, tokens seen", ylabel="loss, nats a token", title=f"Markov source of order {ORDER}", xticks=list(known))
    axes.set_ylim(bottom=0.5)
    axes.legend()


def draw_steps(axes: Axes, source: MarkovSource, losses: Tensor) -> None:
    """The RNN's loss by time step, in means of 20 steps."""
    width = 20
    means = losses[: len(losses) // width * width].reshape(-1, width).mean(1)
    axes.plot([(i + 0.5) * width for i in range(len(means))], means, label=f"RNN, means of {width}")
    axes.axhline(source.entropy_rate, color="black", linestyle="--", label="entropy rate")
    axes.axvline(TRAINED_STEPS, color="tab:gray", linestyle=":", label="length trained on")
    axes.set(xlabel="time step", ylabel="loss, nats a token", title="the same parameters at any T", ylim=(0, 1.5))
    axes.legend(loc="lower right")


def draw_echoes(axes: Axes, echoes: dict[str, Tensor], distance: int) -> None:
    """Loss by position of the token."""
    positions = range(1, distance + 2)
    for name, style in (("window", "s-"), ("rnn", "o-")):
        label = "RNN" if name == "rnn" else f"window of {min(WINDOW, distance - 1)}"
        axes.plot(positions, echoes[name], style, markersize=4, label=label, color="tab:blue" if name == "rnn" else "tab:orange")
    axes.axhline(math.log(V), color="black", linestyle="--", label="log V")
    axes.set(xlabel="position of the token", ylabel="loss, nats", title=f"last token repeats the first, T = {distance + 1}")
    axes.set_xticks(positions[:: max(1, distance // 6)])
    axes.set_ylim(bottom=-0.05)
    axes.legend(loc="lower left")


RECIPE = Recipe(
    name="markov-source",
    row="1",
    title="RNN as a directed graphical model",
    claim=(
        "Through its state an RNN models p(y_t | all of the past) with parameters that do not grow with T; edges that reach back "
        "k steps miss every dependency from further back."
    ),
    exported_as="scoring graph, step graph",
    run=run_markov_source,
)
