"""A sequence given a sequence of the same length: with the previous output fed back, and without."""

from __future__ import annotations

from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from torch import Tensor

from edgeseq.models import IndependentOutputsRNN, SequenceConditionedRNN
from edgeseq.models.conditional import IndependentOutputsGraph, SequenceStepGraph
from edgeseq.models.token_decoder import gumbel_noise
from edgeseq.training import History, Schedule
from edgeseq_export import ExportRequest
from edgeseq_recipes.experiments.correlated_outputs_data import Bounds, CorrelatedSource
from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_least, at_most, between
from edgeseq_recipes.run import Run
from edgeseq_runtime.bundle import Generation

X, V = 3, 4
SOURCE_SEED = 0  # the same source whatever the run's seed
T, BATCH, HIDDEN = 20, 64, 32
HELD_OUT = 10**6  # added to the run's seed for what nothing is trained on

Model = SequenceConditionedRNN | IndependentOutputsRNN


class Fit(NamedTuple):
    """One network's training, and what it reached."""

    history: History
    held_out: float  # nats a sequence


def run_correlated_outputs(run: Run) -> Findings:
    """Both networks on the same batches, beside the exact bounds of the held-out inputs."""
    source = CorrelatedSource(X, V, SOURCE_SEED)
    x, y = source.sample(T, run.pick(6000, 1000), torch.Generator().manual_seed(run.seed + HELD_OUT))
    bounds = source.bounds(x)
    feedback, independent = SequenceConditionedRNN(X, V, HIDDEN, embedding_size=8), IndependentOutputsRNN(X, V, HIDDEN)
    fits = {
        "feedback": train(run, "feedback", feedback, source, x, y),
        "independent": train(run, "independent", independent, source, x, y),
    }
    inputs, generator = source.one_hot(x), torch.Generator().manual_seed(run.seed)
    samples = {
        "source": y,
        "with feedback": feedback.sample(inputs, generator),
        "without": independent_sample(independent, inputs, generator),
    }
    with run.figure("correlated-outputs", ncols=2, figsize=(8.8, 3.6)) as (_, (left, right)):
        draw_scores(left, fits, bounds)
        draw_pairs(right, samples)
    fed, unfed = fits["feedback"].held_out, fits["independent"].held_out
    # Untrained, a network without feedback is at 1.12: as good as log V a token.
    within, near = between(0.97, run.pick(1.03, 1.1)), between(0.97, run.pick(1.03, 1.07))
    return Findings(
        measures=(
            Measure("with feedback: loss over the exact entropy H(y | x)", fed / bounds.joint, within),
            Measure("without: loss over the exact sum of the marginals' entropies", unfed / bounds.marginals, near),
            Measure("without: loss over the exact entropy H(y | x)", unfed / bounds.joint, at_least(1.2)),
            Measure("with feedback: loss over the sum of the marginals' entropies", fed / bounds.marginals, at_most(0.8)),
        ),
        graphs=graphs(feedback, independent),
        caption=(
            "Left: held-out loss; fed back, the outputs' joint likelihood reaches the bound, and without feedback the sum of the "
            "marginals. Right: the most frequent pairs of neighbouring outputs in the source, and how often samples of either "
            "network show them."
        ),
    )


def train(run: Run, name: str, model: Model, source: CorrelatedSource, x: Tensor, y: Tensor) -> Fit:
    """A fit watched on validation sequences of its own, and the loss on the held-out x and y (T, B)."""
    seen, answers = source.sample(T, 1000, torch.Generator().manual_seed(run.seed + 2 * HELD_OUT))

    def loss(generator: torch.Generator) -> Tensor:
        inputs, outputs = source.sample(T, BATCH, generator)
        return -model.log_prob(outputs, source.one_hot(inputs)).mean() / T

    history = run.fit(
        name,
        model,
        loss,
        Schedule(run.pick(1200, 120), learning_rate=1e-2, decay="cosine", evaluate_every=run.pick(50, 20)),
        score=lambda: -model.log_prob(answers, source.one_hot(seen)).mean().item(),
    )
    with torch.no_grad():
        return Fit(history, -model.log_prob(y, source.one_hot(x)).mean().item())


