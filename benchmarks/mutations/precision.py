"""Fewer bits than float32: weights kept, or values passed on, in a shorter format."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, TensorProto

from .editing import Array, Edit, Editor, Edits, is_float, label, number
from .kinds import kind
from .weights import changed, weights


def shortened(value: Array, bits: int) -> Array:
    """Rounded to a significand of so many bits, at float32's range."""
    mantissa, exponent = np.frexp(value.astype(np.float64))
    rounded: Array = np.ldexp(np.round(mantissa * 2.0**bits) / 2.0**bits, exponent).astype(np.float32)
    return rounded


def int8(value: Array, axis: tuple[int, ...] | None) -> Array:
    """There and back through 8-bit integers with one scale a tensor, or one for each place along the remaining axes."""
    scale = np.maximum(np.abs(value).max(axis=axis, keepdims=True), 1e-30) / 127
    rounded: Array = np.round(value / scale) * scale
    return rounded


def everywhere(editor: Editor, change: Callable[[Array], Array]) -> Edits:
    """One edit, of all weights at once."""
    found = [(name, value) for name, value in weights(editor, least=1) if (change(value) != value).any()]
    if found:

        def shorten() -> None:
            for name, value in found:
                editor.set_constant(name, change(value).astype(value.dtype))

        yield Edit("all", shorten)


@kind("one tensor fp16")
def _one_fp16(editor: Editor) -> Edits:
    """One weight tensor went through float16."""
    yield from changed(editor, weights(editor), lambda value, random: value.astype(np.float16))


@kind("all weights fp16")
def _all_fp16(editor: Editor) -> Edits:
    """All weights went through float16."""
    yield from everywhere(editor, lambda value: value.astype(np.float16).astype(np.float32))


@kind("one tensor bf16")
def _one_bf16(editor: Editor) -> Edits:
    """One weight tensor went through bfloat16."""
    yield from changed(editor, weights(editor), lambda value, random: shortened(value, 8))


@kind("one tensor TF32")
def _one_tf32(editor: Editor) -> Edits:
    """One weight tensor was rounded to TF32."""
    yield from changed(editor, weights(editor), lambda value, random: shortened(value, 11))


@kind("one tensor 20 bits")
def _one_20_bits(editor: Editor) -> Edits:
    """One weight tensor has a significand of 20 bits."""
    yield from changed(editor, weights(editor), lambda value, random: shortened(value, 20))


@kind("six digits")
def _six_digits(editor: Editor) -> Edits:
    """All weights went through text with six significant digits."""
    yield from everywhere(editor, lambda value: np.vectorize(lambda v: float(f"{v:.6g}"), otypes=[np.float64])(value))


@kind("one tensor int8")
def _one_int8(editor: Editor) -> Edits:
    """One weight tensor went through 8-bit integers with one scale."""
    yield from changed(editor, weights(editor), lambda value, random: int8(value, None))


@kind("one tensor int8 by row")
def _int8_rows(editor: Editor) -> Edits:
    """One weight tensor went through 8-bit integers with a scale a row."""
    yield from changed(editor, weights(editor), lambda value, random: int8(value, (value.ndim - 1,)))


def products(editor: Editor) -> list[NodeProto]:
    """Nodes that multiply what they are given with weights."""
    return editor.nodes("MatMul", "Gemm", "Conv", "LSTM", "GRU", "RNN")


def through(editor: Editor, pass_on: Callable[[NodeProto, str], str]) -> Edits:
    """One edit a product: its first operand is passed through other nodes."""
    for node in products(editor):
        tensor = editor.constants().get(node.input[0])
        if tensor is None or is_float(tensor):
            yield Edit(label(node), lambda n=node: editor.set_input(n, 0, pass_on(n, n.input[0])))  # type: ignore[misc]


@kind("operand fp16")
def _operand_fp16(editor: Editor) -> Edits:
    """What a matrix product is given went through float16."""

    def pass_on(node: NodeProto, value: str) -> str:
        half = editor.insert(node, "Cast", [value], to=TensorProto.FLOAT16)
        return editor.insert(node, "Cast", [half], to=TensorProto.FLOAT)

    yield from through(editor, pass_on)


@kind("operand TF32")
def _operand_tf32(editor: Editor) -> Edits:
    """What a matrix product is given was rounded to TF32, as a GPU does it unless told otherwise.

    By Dekker's splitting: with c = (2^13 + 1) x, the upper half of x is c - (c - x).
    """

    def pass_on(node: NodeProto, value: str) -> str:
        scaled = editor.insert(node, "Mul", [value, number(2**13 + 1)])
        return editor.insert(node, "Sub", [scaled, editor.insert(node, "Sub", [scaled, value])])

    yield from through(editor, pass_on)


@kind("outputs 1e-6")
def _outputs_scaled(editor: Editor) -> Edits:
    """An output is larger by 1e-6 of itself."""
    for node, at, name in outputs_made(editor):
        scale = number(1 + 1e-6)

        def edit(n: NodeProto = node, at: int = at, scale: Array = scale) -> None:
            editor.replace(n, at, lambda inner: editor.insert(n, "Mul", [inner, scale], after=True))

        yield Edit(name, edit)


def outputs_made(editor: Editor) -> list[tuple[NodeProto, int, str]]:
    """Outputs of the graph that are floats: the node that makes each, which of its outputs it is, and its name."""
    floats = {output.name for output in editor.graph.output if output.type.tensor_type.elem_type == TensorProto.FLOAT}
    return [(node, at, name) for node in editor.graph.node for at, name in enumerate(node.output) if name in floats]
