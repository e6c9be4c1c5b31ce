"""Small graphs in ONNX's text form, through one graph pass and then run; what they should give is the ONNX package's own answer.

Its reference evaluator runs the graph as it was written, before any pass, in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

Arrays = Mapping[str, np.ndarray]
HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'


def parsed(text: str, constants: Arrays) -> onnx.ModelProto:
    """The graph with its constants, and the shapes of everything in it."""
    model = onnx.parser.parse_model(HEADER + text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in constants.items())
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def after(steps: Sequence[ir.passes.PassBase], text: str, constants: Arrays) -> onnx.ModelProto:
    """The graph after the passes, its leftovers removed, and no input handed on as an output as it is."""
    model = ir.from_proto(parsed(text, constants))
    for step in (*steps, common.OutputFixPass(), common.RemoveUnusedNodesPass(), common.NameFixPass()):
        model = step(model).model
    result = ir.to_proto(model)
    onnx.checker.check_model(result)
    return result


def run(model: onnx.ModelProto, feeds: Arrays) -> list[np.ndarray]:
    """Its outputs, by ONNX Runtime without optimisations of its own, which could hide a fault."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def expected(text: str, constants: Arrays, feeds: Arrays) -> list[np.ndarray]:
    """What the graph gives in float64, by the ONNX package."""
    model = parsed(text.replace("float[", "double["), doubled(constants))
    return ReferenceEvaluator(model).run(None, doubled(feeds))


def doubled(arrays: Arrays) -> dict[str, np.ndarray]:
    """float32 as float64."""
    return {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in arrays.items()}


def nodes_of(model: onnx.ModelProto) -> list[str]:
    """The operators outside every body."""
    return [node.op_type for node in model.graph.node]


def body_of(model: onnx.ModelProto, operator: str = "Scan") -> list[str]:
    """The operators in the body of the only such node."""
    (node,) = [node for node in model.graph.node if node.op_type == operator]
    return [inner.op_type for attribute in node.attribute if attribute.name == "body" for inner in attribute.g.node]


def drawn(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, np.ndarray]:
    """Normal numbers of those shapes, in float32, halved."""
    draw = np.random.default_rng(seed)
    return {name: (draw.normal(size=shape) / 2).astype(np.float32) for name, shape in shapes.items()}


def assert_same(text: str, model: onnx.ModelProto, constants: Arrays, feeds: Arrays, *, to: float = 2e-6) -> None:
    """The graph after the passes gives what it gave before."""
    for found, wanted in zip(run(model, feeds), expected(text, constants, feeds), strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=0, atol=to)
