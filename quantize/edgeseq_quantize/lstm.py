"""An LSTM node with 7-bit weights: ONNX Runtime's DynamicQuantizeLSTM.

Input and state are rounded to 8-bit integers when they are multiplied: the input with one scale for all steps and members of a
batch, the state with one a step for all members.
"""

from __future__ import annotations

import numpy as np
import onnx

from edgeseq_quantize.editing import MICROSOFT, Editing, Nodes, attributes_of, input_of
from edgeseq_quantize.matrices import in_seven_bits
from edgeseq_runtime.tensors.spec import Array

LAYOUT = "its layout is batch first"


def refusal(node: onnx.NodeProto, editing: Editing) -> str:
    """Why an LSTM stays as it is; empty where it need not."""
    if any(editing.constant(name) is None for name in node.input[1:3]):
        return "its weights are computed"
    return LAYOUT if attributes_of(node).get("layout") else ""


def weights(node: onnx.NodeProto, editing: Editing) -> int:
    """How many recurrent weights a direction of an LSTM, GRU or RNN has."""
    recurrent = editing.constant(node.input[2])
    return 0 if recurrent is None else recurrent[0].size


def quantised(node: onnx.NodeProto, editing: Editing) -> list[onnx.NodeProto]:
    """What takes the place of an LSTM that is not refused."""
    nodes = Nodes(editing, next(filter(None, node.output)))
    W, R = (_directions(nodes, name, editing.constant(node.input[at])) for at, name in ((1, "W"), (2, "R")))
    rest = [input_of(node, position) for position in range(3, 8)]
    inputs = [node.input[0], W[0], R[0], *rest, *W[1:], *R[1:]]
    attributes = {name: value for name, value in attributes_of(node).items() if name != "layout"}
    nodes.made.append(onnx.helper.make_node("DynamicQuantizeLSTM", inputs, node.output, node.name, domain=MICROSOFT, **attributes))
    return nodes.made


def _directions(nodes: Nodes, name: str, matrices: Array | None) -> tuple[str, str, str]:
    """Integers (directions, K, 4H), scales and zero points (directions, 4H), as constants."""
    assert matrices is not None  # or the node would have been refused
    made = [in_seven_bits(matrix.T) for matrix in matrices]
    integers, scales = np.stack([one.integers for one in made]), np.stack([one.scales for one in made])
    zeros = np.zeros(scales.shape, np.int8)
    return nodes.constant(name, integers), nodes.constant(f"{name}_scales", scales), nodes.constant(f"{name}_zeros", zeros)
