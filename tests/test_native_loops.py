"""Device "native": Scan, Loop and If, beside NumPy's equations of the same rounds and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from native_graphs import Drawn, computed, graph_of, model_of, near, needs_compiler, node, opened
from native_random import evaluated, random_steps

from edgeseq_runtime.errors import InputError, UsageError

pytestmark = needs_compiler
T, B, H = 6, 2, 4


def whole(*numbers):
    return np.array(numbers, np.int64)


def scan_of(body, inputs, outputs, count, **attributes):
    return node("Scan", inputs, outputs, body=body, num_scan_inputs=count, **attributes)


def require_as_onnxruntime(nodes, inputs, outputs, constants=None, rtol=1e-6, atol=1e-6):
    """Require all outputs, which are float32, to be those of ONNX Runtime."""
    found = computed(nodes, inputs, outputs, constants or {})
    model = model_of(nodes, inputs, outputs, constants or {})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, one, other in zip(outputs, found, session.run(outputs, inputs), strict=True):
        assert one.shape == other.shape, name
        np.testing.assert_allclose(one, other, rtol, atol, err_msg=name)
    return found


@pytest.mark.parametrize("steps", [1, 2, T])
@pytest.mark.parametrize("rows", [1, B])
def test_states_that_pass_through_others_and_outputs_of_every_kind(steps, rows):
    """A delay line of three and a state that stays; outputs: a new state, an old one, a view, a slice, another, a constant."""
    drawn = Drawn(1)
    x, w, outer = drawn.values((steps, rows, H)), drawn.values((H, H)) * 0.5, drawn.values((rows, H))
    starts = [drawn.values((rows, H)) for _ in range(4)]
    body = graph_of(
        [
            node("MatMul", "xt w", "p"),
            node("Add", "p s0", "q"),
            node("Add", "q outer", "r"),
            node("Tanh", "r", "n0"),
            node("Identity", "s0", "n1"),
            node("Identity", "s1", "n2"),
            node("Identity", "s3", "n3"),
            node("Add", "s2 s3", "y0"),
            node("Transpose", "n0", "y1", perm=[1, 0]),
            node("Identity", "s2", "y2"),
            node("Identity", "xt", "y3"),
            node("Identity", "outer", "y4"),
            node("Identity", "k", "y5"),
        ],
        dict.fromkeys(("s0", "s1", "s2", "s3", "xt"), "float32"),
        ["n0", "n1", "n2", "n3", "n0", "y0", "y1", "y2", "y3", "y4", "y5"],
        {"k": np.float32([5, 6])},
    )
    results = "e0 e1 e2 e3 z z0 z1 z2 z3 z4 z5"
    inputs = {"x": x, "outer": outer, **{f"i{index}": one for index, one in enumerate(starts)}}
    found = dict(
        zip(results.split(), computed([scan_of(body, "i0 i1 i2 i3 x", results, 1)], inputs, results.split(), {"w": w}), strict=True)
    )
    states, outputs = list(starts), []
    for t in range(steps):
        new = np.tanh(x[t].astype(np.float64) @ w + states[0] + outer)
        outputs.append((new, states[2] + states[3], new.T, states[2], x[t], outer, np.float32([5, 6])))
        states = [new, states[0], states[1], states[3]]
    for name, one in zip(("e0", "e1", "e2", "e3"), states, strict=True):
        near(found[name], np.asarray(one), 1.0, 16.0)
    for index, name in enumerate(("z", "z0", "z1", "z2", "z3", "z4", "z5")):
        near(found[name], np.stack([one[index] for one in outputs]), 1.0, 16.0)


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_states_that_change_places(rounds):
    """Each is what another was, so none may be overwritten before it is read; one is a view of itself."""
    drawn = Drawn(2)
    a, b, c, m = drawn.values((3,)), drawn.values((3,)), drawn.values((3,)), drawn.values((3, 3))
    body = graph_of(
        [
            node("Identity", "b", "na"),
            node("Identity", "c", "nb"),
            node("Identity", "a", "nc"),
            node("Transpose", "m", "nm", perm=[1, 0]),
        ],
        dict.fromkeys(("a", "b", "c", "m", "xt"), "float32"),
        ["na", "nb", "nc", "nm", "nm"],
    )
    outputs = ["ea", "eb", "ec", "em", "y"]
    inputs = {"a0": a, "b0": b, "c0": c, "m0": m, "x": np.zeros((rounds, 1), np.float32)}
    found = computed([scan_of(body, "a0 b0 c0 m0 x", " ".join(outputs), 1)], inputs, outputs)
    states = [a, b, c, m]
    for _ in range(rounds):
        states = [states[1], states[2], states[0], states[3].T]
    for one, expected in zip(found, [*states, np.stack([m.T if t % 2 == 0 else m for t in range(rounds)])], strict=True):
        np.testing.assert_array_equal(one, expected)


@pytest.mark.parametrize("in_axes", [(0, 0), (1, 2), (2, 1), (-1, 0)])
@pytest.mark.parametrize("ways", [(0, 0, 0), (1, 0, 1), (0, 1, 0), (1, 1, 1)])
@pytest.mark.parametrize("out_axis", [0, 1, -1])
@pytest.mark.parametrize("views", [0, 2])
def test_axes_and_directions(in_axes, ways, out_axis, views):
    drawn = Drawn(3)
    x, y = (np.moveaxis(drawn.values((T, B, H)), 0, axis) for axis in in_axes)
    s = drawn.values((B, H))
    for name, array in (("x", x), ("y", y), ("s", s)):
        drawn.add(name, array, views=views)
    body = graph_of(
        [node("Sub", "h xt", "d"), node("Max", "d yt", "hn"), node("Add", "hn xt", "o")],
        dict.fromkeys(("h", "xt", "yt"), "float32"),
        ["hn", "o"],
    )
    told = {"scan_input_axes": list(in_axes), "scan_input_directions": list(ways[:2]), "scan_output_axes": [out_axis]}
    end, out = drawn.computed([scan_of(body, "s x y", "end out", 2, scan_output_directions=[ways[2]], **told)], ["end", "out"])
    xs, ys = (np.moveaxis(one, axis, 0)[:: -1 if way else 1] for one, axis, way in zip((x, y), in_axes, ways, strict=False))
    h, outputs = s, []
    for xt, yt in zip(xs, ys, strict=True):
        h = np.maximum(h - xt, yt)
        outputs.append(h + xt)
    np.testing.assert_array_equal(end, h)
    np.testing.assert_array_equal(out, np.moveaxis(np.stack(outputs[:: -1 if ways[2] else 1]), 0, out_axis))


def test_sequences_of_single_numbers_and_states_without_axes():
    x = np.float32([1, 2, 3, 4])
    body = graph_of([node("Add", "s xt", "n"), node("Mul", "n xt", "o")], {"s": "float32", "xt": "float32"}, ["n", "o"])
    end, out = computed([scan_of(body, "s0 x", "end out", 1)], {"x": x, "s0": np.array(0, np.float32)}, ["end", "out"])
    assert float(end) == 10
    assert out.tolist() == [1, 6, 18, 40]


def test_a_body_sees_names_around_it_at_every_depth():
    """A Scan in a Scan: the inner one reads the outer's state and a value outside of both; each has constants of the same name."""
    drawn = Drawn(4)
    x, z, outside = drawn.values((3, B, H)), drawn.values((4, B, H)), drawn.values((B, H))
    inner = graph_of(
        [
            node("Add", "u zt", "a"),
            node("Add", "a h", "b"),
            node("Sub", "b outside", "c"),
            node("Mul", "c k", "un"),
            node("Add", "un own", "uo"),
        ],
        {"u": "float32", "zt": "float32"},
        ["un", "uo"],
        {"k": np.float32(0.5)},
    )
    body = graph_of(
        [node("Add", "h xt", "g"), node("Mul", "g k", "own"), scan_of(inner, "own z", "ue us", 1), node("Sub", "ue own", "hn")],
        {"h": "float32", "xt": "float32"},
        ["hn", "us", "own"],
        {"k": np.float32(0.25)},
    )
    nodes = [node("Neg", "x", "xn"), scan_of(body, "h0 xn", "e y own_y", 1), node("Add", "e outside", "e1")]
    inputs = {"x": x, "z": z, "outside": outside, "h0": drawn.values((B, H))}
    found = require_as_onnxruntime(nodes, inputs, ["e1", "y", "own_y"])
    assert found[1].shape == (3, 4, B, H)


