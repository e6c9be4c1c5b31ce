"""Exports to harm, and the harm: each fault knows its node, the step from which it shows, and where it can the row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from test_planted_faults import Packed, change, initializer, recurrent, set_attribute
from torch import nn

from edgeseq import LayerNormLSTMCell, LSTMCell, Recurrent
from edgeseq_export import export
from edgeseq_runtime.bundle import open_bundle, pack_reference, write_bundle

STEPS = 7  # of the reference case that faults are shown on; it has two rows
H = 8


class Layer(nn.Module):
    """One recurrent layer of the library, and a readout."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.out = nn.Linear(H, 3)

    def forward(self, x):
        return self.out(self.layer(x)[0])


class Skip(nn.Module):
    """Two GRUs, the second around a skip connection."""

    def __init__(self):
        super().__init__()
        self.first = nn.GRU(6, H)
        self.second = nn.GRU(H, H)

    def forward(self, x):
        x = self.first(x)[0]
        return x + self.second(x)[0]


MODELS = {
    "packed": lambda: Packed(nn.LSTM(6, H, 2, bidirectional=True)),
    "skip": Skip,
    "backwards": lambda: Layer(Recurrent(LSTMCell(6, H), reverse=True)),
    "normalised": lambda: Layer(Recurrent(LayerNormLSTMCell(6, H))),
    "normalised backwards": lambda: Layer(Recurrent(LayerNormLSTMCell(6, H), reverse=True)),
}


def export_model(name, path):
    """The bundle of one of the models."""
    torch.manual_seed(3)
    inputs, axes = {"x": torch.randn(STEPS, 3, 6)}, {"x": ("T", "B", None)}
    if name == "packed":
        inputs["lengths"], axes["lengths"] = torch.tensor([STEPS, 2, 5]), ("B",)
    return export(MODELS[name](), inputs, path, axes=axes, outputs=("y",))


def harmed(path, edit, target):
    """A bundle with its graph edited and every hash made to match again."""
    bundle = open_bundle(path)
    model = onnx.load_from_string(bundle.model())
    edit(model.graph)
    manifest = msgspec.structs.replace(bundle.manifest, sha256={})
    return write_bundle(target, manifest, {"model.onnx": model.SerializeToString()}, pack_reference(bundle.reference()))


def example(path):
    """Inputs of the case that faults are shown on: the first draw with two rows of several steps."""
    case = next(case for case in open_bundle(path).reference() if case.case.sizes["T"] == STEPS)
    return case.draw_inputs(0)


class Fault(NamedTuple):
    """One harm. `apply` edits the graph and gives the name of the node that it is in."""

    model: str
    apply: Callable
    step: int | None  # from which it shows; None where it depends on the lengths
    says: str  # part of a line on what differs
    backwards: bool = False


def the(graph, operator, at=0):
    return [node for node in graph.node if node.op_type == operator][at]


def body(graph):
    return the(graph, "Scan").attribute[0].g


def gates_swapped(graph):
    node = the(graph, "LSTM")
    for name in node.input[1:3]:
        change(graph, name, lambda w: np.concatenate([w[:, H : 2 * H], w[:, :H], w[:, 2 * H :]], axis=1))
    return node.name


def one_bias(graph):
    """The input gate's: it works from the first step on."""
    node = the(graph, "LSTM", 1)

    def edit(b):
        b[0, 2] += np.float32(1e-6)
        return b

    change(graph, node.input[3], edit)
    return node.name


def forget_bias(graph):
    """The forget gate multiplies a state that is zero in the first step, so it shows from the second on."""
    node = the(graph, "LSTM", 1)

    def edit(b):
        b[0, 2 * H + 3] += np.float32(1e-2)
        return b

    change(graph, node.input[3], edit)
    return node.name


def one_recurrent_weight(graph):
    """It multiplies a state that is zero in the first step."""
    node = the(graph, "GRU", 1)

    def edit(r):
        r[0, 2 * H + 1, 4] *= np.float32(1.01)
        return r

    change(graph, node.input[2], edit)
    return node.name


def half_weight(graph):
    node = the(graph, "LSTM")
    change(graph, node.input[1], lambda w: w.astype(np.float16).astype(np.float32))
    return node.name


def second_layer_is_first(graph):
    node = the(graph, "GRU", 1)
    change(graph, node.input[2], lambda _: numpy_helper.to_array(initializer(graph, the(graph, "GRU").input[2])))
    return node.name


def other_activation(graph):
    set_attribute(the(graph, "LSTM"), "activations", ["Sigmoid", "Tanh", "Relu"])
    return the(graph, "LSTM").name


def other_gru(graph):
    set_attribute(the(graph, "GRU"), "linear_before_reset", 0)
    return the(graph, "GRU").name


def forwards(graph):
    set_attribute(the(graph, "LSTM"), "direction", "forward")
    return the(graph, "LSTM").name


def not_flipped_back(graph):
    node = the(graph, "Scan")
    set_attribute(node, "scan_output_directions", [0])
    return node.name


def lengths_ignored(graph):
    for node in recurrent(graph, "LSTM"):
        node.input[4] = ""
    return the(graph, "LSTM").name


