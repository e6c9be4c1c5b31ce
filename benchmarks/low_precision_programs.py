"""Correct and faulty programs of lower precisions, of any PyTorch LSTM, GRU or RNN."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
SMALL = 4096  # hidden units times steps up to which products are summed one by one

Outputs = dict[str, Tensor]
Round = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Weights:
    """Of one layer in one direction, in PyTorch's order of gates."""

    W: Tensor
    R: Tensor
    input_bias: Tensor
    state_bias: Tensor


def outputs_of(result: tuple[Tensor, Tensor | tuple[Tensor, Tensor]]) -> Outputs:
    """By name: y, h, and c of an LSTM."""
    y, state = result
    h, *c = state if isinstance(state, tuple) else (state,)
    return {"y": y, "h": h, **({"c": c[0]} if c else {})}


def kind_of(module: nn.RNNBase) -> str:
    """LSTM, GRU or RNN; of RNNs tanh is meant."""
    return module.mode.removesuffix("_TANH")


def weights_of(module: nn.RNNBase) -> list[list[Weights]]:
    """Weights[layer][direction]."""
    return [[Weights(*module.all_weights[2 * layer + way if module.bidirectional else layer][:4]) for way in ways]
            for layer in range(module.num_layers) for ways in [range(2 if module.bidirectional else 1)]]  # fmt: skip


def mapped(weights: list[list[Weights]], change: Callable[[Tensor], Tensor]) -> list[list[Weights]]:
    """Matrices changed, biases kept."""
    return [[Weights(change(one.W), change(one.R), one.input_bias, one.state_bias) for one in layer] for layer in weights]


def exact(x: Tensor) -> Tensor:
    """No rounding."""
    return x


def rounding(dtype: torch.dtype) -> Round:
    """To a data type and back."""
    return lambda x: x.to(dtype).to(x.dtype)


def changed(module: nn.RNNBase, change: Round) -> nn.RNNBase:
    """A copy with its matrices changed."""
    made = copy.deepcopy(module)
    for name, parameter in made.named_parameters():
        if name.startswith("weight"):
            parameter.copy_(change(parameter))
    return made


def int8(per_channel: bool, factor: float = 1.0) -> Round:
    """A matrix to symmetric 8-bit integers and back, the scale wrong by a factor: what is beyond it saturates."""

    def change(w: Tensor) -> Tensor:
        scale = factor * (w.abs().amax(1, keepdim=True) if per_channel else w.abs().max()).clamp_min(1e-30) / 127
        return (w / scale).round().clamp(-127, 127) * scale

    return change


def matmul(h: Tensor, R: Tensor) -> Tensor:
    """As a kernel that accumulates in float32."""
    return h @ R.T


def half_sums(h: Tensor, R: Tensor) -> Tensor:
    """Products summed in float16, one after the other."""
    total = torch.zeros(h.shape[0], R.shape[0], dtype=torch.float16)
    for column in range(R.shape[1]):
        total += (h[:, column, None] * R[None, :, column]).half()
    return total.to(h.dtype)


def saturating_sums(h: Tensor, R: Tensor) -> Tensor:
    """In 8-bit integers whose pairs of products are summed in 16 bits and saturate, as on x86 CPUs without VNNI."""
    unit = R.abs().max().clamp_min(1e-30) / 127
    low, high = min(0.0, float(h.min())), max(0.0, float(h.max()))
    scale = max(high - low, 1e-30) / 255
    zero = round(-low / scale)
    a, w = ((h / scale).round() + zero).clamp(0, 255), (R / unit).round()
    a, w = (nn.functional.pad(one, (0, one.shape[1] % 2)) for one in (a, w))
    pairs = a[:, None, 0::2] * w[None, :, 0::2] + a[:, None, 1::2] * w[None, :, 1::2]
    return (pairs.clamp(-(2**15), 2**15 - 1).sum(-1) - zero * w.sum(1)) * scale * unit


