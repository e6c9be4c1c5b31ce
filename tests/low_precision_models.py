"""Low-precision variants of small models, in bundles beside the fp32 model they are measured against."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import runtime_models
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from runtime_models import Array, Arrays, Model

from edgeseq_runtime import TensorSpec
from edgeseq_runtime.bundle import LOW_PRECISION_GATES, AnyGate, open_bundle, with_precision

ONE_CASE = ({"T": 12, "B": 2},)


def quantised(model: bytes) -> bytes:
    """By ONNX Runtime's own tool, in a range that does not saturate on any CPU."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(model)
        quantize_dynamic(source, target, reduce_range=True)
        data = target.read_bytes()
    assert any(node.op_type == "DynamicQuantizeLSTM" for node in onnx.load_from_string(data).graph.node)
    return data


def halved(model: bytes, *, keep_interface: bool = True) -> bytes:
    """An LSTM or GRU in float16, its inputs and outputs cast unless the interface may change."""
    proto = onnx.load_from_string(model)
    graph = proto.graph
    floats = {one.name for one in (*graph.input, *graph.output) if one.type.tensor_type.elem_type == TensorProto.FLOAT}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), tensor.name))
    if not keep_interface:
        for one in (*graph.input, *graph.output):
            if one.name in floats:
                one.type.tensor_type.elem_type = TensorProto.FLOAT16
        return proto.SerializeToString()
    for node in graph.node:
        node.input[:] = [f"{name}.half" if name in floats else name for name in node.input]
        node.output[:] = [f"{name}.half" if name in floats else name for name in node.output]
    read = [
        helper.make_node("Cast", [one.name], [f"{one.name}.half"], to=TensorProto.FLOAT16)
        for one in graph.input
        if one.name in floats
    ]
    made = [helper.make_node("Cast", [f"{one.name}.half"], [one.name], to=TensorProto.FLOAT) for one in graph.output]
    nodes = [*read, *graph.node, *made]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def scale_doubled(model: bytes) -> bytes:
    """The stored scale of the recurrent weights twice what it should be."""
    proto = onnx.load_from_string(model)
    node = next(node for node in proto.graph.node if node.op_type == "DynamicQuantizeLSTM")
    # X, W, R, B, lengths, h, c, P, then scale and zero point of W and of R.
    tensor = next(one for one in proto.graph.initializer if one.name == node.input[10])
    tensor.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(tensor), tensor.name))
    return proto.SerializeToString()


def tokens_too(base: Model) -> Model:
    """The model with a further output: which unit is largest at each step."""
    proto = onnx.load_from_string(base.onnx)
    proto.graph.node.append(helper.make_node("ArgMax", ["y"], ["largest"], axis=-1, keepdims=0))
    proto.graph.node.append(helper.make_node("Cast", ["largest"], ["tokens"], to=TensorProto.INT32))
    spec = TensorSpec("tokens", "int32", ("T", "B"))
    proto.graph.output.append(runtime_models.value_info(spec))

    def equations(inputs: Arrays, dtype: np.dtype) -> Arrays:
        expected = base.equations(inputs, dtype)
        return {**expected, "tokens": expected["y"].argmax(-1).astype(np.int32)}

    return replace(base, name="tokens", onnx=proto.SerializeToString(), equations=equations, outputs=(*base.outputs, spec))


def nudged(by: float) -> Callable[[Array], Array]:
    """Weights with random relative noise."""
    return lambda w: w * (1 + by * np.random.default_rng(3).standard_normal(w.shape).astype(np.float32))


def write(
    path: Path, model: Model, variant: bytes, precision: str = "int8", gate: AnyGate | None = None, **options: object
) -> Path:
    """A bundle of a model and of a variant of it."""
    model.write(path, **{"sizes": ONE_CASE, **options})
    return with_precision(open_bundle(path), precision, variant, gate or LOW_PRECISION_GATES[precision], path)
