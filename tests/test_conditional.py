"""RNNs conditioned on a vector or a sequence (*Deep Learning*, section 10.2.4), against their equations in NumPy float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from systems import assert_parity, checked_export, float64_of, log_softmax
from token_equations import CELLS as STEPS
from token_equations import assert_drawn_from, chosen, decoded, part, scored, zeros
from torch import nn

from edgeseq import GRUCell, LSTMCell, RNNCell
from edgeseq.models import IndependentOutputsRNN, SequenceConditionedRNN, VectorConditionedRNN
from edgeseq.models.conditional import (
    GeneratingGraph,
    IndependentOutputsGraph,
    SequenceStepGraph,
    VectorEncoderGraph,
    VectorStepGraph,
)
from edgeseq.models.token_decoder import gumbel_noise
from edgeseq_export import ExportRequest

V, H, INPUT, CONTEXT, END = 5, 8, 6, 4, 0
CELLS = [RNNCell, GRUCell, LSTMCell]
WAYS = [(True, False), (False, True), (True, True)]  # x at every step, x as the initial state


def vector_model(cell=GRUCell, every_step=True, initial_state=True, end=None):
    encoder = nn.Sequential(nn.Linear(INPUT, CONTEXT), nn.Tanh())
    return VectorConditionedRNN(encoder, CONTEXT, V, H, cell=cell, every_step=every_step, initial_state=initial_state, end=end)


def drawn(T, B, seed=0, *, over_time=False):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, T, B, endpoint=True)
    lengths[0] = T
    x = random.standard_normal((T, B, INPUT) if over_time else (B, INPUT)).astype(np.float32)
    return random.integers(0, V, (T, B)), x, lengths


def begun(weights, cell, x):
    """The vector and the initial state of one input (I,)."""
    c = np.tanh(weights["encoder.0.bias"] + weights["encoder.0.weight"] @ x)
    if "initial.0.weight" not in weights:
        return c, zeros(cell, H)
    each = range(len(zeros(cell, H)))
    return c, tuple(np.tanh(weights[f"initial.{i}.bias"] + weights[f"initial.{i}.weight"] @ c) for i in each)


def context_over(model, c, T):
    return np.tile(c, (T, 1)) if model.every_step else None


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


@pytest.mark.parametrize(("every_step", "initial_state"), WAYS)
@pytest.mark.parametrize("cell", CELLS)
def test_a_vector_conditions_every_factor(cell, every_step, initial_state):
    model = vector_model(cell, every_step, initial_state).double()
    y, x, lengths = drawn(6, 3)
    weights, expected = float64_of(model), []
    for b, n in enumerate(lengths):
        c, state = begun(weights, cell.__name__, x[b])
        expected.append(scored(part(weights, "decoder."), cell.__name__, y[:n, b], state, context_over(model, c, n)).sum())
    found = model.log_prob(*tensors(y, x.astype(np.float64), lengths)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_vector_that_comes_in_nowhere_is_refused():
    with pytest.raises(ValueError, match="would not come in anywhere"):
        vector_model(every_step=False, initial_state=False)


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_conditions_every_factor(cell, feedback):
    model = (SequenceConditionedRNN if feedback else IndependentOutputsRNN)(INPUT, V, H, cell=cell).double()
    y, x, lengths = drawn(6, 3, over_time=True)
    weights, expected = float64_of(model), []
    for b, n in enumerate(lengths):
        if feedback:
            factors = scored(part(weights, "decoder."), cell.__name__, y[:n, b], zeros(cell.__name__, H), x[:n, b])
        else:
            rows, _ = independent(weights, cell.__name__, x[:n, b], zeros(cell.__name__, H))
            factors = rows[np.arange(n), y[:n, b]]
        expected.append(factors.sum())
    found = model.log_prob(*tensors(y, x.astype(np.float64), lengths)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def independent(weights, cell, x, state):
    """log softmax(c + V h_t) of one sequence x (T, I) with nothing fed back, and the last state."""
    rows = []
    for row in x:
        state, h = STEPS[cell](part(weights, "layer.cell."), row, state)
        rows.append(log_softmax(weights["readout.bias"] + weights["readout.weight"] @ h))
    return np.array(rows), state


@pytest.mark.parametrize("kind", ["vector", "feedback", "independent"])
def test_the_probabilities_of_all_sequences_sum_to_one(kind):
    T, B = 3, V**3
    y = torch.tensor(list(itertools.product(range(V), repeat=T))).T  # (3, 125)
    x = torch.randn(1, INPUT) if kind == "vector" else torch.randn(T, 1, INPUT)
    repeated = x.double().expand(*x.shape[:-2], B, -1)
    model = {
        "vector": vector_model,
        "feedback": lambda: SequenceConditionedRNN(INPUT, V, H),
        "independent": lambda: IndependentOutputsRNN(INPUT, V, H),
    }[kind]().double()
    assert model.log_prob(y, repeated).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", ["vector", "feedback", "independent"])
def test_gradients_with_respect_to_the_condition_are_those_of_the_score(kind):
    y, lengths = torch.randint(V, (4, 2)), torch.tensor([4, 2])
    if kind == "vector":
        model, x = vector_model(), torch.randn(2, INPUT)
    else:
        model, x = (SequenceConditionedRNN if kind == "feedback" else IndependentOutputsRNN)(INPUT, V, H), torch.randn(4, 2, INPUT)
    model.double()
    assert torch.autograd.gradcheck(lambda x: model.log_prob(y, x, lengths), (x.double().requires_grad_(),))


def test_without_feedback_the_outputs_are_independent_and_with_it_they_are_not():
    x = torch.randn(2, 1, INPUT).double().expand(-1, V * V, -1)
    pairs = torch.tensor(list(itertools.product(range(V), repeat=2))).T  # (2, V * V)
    for model, factorises in ((IndependentOutputsRNN(INPUT, V, H), True), (SequenceConditionedRNN(INPUT, V, H), False)):
        joint = model.double().log_prob(pairs, x).exp().reshape(V, V)
        product = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
        assert ((joint - product).abs().max().item() < 1e-12) == factorises


@pytest.mark.parametrize(("every_step", "initial_state"), WAYS)
@pytest.mark.parametrize("cell", CELLS)
def test_generated_tokens_are_those_of_a_loop_over_the_step(cell, every_step, initial_state):
    model = vector_model(cell, every_step, initial_state, end=END).double()
    with torch.no_grad():
        model.decoder.readout.weight *= 8  # so that the condition weighs as much as the noise
    _, x, _ = drawn(1, 12)
    noise = gumbel_noise((10, 12, V), torch.zeros((), dtype=torch.float64), torch.Generator().manual_seed(1))
    found = model.generate(torch.from_numpy(x).double(), noise).numpy()
    np.testing.assert_array_equal(found, generated(model, cell.__name__, x, noise.numpy()))
    assert (found == END).any()


def generated(model, cell, x, noise):
    """Tokens (T, B) by a loop over the equations."""
    weights, columns = float64_of(model), []
    for b in range(x.shape[0]):
        c, state = begun(weights, cell, x[b])
        context = context_over(model, c, noise.shape[0])
        columns.append(chosen(part(weights, "decoder."), cell, noise[:, b], state, context, end=model.end))
    return np.array(columns).T


def test_with_feedback_generated_tokens_are_those_of_a_loop_over_the_step():
    model = SequenceConditionedRNN(INPUT, V, H).double()
    _, x, _ = drawn(9, 4, over_time=True)
    noise = gumbel_noise((9, 4, V), torch.zeros((), dtype=torch.float64), torch.Generator().manual_seed(1))
    weights = part(float64_of(model), "decoder.")
    expected = [chosen(weights, "GRUCell", noise[:, b].numpy(), zeros("GRUCell", H), x[:, b]) for b in range(4)]
    np.testing.assert_array_equal(model.generate(torch.from_numpy(x).double(), noise).numpy(), np.array(expected).T)


@pytest.mark.parametrize("over_time", [False, True])
def test_samples_have_the_probabilities_of_the_model(over_time):
    T, B = 2, 20_000
    every = torch.tensor(list(itertools.product(range(V), repeat=T))).T  # (2, 25)
    model = (SequenceConditionedRNN(INPUT, V, H) if over_time else vector_model()).double()
    one = torch.from_numpy(drawn(T, 1, over_time=over_time)[1]).double()
    x = one.expand(*one.shape[:-2], B, -1)
    generator = torch.Generator().manual_seed(0)
    y = model.sample(x, generator) if over_time else model.sample(x, T, generator)
    counts = torch.bincount(y[0] * V + y[1], minlength=V * V).numpy()
    probabilities = model.log_prob(every, one.expand(*one.shape[:-2], V * V, -1)).exp().detach().numpy()
    assert_drawn_from(counts, probabilities)
    with pytest.raises(AssertionError):  # the statistic tells them from another model's
        assert_drawn_from(counts, probabilities[::-1])


@pytest.mark.slow
def test_the_encoder_and_the_step_export_and_together_generate_what_one_scan_does(tmp_path):
    model = vector_model(end=END)
    _, x, _ = drawn(1, 3)
    with torch.no_grad():
        context, h = VectorEncoderGraph(model)(torch.from_numpy(x))
    encoder = checked_export(
        ExportRequest(VectorEncoderGraph(model), {"x": torch.from_numpy(x)}, {"x": ("B", None)}, outputs=("context", "h")),
        tmp_path,
        census={},
    )
    step_request = ExportRequest(
        VectorStepGraph(model),
        {"previous": torch.arange(6).repeat(3, 1).T.clone(), "context": context, "h": h},
        {"previous": ("T", "B"), "context": ("B", None), "h": ("B", None)},
        state={"h": "h_out"},
        outputs=("log_probs", "h_out"),
    )
    step = checked_export(step_request, tmp_path, census={"GRU": 1})
    weights = float64_of(model)

    def step_equations(i):
        runs = []
        for b in range(i["h"].shape[0]):
            repeated = np.tile(i["context"][b].astype(np.float64), (i["previous"].shape[0], 1))
            runs.append(decoded(part(weights, "decoder."), "GRUCell", i["previous"][:, b], (i["h"][b],), repeated))
        return {"log_probs": np.stack([r for r, _ in runs], axis=1), "h_out": np.stack([s for _, (s,) in runs])}

    for T, B in ((1, 1), (11, 2)):
        assert_parity(step, step_request.model, step_equations, lambda seed, T=T, B=B: step_inputs(T, B, seed))
    graph = GeneratingGraph(model)
    request = ExportRequest(
        graph,
        {"x": torch.from_numpy(x), "noise": torch.randn(5, 3, V)},
        {"x": ("B", None), "noise": ("T", "B", None)},
        outputs=("y",),
    )
    longer = {"x": torch.randn(2, INPUT), "noise": torch.randn(9, 2, V)}
    generation = checked_export(request, tmp_path, census={"Scan": 1}, longer=longer)
    for T, B in ((1, 1), (8, 3), (40, 2)):
        noise = gumbel_noise((T, B, V), torch.zeros(()), torch.Generator().manual_seed(T)).numpy()
        x = np.random.default_rng(T).standard_normal((B, INPUT)).astype(np.float32)
        whole = generation.run({"x": x, "noise": noise})["y"]
        np.testing.assert_array_equal(whole, generated(model, "GRUCell", x, noise))
        np.testing.assert_array_equal(whole, stepwise(encoder, step, x, noise))


def step_inputs(T, B, seed):
    random = np.random.default_rng(seed)
    context, h = (np.tanh(random.standard_normal((B, n))).astype(np.float32) for n in (CONTEXT, H))
    return {"previous": random.integers(0, V, (T, B), endpoint=True), "context": context, "h": h}


def stepwise(encoder, step, x, noise):
    """Tokens (T, B) by a loop over the exported step."""
    begun = encoder.run({"x": x})
    context, h = begun["context"], begun["h"]
    previous, tokens = np.full((1, x.shape[0]), V), []
    for g in noise:
        result = step.run({"previous": previous, "context": context, "h": h})
        h, choice = result["h_out"], (result["log_probs"] + g).argmax(-1)
        previous = np.where(previous == END, END, choice)
        tokens.append(previous[0])
    return np.array(tokens)


def sequence_inputs(T, B, seed):
    random = np.random.default_rng(seed)
    x, h = random.standard_normal((T, B, INPUT)), 0.5 * random.standard_normal((B, H))
    return {"previous": random.integers(0, V, (T, B), endpoint=True), "x": x.astype(np.float32), "h": h.astype(np.float32)}


@pytest.mark.parametrize("feedback", [True, False])
def test_a_sequence_conditioned_graph_is_one_native_node_that_computes_the_equations(feedback, tmp_path):
    if feedback:
        graph = SequenceStepGraph(SequenceConditionedRNN(INPUT, V, H))
        names = ("previous", "x", "h")
    else:
        graph, names = IndependentOutputsGraph(IndependentOutputsRNN(INPUT, V, H)), ("x", "h")
    weights = part(float64_of(graph), "model.")

    def inputs(T, B, seed=0):
        return {name: array for name, array in sequence_inputs(T, B, seed).items() if name in names}

    def one(i, b):
        x, state = i["x"][:, b].astype(np.float64), (i["h"][b].astype(np.float64),)
        if feedback:
            return decoded(part(weights, "decoder."), "GRUCell", i["previous"][:, b], state, x)
        return independent(weights, "GRUCell", x, state)

    def equations(i):
        runs = [one(i, b) for b in range(i["h"].shape[0])]
        return {"log_probs": np.stack([r for r, _ in runs], axis=1), "h_out": np.stack([s for _, (s,) in runs])}

    axes = {"previous": ("T", "B"), "x": ("T", "B", None), "h": ("B", None)}
    request = ExportRequest(
        graph,
        {name: torch.from_numpy(array) for name, array in inputs(6, 3).items()},
        {name: axes[name] for name in names},
        state={"h": "h_out"},
        outputs=("log_probs", "h_out"),
    )
    session = checked_export(request, tmp_path, census={"GRU": 1})
    for T, B in ((1, 1), (17, 3)):
        assert_parity(session, graph, equations, lambda seed, T=T, B=B: inputs(T, B, seed))
