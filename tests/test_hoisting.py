"""What does not depend on the state is outside a Scan's body."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from edgeseq import LayerNormLSTMCell
from edgeseq_export.passes import PASSES

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from hoisting import FEATURES, SYSTEMS, System, Unhoisted, exported


def test_the_input_projection_of_a_layer_norm_lstm_is_outside_the_body():
    torch.manual_seed(0)
    cell = LayerNormLSTMCell(FEATURES, 4)
    system = System("11", "LayerNorm-LSTM", lambda: cell)
    hoisted, unhoisted = exported(system, cell), exported(system, Unhoisted(cell), without=tuple(PASSES))
    inside, all_inside = (Counter(node.op_type for node in graph.body.node) for graph in (hoisted, unhoisted))
    # W h and U x; LN of both, and of s.
    assert (hoisted.body_products, unhoisted.body_products) == (1, 2)
    assert (inside["LayerNormalization"], all_inside["LayerNormalization"]) == (2, 3)
    assert hoisted.body_nodes < unhoisted.body_nodes
    feeds = {"x": torch.randn(30, 2, FEATURES).numpy()}
    (y,), (other,) = (graph.session().run(None, feeds) for graph in (hoisted, unhoisted))
    np.testing.assert_allclose(y, other, atol=1e-6)


def test_a_projection_that_is_left_to_the_step_is_hoisted_by_the_passes():
    torch.manual_seed(0)
    cell = LayerNormLSTMCell(FEATURES, 4)
    system = System("11", "LayerNorm-LSTM", lambda: cell)
    by_hand, by_pass = exported(system, cell), exported(system, Unhoisted(cell))
    assert [node.op_type for node in by_pass.body.node] == [node.op_type for node in by_hand.body.node]


def test_every_system_of_the_benchmark_computes_the_same_with_its_projection_in_the_step():
    for system in SYSTEMS:
        torch.manual_seed(0)
        cell = system.cell().double()
        inputs = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in system.inputs(6, 2).items()}
        with torch.no_grad():
            torch.testing.assert_close(system.module(Unhoisted(cell))(**inputs), system.module(cell)(**inputs))
