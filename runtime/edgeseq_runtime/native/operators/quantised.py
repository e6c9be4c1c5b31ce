"""Products of 8 and 4-bit weights, and LSTM layers of 8-bit ones: ONNX Runtime's operators, as `edgeseq quantize` writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.native.kernels import aligned
from edgeseq_runtime.native.nodes import given, integer, known, required, unsupported
from edgeseq_runtime.native.operators.products import product, rows_of
from edgeseq_runtime.native.operators.recurrent import Weights, directions_of
from edgeseq_runtime.native.values import Value, address_of
from edgeseq_runtime.native.writer import Operator, Word, Writer
from edgeseq_runtime.onnx_wire import Node
from edgeseq_runtime.tensors.spec import Array

Inputs = Sequence[Value | None]

BY_INTEGERS = 4  # MatMulNBits' accuracy_level at which rows are rounded
GROUP = 4  # inputs whose weights for one output are side by side
MOST_INPUTS = 1 << 16  # of a block: sums of products of 8 bits by 8 bits have room in 32


class Integers(NamedTuple):
    """Weights of a product: `scales[b, n]` times integers, for inputs b * size to (b + 1) * size - 1."""

    integers: npt.NDArray[np.int8]  # (K, N)
    scales: npt.NDArray[np.float32]  # (blocks, N)
    size: int  # inputs of a block, a multiple of 4, of 8 where bits are 4
    bits: int = 8


def packed_integers(parts: Sequence[Integers], panel: int) -> Array:
    """Weights as the library reads them (quantised.h): the parts, of the same N, side by side in panels of so many outputs."""
    return aligned(np.concatenate([_panels(part, panel) for part in parts], 1))


def _panels(part: Integers, panel: int) -> Array:
    """One part (panels, bytes)."""
    K, N = part.integers.shape
    blocks, panels = -(-K // part.size), -(-N // panel)
    whole = np.zeros((blocks * part.size, panels * panel), np.int8)
    whole[:K, :N] = part.integers
    scales = np.zeros((blocks, panels * panel), np.float32)
    scales[:, :N] = part.scales
    totals = whole.reshape(blocks, part.size, -1).sum(1, dtype=np.int32)
    groups = (_in_pairs(whole) if part.bits == 4 else whole.view(np.uint8)).reshape(blocks, -1, GROUP, panels, panel)
    weights = groups.transpose(3, 0, 1, 4, 2).reshape(panels, blocks, -1)
    ends = [np.ascontiguousarray(one.reshape(blocks, panels, panel).transpose(1, 0, 2)).view(np.uint8) for one in (scales, totals)]
    return np.concatenate([weights, *ends], 2).reshape(panels, -1)


def _in_pairs(integers: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Of 8 inputs' integers of 4 bits, the first 4 in the lower halves of bytes."""
    pairs = (integers + np.int8(8)).view(np.uint8).reshape(-1, 2, GROUP, integers.shape[1])
    return (pairs[:, 0] | pairs[:, 1] << np.uint8(4)).astype(np.uint8)


