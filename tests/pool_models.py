"""Models for the pool's tests: states on several axes and in two layers, tokens that can be out of range, whole memories."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import runtime_models
from onnx import TensorProto, helper, numpy_helper
from runtime_models import Model

import edgeseq_runtime
from edgeseq_runtime import Session, TensorSpec

TOKENS = 5
SIZES = ({"T": 2, "B": 2},)


def opened(model: Model, folder, sizes=SIZES) -> Session:
    return edgeseq_runtime.load(model.write(folder / f"{model.name}.edgeseq", sizes, draws=1))


def _graph(base: Model, nodes, weights, inputs, outputs, first: bool = True) -> bytes:
    """A model's graph with nodes put before or behind it, and another declaration."""
    proto = onnx.load_from_string(base.onnx)
    kept = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *kept] if first else [*kept, *nodes])
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items())
    for declared, specs in ((proto.graph.input, inputs), (proto.graph.output, outputs)):
        del declared[:]
        declared.extend(runtime_models.value_info(spec) for spec in specs)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def token_gru() -> Model:
    """A GRU over embedded tokens (T, B): ONNX Runtime itself refuses a token outside 0..4, in the middle of a run."""
    base = runtime_models.gru()
    table = np.random.default_rng(3).standard_normal((TOKENS, 3)).astype(np.float32)
    inputs = (TensorSpec("tokens", "int32", ("T", "B")), *base.inputs[1:])
    onnx_bytes = _graph(base, [helper.make_node("Gather", ["table", "tokens"], ["x"])], {"table": table}, inputs, base.outputs)

    def equations(arrays, dtype):
        return base.equations({"x": table[arrays["tokens"].astype(int) % TOKENS], "h": arrays["h"]}, dtype)

    return replace(base, name="tokens", onnx=onnx_bytes, equations=equations, inputs=inputs)


def memory_gru() -> Model:
    """A GRU beside the mean of a memory (S, B, 8), which has an axis of its own; and a second state (B, 2) that counts steps."""
    base = runtime_models.gru()
    memory, count = TensorSpec("memory", "float32", ("S", "B", 8)), TensorSpec("count", "float32", ("B", 2))
    inputs, outputs = (base.inputs[0], memory, base.inputs[1], count), (*base.outputs, replace_name(count, "count_out"))
    nodes = [
        helper.make_node("ReduceMean", ["memory", "axis"], ["mean"], keepdims=1),
        helper.make_node("Add", ["states", "mean"], ["y"]),
        helper.make_node("Add", ["count", "unit"], ["count_out"]),
    ]
    renamed = replace(base, onnx=_renamed(base.onnx, "y", "states"))
    weights = {"axis": np.array([0], np.int64), "unit": np.ones(1, np.float32)}

    def equations(arrays, dtype):
        expected = base.equations(arrays, dtype)
        mean = arrays["memory"].astype(dtype).mean(0, keepdims=True)
        return {"y": expected["y"] + mean, "h_out": expected["h_out"], "count_out": arrays["count"].astype(dtype) + 1}

    return replace(
        base,
        name="memory",
        onnx=_graph(renamed, nodes, weights, inputs, outputs, first=False),
        equations=equations,
        inputs=inputs,
        outputs=outputs,
        state={"h": "h_out", "count": "count_out"},
    )


def two_layer_gru() -> Model:
    """Two GRU layers whose states are one tensor (2, B, 8): the batch axis lies between layers and units."""
    one, other = runtime_models.gru(), runtime_models.gru(K=8, seed=5)
    weights = {
        f"{tensor.name}{number}": numpy_helper.to_array(tensor)
        for number, layer in enumerate((one, other))
        for tensor in onnx.load_from_string(layer.onnx).graph.initializer
    }
    nodes = [helper.make_node("Split", ["h"], ["h0", "h1"], axis=0, num_outputs=2)]
    for number, (x, y) in enumerate((("x", "middle"), ("middle", "y"))):
        names = [f"{name}{number}" for name in ("W", "R", "b")]
        gru = helper.make_node(
            "GRU", [x, *names, "", f"h{number}"], [f"Y{number}", f"out{number}"], hidden_size=8, linear_before_reset=1
        )
        nodes += [gru, helper.make_node("Squeeze", [f"Y{number}", f"one{number}"], [y])]
    nodes.append(helper.make_node("Concat", ["out0", "out1"], ["h_out"], axis=0))
    inputs = (one.inputs[0], TensorSpec("h", "float32", (2, "B", 8)))
    outputs = (one.outputs[0], TensorSpec("h_out", "float32", (2, "B", 8)))

    def equations(arrays, dtype):
        first = one.equations({"x": arrays["x"], "h": arrays["h"][:1]}, dtype)
        second = other.equations({"x": first["y"], "h": arrays["h"][1:]}, dtype)
        return {"y": second["y"], "h_out": np.concatenate([first["h_out"], second["h_out"]])}

    model = runtime_models.model_bytes(nodes, weights, inputs, outputs)
    return Model("two_layers", model, equations, inputs, outputs, {"h": "h_out"}, census={"GRU": 2})


def centred_gru() -> Model:
    """A GRU whose output has the batch's mean taken off: its members see each other."""
    base = runtime_models.gru()
    nodes = [
        helper.make_node("ReduceMean", ["states", "axis"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["states", "mean"], ["y"]),
    ]
    renamed = replace(base, onnx=_renamed(base.onnx, "y", "states"))
    onnx_bytes = _graph(renamed, nodes, {"axis": np.array([1], np.int64)}, base.inputs, base.outputs, first=False)

    def equations(arrays, dtype):
        expected = base.equations(arrays, dtype)
        return {**expected, "y": expected["y"] - expected["y"].mean(1, keepdims=True)}

    return replace(base, name="centred", onnx=onnx_bytes, equations=equations)


def quantised_lstm(folder) -> Model:
    """ONNX Runtime's own int8 LSTM, which takes the scale of its input from the whole batch at each run."""
    from onnxruntime.quantization import quantize_dynamic

    base = runtime_models.lstm()
    source, target = folder / "float.onnx", folder / "int8.onnx"
    source.write_bytes(base.onnx)
    quantize_dynamic(source, target)
    return replace(base, name="int8", onnx=target.read_bytes(), census={})


def replace_name(spec: TensorSpec, name: str) -> TensorSpec:
    return TensorSpec(name, spec.dtype, spec.shape)


def _renamed(model: bytes, old: str, new: str) -> bytes:
    proto = onnx.load_from_string(model)
    for node in proto.graph.node:
        for at, name in enumerate(node.output):
            if name == old:
                node.output[at] = new
    return proto.SerializeToString()


assert runtime_models._ONNX_TYPES["int32"] == TensorProto.INT32
