"""Text into tokens and tokens into text, as a bundle says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgeseq_runtime.bundle import Generation, TextInput
from edgeseq_runtime.errors import InputError, UsageError
from edgeseq_runtime.generation.written import Written
from edgeseq_runtime.interface import BATCH
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array


class WrittenText(NamedTuple):
    """The candidates for one text, the best first, and their scores."""

    candidates: tuple[str, ...]
    scores: tuple[float, ...]
    ended: tuple[bool, ...]  # False where a candidate was cut off at the largest length

    @property
    def best(self) -> str:
        return self.candidates[0]


def text_inputs(text: TextInput, specs: Sequence[TensorSpec], texts: Sequence[str]) -> dict[str, Array]:
    """Tokens (S, B) or (B, S), as the input is declared, padded with token 0; and lengths (B,): by the names of the inputs.

    Raises:
        InputError: there is no text, one is empty, has a character that is no symbol, or they differ in length where the model
            takes no lengths.
    """
    rows = [_tokens(text, one) for one in texts]
    if not rows:
        raise InputError("there is no text; give at least one")
    lengths = np.array([len(row) for row in rows])
    if not text.lengths and len(set(lengths.tolist())) > 1:
        raise InputError("texts of different lengths were given together, and the model takes no lengths; give them one by one")
    (spec,) = (spec for spec in specs if spec.name == text.input)
    tokens = np.zeros((len(rows), lengths.max()), spec.dtype)
    for b, row in enumerate(rows):
        tokens[b, : len(row)] = row
    placed = tokens if spec.shape[0] == BATCH else np.ascontiguousarray(tokens.T)
    return {text.input: placed, **({text.lengths: lengths} if text.lengths else {})}


def _tokens(text: TextInput, one: str) -> list[int]:
    known = {symbol: token for token, symbol in enumerate(text.symbols)}
    spelled = one.lower() if text.lower else one
    odd = sorted(set(spelled) - set(known))
    if odd or not spelled:
        found = f"the characters {odd}" if odd else "no character"
        raise InputError(f"the text {one!r} has {found}; the model reads {''.join(text.symbols)!r}: leave out all others")
    return [known[symbol] for symbol in spelled]


def written_texts(generation: Generation, written: Written) -> list[WrittenText]:
    """The text of each sequence's candidates.

    Raises:
        UsageError: the bundle does not say how tokens are written.
    """
    if not generation.symbols:
        raise UsageError("the bundle does not say how tokens are written as text; export it with symbols=(...), or use the tokens")
    return [_written_text(generation, written, b) for b in range(written.tokens.shape[1])]


def _written_text(generation: Generation, written: Written, b: int) -> WrittenText:
    candidates, ended = [], []
    for n, count in enumerate(written.counts[b].tolist()):
        tokens = written.tokens[:count, b, n].tolist()
        ended.append(generation.end is None or (bool(tokens) and tokens[-1] == generation.end))
        candidates.append(generation.joiner.join(generation.symbols[token] for token in tokens if token != generation.end))
    return WrittenText(tuple(candidates), tuple(written.scores[b].tolist()), tuple(ended))
