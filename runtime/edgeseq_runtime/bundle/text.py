"""What a model reads and writes as text: which input takes symbols, and how a graph writes a sequence of tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec


class TextInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An input that is text: one token a symbol, token i for `symbols[i]`."""

    input: str  # tokens (S, B)
    symbols: tuple[str, ...]  # a character each
    lengths: str = ""  # the input that holds each text's length (B,), where there is one
    lower: bool = False  # whether capitals stand for their small letters

    def problems(self, inputs: Collection[str], outputs: Collection[str]) -> Iterator[str]:
        """What contradicts the model's tensors, or itself."""
        for name in filter(None, (self.input, self.lengths)):
            if name not in inputs:
                yield f"text names the input '{name}', and the inputs are {list(inputs)}"
        odd = [symbol for symbol in self.symbols if len(symbol) != 1]
        if odd or len(set(self.symbols)) != len(self.symbols) or not self.symbols:
            yield f"the symbols of text must be single characters, each once; found {odd or list(self.symbols)}"


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a graph writes sequences of tokens.

    A graph of form "step" gives the logits of the next token and leaves the choice to whoever runs it; one of form "loop" holds
    the search and gives whole sequences.
    """

    form: str  # "step" or "loop"
    tokens: str  # step: the input that takes the token before; loop: the output (T, B) or (T, B, K)
    scores: str  # step: the output with logits or log p, (..., V); loop: the output (B,) or (B, K)
    counts: str = ""  # loop: the output with the number of tokens that count, (B,) or (B, K)
    search: str = ""  # loop: "greedy", "sampling" or "beam"
    start: int | None = None  # step: the token before the first
    end: int | None = None  # the token that ends a sequence; None where sequences have no end of their own
    symbols: tuple[str, ...] = ()  # token i is written as symbols[i]; the end token is not written
    joiner: str = " "  # stands between symbols

    def problems(self, inputs: Collection[str], outputs: Collection[str]) -> Iterator[str]:
        """What contradicts the model's tensors, or itself."""
        if self.form not in FORMS:
            yield f"the form of generation is '{self.form}'; it must be one of {list(FORMS)}"
            return
        step = self.form == "step"
        if self.tokens not in (inputs if step else outputs):
            yield f"generation names the {'input' if step else 'output'} '{self.tokens}', which there is not"
        for name in (self.scores, *([] if step else [self.counts])):
            if name not in outputs:
                yield f"generation names the output '{name}', and the outputs are {list(outputs)}"
        if step and self.start is None:
            yield "a step generation needs the token before the first, start"
        if not step and self.search not in LOOP_INPUTS:
            yield f"the search of a loop is '{self.search}'; it must be one of {list(LOOP_INPUTS)}"
        missing = [name for name in LOOP_INPUTS.get(self.search, ()) if name not in inputs]
        if missing:
            yield f"a {self.search} loop takes the inputs {missing}, which there are not"


FORMS = ("step", "loop")
# What a loop takes besides the model's own inputs, by the kind of its search.
LOOP_INPUTS = {"greedy": ("longest",), "beam": ("longest",), "sampling": ("uniforms", "temperature", "top_k", "top_p")}
