"""Weights that are not the module's: off by a little, in the wrong place, or gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from zlib import crc32

import numpy as np
from onnx import numpy_helper

from .editing import Array, Edit, Editor, Edits, is_float
from .kinds import kind


def weights(editor: Editor, least: int = 2) -> Iterator[tuple[str, Array]]:
    """Constants of float32 with at least so many axes."""
    for name, tensor in editor.constants().items():
        if is_float(tensor) and len(tensor.dims) >= least and np.prod(tensor.dims) > 1:
            yield name, numpy_helper.to_array(tensor).copy()


def biases(editor: Editor) -> Iterator[tuple[str, Array]]:
    """What is added to each feature: vectors, and input B of the recurrent nodes."""
    recurrent = {node.input[3] for node in editor.nodes("LSTM", "GRU", "RNN") if len(node.input) > 3}
    for name, tensor in editor.constants().items():
        if is_float(tensor) and (name in recurrent or (len(tensor.dims) == 1 and tensor.dims[0] > 1)):
            yield name, numpy_helper.to_array(tensor).copy()


def changed(editor: Editor, tensors: Iterator[tuple[str, Array]], change: Callable[[Array, np.random.Generator], Array]) -> Edits:
    """One edit a tensor; the generator is the tensor's own, and the same each time."""
    for name, value in tensors:
        random = np.random.default_rng(crc32(name.encode()))
        yield Edit(name, lambda n=name, v=value, r=random: editor.set_constant(n, change(v, r).astype(v.dtype)))  # type: ignore[misc]


def one_element(relative: float) -> Callable[[Array, np.random.Generator], Array]:
    """Changes one element, drawn from those that are not zero."""

    def change(value: Array, random: np.random.Generator) -> Array:
        flat = value.reshape(-1)
        at = random.choice(np.flatnonzero(flat)) if flat.any() else 0
        stepped = np.float32(flat[at] * np.float32(1 + relative))
        flat[at] = stepped if stepped != flat[at] else np.nextafter(flat[at], np.float32(np.inf))
        return value

    return change


@kind("one weight 1e-6")
def _one_weight_1e6(editor: Editor) -> Edits:
    """One weight is off by 1e-6 of itself."""
    yield from changed(editor, weights(editor), one_element(1e-6))


@kind("one weight 1e-4")
def _one_weight_1e4(editor: Editor) -> Edits:
    """One weight is off by 1e-4 of itself."""
    yield from changed(editor, weights(editor), one_element(1e-4))


@kind("one weight 1e-2")
def _one_weight_1e2(editor: Editor) -> Edits:
    """One weight is off by 1 % of itself."""
    yield from changed(editor, weights(editor), one_element(1e-2))


@kind("one weight zero")
def _one_weight_zero(editor: Editor) -> Edits:
    """One weight is zero."""
    yield from changed(editor, weights(editor), one_element(-1.0))


@kind("one column 1e-5")
def _one_column(editor: Editor) -> Edits:
    """All weights of one input feature are off by 1e-5 of themselves."""

    def change(value: Array, random: np.random.Generator) -> Array:
        value[..., random.integers(value.shape[-1])] *= np.float32(1 + 1e-5)
        return value

    yield from changed(editor, weights(editor), change)


def noise(relative: float) -> Callable[[Array, np.random.Generator], Array]:
    """Changes every element by about so much of itself, up or down."""
    return lambda value, random: value * (1 + relative * random.standard_normal(value.shape))


@kind("weight noise 1e-7")
def _noise_1e7(editor: Editor) -> Edits:
    """Every weight of a tensor is off by about 1e-7 of itself, its last bit."""
    yield from changed(editor, weights(editor), noise(1e-7))


@kind("weight noise 1e-6")
def _noise_1e6(editor: Editor) -> Edits:
    """Every weight of a tensor is off by about 1e-6 of itself."""
    yield from changed(editor, weights(editor), noise(1e-6))


@kind("weight noise 1e-5")
def _noise_1e5(editor: Editor) -> Edits:
    """Every weight of a tensor is off by about 1e-5 of itself."""
    yield from changed(editor, weights(editor), noise(1e-5))


