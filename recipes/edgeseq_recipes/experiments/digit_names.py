"""An RNN conditioned on one vector: it spells the name of a handwritten digit, letter by letter."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from edgeseq.models import VectorConditionedRNN
from edgeseq.models.conditional import GeneratingGraph, VectorEncoderGraph, VectorStepGraph
from edgeseq.models.token_decoder import gumbel_noise
from edgeseq.training import Schedule
from edgeseq_export import ExportRequest
from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_least, at_most
from edgeseq_recipes.run import Run
from edgeseq_runtime.bundle import Generation

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ALPHABET = "." + "".join(sorted(set("".join(NAMES))))  # the full stop ends a name
V, END = len(ALPHABET), 0
LONGEST = max(map(len, NAMES)) + 1  # with the full stop
PIXELS, CONTEXT, HIDDEN = 64, 32, 32
BATCH = 64
PIXEL_NOISE = 0.1  # deviation of what is added to each training image, whose pixels are in 0..1


class Digits(NamedTuple):
    """Images and what they show."""

    images: Tensor  # (N, 64) in 0..1
    classes: Tensor  # (N,) in 0..9


def read_digits(seed: int) -> tuple[Digits, Digits]:
    """scikit-learn's 1797 images of 8x8 pixels: three quarters to train on, a quarter held out, the classes in equal shares."""
    found = load_digits()
    images, classes = torch.from_numpy(found.data).float() / 16, torch.from_numpy(found.target).long()
    parts = train_test_split(np.arange(len(classes)), test_size=0.25, random_state=seed, stratify=found.target)
    train, held_out = (Digits(images[part], classes[part]) for part in parts)
    return train, held_out


def spelt(classes: Tensor) -> tuple[Tensor, Tensor]:
    """The names' letters (LONGEST, N), each name followed by full stops, and their lengths (N,) with one of these."""
    letters = torch.tensor([[ALPHABET.index(c) for c in name.ljust(LONGEST, ".")] for name in NAMES]).T  # (LONGEST, 10)
    return letters[:, classes], torch.tensor([len(name) + 1 for name in NAMES])[classes]


def text(letters: Tensor) -> str:
    """One name (T,) up to its full stop."""
    return "".join(ALPHABET[i] for i in letters.tolist()).split(".")[0]


def speller() -> VectorConditionedRNN:
    """A perceptron from pixels to a vector, and the RNN that the vector conditions."""
    encoder = nn.Sequential(nn.Linear(PIXELS, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, CONTEXT), nn.Tanh())
    return VectorConditionedRNN(encoder, CONTEXT, V, HIDDEN, end=END)


def run_digit_names(run: Run) -> Findings:
    """Trains on three quarters of the images; spells the rest, greedily and by sampling."""
    train, held_out = read_digits(run.seed)
    model = speller()

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(train.classes), (BATCH,), generator=generator)
        images = train.images[chosen] + PIXEL_NOISE * torch.randn(BATCH, PIXELS, generator=generator)
        y, lengths = spelt(train.classes[chosen])
        return -model.log_prob(y, images, lengths).mean()

    run.fit("speller", model, loss, Schedule(run.pick(2000, 150), learning_rate=run.pick(3e-3, 1e-2), decay="cosine"))
    y, lengths = spelt(held_out.classes)
    generator = torch.Generator().manual_seed(run.seed)
    noise = gumbel_noise((LONGEST, len(held_out.classes), V), held_out.images, generator)
    with torch.no_grad():
        greedy = model.generate(held_out.images, torch.zeros_like(noise))  # (LONGEST, N)
        sampled = model.generate(held_out.images, noise)
        nats = -model.log_prob(y, held_out.images, lengths).mean().item()
    draw(run, held_out, greedy, y)
    spellings = [text(letters) for letters in greedy.T]
    return Findings(
        measures=(
            Measure("exact names on held-out images, greedy", exact(greedy, y), at_least(run.pick(0.95, 0.8))),
            Measure("exact names on held-out images, sampled", exact(sampled, y), at_least(run.pick(0.9, 0.7))),
            Measure("greedy spellings that are no digit's name", sum(s not in NAMES for s in spellings) / len(spellings)),
            Measure("held-out loss, nats a name", nats, at_most(run.pick(0.4, 1.0))),
        ),
        graphs=graphs(model, held_out.images[:3].contiguous()),
        caption=(
            "Held-out digits and the names the network spells from them, letter by letter. First the misspelt or mistaken ones, "
            "in red, with the right name; then some of the others."
        ),
    )


def exact(found: Tensor, y: Tensor) -> float:
    """Share of the names (T, N) whose every letter is right."""
    return (found == y).all(0).double().mean().item()


def graphs(model: VectorConditionedRNN, images: Tensor) -> tuple[ExportRequest, ...]:
    """Encoder and step for a loop outside; and the whole generation in one graph, with its randomness as an input."""
    B = len(images)
    with torch.no_grad():
        context, h = VectorEncoderGraph(model)(images)
    previous = torch.arange(5 * B).reshape(5, B) % (V + 1)
    encoder = ExportRequest(
        VectorEncoderGraph(model), {"x": images}, {"x": ("B", None)}, outputs=("context", "h"), name="digit-names-encoder"
    )
    step = ExportRequest(
        VectorStepGraph(model),
        {"previous": previous, "context": context, "h": h},
        {"previous": ("T", "B"), "context": ("B", None), "h": ("B", None)},
        state={"h": "h_out"},
        outputs=("log_probs", "h_out"),
        name="digit-names-step",
        generation=Generation(
            form="step",
            tokens="previous",
            scores="log_probs",
            start=model.decoder.start,
            end=END,
            symbols=("", *ALPHABET[1:]),
            joiner="",
        ),
    )
    noise = gumbel_noise((LONGEST, B, V), images, torch.Generator().manual_seed(0))
    generation = ExportRequest(
        GeneratingGraph(model),
        {"x": images, "noise": noise},
        {"x": ("B", None), "noise": ("T", "B", None)},
        outputs=("y",),
        name="digit-names-generation",
    )
    return encoder, step, generation


def draw(run: Run, held_out: Digits, greedy: Tensor, y: Tensor) -> None:
    """Images with their spelt names, the wrong ones first."""
    rows, columns = 3, 8
    right = (greedy == y).all(0)
    order = torch.argsort(right.int(), stable=True)[: rows * columns]
    with run.figure("digit-names", nrows=rows, ncols=columns, figsize=(9.0, 4.2)) as (_, grid):
        for axes, i in zip(grid.flat, order.tolist(), strict=True):
            draw_digit(axes, held_out.images[i], text(greedy[:, i]), NAMES[int(held_out.classes[i])])


def draw_digit(axes: Axes, image: Tensor, spelling: str, name: str) -> None:
    """One image under its name; in red where that is wrong."""
    axes.imshow(image.reshape(8, 8), cmap="gray_r")
    wrong = spelling != name
    axes.set_title(f"{spelling}\n({name})" if wrong else spelling, color="tab:red" if wrong else "black")
    axes.set(xticks=[], yticks=[])


RECIPE = Recipe(
    name="digit-names",
    row="2",
    title="RNN conditioned on one vector",
    claim="One vector, an input at every step and the initial state, makes an RNN a distribution over sequences given it.",
    exported_as="encoder, step; one graph that generates",
    run=run_digit_names,
)
