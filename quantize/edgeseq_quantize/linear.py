"""Products with a constant matrix, by 8 or 4-bit weights: ONNX Runtime's MatMulNBits.

Each row of the other factor is rounded to 8-bit integers, with a scale a block of it, when it is multiplied (`accuracy_level=4`):
what a row gives depends on no other row, be it another time step or another member of the batch. The kernels of all CPUs add
their products in 32 bits.
"""

from __future__ import annotations

import numpy as np
import onnx

from edgeseq_quantize.editing import MICROSOFT, Editing, Nodes, attributes_of, input_of
from edgeseq_quantize.matrices import in_blocks
from edgeseq_runtime.tensors.spec import Array

BY_INTEGERS = 4  # MatMulNBits' accuracy_level at which products are of integers


def refusal(node: onnx.NodeProto, editing: Editing) -> str:
    """Why a MatMul or Gemm stays as it is; empty where it need not."""
    attributes = attributes_of(node)
    matrix = editing.constant(node.input[1])
    if matrix is None:
        return "its weights are computed"
    if matrix.ndim != 2 or matrix.dtype != np.float32:
        return f"its weights are {matrix.dtype} of {matrix.ndim} dimensions"
    if attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        return "it transposes or scales what it multiplies"
    bias = input_of(node, 2)
    if bias and (value := editing.constant(bias)) is not None and value.shape != (_weights(node, matrix).shape[1],):
        return "its bias is no vector"
    return ""


def weights(node: onnx.NodeProto, editing: Editing) -> int:
    """How many weights a MatMul or Gemm has."""
    matrix = editing.constant(node.input[1])
    return 0 if matrix is None or matrix.ndim < 2 else matrix.size


def quantised(node: onnx.NodeProto, editing: Editing, bits: int) -> list[onnx.NodeProto]:
    """What takes the place of a MatMul or Gemm that is not refused."""
    nodes = Nodes(editing, node.output[0])
    matrix = editing.constant(node.input[1])
    assert matrix is not None  # or it would have been refused
    name = input_of(node, 2)
    bias = editing.constant(name) if name else None
    computed = name and bias is None
    product = nodes.name("product") if computed else node.output[0]
    multiply(nodes, node.input[0], _weights(node, matrix), bits, product, bias=bias)
    if computed:
        nodes.add_many("Add", [product, name], [node.output[0]])
    return nodes.made


def multiply(nodes: Nodes, x: str, matrix: Array, bits: int, output: str, *, bias: Array | None = None) -> str:
    """A product of x (..., K) with a constant matrix (K, N), plus a constant bias (N,); the output."""
    blocks = in_blocks(matrix, bits)
    inputs = [x, nodes.constant("integers", blocks.integers), nodes.constant("scales", blocks.scales)]
    if bias is not None:
        inputs += ["", "", nodes.constant("bias", bias.astype(np.float32))]
    K, N = matrix.shape
    sizes = {"K": K, "N": N, "bits": bits, "block_size": blocks.size, "accuracy_level": BY_INTEGERS}
    nodes.add_many("MatMulNBits", inputs, [output], domain=MICROSOFT, **sizes)
    return output


def _weights(node: onnx.NodeProto, matrix: Array) -> Array:
    return matrix.T if attributes_of(node).get("transB") else matrix