def lengths_one_less(graph):
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int32), "one"))
    for node in recurrent(graph, "LSTM"):
        node.input[4] = "shorter"
    graph.node.insert(0, helper.make_node("Max", ["fewer", "one"], ["shorter"], name="max"))
    graph.node.insert(0, helper.make_node("Sub", ["lengths", "one"], ["fewer"], name="sub"))
    return the(graph, "LSTM").name


def skip_dropped(graph):
    node = the(graph, "Add", -1)
    node.op_type = "Identity"
    del node.input[1:]
    return node.name


def epsilon_in_the_body(graph):
    node = next(node for node in body(graph).node if any("norm_s.weight" in name for name in node.input))
    set_attribute(node, "epsilon", 1e-3)
    return node.name


def activation_in_the_body(graph):
    node = the(body(graph), "Tanh")
    node.op_type = "Softsign"
    return node.name


def weight_in_the_body(graph):
    """Of the product with the state, which is zero in the first step."""
    node = the(body(graph), "Gemm")
    set_attribute(node, "alpha", 1.25)
    return node.name


def reset_at_step_5(graph):
    """A state that is lost before the sixth step: the body reads zeros for it then."""
    scan, inside = the(graph, "Scan"), body(graph)
    state = inside.input[0].name
    reader = next(node for node in inside.node if state in node.input)
    reader.input[:] = ["kept" if name == state else name for name in reader.input]
    inside.input.append(helper.make_tensor_value_info("lost", onnx.TensorProto.BOOL, []))
    inside.node.insert(0, helper.make_node("Where", ["lost", "nothing", state], ["kept"], name="where"))
    for name, value in (("zero", 0), ("unit", 1), ("five", 5), ("start", [0]), ("nothing", np.float32(0))):
        graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    before = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["steps"]),
        helper.make_node("Range", ["zero", "steps", "unit"], ["numbers"]),
        helper.make_node("Equal", ["numbers", "five"], ["lost_at"]),
    ]
    at = list(graph.node).index(scan)
    for node in reversed(before):
        graph.node.insert(at, node)
    scan = the(graph, "Scan")
    scan.input.append("lost_at")
    set_attribute(scan, "num_scan_inputs", 2)
    set_attribute(scan, "scan_input_directions", [0, 0])
    return reader.name


def state_forgotten(graph):
    """The body hands on the state that it was given: what it gives for the next step is wrong in the first already."""
    inside = body(graph)
    inside.node.append(helper.make_node("Identity", [inside.input[1].name], ["unchanged"], name="keep"))
    inside.output[1].name = "unchanged"
    return "keep"


def states_exchanged(graph):
    """The body hands on its two states the wrong way round: no node computes anything wrong, and the second step reads it."""
    first, second = body(graph).output[:2]
    first.name, second.name = second.name, first.name
    return the(graph, "Scan").name


def not_a_number(graph):
    node = the(graph, "Add", -1)

    def edit(b):
        b[1] = np.inf
        return b

    change(graph, node.input[1], edit)
    return node.name


FAULTS = {
    "gates swapped": Fault("packed", gates_swapped, 0, "i holds the reference's o"),
    "one bias": Fault("packed", one_bias, 0, "; forward: gate W i"),
    "forget bias": Fault("packed", forget_bias, 1, "forward: gate W f"),
    "one recurrent weight": Fault("skip", one_recurrent_weight, 1, "differs in 1 of 192 elements"),
    "fp16 weight": Fault("packed", half_weight, 0, "it is the reference's rounded to float16"),
    "second layer is first": Fault("skip", second_layer_is_first, 1, "gate"),
    "activation": Fault("backwards", other_activation, STEPS - 1, "Sigmoid, Tanh, Relu", backwards=True),
    "linear_before_reset": Fault("skip", other_gru, 0, "attribute linear_before_reset is 0; the reference's is 1"),
    "direction": Fault("backwards", forwards, 0, "attribute direction is forward; the reference's is reverse"),
    "not flipped back": Fault("normalised backwards", not_flipped_back, 0, "attribute scan_output_directions"),
    "lengths ignored": Fault("packed", lengths_ignored, None, "sequence_lens is left out; the reference's is 'lengths'"),
    "lengths one less": Fault("packed", lengths_one_less, None, "'shorter', which Max 'max' makes and the reference lacks"),
    "skip dropped": Fault("skip", skip_dropped, 0, "operator Identity; the reference has Add"),
    "epsilon in a body": Fault("normalised", epsilon_in_the_body, 0, "attribute epsilon is 0.001; the reference's is 1e-05"),
    "epsilon in a body that runs backwards": Fault(
        "normalised backwards", epsilon_in_the_body, STEPS - 1, "attribute epsilon", backwards=True
    ),
    "activation in a body": Fault("normalised", activation_in_the_body, 0, "operator Softsign; the reference has Tanh"),
    "weight in a body": Fault("normalised", weight_in_the_body, 1, "attribute alpha is 1.25; the reference's is 1"),
    "state lost at step 5": Fault("normalised", reset_at_step_5, 5, "'kept', which Where 'where' makes and the reference lacks"),
    "state forgotten": Fault("normalised", state_forgotten, 0, "operator Identity; the reference has Add"),
    "states exchanged": Fault("normalised", states_exchanged, 1, "output 0 of the body is"),
}
