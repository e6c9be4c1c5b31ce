"""Rules of TensorRT's ONNX importer that a graph may break, reported with the bundle.

Each rule was observed with TensorRT-RTX 1.7.1 on graphs parsed and built without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from edgeseq_export.graph import all_nodes

Rule = Callable[[ir.Node], str | None]


def tensorrt_hazards(graph: ir.Graph) -> tuple[str, ...]:
    """One line a broken rule, in the order of the nodes."""
    found = [remark for node in all_nodes(graph) for rule in _RULES if (remark := rule(node)) is not None]
    return tuple(dict.fromkeys(found))


def _unsupported_operator(node: ir.Node) -> str | None:
    if node.op_type in _UNPARSED:
        return f"TensorRT does not parse {node.op_type} (node '{node.name}')"
    return None


def _foreign_domain(node: ir.Node) -> str | None:
    return f"TensorRT does not parse operators of domain '{node.domain}' ({node.op_type})" if node.domain else None


def _scatter_reduction(node: ir.Node) -> str | None:
    reduction = node.attributes.get_string("reduction", "none") if node.op_type.startswith("Scatter") else "none"
    return f"TensorRT does not parse {node.op_type} with reduction '{reduction}'" if reduction != "none" else None


def _activations_by_direction(node: ir.Node) -> str | None:
    names = node.attributes.get_strings("activations", ()) if node.op_type in ("LSTM", "GRU", "RNN") else ()
    if node.attributes.get_string("direction", "forward") == "bidirectional" and names:
        half = len(names) // 2
        if names[:half] != names[half:]:
            return f"TensorRT does not parse {node.op_type} with different activations a direction (node '{node.name}')"
    return None


def _scan_without_state(node: ir.Node) -> str | None:
    if node.op_type != "Scan":
        return None
    states = len(node.inputs) - node.attributes["num_scan_inputs"].as_int()
    return f"TensorRT does not parse a Scan without state (node '{node.name}')" if states == 0 else None


def _recurrent_in_branch(node: ir.Node) -> str | None:
    if node.op_type != "If":
        return None
    bodies = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    inside = [n.op_type for body in bodies for n in all_nodes(body) if n.op_type in ("LSTM", "GRU", "RNN")]
    return f"TensorRT does not build {inside[0]} inside an If branch (node '{node.name}')" if inside else None


def _running_sum(node: ir.Node) -> str | None:
    if node.op_type == "CumSum" and not (node.inputs[1] is not None and node.inputs[1].is_initializer()):
        return "TensorRT does not build CumSum along an axis known only at run time"
    return None


def _index_from_the_end(node: ir.Node) -> str | None:
    indices = node.inputs[1] if node.op_type in ("Gather", "GatherElements", "GatherND") else None
    constant = ir.convenience.get_const_tensor(indices) if indices is not None else None
    if constant is None or not (constant.numpy() < 0).any() or _size_known(node):
        return None
    return f"TensorRT leaves undefined a negative index along an axis of dynamic size (node '{node.name}'); count from its start"


def _size_known(node: ir.Node) -> bool:
    data = node.inputs[0]
    shape = data.shape if data is not None else None
    axis = node.attributes.get_int("axis", 0)
    return node.op_type != "GatherND" and shape is not None and isinstance(shape[axis], int)


_UNPARSED = {
    "Affine",
    "Compress",
    "DynamicQuantizeLinear",
    "NonZero",
    "SequenceConstruct",
    "SequenceAt",
    "SplitToSequence",
    "ConcatFromSequence",
}
_RULES: tuple[Rule, ...] = (
    _unsupported_operator,
    _foreign_domain,
    _scatter_reduction,
    _activations_by_direction,
    _scan_without_state,
    _recurrent_in_branch,
    _running_sum,
    _index_from_the_end,
)
