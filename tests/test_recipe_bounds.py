"""The bounds and the measuring of the recipes later-input, grid-digits and deep-transitions, against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeseq import GRUCell
from edgeseq.models import GridRNN
from edgeseq_recipes.experiments import deep_transitions, grid_digits, later_input


def test_later_input_labels_a_step_by_the_marks_around_it():
    batch = later_input.draw(torch.Generator().manual_seed(0), 50)
    K, labels = later_input.TYPES, batch.labels.numpy()
    for b, length in enumerate(batch.lengths.tolist()):
        symbols = batch.symbols[:length, b].tolist()
        assert symbols[0] < K
        assert symbols[-1] < K
        for t in range(length):
            before = next(symbols[s] for s in range(t, -1, -1) if symbols[s] < K)
            after = next(symbols[s] for s in range(t, length) if symbols[s] < K)
            assert labels[t, b] == K * before + after


@pytest.mark.parametrize("forward", [True, False])
def test_the_ceiling_is_what_a_perfect_memory_of_one_direction_reaches(forward):
    batch = later_input.draw(torch.Generator().manual_seed(1), 20_000)
    K, known = later_input.TYPES, batch.previous if forward else batch.following
    own = batch.symbols.gather(0, known)  # the type that one direction knows
    marked = batch.to_next == 0
    guess = torch.where(marked, own, 0)  # of the other one: as good as any away from the marks
    found = K * own + guess if forward else K * guess + own
    reached = (found == batch.labels)[batch.live].double().mean().item()
    limit = later_input.ceiling(batch)
    assert abs(reached - limit.accuracy) < 4 * limit.deviation < 0.01


def test_the_ceilings_deviation_is_that_of_a_constant_guess():
    reached, limits = [], []
    for seed in range(400):
        batch = later_input.draw(torch.Generator().manual_seed(seed), 20)
        right = (batch.to_next == 0) | (batch.symbols.gather(0, batch.following) == 0)
        limits.append(later_input.ceiling(batch))
        reached.append(right[batch.live].double().mean().item() - limits[-1].accuracy)
    assert np.std(reached) == pytest.approx(np.sqrt(np.mean([limit.deviation**2 for limit in limits])), rel=0.15)


def test_reach_is_the_norm_of_the_jacobian():
    grid = GridRNN(GRUCell, 2, 3)
    image = torch.randn(3, 4, 2)
    double = GridRNN(GRUCell, 2, 3).double()
    double.load_state_dict(grid.state_dict())
    jacobian = torch.autograd.functional.jacobian(lambda x: double(x.unsqueeze(2)).squeeze(2), image.double())
    torch.testing.assert_close(grid_digits.reach(grid, image), jacobian.square().sum((2, 5)).sqrt())


def test_images_are_moved_each_by_its_own_amounts_within_the_bounds(monkeypatch):
    blob = torch.zeros(8, 8, 200, 1)
    blob[3:5, 3:5] = 1.0  # in the middle: turned and scaled it stays there
    weights = torch.arange(8) - 3.5

    def centres():
        moved = grid_digits.moved(blob, torch.Generator().manual_seed(0))[..., 0]  # (8, 8, B)
        return torch.stack([(moved.sum(1 - axis) * weights[:, None]).sum(0) / moved.sum((0, 1)) for axis in (0, 1)])

    centre = centres()
    assert centre.abs().max() < 1.2 * grid_digits.SHIFT
    assert (centre.std(1) > 0.4 * grid_digits.SHIFT).all()
    for amount in ("SHIFT", "TURN", "SCALE"):
        monkeypatch.setattr(grid_digits, amount, 0.0)
    images = torch.rand(8, 8, 5, 1)
    torch.testing.assert_close(grid_digits.moved(images, torch.Generator().manual_seed(0)), images)


def test_the_digits_split_has_no_image_twice():
    split = grid_digits.digits(0)
    assert [len(part.labels) for part in split] == [1437, 360]
    together = torch.cat([part.images for part in split], dim=2)[..., 0].permute(2, 0, 1).flatten(1)
    assert len(np.unique(together.numpy(), axis=0)) == 1797


@pytest.mark.parametrize(("depth", "skip"), [(1, False), (3, False), (3, True)])
def test_the_expected_factor_is_that_of_wide_random_networks(depth, skip):
    transition = deep_transitions.Transition("", depth, skip)
    H, random = deep_transitions.HIDDEN, np.random.default_rng(0)
    bound, factors = 1 / np.sqrt(H), []
    for _ in range(8):

        def matrix(*shape):
            return random.uniform(-bound, bound, shape)

        W, b, S = matrix(depth, H, H), matrix(depth, H), matrix(H, H) * skip
        P, p, U, h, g = matrix(H, deep_transitions.FEATURES), matrix(H), matrix(H, H), np.zeros(H), np.eye(H)
        for t in range(14):
            u = np.tanh(p + P @ random.standard_normal(deep_transitions.FEATURES))
            before, J, a = h, np.eye(H), h
            for layer in range(depth):
                last = layer == depth - 1
                a = np.tanh(b[layer] + W[layer] @ a + (U @ u if layer == 0 else 0) + (S @ before if last else 0))
                if t >= 10:
                    J = (1 - a**2)[:, None] * (W[layer] @ J + (S if last else 0))
            h = a
            if t >= 10:
                g = J @ g
        factors.append((g**2).sum() / H)
    assert np.exp(np.log(factors).mean()) ** (1 / 8) == pytest.approx(deep_transitions.expected_factor(transition), rel=0.05)


def test_the_distance_of_a_steady_decay():
    k = torch.arange(deep_transitions.FARTHEST + 1)
    for factor in (0.2, 0.5, 0.9):
        assert deep_transitions.distance(factor**k) == pytest.approx(np.log(0.01) / np.log(factor), rel=1e-5)
