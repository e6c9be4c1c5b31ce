"""RNNs as directed graphical models (*Deep Learning*, section 10.2.3), against the product rule in NumPy float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from systems import assert_parity, checked_export, float64_of
from token_equations import assert_drawn_from, chosen, decoded, part, scored, zeros

from edgeseq import GRUCell, LSTMCell, Recurrent, RNNCell
from edgeseq.models import AutoregressiveRNN, FixedWindowModel
from edgeseq.models.graphical import ScoringGraph, StepGraph
from edgeseq.models.token_decoder import GeneratingCell, gumbel_noise
from edgeseq_export import ExportRequest

V, H = 5, 8
CELLS = [RNNCell, GRUCell, LSTMCell]


def drawn(T, B, seed=0):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, T, B, endpoint=True)
    lengths[0] = T
    return {"y": random.integers(0, V, (T, B)), "lengths": lengths}


def equations(model, cell, y, lengths=None):
    """log p(y) of each sequence: the sum of its factors' logarithms (equations 10.31 to 10.33)."""
    weights = part(float64_of(model), "decoder.")
    T, B = y.shape
    ends = [T] * B if lengths is None else lengths
    return np.array([scored(weights, cell, y[:n, b], zeros(cell, H)).sum() for b, n in enumerate(ends)])


@pytest.mark.parametrize("cell", CELLS)
def test_log_prob_is_the_product_of_the_factors(cell):
    model, inputs = AutoregressiveRNN(V, H, cell=cell).double(), drawn(7, 4)
    y, lengths = torch.from_numpy(inputs["y"]), torch.from_numpy(inputs["lengths"])
    found = model.log_prob(y, lengths).detach().numpy()
    np.testing.assert_allclose(found, equations(model, cell.__name__, **inputs), atol=1e-12)
    np.testing.assert_allclose(model.log_prob(y).detach().numpy(), equations(model, cell.__name__, inputs["y"]), atol=1e-12)


def test_the_probabilities_of_all_sequences_sum_to_one():
    model = AutoregressiveRNN(3, H).double()
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).T  # (4, 81)
    assert model.log_prob(every).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_what_stands_past_a_length_changes_nothing():
    model = AutoregressiveRNN(V, H)
    y, lengths = torch.randint(V, (6, 3)), torch.tensor([6, 1, 4])
    other = torch.where(torch.arange(6)[:, None] < lengths, y, (y + 1) % V)
    torch.testing.assert_close(model.log_prob(y, lengths), model.log_prob(other, lengths), rtol=0, atol=0)


def test_gradients_are_those_of_the_score():
    model = AutoregressiveRNN(3, 2, embedding_size=2).double()
    y, lengths = torch.randint(3, (4, 2)), torch.tensor([4, 2])
    names, parameters = zip(*model.named_parameters(), strict=True)

    def score(*values):
        weights = {f"model.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(ScoringGraph(model), weights, (y, lengths))

    assert torch.autograd.gradcheck(score, tuple(p.detach().requires_grad_() for p in parameters))


@pytest.mark.parametrize("cell", CELLS)
def test_generated_tokens_are_those_of_a_loop_over_the_step(cell):
    model = AutoregressiveRNN(V, H, cell=cell, end=2).double()
    noise = gumbel_noise((12, 6, V), torch.zeros((), dtype=torch.float64), torch.Generator().manual_seed(1))
    weights = part(float64_of(model), "decoder.")
    expected = [chosen(weights, cell.__name__, noise[:, b].numpy(), zeros(cell.__name__, H), end=2) for b in range(6)]
    found = model.generate(noise).numpy()
    np.testing.assert_array_equal(found, np.array(expected).T)
    assert (found == 2).any()
    assert (found[-1] != 2).any()


def test_samples_have_the_probabilities_of_the_model():
    model = AutoregressiveRNN(3, H).double()
    with torch.no_grad():
        model.decoder.readout.weight *= 4  # far from uniform
    every = torch.tensor(list(itertools.product(range(3), repeat=3))).T  # (3, 27)
    y = model.sample(3, 20_000, torch.Generator().manual_seed(0))
    counts = torch.bincount((y * torch.tensor([[9], [3], [1]])).sum(0), minlength=27).numpy()
    probabilities = model.log_prob(every).exp().detach().numpy()
    assert probabilities.max() > 2 * probabilities.min()
    assert_drawn_from(counts, probabilities)
    with pytest.raises(AssertionError):  # the statistic tells them from a uniform draw
        assert_drawn_from(counts, np.full(27, 1 / 27))


def test_zero_noise_is_the_greedy_choice():
    model = AutoregressiveRNN(V, H)
    y = model.generate(torch.zeros(9, 1, V))
    logits, _ = model(torch.cat([torch.full((1, 1), model.decoder.start), y[:-1]]))
    torch.testing.assert_close(y, logits.argmax(-1))


def test_a_sample_after_its_end_is_its_end():
    y = AutoregressiveRNN(V, H, end=3).sample(30, 20, torch.Generator().manual_seed(0))
    ended = (y == 3).cumsum(0) > 0
    assert (y[ended] == 3).all()
    assert ended[-1].sum() >= 15


def test_an_earlier_token_reaches_every_later_one_of_the_rnn_and_k_of_the_window_model():
    y = torch.randint(V, (12, 1))
    other = y.clone()
    other[2] = (y[2] + 1) % V
    rnn, window = AutoregressiveRNN(V, H).double(), FixedWindowModel(V, 3, H).double()
    previous, changed = (torch.cat([torch.full((1, 1), V), s[:-1]]) for s in (y, other))
    differs = (rnn(previous)[0] != rnn(changed)[0]).any(-1).squeeze()
    assert differs.tolist() == [False] * 3 + [True] * 9
    differs = (window(y) != window(other)).any(-1).squeeze()
    assert differs.tolist() == [False] * 3 + [True] * 3 + [False] * 6


def test_the_window_model_is_a_perceptron_over_the_last_k_tokens():
    k = 3
    model = FixedWindowModel(V, k, H, embedding_size=4).double()
    w, inputs = float64_of(model), drawn(6, 3)
    expected = []
    for b, n in enumerate(inputs["lengths"]):
        padded = [V] * k + inputs["y"][:n, b].tolist()
        total = 0.0
        for t in range(n):
            nearest_first = padded[t : t + k][::-1]
            x = np.concatenate([w["embedding.weight"][token] for token in nearest_first])
            hidden = np.maximum(0, w["hidden.bias"] + w["hidden.weight"] @ x)
            o = w["readout.bias"] + w["readout.weight"] @ hidden
            total += o[padded[t + k]] - np.log(np.exp(o).sum())
        expected.append(total)
    found = model.log_prob(torch.from_numpy(inputs["y"]), torch.from_numpy(inputs["lengths"]))
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-12)


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="window is 0"):
        FixedWindowModel(V, 0, H)


