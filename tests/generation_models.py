"""Small models that write tokens, and searches over them that are written plainly: one candidate at a time, from whole prefixes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edgeseq import GRUCell, LSTMCell
from edgeseq.generation import AutoregressiveWriter, EncoderDecoderWriter, SequenceWriter, VectorWriter
from edgeseq.generation.writer import TokenWriter
from edgeseq.models import (
    AttentionDecoder,
    AutoregressiveRNN,
    Encoder,
    EncoderDecoder,
    FixedContextDecoder,
    SequenceConditionedRNN,
    VectorConditionedRNN,
)
from edgeseq_runtime.bundle import Generation

V, END, H = 6, 0, 5
Inputs = dict[str, Tensor]
NextLogP = Callable[[list[int]], np.ndarray]  # of the next token (V,), from the tokens so far


@dataclass(frozen=True)
class Case:
    """A model with its writer, drawn inputs, and the logits of a prefix by the model's own forward."""

    name: str
    model: nn.Module
    writer: TokenWriter
    axes: dict[str, tuple]
    draw: Callable[[int, int], Inputs]  # batch and seed
    forward: Callable[
        [nn.Module, Inputs, Tensor], Tensor
    ]  # inputs of one sequence and the tokens before (T, 1) -> logits (T, 1, V)
    start: int

    def next_log_p(self, inputs: Inputs, b: int) -> NextLogP:
        """Log p of the next token of sequence b, by the model in float64 over the whole prefix: no step of a writer is called."""
        double = copy.deepcopy(self.model).double()
        one = {name: _one(t, self.axes[name], b) for name, t in inputs.items()}

        def next_log_p(prefix: list[int]) -> np.ndarray:
            previous = torch.tensor([self.start, *prefix])[:, None]
            with torch.no_grad():
                return torch.log_softmax(self.forward(double, one, previous)[-1, 0], dim=-1).numpy()

        return next_log_p


def _one(t: Tensor, axes: tuple, b: int) -> Tensor:
    t = t.narrow(axes.index("B"), b, 1)
    return t.double() if t.is_floating_point() else t


