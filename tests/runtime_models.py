"""Small recurrent models as ONNX graphs, and the same models as NumPy equations at any precision.

The equations are the reference: written from the ONNX operator pages, not from a runtime. Weights are float32 in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseq_runtime.bundle import (
    DEFAULT_GATES,
    FORMAT,
    CaseArrays,
    Manifest,
    ReferenceCase,
    pack_reference,
    write_bundle,
)
from edgeseq_runtime.tensors import TensorSpec

Array = npt.NDArray[np.generic]
Arrays = dict[str, Array]
SIZES = ({"T": 1, "B": 1}, {"T": 7, "B": 3}, {"T": 20, "B": 2})
_ONNX_TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}


@dataclass(frozen=True)
class Model:
    """A graph, its declaration and its equations."""

    name: str
    onnx: bytes
    equations: Callable[[Arrays, np.dtype], Arrays]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: Mapping[str, str] = field(default_factory=dict)
    lengths: Mapping[str, str] = field(default_factory=dict)
    census: Mapping[str, int] = field(default_factory=dict)

    def draw(self, sizes: Mapping[str, int], rng: np.random.Generator) -> Arrays:
        """Random inputs at given sizes; the first sequence has full length."""
        drawn: Arrays = {}
        for spec in self.inputs:
            shape = [size if isinstance(size, int) else sizes[size] for size in spec.shape]
            if spec.name in self.lengths:
                drawn[spec.name] = rng.integers(1, sizes["T"] + 1, shape).astype(spec.dtype)
                drawn[spec.name][0] = sizes["T"]
            else:
                drawn[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        return drawn

    def expect(self, inputs: Arrays, dtype: str = "float64") -> Arrays:
        return self.equations(inputs, np.dtype(dtype))

    def case(self, sizes: Mapping[str, int], draws: int, seed: int = 0, horizon: Mapping[str, int] | None = None) -> CaseArrays:
        rng = np.random.default_rng([seed, *sizes.values()])
        drawn = [self.draw(sizes, rng) for _ in range(draws)]
        single = [self.expect(inputs, "float32") for inputs in drawn]
        double = [self.expect(inputs) for inputs in drawn]
        return CaseArrays(ReferenceCase(dict(sizes), draws, dict(horizon or {})), stacked(drawn), stacked(single), stacked(double))

    def write(
        self,
        path: Path,
        sizes: Sequence[Mapping[str, int]] = SIZES,
        draws: int = 32,
        horizon: Mapping[str, int] | None = None,
        **changes: object,
    ) -> Path:
        """A bundle of this model."""
        cases = [self.case(one, draws, horizon=horizon) for one in sizes]
        fields = {
            "format": FORMAT,
            "name": self.name,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "state": dict(self.state),
            "lengths": dict(self.lengths),
            "census": dict(self.census),
            "precisions": {"fp32": "model.onnx"},
            "tolerances": DEFAULT_GATES,
            "reference": tuple(case.case for case in cases),
            "provenance": {"torch": "none: NumPy equations"},
            **changes,
        }
        return write_bundle(path, Manifest(**fields), {"model.onnx": self.onnx}, pack_reference(cases))


def stacked(draws: Sequence[Arrays]) -> Arrays:
    return {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}


def faulty(model: Model, fault: Callable[[onnx.ModelProto], None]) -> Model:
    """The model with a fault planted in its graph; equations and declaration stay right."""
    proto = onnx.load_from_string(model.onnx)
    fault(proto)
    return replace(model, onnx=proto.SerializeToString())


def node_of(proto: onnx.ModelProto, op: str) -> onnx.NodeProto:
    return next(node for node in proto.graph.node if node.op_type == op)


def edit_weight(proto: onnx.ModelProto, name: str, edit: Callable[[Array], Array]) -> None:
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor)).astype(np.float32), name))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def lstm(K: int = 3, H: int = 8, *, lengths: bool = False, state: bool = True, seed: int = 0) -> Model:
    """y (T, B, H) of one forward LSTM."""
    W, R, b = _weights(4, K, H, 1, seed)

    def equations(inputs: Arrays, dtype: np.dtype) -> Arrays:
        def step(x: Array, carried: tuple[Array, ...]) -> tuple[Array, ...]:
            h, c = carried
            # ONNX orders LSTM gates i, o, f, c.
            i, o, f, g = np.split(x @ W[0].T.astype(dtype) + h @ R[0].T.astype(dtype) + bias(b[0], dtype), 4, axis=-1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            return sigmoid(o) * np.tanh(c), c

        y, (h, c) = _over_time(step, inputs, ("h", "c"), H, dtype)
        return {"y": y, "h_out": h[None], "c_out": c[None]}

    names = ("h", "c")
    return _recurrent("lstm", "LSTM", (W, R, b), equations, names if state else (), K, H, lengths, ("h_out", "c_out"))


def gru(K: int = 3, H: int = 8, *, lengths: bool = False, lbr: int = 1, seed: int = 1) -> Model:
    """y (T, B, H) of one forward GRU."""
    W, R, b = _weights(3, K, H, 1, seed)

    def equations(inputs: Arrays, dtype: np.dtype) -> Arrays:
        def step(x: Array, carried: tuple[Array, ...]) -> tuple[Array, ...]:
            (h,) = carried
            Wx, bR = x @ W[0].T.astype(dtype) + b[0][: 3 * H].astype(dtype), b[0][3 * H :].astype(dtype)
            Rz, Rr, Rh = np.split(R[0].astype(dtype), 3)
            xz, xr, xh = np.split(Wx, 3, axis=-1)
            bz, br, bh = np.split(bR, 3)
            z, r = sigmoid(xz + h @ Rz.T + bz), sigmoid(xr + h @ Rr.T + br)
            inner = r * (h @ Rh.T + bh) if lbr else (r * h) @ Rh.T + bh
            return ((1 - z) * np.tanh(xh + inner) + z * h,)

        y, (h,) = _over_time(step, inputs, ("h",), H, dtype)
        return {"y": y, "h_out": h[None]}

    return _recurrent("gru", "GRU", (W, R, b), equations, ("h",), K, H, lengths, ("h_out",), linear_before_reset=lbr)


def bidirectional_rnn(K: int = 3, H: int = 4, seed: int = 2) -> Model:
    """y (T, B, 2H) of a tanh RNN in both directions, without state."""
    W, R, b = _weights(1, K, H, 2, seed)

    def equations(inputs: Arrays, dtype: np.dtype) -> Arrays:
        x, outputs = inputs["x"].astype(dtype), []
        for direction, order in enumerate((slice(None), slice(None, None, -1))):
            h, steps = np.zeros((x.shape[1], H), dtype), []
            for x_t in x[order]:
                h = np.tanh(x_t @ W[direction].T.astype(dtype) + h @ R[direction].T.astype(dtype) + bias(b[direction], dtype))
                steps.append(h)
            outputs.append(np.stack(steps)[order])
        return {"y": np.concatenate(outputs, axis=-1)}

    nodes = [
        helper.make_node("RNN", ["x", "W", "R", "b"], ["Y"], hidden_size=H, direction="bidirectional"),
        helper.make_node("Transpose", ["Y"], ["Yt"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["Yt", "flat"], ["y"]),
    ]
    weights = {"W": W, "R": R, "b": b, "flat": np.array([0, 0, 2 * H], np.int64)}
    inputs, outputs = (TensorSpec("x", "float32", ("T", "B", K)),), (TensorSpec("y", "float32", ("T", "B", 2 * H)),)
    return Model("birnn", model_bytes(nodes, weights, inputs, outputs), equations, inputs, outputs, census={"RNN": 1})


def strided_gru(K: int = 3, H: int = 8) -> Model:
    """A GRU whose output keeps every second step: its time axis has a size computed by the model."""
    base = gru(K, H)
    proto = onnx.load_from_string(base.onnx)
    node_of(proto, "Squeeze").output[0] = "every"
    for name, value in (("start", 0), ("end", np.iinfo(np.int64).max), ("axis", 0), ("step", 2)):
        proto.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    proto.graph.node.append(helper.make_node("Slice", ["every", "start", "end", "axis", "step"], ["y"]))
    outputs = (TensorSpec("y", "float32", ("(T + 1) // 2", "B", H)), *base.outputs[1:])
    del proto.graph.output[:]
    proto.graph.output.extend(value_info(spec) for spec in outputs)

    def equations(inputs: Arrays, dtype: np.dtype) -> Arrays:
        expected = base.equations(inputs, dtype)
        return {**expected, "y": expected["y"][::2]}

    return replace(base, name="strided", onnx=proto.SerializeToString(), equations=equations, outputs=outputs)


def bias(b: Array, dtype: np.dtype) -> Array:
    """Input and recurrent bias together."""
    return np.sum(np.split(b.astype(dtype), 2), axis=0)


def value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, _ONNX_TYPES[spec.dtype], list(spec.shape))


def model_bytes(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Array],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [value_info(spec) for spec in inputs],
        [value_info(spec) for spec in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _weights(gates: int, K: int, H: int, directions: int, seed: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    shapes = ((directions, gates * H, K), (directions, gates * H, H), (directions, 2 * gates * H))
    W, R, b = (rng.uniform(-1, 1, shape).astype(np.float32) * np.float32(2 / np.sqrt(H)) for shape in shapes)
    return W, R, b


def _over_time(
    step: Callable[[Array, tuple[Array, ...]], tuple[Array, ...]],
    inputs: Arrays,
    state: Sequence[str],
    H: int,
    dtype: np.dtype,
) -> tuple[Array, tuple[Array, ...]]:
    """y (T, B, H), zero beyond a sequence's length, and the state after its last step."""
    x = inputs["x"].astype(dtype)
    T, B, _ = x.shape
    carried = tuple(inputs[name][0].astype(dtype) if name in inputs else np.zeros((B, H), dtype) for name in state)
    lengths, y = inputs.get("lengths", np.full(B, T)), np.zeros((T, B, H), dtype)
    for t in range(T):
        new = step(x[t], carried)
        live = (t < lengths)[:, None]
        carried = tuple(np.where(live, after, before) for after, before in zip(new, carried, strict=True))
        y[t] = np.where(live, new[0], 0)
    return y, carried


