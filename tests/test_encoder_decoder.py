"""The encoder-decoder networks against their equations in NumPy float64, and as an encoder and a decoder step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from systems import assert_parity, checked_export, float64_of, sigmoid

import edgeseq_runtime
from edgeseq.models import (
    AttentionDecoder,
    AttentionGraph,
    Encoder,
    EncoderDecoder,
    EncoderGraph,
    FixedContextDecoder,
    FixedContextGraph,
)
from edgeseq_export import ExportRequest

X, V, E, F, H = 9, 6, 3, 4, 5  # tokens of source and target; features of embeddings, of each direction, of the decoder
A = 2 * F
DECODERS = {"fixed": FixedContextDecoder, "attention": AttentionDecoder}


def network(kind, seed=0):
    torch.manual_seed(seed)
    model = EncoderDecoder(Encoder(X, E, F), DECODERS[kind](V, E, H, A))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # large enough that the attention prefers some annotations
    return model


class Equations:
    """One sequence and one step at a time, every gate written out."""

    def __init__(self, model):
        self.w = float64_of(model)

    def linear(self, name, x):
        return self.w[f"{name}.weight"] @ x + self.w.get(f"{name}.bias", 0.0)

    def gru(self, name, h, x):
        U_r, U_z, U_n = np.split(self.w[f"{name}.weight_ih"], 3)
        W_r, W_z, W_n = np.split(self.w[f"{name}.weight_hh"], 3)
        b_r, b_z, b_n = np.split(self.w[f"{name}.bias"], 3)
        r = sigmoid(b_r + U_r @ x + W_r @ h)
        z = sigmoid(b_z + U_z @ x + W_z @ h)
        n = np.tanh(b_n + U_n @ x + r * (W_n @ h + self.w[f"{name}.bias_hn"]))
        return z * h + (1 - z) * n

    def encode(self, source):
        """Annotations (n, A), C (A,) and h[0] (H,) of the tokens of one source."""
        embedded = [self.w["encoder.embedding.weight"][x] for x in source]
        f, g = [np.zeros(F)], [np.zeros(F)]
        for x in embedded:
            f.append(self.gru("encoder.layer.cell", f[-1], x))
        for x in reversed(embedded):
            g.append(self.gru("encoder.layer.backward", g[-1], x))
        annotations = np.array([np.concatenate(pair) for pair in zip(f[1:], reversed(g[1:]), strict=True)])
        summary = np.concatenate([f[-1], g[-1]])
        return annotations, summary, np.tanh(self.linear("decoder.bridge", summary))

    def step(self, kind, previous, h, annotations, summary):
        """Logits (V,), the next state (H,), and the weights (n,) of the attention."""
        x = self.w["decoder.embedding.weight"][previous]
        h = self.gru("decoder.layer.cell", h, np.concatenate([x, summary]) if kind == "fixed" else x)
        context, alpha = summary, None
        if kind == "attention":
            query = self.linear("decoder.query", h)
            e = np.array([sum(q * a for q, a in zip(query, row, strict=True)) for row in annotations])
            alpha = np.exp(e) / np.exp(e).sum()
            context = sum(weight * row for weight, row in zip(alpha, annotations, strict=True))
        combined = np.tanh(self.linear("decoder.combine", np.concatenate([h, context])))
        return self.linear("decoder.readout", combined), h, alpha


@pytest.mark.parametrize("kind", DECODERS)
def test_the_model_is_its_equations_at_every_length(kind):
    model = network(kind).double()
    random = np.random.default_rng(0)
    source, previous, lengths = random.integers(X, size=(6, 4)), random.integers(V, size=(3, 4)), np.array([6, 1, 4, 3])
    found = model(*map(torch.from_numpy, (source, lengths, previous))).detach().numpy()
    equations = Equations(model)
    for b, n in enumerate(lengths):
        annotations, summary, h = equations.encode(source[:n, b])
        for t in range(3):
            logits, h, _ = equations.step(kind, previous[t, b], h, annotations, summary)
            np.testing.assert_allclose(found[t, b], logits, atol=1e-12)


def test_the_attention_of_every_step_is_a_distribution_over_the_source_up_to_its_end():
    model = network("attention").double()
    source, lengths, previous = torch.randint(X, (6, 3)), torch.tensor([6, 1, 4]), torch.randint(V, (5, 3))
    memory, h = model.encode(source, lengths)
    states, _ = model.decoder.layer(model.decoder.inputs(previous, memory), (h,))
    found = model.decoder.weights(states, memory).detach().numpy()  # (B, T, S)
    equations = Equations(model)
    for b, n in enumerate(lengths.tolist()):
        annotations, summary, h = equations.encode(source[:n, b].numpy())
        for t in range(5):
            _, h, alpha = equations.step("attention", previous[t, b], h, annotations, summary)
            np.testing.assert_allclose(found[b, t], np.pad(alpha, (0, 6 - n)), atol=1e-12)


@pytest.mark.parametrize("kind", DECODERS)
def test_gradients_are_those_of_the_logits(kind):
    model = network(kind).double()
    annotations, summary, h = (torch.randn(*shape, dtype=torch.float64) for shape in ((4, 2, A), (2, A), (2, H)))
    lengths, previous = torch.tensor([4, 2]), torch.randint(V, (3, 2))

    def logits(annotations, summary, h):
        return model.decoder(previous, h, model.decoder.memory(annotations, summary, lengths))[0]

    leaves = [leaf.requires_grad_() for leaf in (annotations, summary, h)]
    assert torch.autograd.gradcheck(logits, leaves)
    embedding = model.encoder.embedding.weight
    assert torch.autograd.gradcheck(
        lambda weight: torch.func.functional_call(
            model, {"encoder.embedding.weight": weight}, (torch.tensor([[0, 1], [2, 0], [1, 5]]), torch.tensor([3, 1]), previous)
        ),
        (embedding.detach().clone().requires_grad_(),),
    )


def test_the_fixed_vector_has_one_size_and_the_attention_as_many_vectors_as_the_source():
    for S in (1, 4, 9):
        source, lengths = torch.randint(X, (S, 2)), torch.tensor([S, 1])
        assert EncoderGraph(network("fixed"))(source, lengths)[0].shape == (2, A)
        assert EncoderGraph(network("attention"))(source, lengths)[0].shape == (S, 2, A)


@pytest.mark.parametrize("kind", DECODERS)
def test_greedy_is_the_likeliest_token_of_every_step_until_each_sequence_ends(kind):
    endings = set()
    for seed in range(4):
        model = network(kind, seed).double()
        source, lengths = torch.randint(X, (5, 4)), torch.tensor([5, 1, 3, 2])
        found = model.greedy(source, lengths, longest=6)
        equations = Equations(model)
        expected = np.zeros((6, 4), dtype=np.int64)
        for b, n in enumerate(lengths.tolist()):
            annotations, summary, h = equations.encode(source[:n, b].numpy())
            y = 0
            for t in range(6):
                logits, h, _ = equations.step(kind, y, h, annotations, summary)
                y = expected[t, b] = int(np.argmax(logits))
                if y == 0:
                    break
            endings.add(t)
        T = len(found)
        np.testing.assert_array_equal(found, expected[:T])
        assert not expected[T:].any()
    assert len(endings) > 1


def encoder_request(model, S, name):
    return ExportRequest(
        EncoderGraph(model),
        {"source": torch.randint(X, (S, 3)), "lengths": torch.tensor([S, 1, 4])},
        {"source": ("S", "B"), "lengths": ("B",)},
        outputs=("memory", "h"),
        name=name,
    )


def drawn_source(S, B, seed):
    random = np.random.default_rng((S, B, seed))
    return {"source": random.integers(X, size=(S, B)), "lengths": random.integers(1, S + 1, B)}


@pytest.mark.parametrize("kind", ["attention", pytest.param("fixed", marks=pytest.mark.slow)])
def test_the_exported_encoder_is_one_bidirectional_node(kind, tmp_path):
    model = network(kind)
    session = checked_export(encoder_request(model, 5, kind), tmp_path, census={"GRU": 1})
    equations = Equations(model)

    def truth(arrays):
        source, lengths = arrays.values()
        S, B = source.shape
        memory, h = np.zeros((S, B, A) if kind == "attention" else (B, A)), np.zeros((B, H))
        for b, n in enumerate(lengths):
            annotations, summary, h[b] = equations.encode(source[:n, b])
            if kind == "attention":
                memory[:n, b] = annotations
            else:
                memory[b] = summary
        return {"memory": memory, "h": h}

    for S, B in ((1, 1), (7, 1), (12, 3)):
        assert_parity(session, EncoderGraph(model), truth, lambda seed, S=S, B=B: drawn_source(S, B, seed))


def drawn_decoding(kind, T, B, S, seed):
    random = np.random.default_rng((T, B, S, seed))
    memory = random.uniform(-0.9, 0.9, (S, B, A)).astype(np.float32)
    arrays = {"context": memory[0]} if kind == "fixed" else {"annotations": memory, "lengths": random.integers(1, S + 1, B)}
    return arrays | {"previous": random.integers(V, size=(T, B)), "h": random.uniform(-0.9, 0.9, (B, H)).astype(np.float32)}


def decoder_request(kind, model, T):
    inputs = {name: torch.from_numpy(array) for name, array in drawn_decoding(kind, T, 3, T + 2, 0).items()}
    axes = {"previous": ("T", "B"), "h": ("B", None), "context": ("B", None), "annotations": ("S", "B", None), "lengths": ("B",)}
    graph = FixedContextGraph(model.decoder) if kind == "fixed" else AttentionGraph(model.decoder)
    state, outputs = {"h": "h_out"}, ("logits", "h_out")
    return ExportRequest(graph, inputs, {name: axes[name] for name in inputs}, state, outputs, name=f"{kind}-decoder")


@pytest.mark.parametrize("kind", DECODERS)
def test_the_exported_decoder_is_the_equations_and_streams_token_by_token(kind, tmp_path):
    model = network(kind)
    request = decoder_request(kind, model, 6)
    longer = decoder_request(kind, model, 30).inputs if kind == "attention" else None
    session = checked_export(request, tmp_path, census={"GRU": 1}, longer=longer)
    equations = Equations(model)

    def truth(arrays):
        T, B = arrays["previous"].shape
        logits, h_out = np.zeros((T, B, V)), np.zeros((B, H))
        for b, h in enumerate(arrays["h"].astype(np.float64)):
            summary = arrays["context"][b].astype(np.float64) if kind == "fixed" else None
            annotations = arrays["annotations"][: arrays["lengths"][b], b].astype(np.float64) if kind == "attention" else None
            for t in range(T):
                logits[t, b], h, _ = equations.step(kind, arrays["previous"][t, b], h, annotations, summary)
            h_out[b] = h
        return {"logits": logits, "h_out": h_out}

    for T, B, S in ((1, 1, 1), (1, 3, 7), (12, 3, 5)):
        assert_parity(session, request.model, truth, lambda seed, T=T, B=B, S=S: drawn_decoding(kind, T, B, S, seed))
    arrays = drawn_decoding(kind, 4, 3, 7, 0)
    report = edgeseq_runtime.measure_parity(tmp_path / f"{kind}-decoder.edgeseq")
    assert {row.verdict for row in report.rows if row.mode == "stream"} == {"pass"}
    stream = session.stream(batch=3)
    stream.state = {"h": arrays.pop("h")}
    found = [stream.step(arrays | {"previous": arrays["previous"][t : t + 1]})["logits"] for t in range(4)]
    expected = truth(drawn_decoding(kind, 4, 3, 7, 0))
    np.testing.assert_allclose(np.concatenate(found), expected["logits"], atol=1e-5)
    np.testing.assert_allclose(stream.state["h"], expected["h_out"], atol=1e-5)
