"""The recipes' sources of tokens: their entropies against an enumeration of every sequence, their samples against their tables."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from token_equations import assert_drawn_from

from edgeseq_recipes.experiments.correlated_outputs_data import CorrelatedSource
from edgeseq_recipes.experiments.digit_names import LONGEST, NAMES, exact, read_digits, spelt, text
from edgeseq_recipes.experiments.markov_source_data import MarkovSource, echo


def probability(source, first, y):
    """p(y) of a sequence of a Markov source that begins in the context `first`, given as a tuple of tokens."""
    context, p = list(first), 1.0
    for token in y:
        p *= source.table[sum(c * source.vocabulary**i for i, c in enumerate(reversed(context))), token].item()
        context = [*context[1:], token]
    return p


def test_the_stationary_distribution_is_where_the_chain_ends():
    source = MarkovSource(3, 2, seed=1)
    contexts = list(itertools.product(range(3), repeat=2))
    chain = np.array([[probability(source, a, b) for b in contexts] for a in contexts])  # two steps
    late = np.linalg.matrix_power(chain, 500)
    np.testing.assert_allclose(late, np.tile(source.stationary, (9, 1)), atol=1e-10)


def test_the_entropies_are_those_of_blocks():
    source = MarkovSource(3, 2, seed=1)
    contexts = list(itertools.product(range(3), repeat=2))

    def block(n):
        """H(y_1, ..., y_n) of the stationary source, by every sequence."""
        each = [
            sum(source.stationary[i].item() * probability(source, c, y) for i, c in enumerate(contexts))
            for y in itertools.product(range(3), repeat=n)
        ]
        return -sum(p * math.log(p) for p in each)

    for known in range(3):
        assert source.entropy(known) == pytest.approx(block(known + 1) - block(known), abs=1e-10)
    assert source.entropy_rate == pytest.approx(block(6) - block(5), abs=1e-10)
    assert source.entropy(0) > source.entropy(1) > source.entropy(2)


def test_samples_of_the_source_follow_its_table_from_the_first_token():
    source = MarkovSource(2, 2, seed=0)
    y = source.sample(3, 400_000, torch.Generator().manual_seed(0))
    counts = torch.bincount((y * torch.tensor([[4], [2], [1]])).sum(0), minlength=8).numpy()
    contexts = list(itertools.product(range(2), repeat=2))
    exact = [
        sum(source.stationary[i].item() * probability(source, c, z) for i, c in enumerate(contexts))
        for z in itertools.product(range(2), repeat=3)
    ]
    assert_drawn_from(counts, np.array(exact))


def test_the_loss_of_the_source_on_its_own_samples_is_its_entropy_rate():
    source = MarkovSource(3, 2, seed=1)
    y = source.sample(200, 2000, torch.Generator().manual_seed(1))
    assert source.loss(y) == pytest.approx(source.entropy_rate, rel=0.01)


def test_the_last_token_of_an_echo_is_its_first():
    y = echo(4, 5, 1000, torch.Generator().manual_seed(0))
    assert y.shape == (6, 1000)
    assert torch.equal(y[0], y[5])
    assert all(200 < (y[0] == y[t]).sum() < 300 for t in range(1, 5))


def test_both_bounds_of_correlated_outputs_are_those_of_every_output_sequence():
    source = CorrelatedSource(2, 3, seed=0)
    T, B = 3, 4
    x = torch.randint(2, (T, B), generator=torch.Generator().manual_seed(0))
    joint = marginals = 0.0
    for b in range(B):
        p = np.zeros((3,) * T)
        for y in itertools.product(range(3), repeat=T):
            before = (0, *y[:-1])
            p[y] = math.prod(source.table[x[t, b], before[t], y[t]].item() for t in range(T))
        joint -= (p * np.log(p)).sum() / B
        for t in range(T):
            own = p.sum(axis=tuple(axis for axis in range(T) if axis != t))
            marginals -= (own * np.log(own)).sum() / B
    bounds = source.bounds(x)
    assert bounds.joint == pytest.approx(joint, abs=1e-12)
    assert bounds.marginals == pytest.approx(marginals, abs=1e-12)
    assert bounds.marginals > bounds.joint


def test_samples_of_correlated_outputs_follow_the_table():
    source = CorrelatedSource(2, 2, seed=3)
    x, y = source.sample(2, 200_000, torch.Generator().manual_seed(0))
    counts = torch.bincount((x * torch.tensor([[8], [4]]) + y * torch.tensor([[2], [1]])).sum(0), minlength=16).numpy()
    exact = [
        source.table[x1, 0, y1].item() * source.table[x2, y1, y2].item() / 4
        for x1, x2, y1, y2 in itertools.product(range(2), repeat=4)
    ]
    assert_drawn_from(counts, np.array(exact))


def test_names_are_spelt_letter_by_letter_and_read_back():
    y, lengths = spelt(torch.arange(10))
    assert y.shape == (LONGEST, 10)
    assert [text(letters) for letters in y.T] == list(NAMES)
    assert lengths.tolist() == [len(name) + 1 for name in NAMES]
    wrong = y.clone()
    wrong[1, 7] += 1
    assert exact(wrong, y) == 0.9


def test_no_image_is_in_both_parts():
    train, held_out = read_digits(0)
    assert len(train.classes) + len(held_out.classes) == 1797
    seen = {image.numpy().tobytes() for image in train.images}
    assert sum(image.numpy().tobytes() in seen for image in held_out.images) == 0
    assert train.images.min() == 0
    assert train.images.max() == 1
