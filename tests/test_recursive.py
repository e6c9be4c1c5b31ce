"""Recursive networks of *Deep Learning*, section 10.6, against their equations, called recursively in NumPy float64."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from systems import assert_parity, checked_export, float64_of, sigmoid

from edgeseq import Recurrent
from edgeseq.cells.recursive import RecursiveCell, TreeLSTMCell
from edgeseq.models.recursive import Tree, TreeBatch, TreeClassifier, nodes_in_order
from edgeseq_export import ExportRequest

V, H, K = 6, 5, 3
LEAF = Tree(0)
SHAPES = (
    Tree(1),
    Tree(2, (Tree(3, (Tree(4, (LEAF,)),)), Tree(5))),
    Tree(4, (Tree(2, (LEAF, Tree(3, (LEAF, Tree(1))))), LEAF)),
    Tree(5, (Tree(4, (LEAF, Tree(2))), Tree(3, (Tree(5), Tree(1))))),
)


def plain(weights, label, left, right):
    """h = tanh(b + U x + W [h_left; h_right])."""
    h = np.concatenate([np.zeros(H) if child is None else child for child in (left, right)])
    return np.tanh(weights["weight_label"][label] + weights["weight_children"] @ h)


def tree_lstm(weights, label, left, right):
    """Tai et al. (2015), equations 9 to 14, for two children, each gate on its own."""
    (h_l, c_l), (h_r, c_r) = ((np.zeros(H), np.zeros(H)) if child is None else child for child in (left, right))
    h = np.concatenate([h_l, h_r])
    x_i, x_f, x_o, x_u = np.split(weights["weight_label"][label], 4)
    W_i, W_l, W_r, W_o, W_u = np.split(weights["weight_children"], 5)
    i, o, u = sigmoid(x_i + W_i @ h), sigmoid(x_o + W_o @ h), np.tanh(x_u + W_u @ h)
    c = i * u + sigmoid(x_f + W_l @ h) * c_l + sigmoid(x_f + W_r @ h) * c_r
    return o * np.tanh(c), c


COMPOSITIONS = [(RecursiveCell, plain, lambda row: row), (TreeLSTMCell, tree_lstm, lambda row: row[0])]


def of_tree(compose, weights, tree):
    children = [of_tree(compose, weights, child) for child in tree.children] + [None, None]
    return compose(weights, tree.label, *children[:2])


def of_nodes(compose, weights, labels, children):
    """The row of every node of one tree; a child that is no earlier node is none."""
    rows = []
    for n, (label, pair) in enumerate(zip(labels, children, strict=True)):
        rows.append(compose(weights, label, *(rows[c] if 0 <= c < n else None for c in pair)))
    return rows


def drawn(N, B, seed, shortest=1):
    random = np.random.default_rng((N, B, seed))
    children = random.integers(-1, np.maximum(np.arange(N), 1)[:, None, None], (N, B, 2))
    lengths = random.integers(shortest, N, B, endpoint=True)
    return {"labels": random.integers(0, V, (N, B)), "children": children, "lengths": lengths}


@pytest.mark.parametrize(("cell", "compose", "vector"), COMPOSITIONS)
def test_trees_of_any_shape_in_one_batch_are_the_equations(cell, compose, vector):
    torch.manual_seed(0)
    model = TreeClassifier(cell(V, H), K).double()
    weights = float64_of(model.nodes.cell)
    found = model(*TreeBatch.of(SHAPES)).detach().numpy()
    roots = np.stack([vector(of_tree(compose, weights, tree)) for tree in SHAPES])
    readout = float64_of(model.readout)
    np.testing.assert_allclose(found, roots @ readout["weight"].T + readout["bias"], atol=1e-12)


@pytest.mark.parametrize(("cell", "compose", "vector"), COMPOSITIONS)
def test_every_node_is_the_equations_and_a_number_of_no_earlier_node_is_no_child(cell, compose, vector):
    torch.manual_seed(1)
    layer = Recurrent(cell(V, H)).double()
    N, B = 7, 4
    arrays = drawn(N, B, 0)
    arrays["children"][3, :, 0], arrays["children"][4, 0], arrays["children"][5, 1] = 3, (-7, 99), (6, 5)
    x = np.concatenate([arrays["labels"][..., None], arrays["children"]], -1)
    vectors, (_, count) = layer(torch.from_numpy(x), lengths=torch.from_numpy(arrays["lengths"]))
    expected = np.zeros((N, B, H))
    for b, length in enumerate(arrays["lengths"]):
        rows = of_nodes(compose, float64_of(layer.cell), arrays["labels"][:length, b], arrays["children"][:length, b])
        expected[:length, b] = [vector(row) for row in rows]
    np.testing.assert_allclose(vectors.detach().numpy(), expected, atol=1e-12)
    np.testing.assert_array_equal(count, arrays["lengths"])


@pytest.mark.parametrize("cell", [RecursiveCell, TreeLSTMCell])
def test_gradients_are_those_of_the_function(cell):
    torch.manual_seed(0)
    model = TreeClassifier(cell(V, 2), 2).double()
    names, parameters = zip(*model.named_parameters(), strict=True)
    batch = TreeBatch.of(SHAPES)

    def scores(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), tuple(batch))

    assert torch.autograd.gradcheck(scores, parameters)


def test_one_step_on_its_own_is_the_layer():
    torch.manual_seed(0)
    cell = TreeLSTMCell(V, H)
    labels, children, lengths = TreeBatch.of(SHAPES[2:3])
    x = torch.cat([labels[..., None], children], -1)  # (N, 1, 3)
    state = cell.initial_state(x)
    for node in x:
        state, y = cell(state, node)
    torch.testing.assert_close(y, Recurrent(cell)(x, lengths=lengths)[0][-1])


def test_nodes_come_after_their_children_and_a_single_child_is_the_left_one():
    assert nodes_in_order(SHAPES[1]) == [(0, -1, -1), (4, 0, -1), (3, 1, -1), (5, -1, -1), (2, 2, 3)]
    batch = TreeBatch.of([SHAPES[0], SHAPES[1]])
    assert batch.lengths.tolist() == [1, 5]
    assert batch.labels.T.tolist() == [[1, 0, 0, 0, 0], [0, 4, 3, 5, 2]]
    assert batch.children[1:, 0].eq(-1).all()


def test_a_chain_deeper_than_pythons_stack_is_a_tree():
    depth = sys.getrecursionlimit() + 10
    tree = LEAF
    for _ in range(depth):
        tree = Tree(1, (tree,))
    assert nodes_in_order(tree)[-1] == (1, depth - 1, -1)


def test_a_node_of_three_children_and_a_batch_of_no_tree_are_refused():
    with pytest.raises(ValueError, match="has 3 children"):
        TreeBatch.of([Tree(0, (LEAF, LEAF, LEAF))])
    with pytest.raises(ValueError, match="no tree"):
        TreeBatch.of([])


@pytest.mark.parametrize(("cell", "compose", "vector"), [pytest.param(*COMPOSITIONS[0], marks=pytest.mark.slow), COMPOSITIONS[1]])
def test_the_exported_graph_is_one_scan_over_the_nodes(cell, compose, vector, tmp_path):
    torch.manual_seed(2)
    model = TreeClassifier(cell(V, H), K).eval()
    longer = TreeBatch.of([Tree(2, (SHAPES[3], SHAPES[2])), LEAF])._asdict()
    axes = {"labels": ("N", "B"), "children": ("N", "B", None), "lengths": ("B",)}
    request = ExportRequest(model, TreeBatch.of(SHAPES)._asdict(), axes, outputs=("scores",))
    session = checked_export(request, tmp_path, census={"Scan": 1}, longer=longer)

    weights, readout = float64_of(model.nodes.cell), float64_of(model.readout)

    def equations(inputs):
        trees = zip(inputs["labels"].T, inputs["children"].transpose(1, 0, 2), inputs["lengths"], strict=True)
        roots = [vector(of_nodes(compose, weights, labels[:n], children[:n])[-1]) for labels, children, n in trees]
        return {"scores": np.stack(roots) @ readout["weight"].T + readout["bias"]}

    for N, B in ((1, 1), (2, 5), (9, 3), (20, 1)):
        assert_parity(session, model, equations, lambda seed, N=N, B=B: drawn(N, B, seed))