@kind("weights scaled 1e-6")
def _scaled(editor: Editor) -> Edits:
    """All weights of a tensor are larger by 1e-6 of themselves."""
    yield from changed(editor, weights(editor), lambda value, random: value * (1 + 1e-6))


def one_gate(relative: float) -> Callable[[Array, np.random.Generator], Array]:
    """Changes a stretch of a bias: half of a vector, or one gate where the bias is a recurrent node's."""

    def change(value: Array, random: np.random.Generator) -> Array:
        size = max(1, value.shape[-1] // (8 if value.ndim > 1 else 2))
        at = size * int(random.integers(value.shape[-1] // size))
        value[..., at : at + size] *= np.float32(1 + relative)
        return value

    return change


@kind("one gate's bias 1e-6")
def _gate_bias_1e6(editor: Editor) -> Edits:
    """One gate's bias, or half of a dense layer's, is off by 1e-6 of itself."""
    yield from changed(editor, biases(editor), one_gate(1e-6))


@kind("one gate's bias 1e-4")
def _gate_bias_1e4(editor: Editor) -> Edits:
    """One gate's bias, or half of a dense layer's, is off by 1e-4 of itself."""
    yield from changed(editor, biases(editor), one_gate(1e-4))


@kind("biases plus 1e-6")
def _biases_up(editor: Editor) -> Edits:
    """A constant 1e-6 is added to every element of a bias."""
    yield from changed(editor, biases(editor), lambda value, random: value + np.float32(1e-6))


@kind("bias zero")
def _bias_zero(editor: Editor) -> Edits:
    """A bias is zeros."""
    yield from changed(editor, biases(editor), lambda value, random: np.zeros_like(value))


@kind("bias negative")
def _bias_negative(editor: Editor) -> Edits:
    """A bias has the other sign."""
    yield from changed(editor, biases(editor), lambda value, random: -value)


@kind("rows swapped")
def _rows(editor: Editor) -> Edits:
    """Two rows of a weight matrix are exchanged."""

    def change(value: Array, random: np.random.Generator) -> Array:
        matrix = value.reshape(-1, value.shape[-1])
        pair = random.choice(len(matrix), 2, replace=False)
        matrix[pair] = matrix[pair[::-1]]
        return value

    yield from changed(editor, ((n, v) for n, v in weights(editor) if v.size > v.shape[-1]), change)


@kind("weight transposed")
def _transposed(editor: Editor) -> Edits:
    """A square weight matrix is transposed."""
    square = ((n, v) for n, v in weights(editor) if v.ndim == 2 and v.shape[0] == v.shape[1])
    yield from changed(editor, square, lambda value, random: value.T)


@kind("two layers' weights swapped")
def _layers(editor: Editor) -> Edits:
    """Two weight tensors of one shape are exchanged."""
    found = list(weights(editor))
    for at, (name, value) in enumerate(found):
        for other, second in found[at + 1 :]:
            if second.shape == value.shape:

                def swap(first: tuple[str, Array] = (name, value), last: tuple[str, Array] = (other, second)) -> None:
                    editor.set_constant(first[0], last[1])
                    editor.set_constant(last[0], first[1])

                yield Edit(f"{name}, {other}", swap)


@kind("a constant 1e-6")
def _constant(editor: Editor) -> Edits:
    """A scalar constant, such as a scale, is off by 1e-6 of itself."""
    for name, tensor in editor.constants().items():
        if is_float(tensor) and np.prod(tensor.dims) == 1:
            value = numpy_helper.to_array(tensor).copy()
            if np.isfinite(value).all() and value.any():
                yield Edit(name, lambda n=name, v=value: editor.set_constant(n, v * np.float32(1 + 1e-6)))  # type: ignore[misc]


@kind("tokens off by one")
def _tokens(editor: Editor) -> Edits:
    """The rows of an embedding are moved by one."""
    tables = {node.input[0] for node in editor.nodes("Gather")}
    yield from changed(editor, ((n, v) for n, v in weights(editor) if n in tables), lambda value, random: np.roll(value, 1, axis=0))