def test_the_scoring_graph_is_one_native_node_that_computes_the_equations(tmp_path):
    model = AutoregressiveRNN(V, H, cell=RNNCell)
    graph = ScoringGraph(model)
    examples = {name: torch.from_numpy(array) for name, array in drawn(5, 3).items()}
    request = ExportRequest(graph, examples, {"y": ("T", "B"), "lengths": ("B",)}, outputs=("log_prob",))
    session = checked_export(request, tmp_path, census={"RNN": 1})
    for T, B in ((1, 1), (4, 3), (31, 2)):
        assert_parity(
            session, graph, lambda i: {"log_prob": equations(model, "RNNCell", **i)}, lambda seed, T=T, B=B: drawn(T, B, seed)
        )


def step_inputs(T, B, seed=0):
    random = np.random.default_rng(seed)
    h, s = (0.5 * random.standard_normal((B, H)).astype(np.float32) for _ in range(2))
    return {"previous": random.integers(0, V, (T, B), endpoint=True), "h": h, "s": s}


def step_equations(model, previous, h, s):
    weights = part(float64_of(model), "decoder.")
    runs = [decoded(weights, "LSTMCell", previous[:, b], (h[b], s[b])) for b in range(h.shape[0])]
    rows, states = zip(*runs, strict=True)
    h_out, s_out = (np.stack(of_each) for of_each in zip(*states, strict=True))
    return {"log_probs": np.stack(rows, axis=1), "h_out": h_out, "s_out": s_out}


def test_the_step_graph_is_one_native_node_whose_steps_generate_what_the_module_does(tmp_path):
    model = AutoregressiveRNN(V, H, cell=LSTMCell)
    graph = StepGraph(model)
    examples = {name: torch.from_numpy(array) for name, array in step_inputs(5, 3).items()}
    request = ExportRequest(
        graph,
        examples,
        {"previous": ("T", "B"), "h": ("B", None), "s": ("B", None)},
        state={"h": "h_out", "s": "s_out"},
        outputs=("log_probs", "h_out", "s_out"),
    )
    session = checked_export(
        request, tmp_path, census={"LSTM": 1}, longer={n: torch.from_numpy(a) for n, a in step_inputs(9, 2).items()}
    )
    for T, B in ((1, 1), (13, 3)):
        assert_parity(session, graph, lambda i: step_equations(model, **i), lambda seed, T=T, B=B: step_inputs(T, B, seed))
    noise = gumbel_noise((20, 3, V), torch.zeros(()), torch.Generator().manual_seed(0))
    stream, previous, tokens = session.stream(batch=3), np.full((1, 3), model.decoder.start), []
    for g in noise.numpy():
        previous = (stream.step({"previous": previous})["log_probs"] + g).argmax(-1)  # (1, 3)
        tokens.append(previous[0])
    with torch.no_grad():
        expected = Recurrent(GeneratingCell(model.decoder))(noise)[0]
    np.testing.assert_array_equal(np.stack(tokens), expected.numpy())