def _recurrent(
    name: str,
    op: str,
    weights: tuple[Array, Array, Array],
    equations: Callable[[Arrays, np.dtype], Arrays],
    state: tuple[str, ...],
    K: int,
    H: int,
    lengths: bool,
    state_outputs: tuple[str, ...],
    **attributes: int,
) -> Model:
    inputs = [TensorSpec("x", "float32", ("T", "B", K))]
    inputs += [TensorSpec("lengths", "int32", ("B",))] if lengths else []
    inputs += [TensorSpec(one, "float32", (1, "B", H)) for one in state]
    outputs = [TensorSpec("y", "float32", ("T", "B", H))]
    outputs += [TensorSpec(one, "float32", (1, "B", H)) for one in state_outputs]
    nodes = [
        helper.make_node(
            op, ["x", "W", "R", "b", "lengths" if lengths else "", *state], ["Y", *state_outputs], hidden_size=H, **attributes
        ),
        helper.make_node("Squeeze", ["Y", "one"], ["y"]),
    ]
    constants = dict(zip(("W", "R", "b"), weights, strict=True)) | {"one": np.array([1], np.int64)}
    return Model(
        name,
        model_bytes(nodes, constants, inputs, outputs),
        equations,
        tuple(inputs),
        tuple(outputs),
        dict(zip(state, state_outputs, strict=True)) if state else {},
        {"lengths": "T"} if lengths else {},
        {op: 1},
    )
