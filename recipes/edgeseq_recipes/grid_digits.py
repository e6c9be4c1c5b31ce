"""Digits read by recurrent nets over the grid of pixels: every output sees the whole image."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.image import AxesImage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

from edgeseq import GRUCell
from edgeseq.models import GridClassifier, GridRNN
from edgeseq.training import Schedule
from edgeseq_export import ExportRequest
from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_least, at_most
from edgeseq_recipes.run import Run

SIDE = 8  # pixels
CLASSES = 10
BRIGHTEST = 16.0
BATCH = 64
FEATURES = 24  # of each direction
SHIFT = 1  # pixels, either way, while training


class Digits(NamedTuple):
    """Handwritten digits, brightness in 0..1."""

    images: Tensor  # (8, 8, N, 1)
    labels: Tensor  # (N,)

    def at(self, which: Tensor) -> Digits:
        """Some of them."""
        return Digits(self.images[:, :, which], self.labels[which])


class Split(NamedTuple):
    """Three parts without an image in common."""

    training: Digits
    watched: Digits  # says when to stop
    held_out: Digits


def digits(seed: int) -> Split:
    """Scikit-learn's 1,797 digits: 20 % held out, 10 % watched, as many of each class as their share."""
    images, labels = load_digits(return_X_y=True)
    rest, held_out = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
    training, watched = train_test_split(rest, test_size=0.125, stratify=labels[rest], random_state=seed)
    pixels = torch.tensor(images / BRIGHTEST, dtype=torch.float32).reshape(-1, SIDE, SIDE, 1).permute(1, 2, 0, 3)
    every = Digits(pixels.contiguous(), torch.tensor(labels))
    return Split(*(every.at(torch.tensor(part)) for part in (training, watched, held_out)))


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """The images (8, 8, B, 1), each moved by up to `SHIFT` pixels down or up and right or left; what comes in is blank."""
    B, pixels = images.shape[2], torch.arange(SIDE)[:, None]
    down, right = torch.randint(2 * SHIFT + 1, (2, B), generator=generator)
    padded = F.pad(images, (0, 0, 0, 0, SHIFT, SHIFT, SHIFT, SHIFT))  # (10, 10, B, 1)
    return padded[(pixels + down)[:, None], (pixels + right)[None], torch.arange(B)]


def train(run: Run, name: str, net: GridClassifier, split: Split, steps: int) -> None:
    """Cross-entropy of the image's logits and of every grid point's own: each output is asked for the digit of the whole image."""

    def loss(generator: torch.Generator) -> Tensor:
        batch = split.training.at(torch.randint(len(split.training.labels), (BATCH,), generator=generator))
        logits = net.everywhere(shifted(batch.images, generator))  # (8, 8, B, 10)
        everywhere = F.cross_entropy(logits.flatten(0, 2), batch.labels.repeat(SIDE * SIDE))
        return everywhere + F.cross_entropy(logits.mean((0, 1)), batch.labels)

    schedule = Schedule(steps, learning_rate=2e-2, decay="cosine", evaluate_every=min(steps, 100))
    run.fit(name, net, loss, schedule, score=lambda: 1 - accuracy(net, split.watched))


def accuracy(net: GridClassifier, part: Digits) -> float:
    """Share of the images whose digit is found."""
    with torch.no_grad():
        return float((net(part.images).argmax(-1) == part.labels).float().mean())


def accuracy_by_point(net: GridClassifier, part: Digits) -> Tensor:
    """Share of the images whose digit each output finds by itself (8, 8)."""
    with torch.no_grad():
        return (net.everywhere(part.images).argmax(-1) == part.labels).float().mean(-1)


def reach(grid: GridRNN, image: Tensor) -> Tensor:
    """‖∂O[i,j] / ∂x[k,l]‖, the Frobenius norm, in float64, for an image (H, W, C): (H, W, H, W)."""
    H, W, _ = image.shape
    every = torch.arange(H * W)
    x = image.double()[:, :, None].repeat(1, 1, H * W, 1).requires_grad_()  # a copy for each output point
    outputs = copy.deepcopy(grid).double()(x).flatten(0, 1)[every, every]  # (H*W, 2F): of each copy its own point
    squares = torch.zeros(H, W, H * W, dtype=torch.float64)
    for feature in range(outputs.shape[1]):
        (gradient,) = torch.autograd.grad(outputs[:, feature].sum(), x, retain_graph=True)
        squares += gradient.square().sum(-1)
    return squares.sqrt().permute(2, 0, 1).reshape(H, W, H, W)


