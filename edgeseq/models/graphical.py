"""Recurrent networks as directed graphical models over a sequence (*Deep Learning*, section 10.2.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells import GRUCell, State
from edgeseq.layers import Recurrent
from edgeseq.models.token_decoder import GeneratingCell, MakeCell, TokenDecoder, gumbel_noise, sequence_log_prob, shifted


class AutoregressiveRNN(nn.Module):
    """p(y_1, ..., y_T) = Π_t p(y_t | y_1, ..., y_{t-1}), every factor through the same state (equation 10.31).

        h_t = cell(h_{t-1}, E y_{t-1}),    p(y_t | y_1, ..., y_{t-1}) = softmax(c + V h_t)

    Marginalised over the deterministic h the graph over y is complete, with a number of parameters that T does not change.

    Args:
        vocabulary: V, the values that y_t can take.
        hidden_size: H, features of the state.
        cell: makes the cell from the sizes of its input and its output.
        embedding_size: E, features of an embedded token.
        end: a token that is followed by itself alone in samples: the sequence is over (section 10.2.3's special symbol).
    """

    def __init__(
        self, vocabulary: int, hidden_size: int, *, cell: MakeCell = GRUCell, embedding_size: int = 16, end: int | None = None
    ) -> None:
        super().__init__()
        self.decoder = TokenDecoder(vocabulary, hidden_size, cell, embedding_size=embedding_size)
        self.end = end

    def forward(self, previous: Tensor, state: Sequence[Tensor] | None = None) -> tuple[Tensor, State]:
        """Logits (T, B, V) of the token after each of `previous` (T, B), the first of which is `decoder.start`; and the state."""
        logits, following = self.decoder(previous, None, state)
        return logits, following

    def log_prob(self, y: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The score log p(y) (B,), in nats, of tokens y (T, B), each sequence up to its length (B,) in 1..T."""
        return self.decoder.log_prob(y, lengths)

    def generate(self, noise: Tensor) -> Tensor:
        """Tokens (T, B) from noise (T, B, V): greedy where it is zero, exact samples where it is Gumbel noise."""
        y: Tensor = Recurrent(GeneratingCell(self.decoder, end=self.end))(noise)[0]
        return y

    @torch.no_grad()
    def sample(self, steps: int, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Ancestral samples y (T, B) of `steps` tokens: each is drawn given those before it."""
        weight = self.decoder.readout.weight
        return self.generate(gumbel_noise((steps, batch, self.decoder.vocabulary), weight, generator))


class FixedWindowModel(nn.Module):
    """The same product with edges that reach back k steps alone: p(y_t | y_{t-k}, ..., y_{t-1}).

    Where an RNN has a state, it has a perceptron with one hidden layer over the last k tokens. What lies further back can't
    change its prediction, and its parameters grow with k.

    Args:
        vocabulary: V, the values that y_t can take.
        window: k, how many tokens it sees.
        hidden_size: H, features of the hidden layer.
        embedding_size: E, features of an embedded token.
    """

    def __init__(self, vocabulary: int, window: int, hidden_size: int, *, embedding_size: int = 16) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window is {window}; it has to be 1 or more")
        self.start = vocabulary
        self.window = window
        self.embedding = nn.Embedding(vocabulary + 1, embedding_size)
        self.hidden = nn.Linear(window * embedding_size, hidden_size)
        self.readout = nn.Linear(hidden_size, vocabulary)

    def forward(self, y: Tensor) -> Tensor:
        """Logits (T, B, V) of each of the tokens y (T, B) from the k before it."""
        past = [shifted(y, self.start)]
        while len(past) < self.window:
            past.append(shifted(past[-1], self.start))
        embedded = self.embedding(torch.stack(past, dim=-1))  # (T, B, k, E)
        logits: Tensor = self.readout(F.relu(self.hidden(embedded.flatten(start_dim=2))))  # (T, B, V)
        return logits

    def log_prob(self, y: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As `AutoregressiveRNN.log_prob`."""
        return sequence_log_prob(self(y), y, lengths)


class ScoringGraph(nn.Module):
    """What is exported to score sequences: log p(y) (B,) of tokens y (T, B) with lengths (B,)."""

    def __init__(self, model: AutoregressiveRNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, y: Tensor, lengths: Tensor) -> Tensor:
        """Tokens (T, B), lengths (B,) in 1..T -> log-probabilities (B,) in nats."""
        return self.model.log_prob(y, lengths)


class StepGraph(nn.Module):
    """What is exported to go on from a state: one token after the other, or a whole prefix at once.

    The first token of a sequence is `decoder.start`, its state zeros.
    """

    def __init__(self, model: AutoregressiveRNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, previous: Tensor, h: Tensor, s: Tensor | None = None) -> tuple[Tensor, ...]:
        """Tokens (T, B) and the state, h or h and s (B, H) -> log-probabilities (T, B, V) of the next token, and the state."""
        logits, state = self.model(previous, (h,) if s is None else (h, s))
        return F.log_softmax(logits, dim=-1), *state
