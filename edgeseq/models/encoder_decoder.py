"""Encoder-decoder networks: sequences to sequences of other lengths (*Deep Learning*, section 10.4, figure 10.12).

What the decoder knows of the source is its memory: one vector of fixed size, or a sequence of vectors that it attends to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from edgeseq.cells import GRUCell
from edgeseq.layers import Recurrent

Memory = tuple[Tensor, ...]


class Encoder(nn.Module):
    """A bidirectional GRU over the source (Bahdanau et al., 2015, section 3.2).

        a[s] = [f[s]; g[s]],    f[s] = GRU(f[s-1], E x[s]),    g[s] = GRU'(g[s+1], E x[s])
        C = [f[n]; g[1]],       n the source's length

    Args:
        vocabulary: tokens x of the source.
        embedding_size: features of an embedded token.
        hidden_size: features of each direction; annotations a and C have A = 2 hidden_size.
    """

    def __init__(self, vocabulary: int, embedding_size: int, hidden_size: int) -> None:
        super().__init__()
        self.annotation_size = 2 * hidden_size
        self.embedding = nn.Embedding(vocabulary, embedding_size)
        self.layer = Recurrent(GRUCell(embedding_size, hidden_size), backward=GRUCell(embedding_size, hidden_size))

    def forward(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """From tokens (S, B) and lengths (B,) in 1..S to the annotations (S, B, A), zero past the end, and C (B, A)."""
        annotations, ends = self.layer(self.embedding(source), lengths=lengths)
        return annotations, torch.cat(ends, dim=-1)


class Decoder(nn.Module, ABC):
    """A GRU over the target so far, and a distribution over its next token from the state and a context c.

        h[0] = tanh(b + B C)
        h[t] = GRU(h[t-1], input[t])
        o[t] = b' + V tanh(b'' + W [h[t]; c[t]])        p(y[t] | y[1..t-1], source) = softmax(o[t])

    Args:
        vocabulary: V, tokens of the target.
        embedding_size: features of an embedded token.
        input_size: features of the GRU's input.
        hidden_size: H, features of its state.
        annotation_size: A, features of C and of the context.
    """

    def __init__(self, vocabulary: int, embedding_size: int, input_size: int, hidden_size: int, annotation_size: int) -> None:
        super().__init__()
        self.bridge = nn.Linear(annotation_size, hidden_size)
        self.embedding = nn.Embedding(vocabulary, embedding_size)
        self.layer = Recurrent(GRUCell(input_size, hidden_size))
        self.combine = nn.Linear(hidden_size + annotation_size, hidden_size)
        self.readout = nn.Linear(hidden_size, vocabulary)

    @abstractmethod
    def memory(self, annotations: Tensor, summary: Tensor, lengths: Tensor) -> Memory:
        """What is kept of the source, from its annotations (S, B, A), C (B, A) and lengths (B,)."""

    @abstractmethod
    def inputs(self, previous: Tensor, memory: Memory) -> Tensor:
        """The GRU's inputs (T, B, I) after the tokens (T, B)."""

    @abstractmethod
    def context(self, h: Tensor, memory: Memory) -> Tensor:
        """The context c (T, B, A) of the states (T, B, H)."""

    def initial_state(self, summary: Tensor) -> Tensor:
        """h[0] (B, H) from C (B, A)."""
        return torch.tanh(self.bridge(summary))

    def forward(self, previous: Tensor, h: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Logits o (T, B, V) after each of the tokens (T, B), from the state h (B, H); and the state after the last."""
        y, (h,) = self.layer(self.inputs(previous, memory), (h,))
        return self.logits(y, memory), h

    def logits(self, h: Tensor, memory: Memory) -> Tensor:
        """Logits o (T, B, V) of the states (T, B, H)."""
        return self._output(h, self.context(h, memory))

    @abstractmethod
    def kept(self, memory: Memory) -> Memory:
        """The memory as `step` takes it: the batch first in every tensor."""

    @abstractmethod
    def seen(self, h: Tensor, kept: Memory) -> Tensor:
        """The context c (B, A) of one state (B, H)."""

    @abstractmethod
    def input(self, previous: Tensor, kept: Memory) -> Tensor:
        """The GRU's input (B, I) after the token (B,)."""

    def step(self, previous: Tensor, h: Tensor, kept: Memory) -> tuple[Tensor, Tensor]:
        """One time step of forward: the state (B, H) and the logits (B, V) after the token (B,), with `kept(memory)`."""
        (h,), y = self.layer.cell((h,), self.input(previous, kept))
        return h, self._output(y, self.seen(y, kept))

    def _output(self, h: Tensor, context: Tensor) -> Tensor:
        """Logits o (..., V) of states (..., H) and contexts (..., A)."""
        o: Tensor = self.readout(torch.tanh(self.combine(torch.cat([h, context], dim=-1))))
        return o


class FixedContextDecoder(Decoder):
    """The whole source is one vector, which every step sees (Cho et al., 2014, section 2.2; *Deep Learning*, section 10.4).

        input[t] = [E y[t-1]; C],    c[t] = C

    Its memory is C (B, A). Arguments as `Decoder`'s.
    """

    def __init__(self, vocabulary: int, embedding_size: int, hidden_size: int, annotation_size: int) -> None:
        super().__init__(vocabulary, embedding_size, embedding_size + annotation_size, hidden_size, annotation_size)

    def memory(self, annotations: Tensor, summary: Tensor, lengths: Tensor) -> Memory:
        """C alone."""
        return (summary,)

    def inputs(self, previous: Tensor, memory: Memory) -> Tensor:
        """[E y; C]."""
        return torch.cat([self.embedding(previous), self._repeated(memory, previous.shape[0])], dim=-1)

    def context(self, h: Tensor, memory: Memory) -> Tensor:
        """C at every step."""
        return self._repeated(memory, h.shape[0])

    def kept(self, memory: Memory) -> Memory:
        """C alone."""
        return memory

    def seen(self, h: Tensor, kept: Memory) -> Tensor:
        """C."""
        return kept[0]

    def input(self, previous: Tensor, kept: Memory) -> Tensor:
        """[E y; C]."""
        return torch.cat([self.embedding(previous), kept[0]], dim=-1)

    def _repeated(self, memory: Memory, T: int) -> Tensor:
        (summary,) = memory
        B, A = summary.shape
        return summary.expand(T, B, A)


class AttentionDecoder(Decoder):
    """The source is a sequence of vectors; each step attends to those it needs (Bahdanau et al., 2015).

        input[t] = E y[t-1]
        e[t, s] = (Q h[t]) · a[s]                    "general" score (Luong et al., 2015, equation 8)
        α[t, s] = exp(e[t, s]) / Σ_{s'=1..n} exp(e[t, s'])
        c[t] = Σ_{s=1..n} α[t, s] a[s]               (Bahdanau et al., equations 5 and 6)

    The score is of the new state, as in Luong et al., section 3, so that the recurrence over a known target needs no attention
    inside it and all steps attend at once. Its memory is the annotations (S, B, A) and lengths n (B,). Arguments as `Decoder`'s.
    """

    def __init__(self, vocabulary: int, embedding_size: int, hidden_size: int, annotation_size: int) -> None:
        super().__init__(vocabulary, embedding_size, embedding_size, hidden_size, annotation_size)
        self.query = nn.Linear(hidden_size, annotation_size, bias=False)

    def memory(self, annotations: Tensor, summary: Tensor, lengths: Tensor) -> Memory:
        """Every annotation, and how many there are."""
        return annotations, lengths

    def inputs(self, previous: Tensor, memory: Memory) -> Tensor:
        """E y."""
        embedded: Tensor = self.embedding(previous)
        return embedded

    def weights(self, h: Tensor, memory: Memory) -> Tensor:
        """α (B, T, S) of the states (T, B, H): zero past a source's length."""
        annotations, lengths = memory
        e = self.query(h).transpose(0, 1) @ annotations.permute(1, 2, 0)  # (B, T, S)
        beyond = torch.arange(annotations.shape[0], device=h.device) >= lengths[:, None, None]  # (B, 1, S)
        return torch.softmax(e.masked_fill(beyond, -torch.inf), dim=-1)

    def context(self, h: Tensor, memory: Memory) -> Tensor:
        """Σ α a."""
        annotations = memory[0].transpose(0, 1)  # (B, S, A)
        return (self.weights(h, memory) @ annotations).transpose(0, 1)  # (T, B, A)

    def kept(self, memory: Memory) -> Memory:
        """Annotations (B, S, A), and how many there are."""
        annotations, lengths = memory
        return annotations.transpose(0, 1).contiguous(), lengths

    def seen(self, h: Tensor, kept: Memory) -> Tensor:
        """Σ α a, as `context`; with the batch first nothing has to be transposed at every step."""
        annotations, lengths = kept
        e = (annotations @ self.query(h).unsqueeze(2)).squeeze(2)  # (B, S)
        beyond = torch.arange(annotations.shape[1], device=h.device) >= lengths.unsqueeze(1)  # (B, S)
        alpha = torch.softmax(e.masked_fill(beyond, -torch.inf), dim=-1)
        return (alpha.unsqueeze(1) @ annotations).squeeze(1)  # (B, A)

    def input(self, previous: Tensor, kept: Memory) -> Tensor:
        """E y."""
        embedded: Tensor = self.embedding(previous)
        return embedded


class EncoderDecoder(nn.Module):
    """A distribution over target sequences given a source sequence, each of its own length.

    The target's vocabulary has a boundary token: it stands before the first token and ends the sequence.

    Args:
        encoder: reads the source.
        decoder: writes the target.
        boundary: number of the boundary token.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, *, boundary: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.boundary = boundary

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Memory, Tensor]:
        """The decoder's memory and its initial state (B, H), from the source (S, B) and its lengths (B,) in 1..S."""
        annotations, summary = self.encoder(source, lengths)
        return self.decoder.memory(annotations, summary, lengths), self.decoder.initial_state(summary)

    def forward(self, source: Tensor, lengths: Tensor, previous: Tensor) -> Tensor:
        """Logits (T, B, V) of each target token, given the tokens before each: boundary, y[1], ..., y[T-1] (T, B)."""
        memory, h = self.encode(source, lengths)
        logits, _ = self.decoder(previous, h, memory)
        return logits  # type: ignore[no-any-return]

    def greedy(self, source: Tensor, lengths: Tensor, *, longest: int) -> Tensor:
        """The likeliest token at every step, given those before: (T, B), T <= longest; after its end a sequence is boundaries."""
        memory, h = self.encode(source, lengths)
        y = torch.full_like(lengths, self.boundary)
        ended = torch.zeros_like(y, dtype=torch.bool)
        steps: list[Tensor] = []
        while len(steps) < longest and not ended.all():
            logits, h = self.decoder(y.unsqueeze(0), h, memory)  # (1, B, V)
            y = torch.where(ended, self.boundary, logits[0].argmax(dim=-1))  # (B,)
            ended = ended | (y == self.boundary)
            steps.append(y)
        return torch.stack(steps)


class EncoderGraph(nn.Module):
    """What runs once a source: tokens (S, B) and lengths (B,) -> the first of the decoder's memory, and h (B, H).

    That is C (B, A) for a `FixedContextDecoder`, the annotations (S, B, A) for an `AttentionDecoder`.
    """

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As the class says."""
        memory, h = self.model.encode(source, lengths)
        return memory[0], h


class FixedContextGraph(nn.Module):
    """What runs once a target token: tokens before (T, B), h (B, H) and C (B, A) -> logits (T, B, V) and the next h.

    With T = 1 it is the step of a generation, with a known target the whole score.
    """

    def __init__(self, decoder: FixedContextDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, previous: Tensor, h: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """As the class says."""
        logits, h = self.decoder(previous, h, (context,))
        return logits, h


class AttentionGraph(nn.Module):
    """As `FixedContextGraph`, with annotations (S, B, A) and lengths (B,) in 1..S for C.

    A stream of it runs along T and is given the annotations whole at every step. Where it is exported, the annotations come
    first among the inputs: the first axis is the one that `lengths` count.
    """

    def __init__(self, decoder: AttentionDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, annotations: Tensor, lengths: Tensor, previous: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """As the class says."""
        logits, h = self.decoder(previous, h, (annotations, lengths))
        return logits, h
