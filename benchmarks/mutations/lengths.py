"""Ragged sequences whose lengths or masks are taken wrongly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, TensorProto

from .editing import Edit, Editor, Edits, label
from .kinds import kind
from .recurrent import LENGTHS, RECURRENT, edits, given


def ragged(editor: Editor) -> list[NodeProto]:
    """Recurrent nodes with lengths."""
    return [node for node in editor.nodes(*RECURRENT) if given(node, LENGTHS)]


def other_lengths(editor: Editor, make: Callable[[NodeProto, str], str]) -> Edits:
    """One edit a node: lengths made from its own."""
    yield from edits(ragged(editor), lambda node: editor.set_input(node, LENGTHS, make(node, node.input[LENGTHS])))


ONE = np.array([1], np.int32)


@kind("lengths ignored")
def _ignored(editor: Editor) -> Edits:
    """A recurrence runs over the padding too."""
    yield from edits(ragged(editor), lambda node: editor.set_input(node, LENGTHS, ""))


@kind("lengths minus 1")
def _fewer(editor: Editor) -> Edits:
    """Every sequence is a step shorter, but for those of one step."""

    def make(node: NodeProto, lengths: str) -> str:
        return editor.insert(node, "Max", [editor.insert(node, "Sub", [lengths, ONE]), ONE])

    yield from other_lengths(editor, make)


@kind("lengths plus 1")
def _more(editor: Editor) -> Edits:
    """Every sequence is a step longer, but for the longest."""

    def make(node: NodeProto, lengths: str) -> str:
        longest = editor.insert(node, "ReduceMax", [lengths], keepdims=1)
        return editor.insert(node, "Min", [editor.insert(node, "Add", [lengths, ONE]), longest])

    yield from other_lengths(editor, make)


@kind("lengths clamped at 16")
def _clamped(editor: Editor) -> Edits:
    """Sequences end after 16 steps."""
    yield from other_lengths(editor, lambda node, lengths: editor.insert(node, "Min", [lengths, np.array([16], np.int32)]))


@kind("longest for all")
def _longest(editor: Editor) -> Edits:
    """Every sequence is as long as the longest."""

    def make(node: NodeProto, lengths: str) -> str:
        return editor.insert(node, "Expand", [longest(node, lengths), editor.insert(node, "Shape", [lengths])])

    def longest(node: NodeProto, lengths: str) -> str:
        return editor.insert(node, "ReduceMax", [lengths], keepdims=1)

    yield from other_lengths(editor, make)


@kind("lengths of another sequence")
def _reordered(editor: Editor) -> Edits:
    """Lengths are in another order than the sequences, as where sorting was not undone."""
    back, start = np.array([-1]), np.array([np.iinfo(np.int64).min])

    def make(node: NodeProto, lengths: str) -> str:
        return editor.insert(node, "Slice", [lengths, back, start, np.array([0]), back])

    yield from other_lengths(editor, make)


@kind("lengths of one layer")
def _one_layer(editor: Editor) -> Edits:
    """The first of several layers knows the lengths, the others do not."""
    later = ragged(editor)[1:]
    if later:

        def forget() -> None:
            for node in later:
                editor.set_input(node, LENGTHS, "")

        yield Edit("all", forget)


@kind("padding not zeroed")
def _padding(editor: Editor) -> Edits:
    """Outputs past a sequence's length are those of the first step instead of zeros."""

    def harm(node: NodeProto) -> None:
        def filled(y: str) -> str:
            insert = editor.after(node)
            steps = insert("Shape", [y], start=0, end=1)
            time = insert("Range", [np.array(0), insert("Squeeze", [steps]), np.array(1)])
            lengths = insert("Cast", [node.input[LENGTHS]], to=TensorProto.INT64)
            past = insert(
                "GreaterOrEqual", [insert("Unsqueeze", [time, np.array([1])]), insert("Unsqueeze", [lengths, np.array([0])])]
            )
            first = insert("Gather", [y, np.array([0])], axis=0)
            return insert("Where", [insert("Unsqueeze", [past, np.array([1, 3])]), first, y])

        editor.replace(node, 0, filled)

    yield from edits([node for node in ragged(editor) if node.output[0]], harm)


@kind("mask dropped")
def _mask(editor: Editor) -> Edits:
    """A mask lets everything through."""
    for node in editor.nodes("Where"):
        for branch, name in ((1, "then"), (2, "else")):
            if node.input[branch] not in editor.constants():
                edit = lambda n=node, b=branch: editor.remove(n, n.input[b])  # noqa: E731
                yield Edit(f"{label(node)}, {name}", edit)


@kind("mask inverted")
def _inverted(editor: Editor) -> Edits:
    """A mask lets through what it should not."""

    def harm(node: NodeProto) -> None:
        node.input[1], node.input[2] = node.input[2], node.input[1]

    yield from edits(editor.nodes("Where"), harm)


COMPARISONS = {"Less": "LessOrEqual", "GreaterOrEqual": "Greater", "Greater": "GreaterOrEqual", "LessOrEqual": "Less"}


@kind("comparison off by one")
def _comparison(editor: Editor) -> Edits:
    """A comparison includes the limit, or leaves it out."""

    def harm(node: NodeProto) -> None:
        node.op_type = COMPARISONS[node.op_type]

    yield from edits(editor.nodes(*COMPARISONS), harm)
