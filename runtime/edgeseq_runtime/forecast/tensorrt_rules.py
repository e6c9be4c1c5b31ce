"""What TensorRT's ONNX importer refuses, does not build, or computes differently, and what to change.

Observed with TensorRT-RTX 1.7.1, whose importer is TensorRT's, on graphs parsed and built without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgeseq_runtime.forecast.findings import OBSERVED, Finding, Found, nodes_of
from edgeseq_runtime.onnx_wire import Graph

SOURCE = "TensorRT-RTX 1.7.1.116, graphs parsed and built without a GPU"
RECURRENT = ("LSTM", "GRU", "RNN")
UNPARSED = (
    "Affine", "Compress", "DynamicQuantizeLinear", "SequenceConstruct", "SequenceAt", "SequenceEmpty", "SequenceInsert",
    "SequenceErase", "SequenceLength", "SplitToSequence", "ConcatFromSequence",
)  # fmt: skip
_SHAPED = ("ThresholdedRelu", "ScaledTanh", "Softplus")  # activations whose alpha and beta must be written out

Remark = tuple[str, str, str]  # (rule, what goes wrong, what to change)
Rule = Callable[[Found], "Remark | None"]


def tensorrt_findings(graph: Graph) -> Iterator[Finding]:
    """A finding for each rule that a node breaks."""
    for found in nodes_of(graph):
        for rule in _RULES:
            remark = rule(found)
            if remark is not None:
                name, text, remedy = remark
                yield Finding(
                    rule=f"tensorrt: {name}", subject=found.subject, text=text, remedy=remedy, kind=OBSERVED, source=SOURCE
                )


def _operator(found: Found) -> Remark | None:
    if found.node.op in UNPARSED:
        return "operator", "is not parsed", "write it with operators that TensorRT parses, or run the graph in ONNX Runtime"
    return None


def _domain(found: Found) -> Remark | None:
    if found.node.domain not in ("", "ai.onnx"):
        return "domain", f"is not parsed: domain '{found.node.domain}'", "use the bundle's fp32 or fp16 graph"
    return None


def _scatter(found: Found) -> Remark | None:
    how = found.node.texts.get("reduction", "none") if found.node.op.startswith("Scatter") else "none"
    return ("scatter", f"is not parsed with reduction '{how}'", "add onto gathered values, then scatter") if how != "none" else None


def _input_forget(found: Found) -> Remark | None:
    if found.node.op == "LSTM" and found.node.integers.get("input_forget", (0,))[0]:
        return "input_forget", "is not parsed with input_forget=1", "export the coupled gates as a Scan, as edgeseq does"
    return None


def _activations(found: Found) -> Remark | None:
    node = found.node
    names = node.lists.get("activations", ()) if node.op in RECURRENT else ()
    half = len(names) // 2
    if node.texts.get("direction") == "bidirectional" and names[:half] != names[half:]:
        return "activations", "is not parsed with other activations a direction", "use the same in both directions"
    return None


def _scan(found: Found) -> Remark | None:
    node = found.node
    if node.op != "Scan":
        return None
    if len(node.inputs) == node.integers.get("num_scan_inputs", (0,))[0]:
        return "scan", "is not parsed: a Scan without state", "give it a state, or write it without a loop"
    if any(axis < 0 for name in ("scan_input_axes", "scan_output_axes") for axis in node.integers.get(name, ())):
        return "scan", "is not parsed: a negative axis", "count the axis from the front"
    return None


def _loop(found: Found) -> Remark | None:
    node = found.node
    if node.op != "Loop":
        return None
    states = len(node.inputs) - 2
    if not node.inputs[0] and len(node.outputs) > states:
        return "loop", "is not parsed: outputs of each step, and no number of steps", "give it a greatest number of steps"
    if len(node.inputs) > 1 and node.inputs[1] in {spec.name for spec in found.graph.inputs}:
        return "loop", "builds, but the input that is its condition has another name in the engine", "copy it with Identity first"
    return None


def _branch(found: Found) -> Remark | None:
    if found.node.op in RECURRENT and "If" in found.inside:
        return "branch", "is not built inside a branch of If", "compute it before the branch"
    return None


def _running_sum(found: Found) -> Remark | None:
    node, graph = found.node, found.graph
    constants = {*graph.tensors, *(name for one in graph.nodes if one.op == "Constant" for name in one.outputs)}
    if node.op == "CumSum" and found.where == "main" and node.inputs[1] not in constants:
        return "running sum", "is not built along an axis known only at run time", "make the axis a constant"
    return None


def _layout(found: Found) -> Remark | None:
    if found.node.op in RECURRENT and found.node.integers.get("layout", (0,))[0]:
        return "layout", "computes something else: layout=1 is ignored", "put time first (layout=0), as edgeseq does"
    return None


def _clip(found: Found) -> Remark | None:
    if found.node.op in RECURRENT and "clip" in found.node.floats:
        return "clip", "computes something else: clip also clips the cell", "export without clip: edgeseq never writes it"
    return None


def _shaped(found: Found) -> Remark | None:
    node = found.node
    names = node.lists.get("activations", ()) if node.op in RECURRENT else ()
    bare = [name for name in names if name in _SHAPED]
    if bare and not {"activation_alpha", "activation_beta"} & set(node.floats):
        return (
            "alpha",
            f"computes something else: {bare[0]} without alpha and beta",
            "write activation_alpha and activation_beta out",
        )
    return None


_RULES: tuple[Rule, ...] = (
    _operator,
    _domain,
    _scatter,
    _input_forget,
    _activations,
    _scan,
    _loop,
    _branch,
    _running_sum,
    _layout,
    _clip,
    _shaped,
)
