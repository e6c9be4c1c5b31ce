"""Recurrent networks conditioned on a vector or on a sequence (*Deep Learning*, section 10.2.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells import GRUCell, State
from edgeseq.layers import Recurrent
from edgeseq.models.token_decoder import GeneratingCell, MakeCell, TokenDecoder, gumbel_noise, sequence_log_prob


class VectorConditionedRNN(nn.Module):
    """p(y_1, ..., y_T | x) of one vector x (figure 10.9).

        x = encoder(input)
        h_0 = tanh(S x + d)
        h_t = cell(h_{t-1}, [E y_{t-1}; x])
        p(y_t | y_1, ..., y_{t-1}, x) = softmax(c + V h_t)

    x comes in as the book names it, "as an extra input at each time step, or as the initial state h_0, or both". The columns
    of the cell's `weight_ih` that meet x are the book's R: one product R x is added at every step. Each of the cell's state
    tensors has an S and d of its own.

    Args:
        encoder: from the input (B, ...) to x (B, C).
        context_size: C, features of x.
        vocabulary: V, the values that y_t can take.
        hidden_size: H, features of the state.
        cell: makes the cell from the sizes of its input and its output.
        embedding_size: E, features of an embedded token.
        every_step: whether x is an input at every step.
        initial_state: whether x makes the initial state; zeros otherwise.
        end: a token that is followed by itself alone in what is generated.
    """

    def __init__(
        self,
        encoder: nn.Module,
        context_size: int,
        vocabulary: int,
        hidden_size: int,
        *,
        cell: MakeCell = GRUCell,
        embedding_size: int = 16,
        every_step: bool = True,
        initial_state: bool = True,
        end: int | None = None,
    ) -> None:
        super().__init__()
        if not (every_step or initial_state):
            raise ValueError("every_step and initial_state are both False: x would not come in anywhere; set one")
        self.encoder = encoder
        self.every_step = every_step
        self.decoder = TokenDecoder(
            vocabulary, hidden_size, cell, embedding_size=embedding_size, context_size=context_size if every_step else 0
        )
        sizes = [size for (size,) in self.decoder.layer.state_shapes]
        self.initial = nn.ModuleList(nn.Linear(context_size, size) for size in sizes) if initial_state else None
        self.end = end

    def encode(self, x: Tensor) -> tuple[Tensor, State]:
        """The vector x (B, C) and the initial state, each (B, H), from the encoder's input (B, ...)."""
        context = self.encoder(x)  # (B, C)
        if self.initial is None:
            return context, self.decoder.layer.initial_state(context.unsqueeze(0))
        return context, tuple(torch.tanh(linear(context)) for linear in self.initial)

    def forward(self, previous: Tensor, context: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, State]:
        """Logits (T, B, V) of the token after each of `previous` (T, B) given x (B, C) and a state, and the state after."""
        logits, following = self.decoder(previous, self._at_every_step(context, previous.shape[0]), state)
        return logits, following

    def log_prob(self, y: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The score log p(y | x) (B,), in nats, of tokens y (T, B), each sequence up to its length (B,) in 1..T."""
        context, state = self.encode(x)
        return self.decoder.log_prob(y, lengths, self._at_every_step(context, y.shape[0]), state)

    def generate(self, x: Tensor, noise: Tensor) -> Tensor:
        """Tokens (T, B) from x (B, ...) and noise (T, B, V): greedy where it is zero, exact samples where it is Gumbel noise."""
        context, state = self.encode(x)
        cell = GeneratingCell(self.decoder, end=self.end)
        repeated = self._at_every_step(context, noise.shape[0])
        inputs = noise if repeated is None else torch.cat([noise, repeated], dim=-1)  # (T, B, V + C)
        y: Tensor = Recurrent(cell)(inputs, cell.started(state))[0]
        return y

    @torch.no_grad()
    def sample(self, x: Tensor, steps: int, generator: torch.Generator | None = None) -> Tensor:
        """One sample y (T, B) of `steps` tokens for each x (B, ...)."""
        weight = self.decoder.readout.weight
        return self.generate(x, gumbel_noise((steps, x.shape[0], self.decoder.vocabulary), weight, generator))

    def _at_every_step(self, context: Tensor, T: int) -> Tensor | None:
        return context.expand(T, -1, -1) if self.every_step else None  # (T, B, C)


class SequenceConditionedRNN(nn.Module):
    """p(y_1, ..., y_T | x_1, ..., x_T) = Π_t p(y_t | y_1, ..., y_{t-1}, x_1, ..., x_t): the output is fed back (figure 10.10).

        h_t = cell(h_{t-1}, [E y_{t-1}; x_t]),    p(y_t | ...) = softmax(c + V h_t)

    With the edges from y_{t-1} to h_t it can represent any distribution over y given x.

    Args:
        input_size: features of x_t.
        vocabulary: V, the values that y_t can take.
        hidden_size: H, features of the state.
        cell: makes the cell from the sizes of its input and its output.
        embedding_size: E, features of an embedded token.
    """

    def __init__(
        self, input_size: int, vocabulary: int, hidden_size: int, *, cell: MakeCell = GRUCell, embedding_size: int = 16
    ) -> None:
        super().__init__()
        self.decoder = TokenDecoder(vocabulary, hidden_size, cell, embedding_size=embedding_size, context_size=input_size)

    def forward(self, previous: Tensor, x: Tensor, state: Sequence[Tensor] | None = None) -> tuple[Tensor, State]:
        """Logits (T, B, V) of y from the tokens before it (T, B) and x (T, B, I), and the state after the last step."""
        logits, following = self.decoder(previous, x, state)
        return logits, following

    def log_prob(self, y: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The score log p(y | x) (B,), in nats, of tokens y (T, B) and x (T, B, I), each sequence up to its length (B,) in 1..T."""
        return self.decoder.log_prob(y, lengths, x)

    def generate(self, x: Tensor, noise: Tensor) -> Tensor:
        """Tokens (T, B) from x (T, B, I) and noise (T, B, V): greedy where it is zero, exact samples where it is Gumbel noise."""
        y: Tensor = Recurrent(GeneratingCell(self.decoder))(torch.cat([noise, x], dim=-1))[0]
        return y

    @torch.no_grad()
    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One sample y (T, B) for each x (T, B, I)."""
        T, B, _ = x.shape
        return self.generate(x, gumbel_noise((T, B, self.decoder.vocabulary), x, generator))


class IndependentOutputsRNN(nn.Module):
    """p(y_1, ..., y_T | x_1, ..., x_T) = Π_t p(y_t | x_1, ..., x_t): nothing is fed back (equation 10.35).

        h_t = cell(h_{t-1}, x_t),    p(y_t | x_1, ..., x_t) = softmax(c + V h_t)

    Given x the outputs are independent of each other: of correlated ones it can learn each one's marginal and no more.

    Args:
        input_size: features of x_t.
        vocabulary: V, the values that y_t can take.
        hidden_size: H, features of the state.
        cell: makes the cell from the sizes of its input and its output.
    """

    def __init__(self, input_size: int, vocabulary: int, hidden_size: int, *, cell: MakeCell = GRUCell) -> None:
        super().__init__()
        self.layer = Recurrent(cell(input_size, hidden_size))
        self.readout = nn.Linear(hidden_size, vocabulary)

    def forward(self, x: Tensor, state: Sequence[Tensor] | None = None) -> tuple[Tensor, State]:
        """Logits (T, B, V) of y from x (T, B, I), and the state after the last step."""
        h, following = self.layer(x, state)
        return self.readout(h), following  # (T, B, V)

    def log_prob(self, y: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The score log p(y | x) (B,), in nats, as `SequenceConditionedRNN.log_prob`."""
        logits, _ = self(x)
        return sequence_log_prob(logits, y, lengths)


class VectorEncoderGraph(nn.Module):
    """What is exported to begin with: the vector and the initial state for `VectorStepGraph`."""

    def __init__(self, model: VectorConditionedRNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Input (B, ...) -> the vector (B, C) and the initial state, h or h and s (B, H)."""
        context, state = self.model.encode(x)
        return context, *state


class VectorStepGraph(nn.Module):
    """What is exported to go on with: one token after the other, or a whole prefix at once. The first is `decoder.start`."""

    def __init__(self, model: VectorConditionedRNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, previous: Tensor, context: Tensor, h: Tensor, s: Tensor | None = None) -> tuple[Tensor, ...]:
        """Tokens (T, B), the vector (B, C), the state -> log-probabilities (T, B, V) of the next token, and the state."""
        logits, state = self.model(previous, context, (h,) if s is None else (h, s))
        return F.log_softmax(logits, dim=-1), *state


class GeneratingGraph(nn.Module):
    """What is exported to generate whole sequences in one run: the loop that feeds each choice back is one Scan."""

    def __init__(self, model: VectorConditionedRNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Input (B, ...) and noise (T, B, V) -> tokens (T, B): greedy where the noise is zero, samples where it is Gumbel noise."""
        return self.model.generate(x, noise)


class SequenceStepGraph(nn.Module):
    """What is exported of the model with feedback: step by step, each output chosen outside and given back as `previous`."""

    def __init__(self, model: SequenceConditionedRNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, previous: Tensor, x: Tensor, h: Tensor, s: Tensor | None = None) -> tuple[Tensor, ...]:
        """Tokens (T, B), x (T, B, I), the state -> log-probabilities (T, B, V) of y, and the state."""
        logits, state = self.model(previous, x, (h,) if s is None else (h, s))
        return F.log_softmax(logits, dim=-1), *state


class IndependentOutputsGraph(nn.Module):
    """What is exported of the model without feedback: a whole sequence in one native node, or chunk by chunk."""

    def __init__(self, model: IndependentOutputsRNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, h: Tensor, s: Tensor | None = None) -> tuple[Tensor, ...]:
        """Inputs x (T, B, I), the state -> log-probabilities (T, B, V) of y, and the state."""
        logits, state = self.model(x, (h,) if s is None else (h, s))
        return F.log_softmax(logits, dim=-1), *state
