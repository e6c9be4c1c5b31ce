"""The data of the recipe for recursive networks: expressions, their values and how they are written."""

from __future__ import annotations

from random import Random

import pytest

from edgeseq.models import TreeBatch
from edgeseq_recipes.experiments.nested_expressions import AND, NOT, OR, XOR, balanced, expression, tokens, value

WRITTEN = ("False", "True", " not ", " and ", " or ", " != ", "(", ")")


def depth(tree):
    return 1 + max(map(depth, tree.children)) if tree.children else 0


@pytest.mark.parametrize("wanted", [0, 1, 2, 5, 8])
def test_an_expression_is_as_deep_as_asked_and_has_the_value_that_python_finds(wanted):
    random = Random(wanted)
    for _ in range(50):
        tree = expression(wanted, random)
        assert depth(tree) == wanted
        assert value(tree) == eval("".join(WRITTEN[token] for token in tokens(tree)))


def test_every_operator_occurs_and_each_depth_is_balanced():
    trees = balanced(240, range(1, 5), Random(0))
    assert {label for tree in trees for label in TreeBatch.of([tree]).labels[:, 0].tolist()} == {0, 1, NOT, AND, OR, XOR}
    for wanted in range(1, 5):
        own = [value(tree) for tree in trees if depth(tree) == wanted]
        assert (len(own), sum(own)) == (60, 30)


def test_the_same_seed_draws_the_same_expressions():
    assert balanced(20, (3,), Random(5)) == balanced(20, (3,), Random(5)) != balanced(20, (3,), Random(6))
