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

# How far the images are moved while training, either way.
TURN = 0.2  # radians
SCALE = 0.1
SHIFT = 1.0  # pixels


class Digits(NamedTuple):
    """Handwritten digits, brightness in 0..1."""

    images: Tensor  # (8, 8, N, 1)
    labels: Tensor  # (N,)

    def at(self, which: Tensor) -> Digits:
        """Some of them."""
        return Digits(self.images[:, :, which], self.labels[which])


def digits(seed: int) -> tuple[Digits, Digits]:
    """Scikit-learn's 1,797 digits: those to train on and a fifth that is held out, every class in its share."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
    pixels = torch.tensor(images / BRIGHTEST, dtype=torch.float32).reshape(-1, SIDE, SIDE, 1).permute(1, 2, 0, 3)
    every = Digits(pixels.contiguous(), torch.tensor(labels))
    training, held_out = (every.at(torch.tensor(part)) for part in parts)
    return training, held_out


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """The images (8, 8, B, 1), each turned, scaled and shifted by amounts of its own, within TURN, SCALE and SHIFT."""
    B = images.shape[2]
    turn, scale, *shift = (2 * torch.rand(4, B, generator=generator) - 1).unbind()
    angle, scale = TURN * turn, 1 + SCALE * scale
    right, down = (SHIFT * 2 / SIDE * s for s in shift)  # in halves of the image
    across = torch.stack([scale * angle.cos(), -scale * angle.sin(), right], dim=1)
    along = torch.stack([scale * angle.sin(), scale * angle.cos(), down], dim=1)  # (B, 3)
    places = F.affine_grid(torch.stack([across, along], dim=1), [B, 1, SIDE, SIDE], align_corners=False)  # (B, 8, 8, 2)
    return F.grid_sample(images.permute(2, 3, 0, 1), places, align_corners=False).permute(2, 3, 0, 1)


def train(run: Run, name: str, net: GridClassifier, training: Digits, steps: int) -> None:
    """Cross-entropy of the image's logits and of every grid point's own: each output is asked for the digit of the whole image."""

    def loss(generator: torch.Generator) -> Tensor:
        batch = training.at(torch.randint(len(training.labels), (BATCH,), generator=generator))
        logits = net.everywhere(moved(batch.images, generator))  # (8, 8, B, 10)
        everywhere = F.cross_entropy(logits.flatten(0, 2), batch.labels.repeat(SIDE * SIDE))
        return everywhere + F.cross_entropy(logits.mean((0, 1)), batch.labels)

    schedule = Schedule(steps, learning_rate=2e-2, decay="cosine")
    run.fit(name, net, loss, schedule)


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
    training, held_out = digits(run.seed)
    four = GridClassifier(GridRNN(GRUCell, 1, FEATURES), CLASSES)
    two = GridClassifier(GridRNN(GRUCell, 1, FEATURES, both_ways=False), CLASSES)
    train(run, "four-directions", four, training, run.pick(2500, 70))
    train(run, "right-and-down", two, training, run.pick(300, 2))
    image = held_out.images[:, :, 0]  # (8, 8, 1)
    norms = {"four directions": reach(four.grid, image), "right and down": reach(two.grid, image)}
    seen, corner = pixels_seen(norms["four directions"]), pixels_seen(norms["right and down"])
    everywhere = {
        "four directions": accuracy_by_point(four, held_out),
        "right and down": accuracy_by_point(two, held_out),
    }
    quadrant = (torch.arange(SIDE)[:, None] + 1) * (torch.arange(SIDE) + 1)
    wrong = (corner != quadrant).sum().item()
    draw(run, norms, everywhere)
    return Findings(
        (
            Measure("held-out accuracy", accuracy(four, held_out), at_least(run.pick(0.97, 0.15))),
            Measure("pixels that reach O[i,j], the fewest of any i, j", seen.min().item(), at_least(SIDE * SIDE)),
            Measure("least ‖∂O/∂x‖ over the largest", (norms["four directions"].min() / norms["four directions"].max()).item()),
            Measure("right and down: outputs not reached by exactly what is above and to the left", wrong, at_most(0)),
            Measure("held-out accuracy of the worst output by itself", everywhere["four directions"].min().item()),
            Measure("right and down: accuracy of the last output by itself", everywhere["right and down"][-1, -1].item()),
            Measure("right and down: accuracy of the worst output by itself", everywhere["right and down"].min().item()),
        ),
        graphs=(
            ExportRequest(
                four, {"x": held_out.images[:, :7, :3]}, {"x": ("H", "W", "B", None)}, outputs=("logits",), name="grid-digits"
            ),
        ),
        caption=(
            "How strongly each pixel of a held-out digit moves the trained output O[i,j] (the cross), for three outputs, and how "
            "often each output by itself names the digit. Above with four directions, below with right and down alone, where "
            "pixels left white have no influence at all; that network was trained for fewer steps, so that the accuracies compare "
            "only in where outputs fail for want of pixels."
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
