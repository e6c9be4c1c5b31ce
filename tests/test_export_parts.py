"""The exporter's parts, each on its own."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgeseq_export import export
from edgeseq_export.cases import _steadiest
from edgeseq_export.defaults import write_defaults
from edgeseq_export.draws import Draws, InputKind
from edgeseq_export.from_the_end import slice_from_the_end
from edgeseq_export.gates import ONNX_GATES, TORCH_GATES, onnx_biases, onnx_weights, reorder
from edgeseq_export.reference import evaluate, evaluate64, evaluation_copy, float64_copy
from edgeseq_export.tensorrt_rules import tensorrt_hazards
from edgeseq_runtime import open_bundle
from edgeseq_runtime.errors import UnsupportedModule

sizes = st.integers(1, 12)


def draw(example, axes, sizes, counts=None, longest=None, sorted_lengths=False, seed=0):
    draws = Draws({"x": InputKind(np.asarray(example), axes, counts)}, sorted_lengths=sorted_lengths, seed=seed)
    return draws(sizes, longest)["x"].numpy()


@given(T=sizes, B=sizes, seed=st.integers(0, 1000), is_sorted=st.booleans())
def test_lengths_are_in_range_and_one_is_longest(T, B, seed, is_sorted):
    lengths = draw(np.array([3, 1], np.int32), ("B",), {"T": T, "B": B}, "T", sorted_lengths=is_sorted, seed=seed)
    assert lengths.shape == (B,)
    assert lengths.dtype == np.int32
    assert lengths.min() >= 1
    assert lengths.max() == T
    assert not is_sorted or (np.diff(lengths) <= 0).all()


@given(T=st.integers(2, 12), seed=st.integers(0, 1000))
def test_lengths_can_stop_short_of_the_time_axis(T, seed):
    lengths = draw(np.array([3, 1], np.int32), ("B",), {"T": T, "B": 4}, "T", {"T": T - 1}, seed=seed)
    assert lengths.max() == T - 1


@given(T=sizes, seed=st.integers(0, 1000))
def test_draws_keep_to_the_kind_of_the_example(T, seed):
    at = {"T": T, "B": 3}
    tokens = draw(np.array([[2, 7], [4, 5]]), ("T", "B"), at, seed=seed)
    assert tokens.min() >= 2
    assert tokens.max() <= 7
    magnitudes = draw(np.array([[0.5, 2.0]], np.float32), ("T", "B"), at, seed=seed)
    assert magnitudes.min() >= 0.5
    assert magnitudes.max() <= 2.0
    mask = draw(np.array([[True, True, False], [True, False, False]]), ("B", "T"), at, seed=seed)
    assert mask[:, 0].all()
    assert (np.diff(mask.astype(int), axis=1) <= 0).all()
    flags = draw(np.array([0.0, 1.0, 1.0], np.float32), ("T",), at, seed=seed)
    assert set(flags.tolist()) <= {0.0, 1.0}


def test_a_state_of_zeros_is_drawn_as_something_else():
    state = draw(np.zeros((1, 2, 8), np.float32), (None, "B", None), {"B": 50})
    assert state.shape == (1, 50, 8)
    assert 0.4 < state.std() < 0.6


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", "ifco"), ("GRU", "rzh"), ("RNN", "h")])
def test_gates_are_put_in_onnx_order(operator, gates):
    H = 2
    stacked = torch.cat([torch.full((H, 3), float(ord(gate))) for gate in gates])
    assert TORCH_GATES[operator] == gates
    found = onnx_weights(operator, [stacked, stacked + 1])
    assert found.shape == (2, len(gates) * H, 3)
    assert "".join(chr(int(v)) for v in found[0, ::H, 0]) == ONNX_GATES[operator]
    bias = stacked[:, 0]
    both = onnx_biases(operator, [bias], [bias + 0.5])
    assert both.shape == (1, 2 * len(gates) * H)
    assert torch.equal(both[0, : len(gates) * H] + 0.5, both[0, len(gates) * H :])


@given(st.permutations("ifoc"))
def test_reordering_there_and_back_changes_nothing(order):
    blocks = torch.arange(8.0).reshape(8, 1)
    target = "".join(order)
    assert torch.equal(reorder(reorder(blocks, "ifoc", target), target, "ifoc"), blocks)


class CastsInside(nn.Module):
    """Makes float32 by itself in the middle: a zero state, an explicit cast, a constant."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4)

    def forward(self, x):
        h = torch.zeros(1, x.shape[1], 4)
        y, _ = self.gru(x.float(), h)
        return y * torch.tensor(1 / 3) + torch.full((4,), 0.1, dtype=torch.float32)


def test_the_float64_answer_is_float64_throughout():
    model, _ = evaluation_copy(CastsInside())
    x = torch.randn(5, 2, 3)
    (exact,) = evaluate64(float64_copy(model), {"x": x})
    assert exact.dtype == torch.float64
    gru = model.gru.double()
    with torch.no_grad():
        y, _ = gru(x.double())
    # The constants are rounded to float32 where the module makes them: that is the module's own value.
    expected = y * float(np.float32(1 / 3)) + float(np.float32(0.1))
    assert torch.allclose(exact, expected, rtol=1e-7)
    assert evaluate(evaluation_copy(CastsInside())[0], {"x": x})[0].dtype == torch.float32


