"""The models of `edgeseq.models` as token writers."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeseq.generation.writer import Beginning, State, TokenWriter
from edgeseq.models.conditional import SequenceConditionedRNN, VectorConditionedRNN
from edgeseq.models.encoder_decoder import EncoderDecoder
from edgeseq.models.graphical import AutoregressiveRNN


class AutoregressiveWriter(TokenWriter):
    """p(y_1, ..., y_T), or what follows a prefix: the last token of the prefix and the state after those before it are inputs.

    A sequence from its first token on has `model.decoder.start` and zeros.
    """

    def __init__(self, model: AutoregressiveRNN) -> None:
        super().__init__()
        self.model = model
        self.vocabulary = model.decoder.vocabulary
        self.end = model.end

    def begin(self, **inputs: Tensor) -> Beginning:
        """From `previous` (B,) and the state, `h` or `h` and `s` (B, H)."""
        return Beginning(inputs["previous"], tuple(inputs[name] for name in ("h", "s") if name in inputs), ())

    def next(self, t: Tensor, token: Tensor, state: State, memory: State) -> tuple[Tensor, State]:
        state, logits = self.model.decoder.step(token, None, state)
        return logits, state


class VectorWriter(TokenWriter):
    """p(y_1, ..., y_T | x) of one vector x, which the model's own encoder makes."""

    def __init__(self, model: VectorConditionedRNN) -> None:
        super().__init__()
        self.model = model
        self.vocabulary = model.decoder.vocabulary
        self.end = model.end

    def begin(self, **inputs: Tensor) -> Beginning:
        """From the encoder's input `x` (B, ...)."""
        context, state = self.model.encode(inputs["x"])
        return Beginning(_starts(context, self.model.decoder.start), state, (context,) if self.model.every_step else ())

    def next(self, t: Tensor, token: Tensor, state: State, memory: State) -> tuple[Tensor, State]:
        state, logits = self.model.decoder.step(token, memory[0] if memory else None, state)
        return logits, state


class SequenceWriter(TokenWriter):
    """p(y_1, ..., y_T | x_1, ..., x_T): a token for each step of x, so none more than it has steps."""

    end = None

    def __init__(self, model: SequenceConditionedRNN) -> None:
        super().__init__()
        self.model = model
        self.vocabulary = model.decoder.vocabulary

    def begin(self, **inputs: Tensor) -> Beginning:
        """From `x` (T, B, I)."""
        x = inputs["x"]
        return Beginning(
            _starts(x[0], self.model.decoder.start), self.model.decoder.layer.initial_state(x), (x.transpose(0, 1).contiguous(),)
        )

    def next(self, t: Tensor, token: Tensor, state: State, memory: State) -> tuple[Tensor, State]:
        now = memory[0].index_select(1, t.reshape(1)).squeeze(1)  # (B, I)
        state, logits = self.model.decoder.step(token, now, state)
        return logits, state

    def limit(self, longest: Tensor, memory: State) -> Tensor:
        return torch.minimum(longest, torch.full_like(longest, memory[0].shape[1]))


class EncoderDecoderWriter(TokenWriter):
    """p(y_1, ..., y_T | source) of an encoder-decoder; its boundary token stands before the first token and ends the sequence."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model
        self.vocabulary = model.decoder.readout.out_features
        self.end = model.boundary

    def begin(self, **inputs: Tensor) -> Beginning:
        """From tokens `source` (S, B) and their `lengths` (B,) in 1..S."""
        memory, h = self.model.encode(inputs["source"], inputs["lengths"])
        return Beginning(_starts(h, self.model.boundary), (h,), self.model.decoder.kept(memory))

    def next(self, t: Tensor, token: Tensor, state: State, memory: State) -> tuple[Tensor, State]:
        h, logits = self.model.decoder.step(token, state[0], memory)
        return logits, (h,)


def _starts(like: Tensor, start: int) -> Tensor:
    """The start token for each of a batch, the first axis of `like`."""
    return torch.full(like.shape[:1], start, dtype=torch.int64, device=like.device)