@dataclass(frozen=True)
class Program:
    """How the equations are evaluated, faults included."""

    q: Round = exact  # of every gate and state
    sigmoid: Callable[[Tensor], Tensor] = torch.sigmoid
    tanh: Callable[[Tensor], Tensor] = torch.tanh
    product: Callable[[Tensor, Tensor], Tensor] = matmul  # of the state and the recurrent weights

    def evaluate(self, kind: str, weights: list[list[Weights]], x: Tensor) -> Outputs:
        """The outputs for x (T, B, features)."""
        states: list[tuple[Tensor, ...]] = []
        for layer in weights:
            ways = []
            for reverse, one in enumerate(layer):
                y, state = self._layer(kind, one, x.flip(0) if reverse else x)
                ways.append(y.flip(0) if reverse else y)
                states.append(state)
            x = torch.cat(ways, -1)
        stacked = [torch.stack(parts) for parts in zip(*states, strict=True)]
        return dict(zip(("y", "h", "c"), (x, *stacked), strict=False))

    def _layer(self, kind: str, w: Weights, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        T, B, _ = x.shape
        q, Wx = self.q, self.q(x @ w.W.T + w.input_bias)
        h = c = x.new_zeros(B, w.R.shape[1])
        steps = []
        for t in range(T):
            Rh = self.product(h, w.R) + w.state_bias
            if kind == "LSTM":
                i, f, g, o = q(Wx[t] + Rh).chunk(4, -1)
                c = q(self.sigmoid(f) * c + self.sigmoid(i) * self.tanh(g))
                h = q(self.sigmoid(o) * self.tanh(c))
            elif kind == "GRU":
                (rx, zx, nx), (rh, zh, nh) = Wx[t].chunk(3, -1), q(Rh).chunk(3, -1)
                r, z = self.sigmoid(q(rx + rh)), self.sigmoid(q(zx + zh))
                n = self.tanh(q(nx + r * nh))
                h = q((1 - z) * n + z * h)
            else:
                h = q(self.tanh(q(Wx[t] + Rh)))
            steps.append(h)
        return torch.stack(steps), (h, c) if kind == "LSTM" else (h,)


def lstm_bytes(module: nn.LSTM) -> bytes:
    """The LSTM in ONNX, a node a layer, time-major."""
    H, ways = module.hidden_size, 2 if module.bidirectional else 1
    constants: dict[str, Any] = {"flat": np.array([0, 0, ways * H], np.int64)}
    nodes: list[onnx.NodeProto] = []
    name = "x"
    for index, layer in enumerate(weights_of(module)):
        # PyTorch orders gates i, f, g, o; ONNX i, o, f, c.
        order = torch.cat([torch.arange(H) + block * H for block in (0, 3, 1, 2)])
        for part in ("W", "R"):
            constants[f"{part}{index}"] = torch.stack([getattr(one, part)[order] for one in layer]).numpy()
        constants[f"b{index}"] = torch.stack([torch.cat([one.input_bias[order], one.state_bias[order]]) for one in layer]).numpy()
        reads = [name, *(f"{part}{index}" for part in "WRb")]
        direction = "bidirectional" if ways == 2 else "forward"
        nodes += [
            helper.make_node("LSTM", reads, [f"Y{index}", f"h{index}", f"c{index}"], hidden_size=H, direction=direction),
            helper.make_node("Transpose", [f"Y{index}"], [f"Yt{index}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"Yt{index}", "flat"], [f"y{index}"]),
        ]
        name = f"y{index}"
    nodes.append(helper.make_node("Identity", [name], ["y"]))
    for state in "hc":
        nodes.append(helper.make_node("Concat", [f"{state}{index}" for index in range(module.num_layers)], [state], axis=0))
    shapes: dict[str, list[str | int | None]] = {
        "y": ["T", "B", ways * H],
        "h": [ways * module.num_layers, "B", H],
        "c": [ways * module.num_layers, "B", H],
    }
    graph = helper.make_graph(
        nodes,
        "lstm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "B", module.input_size])],
        [helper.make_tensor_value_info(one, TensorProto.FLOAT, shape) for one, shape in shapes.items()],
        [numpy_helper.from_array(np.ascontiguousarray(array), one) for one, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def run_int8(model: bytes, x: Tensor, *, per_channel: bool, spoil: str = "") -> Outputs:
    """What ONNX Runtime makes of its own dynamic quantisation; `spoil` names a quantised tensor whose scale is doubled."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a.onnx"), Path(folder, "b.onnx")
        source.write_bytes(model)
        quantize_dynamic(source, target, per_channel=per_channel, reduce_range=True, weight_type=QuantType.QInt8)
        proto = onnx.load(target)
    if not any(node.op_type == "DynamicQuantizeLSTM" for node in proto.graph.node):
        raise RuntimeError("nothing was quantised")
    for tensor in proto.graph.initializer:
        if spoil and tensor.name.startswith(f"{spoil}0") and tensor.name.endswith("_scale"):
            tensor.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(tensor), tensor.name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(["y", "h", "c"], {"x": x.numpy()})
    return {name: torch.from_numpy(array) for name, array in zip("yhc", found, strict=True)}


def correct(module: nn.RNNBase, x: Tensor) -> Iterator[tuple[str, Outputs]]:
    """Faithful programs of each precision: name, outputs."""
    kind, weights = kind_of(module), weights_of(module)
    for precision, dtype in DTYPES.items():
        q = rounding(dtype)
        program = Program(q)
        yield f"{precision}, emulated", program.evaluate(kind, mapped(weights, q), q(x))
        own = copy.deepcopy(module).to(dtype)
        yield f"{precision}, PyTorch", {name: value.float() for name, value in outputs_of(own(x.to(dtype))).items()}
    for per_channel, text in ((False, "per tensor"), (True, "per channel")):
        yield f"int8 {text}, weights", outputs_of(changed(module, int8(per_channel))(x))
        if isinstance(module, nn.LSTM):
            yield f"int8 {text}, run", run_int8(lstm_bytes(module), x, per_channel=per_channel)


def swapped(kind: str) -> Callable[[Tensor], Tensor]:
    """The first two gates exchanged; of an RNN, which has one, the first two units."""

    def change(w: Tensor) -> Tensor:
        size = max(1, w.shape[0] // {"LSTM": 4, "GRU": 3, "RNN": w.shape[0]}[kind])
        return torch.cat([w[size : 2 * size], w[:size], w[2 * size :]]) if w.shape[0] >= 2 * size else w

    return change


def first_layer(weights: list[list[Weights]], change: Callable[[Weights], Weights]) -> list[list[Weights]]:
    """One layer and direction changed."""
    return [[change(weights[0][0]), *weights[0][1:]], *weights[1:]]


def faulty(module: nn.RNNBase, x: Tensor) -> Iterator[tuple[str, Outputs]]:
    """Programs with one fault each, in fp16 unless the fault is one of int8: name, outputs."""
    kind, weights, q = kind_of(module), weights_of(module), rounding(torch.float16)
    halved = mapped(weights, q)
    both = swapped(kind)
    exchanged = first_layer(halved, lambda w: Weights(both(w.W), both(w.R), both(w.input_bias), both(w.state_bias)))
    program = Program(q)
    if kind != "RNN" or module.hidden_size > 1:  # of one unit there is nothing to exchange
        yield "gates exchanged in one layer", program.evaluate(kind, exchanged, q(x))
    tanh = torch.relu if kind == "RNN" else torch.tanh
    other = Program(q, sigmoid=lambda v: (v / 5 + 0.5).clamp(0, 1), tanh=tanh)
    yield "hard sigmoid, or relu in an RNN", other.evaluate(kind, halved, q(x))
    unbiased = first_layer(halved, lambda w: Weights(w.W, w.R, w.input_bias, 0 * w.state_bias))
    yield "recurrent bias of one layer left out", program.evaluate(kind, unbiased, q(x))
    if module.hidden_size * len(x) <= SMALL:
        yield "products summed in fp16", Program(q, product=half_sums).evaluate(kind, halved, q(x))
        yield "int8: sums saturate at 16 bits", Program(product=saturating_sums).evaluate(kind, weights, x)
    for text, change in (
        ("int8: scale chosen half as large", int8(per_channel=True, factor=0.5)),
        ("int8: scale chosen twice as large", int8(per_channel=True, factor=2.0)),
        ("int8: stored scale of one matrix twice as large", lambda w: 2 * int8(per_channel=True)(w)),
    ):
        made = changed(module, int8(per_channel=True))
        made.get_parameter("weight_hh_l0").copy_(change(module.get_parameter("weight_hh_l0")))
        yield text, outputs_of(made(x))
    loud = x.clone()
    loud[..., 0] *= 1e5
    quiet = first_layer(weights, lambda w: Weights(torch.cat([w.W[:, :1] / 1e5, w.W[:, 1:]], 1), w.R, w.input_bias, w.state_bias))
    yield "fp16: an input beyond 65504", program.evaluate(kind, mapped(quiet, q), q(loud))
    if isinstance(module, nn.LSTM):
        data = lstm_bytes(module)
        yield "int8: run, stored scale of one matrix twice as large", run_int8(data, x, per_channel=False, spoil="R")