@pytest.mark.parametrize("seeds", np.arange(60).reshape(6, 10).tolist(), ids=lambda seeds: f"from {seeds[0]}")
def test_values_of_a_body_share_no_memory(seeds):
    """Random bodies: whatever they make, states and outputs are those of NumPy, round by round."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        shapes = {"s": (4, 3), "t": (1, 5), "xt": (3, 4), "outer": (7, 5)}
        arrays = {name: np.round(rng.standard_normal(shape) * 8).astype(np.float32) for name, shape in shapes.items()}
        steps, constants = random_steps(rng, arrays, int(rng.integers(4, 30)))
        values = evaluated(steps, arrays)
        made = [step.output for step in steps]
        next_of = {
            name: str(rng.choice([one for one in (*made, "s", "t") if values[one].shape == shapes[name]] or [name]))
            for name in ("s", "t")
        }
        wanted = [str(one) for one in rng.choice(made, 3)]
        body = graph_of(
            [step.node for step in steps], dict.fromkeys(("s", "t", "xt"), "float32"), [*next_of.values(), *wanted], constants
        )
        x = np.round(rng.standard_normal((4, 3, 4)) * 8).astype(np.float32)
        nodes = [node("Neg", "outer0", "outer"), scan_of(body, "s0 t0 x", "es et y0 y1 y2", 1), node("Neg", "outer", "after")]
        given = {"s0": arrays["s"], "t0": arrays["t"], "x": x, "outer0": -arrays["outer"]}
        copies = {name: array.copy() for name, array in given.items()}
        found = computed(nodes, copies, ["es", "et", "y0", "y1", "y2", "after"])
        state, outputs = {"s": arrays["s"], "t": arrays["t"]}, []
        for xt in x:
            values = evaluated(steps, {**state, "xt": xt, "outer": arrays["outer"]})
            outputs.append([values[name] for name in wanted])
            state = {name: values[next_of[name]] for name in state}
        expected = [state["s"], state["t"], *(np.stack([one[index] for one in outputs]) for index in range(3)), -arrays["outer"]]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"seed {seed}")
        assert all(np.array_equal(copies[name], array) for name, array in given.items())


@pytest.mark.parametrize("also", ["nothing", "the old state", "a view of it", "the old state later", "another state"])
def test_a_state_that_is_scattered_into(also):
    """In place where nothing else needs the old one, and otherwise not."""
    drawn = Drawn(5)
    memory, x = drawn.values((5, 3)), drawn.values((4, 1, 3))
    places = np.broadcast_to(whole(2, 0, 2, 4).reshape(4, 1, 1), (4, 1, 3)).copy()
    nodes = [node("Transpose", "m", "turned", perm=[1, 0])] if also == "a view of it" else []
    nodes += [node("ScatterElements", "m it xt", "mn", axis=0)]
    old = {"nothing": "mn", "the old state": "m", "a view of it": "turned", "the old state later": "m", "another state": "mn"}[also]
    nodes += [node("Neg", old, "o")] if also != "the old state" else [node("Identity", "m", "o")]
    states = ["m", "d"] if also == "another state" else ["m"]  # d is what m was a round before
    body = graph_of(
        nodes,
        {**dict.fromkeys(states, "float32"), "it": "int64", "xt": "float32"},
        ["mn", *(["m"] if len(states) == 2 else []), "o"],
    )
    starts = "m0 m1" if len(states) == 2 else "m0"
    ends = "e d" if len(states) == 2 else "e"
    given = {"m0": memory, "i": places, "x": x, **({"m1": memory} if len(states) == 2 else {})}
    kept = memory.copy()
    results = [*ends.split(), "y"]
    found = dict(zip(results, computed([scan_of(body, f"{starts} i x", f"{ends} y", 2)], given, results), strict=True))
    np.testing.assert_array_equal(memory, kept)
    now, last, outputs = memory.copy(), memory, []
    for place, row in zip((2, 0, 2, 4), x[:, 0], strict=True):
        last, now = now, now.copy()
        now[place] = row
        outputs.append({"mn": -now, "turned": -last.T, "m": last if also == "the old state" else -last}[old])
    np.testing.assert_array_equal(found["e"], now)
    np.testing.assert_array_equal(found["y"], np.stack(outputs))
    if len(states) == 2:
        np.testing.assert_array_equal(found["d"], last)


def test_a_product_outside_does_not_take_a_bias_of_the_body():
    """A body's Add right after an instruction as long as the product's own: its bias belongs to neither."""
    drawn = Drawn(6)
    x, a, w, v = drawn.values((3, B, H)), drawn.values((B, H)), drawn.values((H, 3)), drawn.values((H, 3))
    body = graph_of(
        [node("MatMul", "xt v", "q"), node("Add", "p bias", "r"), node("Mul", "r q", "o"), node("Identity", "s", "sn")],
        {"s": "float32", "xt": "float32"},
        ["sn", "o"],
    )
    nodes = [node("MatMul", "a w", "p"), scan_of(body, "s0 x", "e y", 1)]
    bias = np.float32([1, 2, 3])
    (y,) = computed(nodes, {"x": x, "a": a, "s0": np.zeros(1, np.float32)}, ["y"], {"w": w, "v": v, "bias": bias})
    near(y, (a.astype(np.float64) @ w + bias) * (x.astype(np.float64) @ v), 16.0, 8.0)


def test_a_recurrent_layer_and_a_softmax_in_a_body():
    drawn = Drawn(7)
    constants = {"w": drawn.values((1, 4 * H, H)) * 0.5, "r": drawn.values((1, 4 * H, H)) * 0.5, "first": whole(0)}
    body = graph_of(
        [
            node("Unsqueeze", "xt first", "x1"),
            node("LSTM", "x1 w r - - h c", "y hn cn", hidden_size=H),
            node("Softmax", "hn", "soft", axis=-1),
        ],
        dict.fromkeys(("h", "c", "xt"), "float32"),
        ["hn", "cn", "soft"],
    )
    inputs = {"x": drawn.values((T, B, H)), "h0": drawn.values((1, B, H)), "c0": drawn.values((1, B, H))}
    require_as_onnxruntime([scan_of(body, "h0 c0 x", "eh ec y", 1)], inputs, ["eh", "ec", "y"], constants)


def counting_loop(condition_node):
    return graph_of(
        [node("Cast", "i", "f", to=1), node("Add", "a f", "an"), node("Mul", "b two", "bn"), condition_node],
        {"i": "int64", "c": "bool", "a": "float32", "b": "float32"},
        ["cn", "an", "bn"],
        {"two": np.float32(2), "limit": np.float32(20)},
    )


@pytest.mark.parametrize("rounds", [0, 1, 5, "none"])
@pytest.mark.parametrize("going", [True, False, "none"])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("computed_condition", [True, False])
def test_loops(rounds, going, given, computed_condition):
    """As many rounds as are asked for, while the condition holds; both known beforehand or not."""
    if rounds == "none" and not computed_condition:
        rounds = 7  # else it would not end
    body = counting_loop(node("Less", "bn limit", "cn") if computed_condition else node("Identity", "c", "cn"))
    values = {**({} if rounds == "none" else {"n": whole(rounds)[0]}), **({} if going == "none" else {"go": np.array(going)})}
    inputs = {"a0": np.float32([0.5, 1]), "b0": np.array(3, np.float32), **(values if given else {})}
    loop = node("Loop", f"{'-' if rounds == 'none' else 'n'} {'-' if going == 'none' else 'go'} a0 b0", "a b", body=body)
    a, b = computed([loop], inputs, ["a", "b"], {} if given else values)
    expected_a, expected_b, i, on = inputs["a0"], inputs["b0"], 0, going is not False
    while on and (rounds == "none" or i < rounds):
        expected_a, expected_b = expected_a + np.float32(i), expected_b * 2
        i, on = i + 1, not computed_condition or bool(expected_b < 20)
    np.testing.assert_array_equal(a, expected_a)
    np.testing.assert_array_equal(b, expected_b)


def test_the_number_of_a_round_stays_while_a_view_of_it_comes_and_goes():
    body = graph_of(
        [
            node("Unsqueeze", "i first", "u"),
            node("Cast", "u", "f", to=1),
            node("Add", "a f", "b"),
            node("Neg", "b", "d"),
            node("Neg", "d", "e"),
            node("Cast", "i", "g", to=1),
            node("Add", "e g", "an"),
            node("Identity", "c", "cn"),
        ],
        {"i": "int64", "c": "bool", "a": "float32"},
        ["cn", "an"],
        {"first": whole(0)},
    )
    (a,) = computed([node("Loop", "n - a0", "a", body=body)], {"a0": np.float32([0.5])}, ["a"], {"n": whole(5)[0]})
    assert a.tolist() == [0.5 + 2 * (0 + 1 + 2 + 3 + 4)]


def test_memory_of_a_body_is_used_again_after_the_loop():
    x = np.ones((2, 64, 64), np.float32)
    body = graph_of([node("Neg", "s", "m"), node("Add", "m xt", "sn")], {"s": "float32", "xt": "float32"}, ["sn"])
    nodes = [scan_of(body, f"s{index} x", f"s{index + 1}", 1) for index in range(30)]
    inputs = {"s0": np.zeros((64, 64), np.float32), "x": x}
    model = opened(model_of(nodes, inputs, ["s30"]))
    np.testing.assert_array_equal(model.run(inputs)["s30"], inputs["s0"])
    (program,) = model.programs._made.values()
    assert program.scratch <= 5 * inputs["s0"].nbytes


def test_a_loop_in_a_scan_and_a_number_of_rounds_that_is_computed():
    body = counting_loop(node("Identity", "c", "cn"))
    outer = graph_of(
        [node("Cast", "xt", "n", to=7), node("Loop", "n - s one", "sn b", body=body), node("Add", "sn b", "o")],
        {"s": "float32", "xt": "float32"},
        ["sn", "o"],
        {"one": np.array(1, np.float32)},
    )
    end, out = computed(
        [scan_of(outer, "s0 x", "end out", 1)], {"s0": np.array(0, np.float32), "x": np.float32([2, 0, 3])}, ["end", "out"]
    )
    assert float(end) == 1 + 0 + 3
    assert out.tolist() == [1 + 4, 1 + 1, 4 + 8]


@pytest.mark.parametrize("chosen", [True, False])
def test_a_branch_that_is_known_beforehand(chosen):
    then = graph_of([node("Add", "x outer", "u"), node("Neg", "u", "p")], {}, ["p"])
    other = graph_of([node("Mul", "x outer", "q")], {}, ["q"])
    # In the main graph, and in the body of a loop, where the outer name x is one of the body's.
    x, outer = np.float32([[1, 2], [3, 4]]), np.float32([10, 20])
    expected = -(x + outer) if chosen else x * outer
    nodes = [node("If", "yes", "r", then_branch=then, else_branch=other), node("Neg", "r", "y"), node("Add", "x r", "z")]
    y, z = computed(nodes, {"x": x, "outer": outer}, ["y", "z"], {"yes": np.array(chosen)})
    np.testing.assert_array_equal(y, -expected)
    np.testing.assert_array_equal(z, x + expected)
    inner = graph_of(
        [node("Add", "s xt", "x"), node("If", "yes", "r", then_branch=then, else_branch=other), node("Sub", "r s", "n")],
        {"s": "float32", "xt": "float32"},
        ["n", "r"],
    )
    end, out = computed(
        [scan_of(inner, "s0 a", "end out", 1)], {"a": x, "s0": outer, "outer": outer}, ["end", "out"], {"yes": np.array(chosen)}
    )
    s, outputs = outer, []
    for xt in x:
        r = -((s + xt) + outer) if chosen else (s + xt) * outer
        s = r - s
        outputs.append(r)
    np.testing.assert_array_equal(end, s)
    np.testing.assert_array_equal(out, np.stack(outputs))


def test_an_index_out_of_range_in_a_round_names_the_node_of_the_body():
    body = graph_of(
        [node("Add", "s s", "d"), node("Gather", "table it", "row", name="look_up"), node("Add", "d row", "sn")],
        {"s": "float32", "it": "int64"},
        ["sn", "row"],
    )
    nodes = [node("Neg", "s0", "s1"), scan_of(body, "s1 i", "e y", 1), node("Neg", "y", "z")]
    constants = {"table": Drawn(8).values((5, 3))}
    inputs = {"s0": np.zeros(3, np.float32), "i": whole(0, 4, -5, 2)}
    require_as_onnxruntime(nodes, inputs, ["e", "z"], constants)
    for bad in (whole(0, 1, 5), whole(-6)):
        with pytest.raises(InputError, match="can't compute Gather 'look_up' on these inputs: an index is out of range"):
            computed(nodes, {**inputs, "i": bad}, ["e", "z"], constants)
    late = [*nodes, node("Gather", "table last", "after", name="the_last"), node("Add", "after e", "w")]
    with pytest.raises(InputError, match="can't compute Gather 'the_last'"):
        computed(late, {**inputs, "last": whole(9)[0]}, ["w"], constants)


def test_what_loops_can_not_do_is_refused():
    grows = graph_of([node("Concat", "s xt", "sn", axis=0)], {"s": "float32", "xt": "float32"}, ["sn"])
    with pytest.raises(InputError, match=r"carry no state that changes its shape .*Scan 'grower'"):
        computed(
            [scan_of(grows, "s x", "e", 1, name="grower")], {"s": np.zeros(1, np.float32), "x": np.zeros((3, 1), np.float32)}, ["e"]
        )
    same = graph_of([node("Add", "s xt", "sn")], {"s": "float32", "xt": "float32"}, ["sn"])
    with pytest.raises(InputError, match="run no loop of 0 rounds"):
        computed([scan_of(same, "s x", "e", 1)], {"s": np.zeros(1, np.float32), "x": np.zeros((0, 1), np.float32)}, ["e"])
    unknown = graph_of([node("Einsum", "s xt", "sn", equation="i,i->i")], {"s": "float32", "xt": "float32"}, ["sn"])
    with pytest.raises(UsageError, match="have no operator Einsum"):
        computed([scan_of(unknown, "s x", "e", 1)], {"s": np.zeros(1, np.float32), "x": np.zeros((2, 1), np.float32)}, ["e"])


@pytest.mark.parametrize("taken", [True, False])
def test_a_branch_leaves_products_around_it_as_they_are(taken):
    """A bias that a branch adds to a product from outside belongs to the branch alone."""
    drawn = Drawn(11)
    x, w, b = drawn.values((2, 4)), drawn.values((4, 5)), drawn.values(5)
    branches = {
        "then_branch": graph_of([node("Add", "p b", "q")], {}, ["q"]),
        "else_branch": graph_of([node("Identity", "p", "q")], {}, ["q"]),
    }
    nodes = [node("MatMul", "x w", "p"), node("If", "taken", "r", **branches), node("Relu", "p", "y")]
    found = computed(nodes, {"x": x}, ["r", "y"], {"w": w, "b": b, "taken": np.array(taken)})
    product = x.astype(np.float64) @ w
    for array, expected in zip(found, (product + b if taken else product, np.maximum(product, 0)), strict=True):
        np.testing.assert_allclose(array, expected, rtol=0, atol=1e-5)