def pixels_seen(norms: Tensor) -> Tensor:
    """How many pixels reach each output (H, W)."""
    return (norms > 0).sum((2, 3))


def run_grid_digits(run: Run) -> Findings:
    """Four directions, and right and down alone."""
    split = digits(run.seed)
    four = GridClassifier(GridRNN(GRUCell, 1, FEATURES), CLASSES)
    two = GridClassifier(GridRNN(GRUCell, 1, FEATURES, both_ways=False), CLASSES)
    train(run, "four-directions", four, split, run.pick(1200, 70))
    train(run, "right-and-down", two, split, run.pick(400, 5))
    image = split.held_out.images[:, :, 0]  # (8, 8, 1)
    norms = {"four directions": reach(four.grid, image), "right and down": reach(two.grid, image)}
    seen, corner = pixels_seen(norms["four directions"]), pixels_seen(norms["right and down"])
    everywhere = {
        "four directions": accuracy_by_point(four, split.held_out),
        "right and down": accuracy_by_point(two, split.held_out),
    }
    quadrant = (torch.arange(SIDE)[:, None] + 1) * (torch.arange(SIDE) + 1)
    wrong = (corner != quadrant).sum().item()
    draw(run, norms, everywhere)
    return Findings(
        (
            Measure("held-out accuracy", accuracy(four, split.held_out), at_least(run.pick(0.97, 0.5))),
            Measure("pixels that reach O[i,j], the fewest of any i, j", seen.min().item(), at_least(SIDE * SIDE)),
            Measure("least ‖∂O/∂x‖ over the largest", (norms["four directions"].min() / norms["four directions"].max()).item()),
            Measure("right and down: outputs not reached by exactly what is above and to the left", wrong, at_most(0)),
            Measure("held-out accuracy of the worst output by itself", everywhere["four directions"].min().item()),
            Measure("right and down: accuracy of the last output by itself", everywhere["right and down"][-1, -1].item()),
            Measure("right and down: accuracy of the worst output by itself", everywhere["right and down"].min().item()),
        ),
        graphs=(
            ExportRequest(
                four, {"x": split.held_out.images[:, :7, :3]}, {"x": ("H", "W", "B", None)}, outputs=("logits",), name="grid-digits"
            ),
        ),
        caption=(
            "How strongly each pixel of a held-out digit moves the trained output O[i,j] (the cross), for three outputs, and how "
            "often each output by itself names the digit. Above with four directions, below with right and down alone, where "
            "pixels left white have no influence at all."
        ),
    )


def draw(run: Run, norms: Mapping[str, Tensor], accuracies: Mapping[str, Tensor]) -> None:
    """A row a network: the Jacobian's norm over the pixels for three outputs, and the accuracy of every output."""
    points = ((0, 0), (3, 4), (SIDE - 1, SIDE - 1))
    with run.figure("grid-digits", nrows=2, ncols=4, figsize=(9.0, 4.6)) as (figure, rows):
        for row, name in zip(rows, norms, strict=True):
            for axes, point in zip(row, points, strict=False):
                image = draw_norms(axes, norms[name], point)
            figure.colorbar(image, ax=row[:3], label=f"{name}\n‖∂O/∂x‖ over the largest", shrink=0.9)
            image = row[3].imshow(100 * accuracies[name], vmin=0, vmax=100, cmap="viridis")
            figure.colorbar(image, ax=row[3], label="accuracy in %", shrink=0.9)
            row[3].set(title="O[i,j] by itself")
        for axes in rows.flat:
            axes.set(xticks=(), yticks=())


def draw_norms(axes: Axes, norms: Tensor, point: tuple[int, int]) -> AxesImage:
    """Of one output, on a logarithmic scale that all outputs share in shape."""
    own = norms[point]
    image = axes.imshow(own / own.max(), norm=LogNorm(1e-3, 1), cmap="magma_r")
    axes.plot(point[1], point[0], "x", color="tab:green", markersize=9, markeredgewidth=2.5)
    axes.set(title=f"O[{point[0]},{point[1]}]")
    return image


RECIPE = Recipe(
    name="grid-digits",
    row="5",
    title="2-D RNN in four directions",
    claim="With recurrences in four directions over a grid, every output O[i,j] sees the whole grid.",
    exported_as="one bidirectional node over rows, one over columns",
    run=run_grid_digits,
)
