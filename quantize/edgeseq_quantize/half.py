"""A float32 graph as a typed one in half precision: what TensorRT needs where a network is strongly typed.

Inputs and outputs keep their dtypes; a cast at each stands between them and the rest. Every float inside is float16.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from edgeseq_quantize.layers import Layer

_HALF, _SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT
_RECURRENT = ("LSTM", "GRU", "RNN")
_LARGEST, _SMALLEST = 65504.0, 2.0**-24  # of float16, above zero


def in_half(model: bytes, keep: Collection[str] = ()) -> bytes:
    """A serialised model with every float32 value inside it in float16, products of nodes included.

    A recurrent node with lengths stays float32: TensorRT-RTX 1.7.1 can't parse one in half precision. So do those named in
    `keep`, by the first output that they have.

    A constant beyond float16's range becomes the nearest finite value, one too small for it the smallest above zero.
    """
    made = ir.serde.deserialize_model(onnx.load_from_string(model))
    graph = made.graph
    single = [node for node in ir.traversal.RecursiveGraphIterator(graph) if stays_single(node) or _name(node) in keep]
    weights = {id(value) for node in single for value in node.inputs if value is not None and _used_by(value) <= set(single)}
    for node in list(ir.traversal.RecursiveGraphIterator(graph)):
        _retype(node)
    for owner in [graph, *_bodies(graph)]:
        for value in owner.initializers.values():
            if id(value) not in weights:
                _halve(value)
        for value in (*owner.inputs, *owner.outputs) if owner is not graph else ():
            _declare_half(value)
    _cast_inputs(graph)
    _cast_outputs(graph)
    for node in single:
        if node.graph is not None:
            _keep_single(node.graph, node, weights)
    common.RemoveUnusedNodesPass()(made)
    data: bytes = ir.serde.serialize_model(made).SerializeToString(deterministic=True)
    return data


def rounded_to_half(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Float16 of finite values, none of which becomes infinite, or zero where it was not."""
    finite = np.isfinite(array)
    limited = np.where(finite, np.clip(array, -_LARGEST, _LARGEST), array)
    lost = (limited != 0) & (np.abs(limited) < _SMALLEST)
    return np.where(lost, np.copysign(_SMALLEST, limited), limited).astype(np.float16)


def half_layers(model: bytes) -> tuple[Layer, ...]:
    """Every recurrent node, each of which can be kept in float32, in the order of the graph."""
    graph = ir.serde.deserialize_model(onnx.load_from_string(model)).graph
    return tuple(_layer(node) for node in ir.traversal.RecursiveGraphIterator(graph) if node.op_type in _RECURRENT)


def stays_single(node: ir.Node) -> bool:
    """Whether a node can't be in half precision."""
    return node.op_type in _RECURRENT and len(node.inputs) > 4 and node.inputs[4] is not None


def _layer(node: ir.Node) -> Layer:
    recurrent = node.inputs[2]
    sizes = [] if recurrent is None or recurrent.shape is None else [size for size in recurrent.shape if isinstance(size, int)]
    refusal = "it has lengths, and TensorRT-RTX can't parse such a node in half precision" if stays_single(node) else ""
    return Layer(_name(node), node.op_type, math.prod(sizes[1:]), refusal)


def _name(node: ir.Node) -> str:
    return next((value.name for value in node.outputs if value.name), "")


def _used_by(value: ir.Value) -> set[ir.Node]:
    return {usage.node for usage in value.uses()}


def _keep_single(graph: ir.Graph | ir.Function, node: ir.Node, weights: set[int]) -> None:
    """Casts around a node whose weights are float32."""
    for at, value in enumerate(node.inputs):
        if value is not None and at != 4 and not (value.is_initializer() and id(value) in weights):
            exact = _before_cast(value)
            if exact is None:
                cast = ir.node("Cast", [value], {"to": _SINGLE}, outputs=[ir.Value(name=f"{node.name}_{at}_single")])
                graph.insert_before(node, cast)
                exact = cast.outputs[0]
            node.replace_input_with(at, exact)
    for value in node.outputs:
        if value.uses():
            cast = ir.node("Cast", [value], {"to": _HALF}, outputs=[ir.Value(name=f"{value.name}_half")])
            value.replace_all_uses_with(cast.outputs[0])
            cast.replace_input_with(0, value)
            graph.insert_after(node, cast)
        if value.dtype is not None:
            value.dtype = _SINGLE


def _before_cast(value: ir.Value) -> ir.Value | None:
    """The graph's input that a value is the rounding of, if it is."""
    cast = value.producer()
    source = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
    return source if source is not None and source.is_graph_input() and source.dtype == _SINGLE else None


def _bodies(graph: ir.Graph) -> list[ir.Graph]:
    nodes = ir.traversal.RecursiveGraphIterator(graph)
    return [a.as_graph() for node in nodes for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]


def _retype(node: ir.Node) -> None:
    """Attributes that name a dtype or hold floats of one."""
    if node.op_type == "Cast" and node.attributes["to"].as_int() == _SINGLE:
        node.attributes["to"] = ir.AttrInt64("to", _HALF)
    if node.op_type in ("Constant", "ConstantOfShape") and "value" in node.attributes:
        tensor = node.attributes["value"].as_tensor()
        if tensor.dtype == _SINGLE:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(rounded_to_half(tensor.numpy()), name=tensor.name))
    if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1, np.float16)))
    for name in ("value_float", "value_floats"):
        if node.op_type == "Constant" and name in node.attributes:
            numbers = np.array(node.attributes.pop(name).value, np.float32)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(rounded_to_half(numbers)))
    for value in node.outputs:
        _declare_half(value)


def _declare_half(value: ir.Value) -> None:
    if value.dtype == _SINGLE:
        value.dtype = _HALF


def _halve(value: ir.Value) -> None:
    if value.const_value is not None and value.const_value.dtype == _SINGLE:
        value.const_value = ir.tensor(rounded_to_half(value.const_value.numpy()), name=value.name)
        value.dtype = _HALF


def _cast_inputs(graph: ir.Graph) -> None:
    for value in graph.inputs:
        if value.dtype == _SINGLE:
            cast = ir.node("Cast", [value], {"to": _HALF}, outputs=[ir.Value(name=f"{value.name}_half")])
            value.replace_all_uses_with(cast.outputs[0])
            cast.replace_input_with(0, value)
            graph.insert_before(graph[0], cast)


def _cast_outputs(graph: ir.Graph) -> None:
    for at, value in enumerate(graph.outputs):
        if value.dtype == _HALF:
            name, value.name = value.name, f"{value.name}_half"
            cast = ir.node("Cast", [value], {"to": _SINGLE}, outputs=[ir.Value(name=name, shape=value.shape)])
            cast.outputs[0].dtype = _SINGLE
            graph.append(cast)
            graph.outputs[at] = cast.outputs[0]
