"""The translated graph given its final form: the user's names, the contract's dtypes, nothing superfluous."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgeseq_export.defaults import write_defaults
from edgeseq_export.from_the_end import slice_from_the_end
from edgeseq_export.passes import Improved, improve
from edgeseq_export.subject import Subject
from edgeseq_export.trace import Trace
from edgeseq_runtime.tensors import TensorSpec

IR_VERSION = 10
PRODUCER = "edgeseq"
RECURRENT = ("LSTM", "GRU", "RNN", "Scan", "Loop")


def finish(trace: Trace, subject: Subject, outputs: Sequence[TensorSpec]) -> Improved:
    """The model as it goes into the bundle."""
    model = trace.model
    _fold_lengths_casts(model.graph)
    slice_from_the_end(model.graph)
    write_defaults(model.graph)
    tidy: tuple[ir.passes.PassBase, ...] = (
        common.OutputFixPass(),
        common.IdentityEliminationPass(),
        common.LiftConstantsToInitializersPass(),
        common.DeduplicateInitializersPass(size_limit=2**31),
        common.CommonSubexpressionEliminationPass(),
    )
    final: tuple[ir.passes.PassBase, ...] = (
        common.DeduplicateInitializersPass(size_limit=2**31),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
    )
    for apply in tidy:
        model = apply(model).model
    model, recognised = improve(model, subject.request.without)
    for apply in final:
        model = apply(model).model
    _name(model.graph, input_specs(subject), outputs)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = PRODUCER, None
    model.graph.name = subject.request.bundle_name
    return Improved(model, recognised)


def input_specs(subject: Subject) -> tuple[TensorSpec, ...]:
    """The graph's inputs, as the manifest declares them."""
    return tuple(
        TensorSpec(
            name,
            str(kind.example.dtype),
            tuple(axis or size for axis, size in zip(kind.axes, kind.example.shape, strict=True)),
        )
        for name, kind in subject.kinds.items()
    )


def all_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every node, those of Scan, Loop and If bodies included."""
    return iter(ir.traversal.RecursiveGraphIterator(graph))


def census(graph: ir.Graph) -> dict[str, int]:
    """How many recurrent nodes the graph has, by operator."""
    counts = dict.fromkeys(RECURRENT, 0)
    for node in all_nodes(graph):
        if node.op_type in counts:
            counts[node.op_type] += 1
    return {name: count for name, count in sorted(counts.items()) if count}


def _body_values(node: ir.Node) -> Iterator[ir.Value]:
    """Inputs and initializers of the node's subgraphs."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            body = attribute.as_graph()
            yield from body.inputs
            yield from body.initializers.values()


def _fold_lengths_casts(graph: ir.Graph) -> None:
    """Drop a cast to int32 of a cast from int32: lengths enter as the recurrent nodes take them."""
    for node in list(all_nodes(graph)):
        if node.op_type != "Cast" or node.attributes["to"].as_int() != ir.DataType.INT32:
            continue
        source = node.inputs[0]
        producer = source.producer() if source is not None else None
        if producer is None or producer.op_type != "Cast":
            continue
        original = producer.inputs[0]
        if original is not None and original.dtype == ir.DataType.INT32:
            node.outputs[0].replace_all_uses_with(original, replace_graph_outputs=True)


def _name(graph: ir.Graph, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """The user's names and symbolic shapes on inputs and outputs; short, reproducible names on everything else."""
    reserved = {spec.name for spec in (*inputs, *outputs)}
    for value, spec in zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True):
        value.name = spec.name
        value.shape = ir.Shape(spec.shape)
        value.dtype = ir.DataType.from_numpy(np.dtype(spec.dtype))
    named = {id(value) for value in (*graph.inputs, *graph.outputs)}
    values = list(graph.initializers.values())
    for node in all_nodes(graph):
        values += [*_body_values(node), *node.outputs]
    taken = set(reserved)
    scanned = {id(value) for value in _scan_outputs(graph)}
    for value in values:
        # An optional output that is not wanted has the empty name.
        if id(value) in named or value.name == "":
            continue
        stem = value.name or "value"
        unique, count = stem, 1
        while unique in taken:
            unique, count = f"{stem}_{count}", count + 1
        value.name = unique
        taken.add(unique)
        if id(value) in scanned and value.shape is not None:
            value.shape = ir.Shape([None] * len(value.shape))
        elif not value.is_initializer():
            value.shape, value.type = None, None
    _declare_loop_counters(graph)
    for index, node in enumerate(all_nodes(graph)):
        node.name = f"{node.op_type}_{index}"


def _scan_outputs(graph: ir.Graph) -> Iterator[ir.Value]:
    """Outputs of the bodies of Scans: ONNX Runtime 1.23 runs none of which it can't tell the rank."""
    for node in all_nodes(graph):
        if node.op_type == "Scan":
            yield from node.attributes["body"].as_graph().outputs


def _declare_loop_counters(graph: ir.Graph) -> None:
    """Number of the iteration and condition are scalars: ONNX Runtime does not infer it."""
    for node in all_nodes(graph):
        if node.op_type == "Loop":
            number, goes_on = node.attributes["body"].as_graph().inputs[:2]
            for value, dtype in ((number, ir.DataType.INT64), (goes_on, ir.DataType.BOOL)):
                value.shape, value.dtype = ir.Shape([]), dtype