def test_a_module_that_cannot_be_copied_is_refused_with_the_reason():
    model = nn.GRU(3, 4)
    model.handle = (i for i in range(3))
    with pytest.raises(UnsupportedModule, match="deepcopy"):
        evaluation_copy(model)


def graph_of(*nodes, inputs=(), initializers=()):
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inputs]
    graph = onnx.helper.make_graph(list(nodes), "g", values, [], list(initializers))
    return ir.serde.deserialize_graph(graph)


def test_the_draws_that_amplify_rounding_are_left_out():
    random = np.random.default_rng(0)
    exact = [[random.standard_normal((5, 2)), random.integers(0, 3, 4)] for _ in range(10)]
    amplified = {3: 1e-4, 8: 1e-5}
    nudged = [[y + amplified.get(k, 1e-8) * random.standard_normal((5, 2)), tokens] for k, (y, tokens) in enumerate(exact)]
    assert _steadiest(exact, nudged, 8) == [0, 1, 2, 4, 5, 6, 7, 9]


def test_draws_on_which_nothing_moves_are_kept_in_their_order():
    exact = [[np.full((2,), float(k))] for k in range(5)]
    assert _steadiest(exact, exact, 4) == [0, 1, 2, 3]


node = onnx.helper.make_node
LAST = "last"


def index(value):
    return onnx.numpy_helper.from_array(np.array(value), LAST)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (node("Compress", ["x", "c"], ["y"]), "does not parse Compress"),
        (node("DynamicQuantizeLSTM", ["x"], ["y"], domain="com.microsoft"), "domain 'com.microsoft'"),
        (node("ScatterElements", ["x", "i", "u"], ["y"], reduction="add"), "reduction 'add'"),
        (
            node("RNN", ["x", "w", "r"], ["y"], direction="bidirectional", activations=["Tanh", "Relu"], hidden_size=2),
            "different activations",
        ),
        (node("CumSum", ["x", "axis"], ["y"]), "CumSum"),
        (node("NonZero", ["x"], ["y"]), "does not parse NonZero"),
        (node("GatherND", ["x", LAST], ["y"]), "negative index"),
    ],
)
def test_a_rule_of_tensorrt_that_is_broken_is_reported(broken, message):
    names = [name for name in broken.input if name and name != LAST]
    (hazard,) = tensorrt_hazards(graph_of(broken, inputs=names, initializers=[index(-1)]))
    assert message in hazard


def test_a_graph_that_keeps_the_rules_has_no_hazards():
    sound = node("LSTM", ["x", "w", "r"], ["y"], direction="bidirectional", hidden_size=2)
    assert tensorrt_hazards(graph_of(sound, inputs=["x", "w", "r"])) == ()


@pytest.mark.parametrize("position", [-1, -2, 0, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_an_index_from_the_end_becomes_a_slice_of_the_same_value(position, axis):
    gather = node("Gather", ["x", LAST], ["y"], axis=axis)
    graph = graph_of(gather, inputs=["x"], initializers=[index(position)])
    graph.outputs.append(graph[0].outputs[0])
    slice_from_the_end(graph)
    assert [n.op_type for n in graph] == (["Slice", "Squeeze"] if position < 0 else ["Gather"])
    assert tensorrt_hazards(graph) == ()
    model = ir.Model(graph, ir_version=10)
    graph.opset_imports[""] = 20
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    (y,) = onnx.reference.ReferenceEvaluator(ir.serde.serialize_model(model)).run(None, {"x": x})
    assert np.array_equal(y, x.take(position, axis))


def test_an_index_from_the_end_of_a_known_size_stays():
    graph = graph_of(node("Gather", ["x", LAST], ["y"]), inputs=["x"], initializers=[index(-1)])
    graph.inputs[0].shape = ir.Shape([4, "B"])
    slice_from_the_end(graph)
    assert [n.op_type for n in graph] == ["Gather"]
    assert tensorrt_hazards(graph) == ()


def test_the_constants_of_selu_are_written_out():
    default, own = (node("Selu", ["x"], [name], **given) for name, given in (("y", {}), ("z", {"alpha": 2.0})))
    graph = graph_of(default, own, inputs=["x"])
    write_defaults(graph)
    schema = onnx.defs.get_schema("Selu", 20).attributes
    expected = {name: schema[name].default_value.f for name in ("alpha", "gamma")}
    assert {name: found.as_float() for name, found in graph[0].attributes.items()} == expected
    assert graph[1].attributes["alpha"].as_float() == 2


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("directions", [1, 2])
def test_an_rnn_node_has_one_activation_a_direction(nonlinearity, directions, tmp_path):
    module = nn.RNN(3, 4, nonlinearity=nonlinearity, bidirectional=directions == 2)
    path = export(module, {"input": torch.randn(5, 2, 3)}, tmp_path / "rnn.edgeseq", axes={"input": ("T", "B", None)})
    graph = onnx.load_from_string(open_bundle(path).model()).graph
    (found,) = (a.strings for n in graph.node if n.op_type == "RNN" for a in n.attribute if a.name == "activations")
    assert list(found) == [nonlinearity.capitalize().encode()] * directions