@torch.no_grad()
def independent_sample(model: IndependentOutputsRNN, x: Tensor, generator: torch.Generator) -> Tensor:
    """One sample y (T, B) for each x (T, B, X): every output by itself."""
    logits, _ = model(x)
    y: Tensor = (logits + gumbel_noise(logits.shape, logits, generator)).argmax(-1)
    return y


def graphs(feedback: SequenceConditionedRNN, independent: IndependentOutputsRNN) -> tuple[ExportRequest, ExportRequest]:
    """The step of the network with feedback, and the network without as one native node."""
    B = 3
    x = torch.eye(X)[torch.arange(6 * B).reshape(6, B) % X]  # (6, B, X)
    axes: dict[str, tuple[str | None, ...]] = {"x": ("T", "B", None), "h": ("B", None)}
    step = ExportRequest(
        SequenceStepGraph(feedback),
        {"previous": torch.arange(6 * B).reshape(6, B) % (V + 1), "x": x, "h": torch.zeros(B, HIDDEN)},
        {"previous": ("T", "B"), **axes},
        state={"h": "h_out"},
        outputs=("log_probs", "h_out"),
        name="correlated-outputs-step",
        generation=Generation(form="step", tokens="previous", scores="log_probs", start=feedback.decoder.start),
    )
    whole = ExportRequest(
        IndependentOutputsGraph(independent),
        {"x": x.clone(), "h": torch.zeros(B, HIDDEN)},
        axes,
        state={"h": "h_out"},
        outputs=("log_probs", "h_out"),
        name="correlated-outputs-independent",
    )
    return step, whole


def draw_scores(axes: Axes, fits: dict[str, Fit], bounds: Bounds) -> None:
    """Validation loss of both networks by step, between the bounds."""
    for name, label in (("independent", "without feedback"), ("feedback", "with feedback")):
        steps, scores = zip(*fits[name].history.scores, strict=True)
        axes.plot(steps, scores, label=label, color="tab:orange" if name == "independent" else "tab:blue")
    axes.axhline(bounds.marginals, color="black", linestyle=":", label="Σ H(y_t | x), exact")
    axes.axhline(bounds.joint, color="black", linestyle="--", label="H(y | x), exact")
    axes.set(xlabel="training step", ylabel="loss, nats a sequence", title=f"outputs correlated given x, T = {T}")
    axes.legend()


def draw_pairs(axes: Axes, outputs: dict[str, Tensor]) -> None:
    """Shares of the pairs (y_{t-1}, y_t) in outputs (T, B), the source's most frequent first."""
    shares = {name: torch.bincount((V * y[:-1] + y[1:]).flatten(), minlength=V * V).double() for name, y in outputs.items()}
    order = shares["source"].argsort(descending=True)[:8]
    width = 0.8 / len(shares)
    for i, ((name, counts), colour) in enumerate(zip(shares.items(), ("0.3", "tab:blue", "tab:orange"), strict=True)):
        places = [p + (i - 1) * width for p in range(len(order))]
        axes.bar(places, counts[order] / counts.sum(), width, label=name, color=colour)
    axes.set_xticks(range(len(order)), [f"{pair // V}{pair % V}" for pair in order.tolist()])
    axes.set(xlabel="pair of neighbouring outputs", ylabel="share", title="samples given the same x")
    axes.legend()


RECIPE = Recipe(
    name="correlated-outputs",
    row="3",
    title="Conditional RNN, sequence to sequence of the same length",
    claim="Without feedback the outputs are independent given x; with the last one fed back any joint distribution is in reach.",
    exported_as="step graph; without feedback one native node",
    run=run_correlated_outputs,
)
