"""What the models of discrete sequences share: a recurrence over the outputs so far, its score and its generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells import Cell, State
from edgeseq.layers import Recurrent

MakeCell = Callable[[int, int], Cell]  # from the sizes of input and state: `GRUCell`, or a functools.partial of another


class TokenDecoder(nn.Module):
    """A distribution over the next token from a state that summarises all tokens so far (*Deep Learning*, section 10.2.3).

        h_t = cell(h_{t-1}, [E y_{t-1}; x_t])
        o_t = c + V h_t                                   (10.10)
        p(y_t | y_1, ..., y_{t-1}, x_1, ..., x_t) = softmax(o_t)

    The context x is left out where `context_size` is 0. Before the first token stands the token `start`, which is none of the
    vocabulary's: its number is V.

    Args:
        vocabulary: V, the number of tokens.
        hidden_size: H, features of the cell's output.
        cell: makes the cell from the sizes of its input and its output.
        embedding_size: E, features of an embedded token.
        context_size: C, features of the context.
    """

    def __init__(
        self, vocabulary: int, hidden_size: int, cell: MakeCell, *, embedding_size: int = 16, context_size: int = 0
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.context_size = context_size
        self.embedding = nn.Embedding(vocabulary + 1, embedding_size)
        self.layer = Recurrent(cell(embedding_size + context_size, hidden_size))
        self.readout = nn.Linear(hidden_size, vocabulary)

    @property
    def start(self) -> int:
        """The token before the first."""
        return self.vocabulary

    def inputs(self, previous: Tensor, context: Tensor | None = None) -> Tensor:
        """The cell's inputs (..., E + C) from the tokens before (...) and the context (..., C)."""
        embedded: Tensor = self.embedding(previous)
        return embedded if context is None else torch.cat([embedded, context], dim=-1)

    def forward(
        self, previous: Tensor, context: Tensor | None = None, state: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, State]:
        """Logits o (T, B, V) after each token of `previous` (T, B) with the context (T, B, C), and the state after the last."""
        h, following = self.layer(self.inputs(previous, context), state)
        return self.readout(h), following  # (T, B, V)

    def step(self, previous: Tensor, context: Tensor | None, state: State) -> tuple[State, Tensor]:
        """One time step of forward: the state and the logits (B, V) after the token (B,) with the context (B, C)."""
        state, h = self.layer.cell(state, self.inputs(previous, context))
        return state, self.readout(h)

    def log_prob(
        self,
        y: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        state: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """The score log p(y_1, ..., y_n) (B,), in nats, of tokens y (T, B) with n = T or n = lengths (B,), each in 1..T.

        What y holds at and past a sequence's length does not matter as long as they are tokens.
        """
        logits, _ = self(shifted(y, self.start), context, state)
        return sequence_log_prob(logits, y, lengths)


class GeneratingCell(Cell):
    """A decoder that reads its own choice: a whole generation is this cell run over time, in an exported graph one Scan.

        y_t = argmax_i (o_t[i] + g_t[i])

    The noise g is an input, so the step is deterministic: with zeros y is the greedy choice, with independent Gumbel noise an
    exact sample from softmax(o_t) (Maddison et al., 2014, "A* sampling", section 2). Input: noise (T, B, V), or where the
    decoder has a context noise and context (T, B, V + C). State: the last token (B,) int64, then the decoder's.
    Output: tokens (T, B).

    Args:
        decoder: what is generated from.
        end: a token that is followed by itself alone; None where there is no such token.
    """

    def __init__(self, decoder: TokenDecoder, *, end: int | None = None) -> None:
        super().__init__()
        self.decoder = decoder
        self.end = end
        self.state_shapes = ((), *decoder.layer.state_shapes)

    def initial_state(self, x: Tensor) -> State:
        """The start token and the decoder's own initial state."""
        return self.started(self.decoder.layer.initial_state(x))

    def started(self, state: State) -> State:
        """The start token, and the decoder's state (B, ...) as given."""
        B = state[0].shape[0]
        return (torch.full((B,), self.decoder.start, dtype=torch.int64, device=state[0].device), *state)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Noise (..., V), and the context (..., C) where there is one."""
        if self.decoder.context_size == 0:
            return (x,)
        V = self.decoder.vocabulary
        return x[..., :V], x[..., V:]

    def step(self, state: State, projected: tuple[Tensor, ...]) -> tuple[State, Tensor]:
        """The next token (B,), which is in the next state too."""
        previous, *hidden = state
        noise, *context = projected
        following, logits = self.decoder.step(previous, context[0] if context else None, tuple(hidden))
        chosen = (logits + noise).argmax(dim=-1)  # (B,)
        if self.end is not None:
            chosen = torch.where(previous == self.end, self.end, chosen)
        return (chosen, *following), chosen


def shifted(y: Tensor, start: int) -> Tensor:
    """The token before each of y (T, B): `start`, y_1, ..., y_{T-1}."""
    return torch.cat([torch.full_like(y[:1], start), y[:-1]])


def sequence_log_prob(logits: Tensor, y: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Sum over time (B,) of log softmax(logits)[y], logits (T, B, V) and y (T, B), each sequence up to its length."""
    log_p = F.log_softmax(logits, dim=-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)  # (T, B)
    if lengths is not None:
        steps = torch.arange(y.shape[0], device=y.device)[:, None]  # (T, 1)
        log_p = torch.where(steps < lengths, log_p, torch.zeros_like(log_p))
    return log_p.sum(dim=0)


def gumbel_noise(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Independent standard Gumbel noise of the dtype and device of `like`: -log of a standard exponential."""
    return -torch.empty(shape, dtype=like.dtype, device=like.device).exponential_(generator=generator).log()