def matmul(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value, bias = required(inputs, 0, node), given(inputs, 5)
    added = None if bias is None else known(bias, node, "the bias")
    held, scales = (known(given(inputs, index), node, "the weights") for index in (1, 2))
    K, N, size = (node.integers[name][0] for name in ("K", "N", "block_size"))
    bits = integer(node, "bits", 4)
    if bits not in (4, 8) or held.dtype != np.uint8 or scales.dtype != np.float32:
        raise UsageError(unsupported(node, "multiply by weights of 8 or 4 bits with scales of float32"))
    if size % 16 or not 0 < size <= MOST_INPUTS:
        raise UsageError(unsupported(node, f"multiply in blocks of whole sixteens, at most {MOST_INPUTS}, not of {size}"))
    blocks = -(-K // size)
    _require_sizes(node, [(value.array.shape[-1:], (K,)), ((held.size,), (N * blocks * size * bits // 8,))])
    _require_sizes(node, [((scales.size,), (N * blocks,)), ((N if added is None else added.size,), (N,))])
    if given(inputs, 3) is not None or given(inputs, 4) is not None:
        raise UsageError(unsupported(node, "take blocks of weights about their middle, in their own order"))

    def weights() -> Integers:
        whole = _about_zero(held.reshape(N, -1).astype(np.uint8, copy=False), bits)
        return Integers(whole[:, :K].T, scales.reshape(N, -1).T.astype(np.float32, copy=False), size, bits)

    if integer(node, "accuracy_level", 0) != BY_INTEGERS:
        own = weights()
        return [product(writer, value, own.integers * np.repeat(own.scales, size, 0)[:K], added)]
    source, stride, rows = rows_of(writer, value)
    made = writer.new((*value.array.shape[:-1], N), np.float32)
    if made.array.size:
        kind = f"integers {bits} {size} {address_of(scales)}"
        ready = writer.once(kind, held, lambda _: packed_integers([weights()], writer.kernels.panel))
        offset = None if added is None else writer.padded(added)
        room = _room(writer, rows, K, size)
        writer.emit("QUANTISED_PRODUCT", made, N, source, stride, rows, K, size, bits, ready, N, offset, room)
    return [made]


def _require_sizes(node: Node, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    """Pairs of what is there and what should be, of a model that nobody has checked."""
    for found, expected in pairs:
        if found != expected:
            raise UsageError(
                f"the node {node.op} '{node.name}' has an input of size {list(found)}, and by its other inputs and attributes it "
                f"should be {list(expected)}; export the model again"
            )


def _about_zero(held: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.int8]:
    """Integers of bytes that hold one of 8 bits, or two of 4, about the middle."""
    if bits == 8:
        return (held ^ np.uint8(128)).view(np.int8)
    both = np.stack([held & np.uint8(15), held >> np.uint8(4)], -1).reshape(len(held), -1)
    return both.astype(np.int8) - np.int8(8)


def _room(writer: Writer, rows: int, K: int, size: int) -> Value:
    """Memory for the rows of a product, rounded."""
    return writer.new((writer.kernels.rounded(rows, K, size),), np.uint8)


def lstm(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    W, R = (_columns(node, inputs, first, scales) for first, scales in ((1, 8), (2, 10)))
    H, directions = R[0].integers.shape[0], len(R)
    bias, peepholes = given(inputs, 3), given(inputs, 7)
    offsets = np.zeros((directions, 8 * H), np.float32) if bias is None else known(bias, node, "the biases")
    looks = None if peepholes is None else known(peepholes, node, "the peepholes")
    x = required(inputs, 0, node).array
    _require_sizes(node, [(x.shape[2:], W[0].integers.shape[:1]), (offsets.shape, (directions, 8 * H)), ((len(W),), (directions,))])
    _require_sizes(node, [(part.integers.shape[1:], (4 * H,)) for part in (*W, *R)])
    rows = math.prod(x.shape[:2])
    weights: list[Weights] = []
    further: list[Sequence[Word]] = []
    for way in range(directions):
        parts = (W[way], R[way])
        added = writer.once("biases", offsets[way], lambda one: writer.kernels.padded(one.reshape(2, -1).sum(0)))
        weights.append(
            Weights(None, added, None, peepholes=None if looks is None else writer.once("peepholes", looks[way], np.array))
        )
        further.append([_packed_layer(writer, parts), *(_room(writer, rows, part.integers.shape[0], part.size) for part in parts)])
    return directions_of(writer, node, inputs, "LSTM", H, weights, "QUANTISED_LSTM", further)


def _packed_layer(writer: Writer, parts: Sequence[Integers]) -> Value:
    addresses = [address_of(array) for part in parts for array in (part.integers, part.scales)]
    return writer.once(f"integers {addresses}", parts[0].integers, lambda _: packed_integers(parts, writer.kernels.panel))


def _columns(node: Node, inputs: Inputs, first: int, scales: int) -> list[Integers]:
    """Weights of an LSTM (directions, K, 4 H), a scale a column or one for all; of each direction one block of inputs."""
    held, units, zeros = (known(given(inputs, index), node, "the weights") for index in (first, scales, scales + 1))
    K, N = held.shape[1:]
    if held.dtype != np.int8 or zeros.any() or K > MOST_INPUTS:
        raise UsageError(unsupported(node, f"multiply by int8 about zero, at most {MOST_INPUTS} inputs"))
    wide = np.broadcast_to(units.reshape(len(held), -1).astype(np.float32, copy=False), (len(held), N))
    return [Integers(matrix, row[None, :], -(-K // GROUP) * GROUP) for matrix, row in zip(held, wide, strict=True)]


QUANTISED: dict[str, Operator] = {"com.microsoft.MatMulNBits": matmul, "com.microsoft.DynamicQuantizeLSTM": lstm}