def _enlarged(model: nn.Module, factor: float, seed: int) -> nn.Module:
    """Weights large enough that the tokens depend on the inputs, and an end that comes at different times."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(factor * torch.randn(parameter.shape, generator=generator) / max(1, parameter.shape[-1]) ** 0.5)
        model.decoder.readout.bias[END] += 1.5
    return model.eval().requires_grad_(False)


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _integers(seed: int, high: int, *shape: int, low: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def autoregressive() -> Case:
    model = _enlarged(AutoregressiveRNN(V, H, cell=LSTMCell, embedding_size=4, end=END), 1.6, 4)
    return Case(
        "autoregressive",
        model,
        AutoregressiveWriter(model),
        {"previous": ("B",), "h": ("B", None), "s": ("B", None)},
        lambda B, seed: {"previous": torch.full((B,), V), "h": _random(seed, B, H).tanh(), "s": _random(seed + 1, B, H)},
        lambda m, x, previous: m(previous, (x["h"], x["s"]))[0],
        start=V,
    )


def vector(every_step: bool = True, initial_state: bool = True) -> Case:
    encoder = nn.Sequential(nn.Linear(7, 4), nn.Tanh())
    made = VectorConditionedRNN(
        encoder, 4, V, H, cell=GRUCell, embedding_size=4, every_step=every_step, initial_state=initial_state, end=END
    )
    model = _enlarged(made, 1.6, 1)

    def forward(m: nn.Module, x: Inputs, previous: Tensor) -> Tensor:
        context, state = m.encode(x["x"])
        return m(previous, context, state)[0]

    axes = {"x": ("B", None)}
    return Case("vector", model, VectorWriter(model), axes, lambda B, seed: {"x": _random(seed, B, 7)}, forward, start=V)


def sequence(T: int = 7) -> Case:
    model = _enlarged(SequenceConditionedRNN(3, V, H, embedding_size=4), 1.6, 3)
    return Case(
        "sequence",
        model,
        SequenceWriter(model),
        {"x": ("T", "B", None)},
        lambda B, seed: {"x": _random(seed, T, B, 3)},
        lambda m, x, previous: m(previous, x["x"][: len(previous)])[0],
        start=V,
    )


def encoder_decoder(kind: str = "attention", S: int = 6) -> Case:
    decoder = {"attention": AttentionDecoder, "fixed": FixedContextDecoder}[kind]
    seed = {"attention": 5, "fixed": 2}[kind]
    model = _enlarged(EncoderDecoder(Encoder(9, 4, 4), decoder(V, 4, H, 8), boundary=END), 1.6, seed)

    def draw(B: int, seed: int) -> Inputs:
        lengths = _integers(seed, S + 1, B, low=1)
        lengths[seed % B] = S
        return {"source": _integers(seed, 9, S, B), "lengths": lengths}

    axes = {"source": ("S", "B"), "lengths": ("B",)}
    return Case(kind, model, EncoderDecoderWriter(model), axes, draw, lambda m, x, p: m(x["source"], x["lengths"], p), start=END)


def with_symbols(says: Generation, symbols: tuple[str, ...]) -> Generation:
    """What a bundle says of its generation, and how its tokens are written."""
    return msgspec.structs.replace(says, symbols=symbols)


def all_cases() -> list[Case]:
    return [
        autoregressive(),
        vector(),
        vector(every_step=False),
        sequence(),
        encoder_decoder("fixed"),
        encoder_decoder("attention"),
    ]


def plain_greedy(next_log_p: NextLogP, end: int | None, longest: int) -> tuple[list[int], float]:
    """Tokens, the end included, and their log p."""
    tokens: list[int] = []
    score = 0.0
    while len(tokens) < longest and (end is None or end not in tokens):
        log_p = next_log_p(tokens)
        tokens.append(int(log_p.argmax()))
        score += float(log_p[tokens[-1]])
    return tokens, score


def plain_beam(next_log_p: NextLogP, end: int | None, longest: int, width: int, penalty: float) -> list[tuple[list[int], float]]:
    """The candidates with their normalised scores, the best first: lists, sorted."""
    beam: list[tuple[list[int], float]] = [([], 0.0)]

    def score(candidate: tuple[list[int], float]) -> float:
        tokens, log_p = candidate
        return log_p / len(tokens) ** penalty

    def ended(tokens: list[int]) -> bool:
        return end is not None and bool(tokens) and tokens[-1] == end

    for _ in range(longest):
        if all(ended(tokens) for tokens, _ in beam):
            break
        longer = [
            ([*tokens, v], total + float(log_p))
            for tokens, total in beam
            if not ended(tokens)
            for v, log_p in enumerate(next_log_p(tokens))
        ]
        beam = sorted([*longer, *(c for c in beam if ended(c[0]))], key=score, reverse=True)[:width]
    return [(tokens, score((tokens, total))) for tokens, total in beam]


def plain_sampling(
    next_log_p: NextLogP, end: int | None, u: np.ndarray, temperature: float, top_k: int, top_p: float
) -> tuple[list[int], float]:
    """Tokens drawn by the numbers u, one after the other, and their log p."""
    tokens: list[int] = []
    score = 0.0
    for number in u.tolist():
        if end is not None and end in tokens:
            break
        log_p = next_log_p(tokens)
        tokens.append(drawn(log_p, number, temperature, top_k, top_p))
        score += float(log_p[tokens[-1]])
    return tokens, score


def drawn(log_p: np.ndarray, u: float, temperature: float, top_k: int, top_p: float) -> int:
    """One token: the definitions of temperature, top-k and top-p applied in turn to a list."""
    weights = sorted(((float(np.exp(value / temperature)), v) for v, value in enumerate(log_p)), key=lambda pair: -pair[0])
    kept = weights[:top_k]
    total = sum(weight for weight, _ in kept)
    nucleus, share = [], 0.0
    for weight, v in kept:
        if share >= top_p:
            break
        nucleus.append((weight, v))
        share += weight / total
    target = u * sum(weight for weight, _ in nucleus)
    running = 0.0
    for weight, v in nucleus:
        running += weight
        if running > target:
            return v
    return nucleus[-1][1]
