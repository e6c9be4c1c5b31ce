"""Shapes that operators make from shapes: ONNX's rules, at sizes that are numbers.

What has no rule, or depends on the data itself, gives a value whose shape is not known.
"""

from __future__ import annotations

from edgeseq_runtime.forecast.arranging import ARRANGING
from edgeseq_runtime.forecast.calculating import CALCULATING
from edgeseq_runtime.forecast.given import Inputs, NotKnown, Rule
from edgeseq_runtime.forecast.values import UNKNOWN, Value
from edgeseq_runtime.onnx_wire import Node

RULES: dict[str, Rule] = {**ARRANGING, **CALCULATING}
_FOREIGN = ("DynamicQuantizeLSTM", "MatMulNBits")  # of domain com.microsoft


def outputs_of(node: Node, inputs: Inputs) -> list[Value]:
    """The outputs of a node without bodies, as many as it has."""
    try:
        made = RULES[node.op](node, inputs) if is_known(node) else UNKNOWN
    except (NotKnown, IndexError, ValueError, TypeError, ZeroDivisionError):
        made = UNKNOWN  # a graph that breaks its operators' rules is refused by the runtime, not here
    found = made if isinstance(made, list) else [made]
    return [*found, *[UNKNOWN] * len(node.outputs)][: len(node.outputs)]


def is_known(node: Node) -> bool:
    """Whether the sizes that a node makes are known here."""
    return node.op in RULES and (node.domain in ("", "ai.onnx") or node.op in _FOREIGN)
