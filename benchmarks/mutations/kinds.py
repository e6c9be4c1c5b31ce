"""What a kind of mutation is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from onnx import ModelProto

from .editing import Editor, Edits


class Kind(NamedTuple):
    """One way to harm an exported graph."""

    name: str
    family: str  # the module that defines it
    text: str  # one sentence
    edits: Callable[[Editor], Edits]

    def sites(self, model: ModelProto) -> tuple[str, ...]:
        """The places where it can be applied; the model stays as it is."""
        return tuple(edit.site for edit in self.edits(Editor(model)))

    def apply(self, model: ModelProto, site: str) -> ModelProto:
        """A harmed copy.

        Raises:
            StopIteration: the model has no such site.
        """
        mutated = _copy(model)
        next(edit for edit in self.edits(Editor(mutated)) if edit.site == site).apply()
        return mutated


KINDS: dict[str, Kind] = {}


def kind(name: str) -> Callable[[Callable[[Editor], Edits]], Callable[[Editor], Edits]]:
    """Register a function that finds the edits of one kind; the first line of its docstring is the sentence."""

    def register(edits: Callable[[Editor], Edits]) -> Callable[[Editor], Edits]:
        KINDS[name] = Kind(name, edits.__module__.rpartition(".")[2], (edits.__doc__ or "").splitlines()[0], edits)
        return edits

    return register


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy
