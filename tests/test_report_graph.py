"""The report's reader of ONNX files, and its drawing of graphs."""

import contextlib
import math
from itertools import pairwise

import numpy as np
import onnx
import pytest
import runtime_models
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeseq_runtime.errors import BadModel
from edgeseq_runtime.onnx_wire import MAX_DEPTH, MAX_INTEGERS, Graph, Node, ValueInfo, read_model
from edgeseq_runtime.report.diagram import CROWDED, diagram_of
from edgeseq_runtime.report.drawing import drawing
from edgeseq_runtime.report.layout import GAP, Size, lay_out


def scan_model():
    """A Scan whose step has weights of its own and takes one from outside, an If, and constants computed from sizes."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h_in", "R"], ["hR"]),
            helper.make_node("Add", ["hR", "x_t"], ["sum"]),
            helper.make_node("Mul", ["sum", "outer"], ["scaled"]),
            helper.make_node("Tanh", ["scaled"], ["h_new"]),
            helper.make_node("Identity", ["h_new"], ["y_t"]),
        ],
        "step",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 4]) for name in ("h_in", "x_t")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 4]) for name in ("h_new", "y_t")],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "R")],
    )
    branches = {
        name: helper.make_graph(
            [helper.make_node(op, ["y_all"], [f"{name}_out"])], name, [], [helper.make_tensor_value_info(f"{name}_out", 1, None)]
        )
        for name, op in (("then", "Relu"), ("else", "Neg"))
    }
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "one"], ["B"]),
        helper.make_node("Concat", ["B", "four"], ["state_shape"], axis=0),
        helper.make_node("ConstantOfShape", ["state_shape"], ["h0"], value=helper.make_tensor("", TensorProto.FLOAT, [1], [0.0])),
        helper.make_node("Scan", ["h0", "x"], ["h_end", "y_all"], body=body, num_scan_inputs=1, scan_input_directions=[1]),
        helper.make_node("If", ["flag"], ["y"], then_branch=branches["then"], else_branch=branches["else"]),
    ]
    constants = {"one": np.array([1]), "four": np.array([4]), "outer": np.ones(4, np.float32), "flag": np.array(True)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "B", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", None, 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)])
    onnx.checker.check_model(model)
    return model.SerializeToString()


MODELS = {
    "lstm": runtime_models.lstm().onnx,
    "gru": runtime_models.gru(lengths=True).onnx,
    "rnn": runtime_models.bidirectional_rnn().onnx,
    "strided": runtime_models.strided_gru().onnx,
    "scan": scan_model(),
}


def same_graph(found, proto):
    assert found.name == proto.name
    assert list(found.tensors) == [tensor.name for tensor in proto.initializer]
    for tensor in proto.initializer:
        array = numpy_helper.to_array(tensor)
        assert (found.tensors[tensor.name].dtype, found.tensors[tensor.name].dims) == (str(array.dtype), array.shape)
        assert found.tensors[tensor.name].size == array.size
        held = tuple(array.ravel().tolist()) if array.dtype in (np.int32, np.int64) else None
        assert found.tensors[tensor.name].integers == held
    for specs, values in ((found.inputs, proto.input), (found.outputs, proto.output)):
        assert [spec.name for spec in specs] == [value.name for value in values]
        for spec, value in zip(specs, values, strict=True):
            tensor_type = value.type.tensor_type
            shape = tuple(dim.dim_value or dim.dim_param or "?" for dim in tensor_type.shape.dim)
            assert spec.shape == (shape if tensor_type.HasField("shape") else None)
            assert spec.dtype == helper.tensor_dtype_to_np_dtype(tensor_type.elem_type).name
    assert len(found.nodes) == len(proto.node)
    for node, other in zip(found.nodes, proto.node, strict=True):
        assert (node.op, node.domain, node.name) == (other.op_type, other.domain, other.name)
        assert (node.inputs, node.outputs) == (tuple(other.input), tuple(other.output))
        for attribute in other.attribute:
            value = helper.get_attribute_value(attribute)
            if attribute.type in (onnx.AttributeProto.INT, onnx.AttributeProto.INTS):
                assert node.integers[attribute.name] == tuple(np.atleast_1d(value))
            elif attribute.type in (onnx.AttributeProto.FLOAT, onnx.AttributeProto.FLOATS):
                assert node.floats[attribute.name] == tuple(np.atleast_1d(value))
            elif attribute.type == onnx.AttributeProto.STRINGS:
                assert node.lists[attribute.name] == tuple(text.decode() for text in value)
            elif attribute.type == onnx.AttributeProto.STRING:
                assert node.texts[attribute.name] == value.decode()
            elif attribute.type == onnx.AttributeProto.TENSOR:
                assert node.tensors[attribute.name].dims == tuple(value.dims)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                same_graph(node.graphs[attribute.name], value)


@pytest.mark.parametrize("name", MODELS)
def test_the_reader_finds_what_the_onnx_package_finds(name):
    found, proto = read_model(MODELS[name]), onnx.load_from_string(MODELS[name])
    assert found.ir_version == proto.ir_version
    assert found.opsets == {opset.domain: opset.version for opset in proto.opset_import}
    assert found.producer == proto.producer_name
    same_graph(found.graph, proto.graph)


def test_numbers_and_names_of_recurrent_nodes_and_integers_however_they_are_stored():
    given = {"activations": ["Sigmoid", "Tanh"], "activation_alpha": [0.5, -1.0], "clip": 2.5, "hidden_size": 3}
    kept = [
        helper.make_tensor("raw", TensorProto.INT32, [2], np.array([-1, 7], np.int32).tobytes(), raw=True),
        helper.make_tensor("typed", TensorProto.INT64, [2, 1], [-(2**62), 5]),
        helper.make_tensor("small", TensorProto.INT32, [2], [-3, 4]),
        helper.make_tensor("none", TensorProto.INT64, [0], []),
        numpy_helper.from_array(np.zeros(MAX_INTEGERS + 1, np.int64), "many"),
    ]
    graph = helper.make_graph([helper.make_node("GRU", ["a"], ["b"], **given)], "g", [], [], kept)
    found = read_model(helper.make_model(graph).SerializeToString()).graph
    (node,) = found.nodes
    assert node.floats == {"activation_alpha": (0.5, -1.0), "clip": (2.5,)}
    assert node.lists == {"activations": ("Sigmoid", "Tanh")}
    assert {name: tensor.integers for name, tensor in found.tensors.items()} == {
        "raw": (-1, 7),
        "typed": (-(2**62), 5),
        "small": (-3, 4),
        "none": (),
        "many": None,
    }
    cut = helper.make_tensor("raw", TensorProto.INT64, [1], b"\0" * 8, raw=True)
    cut.raw_data = b"\0" * 7
    with pytest.raises(BadModel, match="7 bytes in a tensor are no whole numbers"):
        read_model(helper.make_model(helper.make_graph([], "g", [], [], [cut])).SerializeToString())


def test_negative_and_unpacked_numbers_are_read_too():
    node = helper.make_node("Squeeze", ["a"], ["b"], axes=[-1, 5], keepdims=-3)
    graph = helper.make_graph([node], "g", [], [], [numpy_helper.from_array(np.zeros((2, 3), np.float32), "w")])
    data = helper.make_model(graph).SerializeToString()
    found = read_model(data).graph
    assert found.nodes[0].integers == {"axes": (-1, 5), "keepdims": (-3,)}
    # `dims` [2, 3] as one packed field, which protobuf readers must take as well.
    assert b"\x08\x02\x08\x03" in data
    assert read_model(data.replace(b"\x08\x02\x08\x03", b"\x0a\x02\x02\x03")).graph.tensors["w"].dims == (2, 3)


@pytest.mark.parametrize("name", ["lstm", "scan"])
def test_a_model_cut_short_anywhere_is_a_clear_error_or_a_shorter_model(name):
    data, errors = MODELS[name], 0
    for length in range(len(data)):
        try:
            read_model(data[:length])
        except BadModel:
            errors += 1
    assert errors > len(data) * 0.9


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_never_do_worse_than_a_clear_error(data):
    damaged = bytearray(MODELS[data.draw(st.sampled_from(sorted(MODELS)))])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        model = read_model(bytes(damaged))
    except BadModel:
        return
    drawing(diagram_of(model.graph), "graph")  # what can be read can be drawn


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_model_or_a_clear_error(data):
    with contextlib.suppress(BadModel):
        read_model(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "hold no graph"),
        (b"\x3a\x7f", "claims 127 bytes and 0 are left"),
        (b"\x3a" + b"\xff" * 12, "has no end"),
        (b"\x3b", "unknown wire type 3"),
        (b"\x38\x01", "a graph is a number"),
        (b"\x0a\x00\x3a\x00", "bytes where a number belongs"),
        (b"\x3a\x0d\x2a\x0b\x08" + b"\xff" * 9 + b"\x01", "negative size"),
    ],
)
def test_each_kind_of_damage_is_named(data, message):
    with pytest.raises(BadModel, match=message):
        read_model(data)


def test_graphs_that_nest_without_end_are_refused():
    graph = helper.make_graph([], "innermost", [], [])
    for _ in range(MAX_DEPTH + 1):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=graph)], "g", [], [])
    with pytest.raises(BadModel, match=f"deeper than {MAX_DEPTH}"):
        read_model(helper.make_model(graph).SerializeToString())


def test_data_is_stepped_over():
    """A tensor of 80 MB is as quick to read as an empty one: nothing of it is copied."""
    import tracemalloc

    tensor = numpy_helper.from_array(np.zeros(20_000_000, np.float32), "w")
    data = helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    tracemalloc.start()
    assert read_model(data).graph.tensors["w"].dims == (20_000_000,)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def boxes(name):
    diagram = diagram_of(read_model(MODELS[name]).graph)
    return diagram, {box.title: box for box in diagram.boxes}


def test_recurrent_nodes_are_boxes_of_their_own_with_their_facts():
    _, found = boxes("lstm")
    assert (found["LSTM"].kind, found["LSTM"].facts) == ("recurrent", ("8 hidden units", "forward"))
    assert found["LSTM"].weights == 4 * 8 * (3 + 8 + 2)
    _, found = boxes("rnn")
    assert found["RNN"].facts == ("4 hidden units", "bidirectional")
    assert found["Transpose → Reshape"].nodes == 2
    assert found["Transpose → Reshape"].weights == 0  # integers are no weights


def test_bodies_are_drawings_of_their_own_and_size_arithmetic_is_left_out():
    diagram, found = boxes("scan")
    assert (diagram.nodes, diagram.hidden) == (6, 4)
    scan = found["Scan"]
    assert scan.facts == ("1 state", "float32[B, 4]", "backward in time")
    assert scan.weights == 16 + 4  # the body's R, and `outer` from outside
    (body,) = scan.bodies
    inner = {box.title: box for box in body.diagram.boxes}
    assert list(inner) == ["h_in", "x_t", "MatMul", "Add → Mul → Tanh", "Identity", "h_new", "y_t"]
    assert (inner["MatMul"].weights, inner["Add → Mul → Tanh"].weights) == (16, 4)
    assert {one.name for one in found["If"].bodies} == {"then_branch", "else_branch"}
    names = [box.title for box in diagram.boxes]
    assert (names.index("Scan"), names.index("If")) in diagram.edges  # through what a branch takes from outside


def test_several_nodes_with_bodies_are_told_apart_and_say_what_recurs_in_them():
    branch = Graph("b", (node("LSTM", ["x"], ["h"], hidden_size=(8,)),), (), (ValueInfo("h", "float32", None),), {})
    nodes = [node("If", [source], [target])._replace(graphs={"then_branch": branch}) for source, target in (("x", "a"), ("a", "y"))]
    graph = Graph("g", tuple(nodes), (ValueInfo("x", "bool", ()),), (ValueInfo("y", "float32", None),), {})
    diagram = diagram_of(graph)
    assert [(box.title, box.facts) for box in diagram.boxes if box.bodies] == [
        ("If 1", ("1 LSTM inside",)),
        ("If 2", ("1 LSTM inside",)),
    ]
    assert "inside If 2: 1 node<" in drawing(diagram, "graph")


def layered(width, depth, recurrent_every=10):
    """`depth` rounds of `width` parallel simple nodes that are added up, with an LSTM now and then."""
    nodes, last = [], "x"
    for level in range(depth):
        parts = [f"p{level}.{one}" for one in range(width)]
        nodes += [node("Relu", [last], [part]) for part in parts]
        nodes.append(node("Sum", parts, [f"s{level}"]))
        last = f"s{level}"
        if level % recurrent_every == 0:
            nodes.append(node("LSTM", [last, "w"], [f"l{level}"], hidden_size=(8,)))
            last = f"l{level}"
    return Graph("g", tuple(nodes), (ValueInfo("x", "float32", ("T", 4)),), (ValueInfo(last, "float32", ("T", 4)),), {})


def node(op, inputs, outputs, **integers):
    return Node(op, "", "", tuple(inputs), tuple(outputs), integers, {}, {}, {}, {}, {})


def test_hundreds_of_nodes_become_a_few_boxes_and_none_is_lost():
    graph = layered(4, 100)
    diagram = diagram_of(graph)
    assert len(graph.nodes) == 510
    assert sum(box.nodes for box in diagram.boxes) == 510
    assert sum(box.kind == "recurrent" for box in diagram.boxes) == 10
    assert len(diagram.boxes) < 30
    assert "510 nodes, 10 of them recurrent" in drawing(diagram, "graph")


def test_what_nobody_could_read_is_not_drawn():
    diagram = diagram_of(layered(2, 500, recurrent_every=1))
    assert len(diagram.boxes) > 400
    assert "too many to read" in drawing(diagram, "graph")
    assert "<svg" not in drawing(diagram, "graph")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_gathering_keeps_every_node_and_makes_no_cycle(data):
    count = data.draw(st.integers(1, 3 * CROWDED))
    nodes = []
    for number in range(count):
        sources = data.draw(st.lists(st.integers(max(-1, number - 6), number - 1), min_size=1, max_size=3, unique=True))
        op = data.draw(st.sampled_from(["Relu"] * 8 + ["GRU", "Add"]))
        nodes.append(node(op, [f"v{source}" for source in sources], [f"v{number}"]))
    graph = Graph("g", tuple(nodes), (ValueInfo("v-1", "float32", None),), (ValueInfo(f"v{count - 1}", "float32", None),), {})
    diagram = diagram_of(graph)
    assert sum(box.nodes for box in diagram.boxes) == count
    after = {number: [b for a, b in diagram.edges if a == number] for number in range(len(diagram.boxes))}
    removed = True
    while removed:
        removed = [number for number in after if not any(target in after for target in after[number])]
        for number in removed:
            del after[number]
    assert not after, "a cycle"
    sizes = [Size(60 + 10 * (number % 5), 30) for number in range(len(diagram.boxes))]
    layout = lay_out(sizes, diagram.edges)
    for source, target in diagram.edges:
        assert layout.corners[source].y + sizes[source].height <= layout.corners[target].y
        assert all(a.y <= b.y for a, b in pairwise(layout.arrows[source, target]))
    for one, (corner, size) in enumerate(zip(layout.corners, sizes, strict=True)):
        assert 0 <= corner.x <= corner.x + size.width <= layout.size.width
        assert 0 <= corner.y <= corner.y + size.height <= layout.size.height
        for other in range(one):
            at = layout.corners[other]
            apart = max(corner.x - at.x - sizes[other].width, at.x - corner.x - size.width)
            assert at.y + sizes[other].height <= corner.y or corner.y + size.height <= at.y or apart > GAP - 1e-6


def test_a_cycle_which_no_right_model_has_is_laid_out_all_the_same():
    layout = lay_out([Size(10, 10)] * 3, {(0, 1), (1, 2), (2, 0)})
    assert all(math.isfinite(value) for corner in layout.corners for value in corner)
    looped = Graph("g", (node("Relu", ["b"], ["a"]), node("Relu", ["a"], ["b"])), (), (ValueInfo("b", "float32", None),), {})
    drawing(diagram_of(looped), "graph")


def test_crossings_are_avoided_where_they_can_be():
    """Two lines side by side, given in an order that crosses them."""
    layout = lay_out([Size(40, 20)] * 4, {(0, 3), (1, 2)})
    first, second = ((layout.arrows[edge][0].x, layout.arrows[edge][-1].x) for edge in ((0, 3), (1, 2)))
    assert (first[0] < second[0]) == (first[1] < second[1])
