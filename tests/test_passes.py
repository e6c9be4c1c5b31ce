"""Graph passes on small graphs: what each finds, what it must leave alone, and that no number changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from float64_reference import torch_outputs
from pass_graphs import after, assert_same, body_of, drawn, nodes_of, parsed, run
from written_out_models import CELLS, OTHERS, Sequence

from edgeseq_export import ExportRequest, export_request
from edgeseq_export.passes import PASSES
from edgeseq_export.passes.fuse_products import FuseProductsPass
from edgeseq_export.passes.hoist import HoistPass
from edgeseq_export.passes.layer_normalization import LayerNormalizationPass
from edgeseq_export.passes.recognise_cell import RecogniseCellPass
from edgeseq_export.passes.sink import SinkPass
from edgeseq_export.passes.split_product import SplitProductPass
from edgeseq_export.passes.turn_scan import TurnScanPass
from edgeseq_export.postconditions import require_census
from edgeseq_runtime import open_bundle
from edgeseq_runtime.errors import PostconditionError, UsageError

I, H = 3, 4  # noqa: E741  features of the input and of the state
SIZES = ((1, 1), (5, 2), (8, 3))  # T, B
X_AND_H = {"x": I, "h0": H}


def feeds(T, B, seed=1):
    """x (T, B, I) and two states (B, H)."""
    return drawn({"x": (T, B, I), "h0": (B, H), "c0": (B, H)}, seed)


def one_state(body, *, outside="", sequence="x", width=I, output="h_new", size=H, after_scan="", result="y"):
    """A Scan of a state h (B, 4) over x (T, B, 3), whose body makes h_new and its output."""
    return f"""g (float[T,B,3] x, float[B,4] h0) => (float[T,B,{size}] {result}, float[B,4] h) {{
      {outside}
      h, y{"" if result == "y" else "s"} = Scan <num_scan_inputs = 1,
        body = step (float[B,4] h_old, float[B,{width}] x_t) => (float[B,4] h_out, float[B,{size}] y_t) {{
          {body}
          h_out = Identity(h_new)
          y_t = Identity({output})
        }}> (h0, {sequence})
      {after_scan}
    }}"""


def two_states(body, *, output="h_new", directions=""):
    """A Scan of states h and c (B, 4) over x (T, B, 3), whose body makes h_new and c_new."""
    return f"""g (float[T,B,3] x, float[B,4] h0, float[B,4] c0) => (float[T,B,4] y, float[B,4] h, float[B,4] c) {{
      h, c, y = Scan <num_scan_inputs = 1 {directions},
        body = step (float[B,4] h_old, float[B,4] c_old, float[B,3] x_t) => (float[B,4] h_out, float[B,4] c_out, float[B,4] y_t) {{
          {body}
          h_out = Identity(h_new)
          c_out = Identity(c_new)
          y_t = Identity({output})
        }}> (h0, c0, x)
    }}"""


def weights(gates="ifgo", inner=I, H=H):
    """A matrix of the input, of the state and a bias for each gate, and some more."""
    shapes = {f"W{g}": (inner, H) for g in gates} | {f"R{g}": (H, H) for g in gates} | {f"b{g}": (H,) for g in gates}
    return drawn(shapes)


def used(text, constants):
    """The constants that a graph names."""
    return {name: array for name, array in constants.items() if any(f"{mark}{name}{end}" in text for mark in " (" for end in ",)")}


def sums(gates, state="h_old"):
    """The gates' sums a_g, a matrix each."""
    return "\n".join(
        f"x{g} = MatMul(x_t, W{g})\n h{g} = MatMul({state}, R{g})\n s{g} = Add(x{g}, h{g})\n a{g} = Add(s{g}, b{g})" for g in gates
    )


LSTM = f"""{sums("ifgo")}
    i = Sigmoid(ai)\n f = Sigmoid(af)\n g = Tanh(ag)\n o = Sigmoid(ao)
    kept = Mul(f, c_old)\n new = Mul(i, g)\n c_new = Add(kept, new)
    squashed = Tanh(c_new)\n h_new = Mul(o, squashed)"""
GRU = f"""{sums("rz")}
    xn = MatMul(x_t, Wn)\n hn = MatMul(h_old, Rn)\n hb = Add(hn, bn)
    r = Sigmoid(ar)\n z = Sigmoid(az)\n inner = Mul(r, hb)\n an = Add(xn, inner)\n n = Tanh(an)
    rest = Sub(one, z)\n new = Mul(rest, n)\n kept = Mul(z, h_old)\n h_new = Add(new, kept)"""
BEFORE = f"""{sums("rz")}
    r = Sigmoid(ar)\n z = Sigmoid(az)\n rh = Mul(r, h_old)
    {sums("n", "rh")}
    n = Tanh(an)\n change = Sub(n, h_old)\n some = Mul(z, change)\n h_new = Add(h_old, some)"""
RNN = f"{sums('n')}\n h_new = Tanh(an)"
ONE = {
    "one": np.array(1, np.float32),
    "two": np.array(2, np.float32),
    "half": np.array(1.5, np.float32),
    "ones": np.ones(H, np.float32),
}

RECOGNISED = {
    "LSTM": (two_states(LSTM), "LSTM"),
    "LSTM, output gate also for the input": (two_states(LSTM.replace("Mul(i, g)", "Mul(o, g)")), "LSTM"),
    "LSTM, coupled": (
        two_states(LSTM.replace("new = Mul(i, g)", "rest = Sub(one, f)\n new = Mul(rest, g)").replace("i = Sigmoid(ai)", "")),
        "LSTM",
    ),
    "LSTM, coupled by a difference": (
        two_states(
            LSTM.replace("kept = Mul(f, c_old)", "apart = Sub(c_old, g)")
            .replace("new = Mul(i, g)", "part = Mul(f, apart)")
            .replace("c_new = Add(kept, new)", "c_new = Add(g, part)")
        ),
        "LSTM",
    ),
    "LSTM, coupled, peepholes": (
        two_states(
            LSTM.replace("new = Mul(i, g)", "rest = Sub(one, f)\n new = Mul(rest, g)")
            .replace("i = Sigmoid(ai)", "")
            .replace("f = Sigmoid(af)", "pf = Mul(bg, c_old)\n qf = Add(af, pf)\n f = Sigmoid(qf)")
        ),
        "LSTM",
    ),
    "LSTM, relu on the input": (two_states(LSTM.replace("g = Tanh(ag)", "g = Relu(ag)")), "LSTM"),
    "LSTM, softsign on the memory": (two_states(LSTM.replace("Tanh(c_new)", "Softsign(c_new)")), "LSTM"),
    "LSTM, sigmoid on the input": (two_states(LSTM.replace("g = Tanh(ag)", "g = Sigmoid(ag)")), "LSTM"),
    "LSTM, peepholes": (
        two_states(
            LSTM.replace("i = Sigmoid(ai)", "pi = Mul(c_old, bf)\n qi = Add(ai, pi)\n i = Sigmoid(qi)")
            .replace("f = Sigmoid(af)", "pf = Mul(bg, c_old)\n qf = Add(af, pf)\n f = Sigmoid(qf)")
            .replace("o = Sigmoid(ao)", "")
            .replace("squashed =", "po = Mul(c_new, bi)\n qo = Add(po, ao)\n o = Sigmoid(qo)\n squashed =")
        ),
        "LSTM",
    ),
    "GRU, reset after": (one_state(GRU), "GRU"),
    "GRU, reset before, the new state by a step": (one_state(BEFORE), "GRU"),
    "GRU, one gate for both": (one_state(GRU.replace("Mul(r, hb)", "Mul(z, hb)")), "GRU"),
    "RNN": (one_state(RNN), "RNN"),
    "RNN, sum with a negative": (one_state(RNN.replace("sn = Add(xn, hn)", "mn = Neg(hn)\n sn = Sub(xn, mn)")), "RNN"),
    "RNN, features of the state one by one": (one_state(RNN.replace("MatMul(h_old, Rn)", "Mul(h_old, ones)")), "RNN"),
    "RNN, its input multiplied outside": (
        one_state(
            "hn = MatMul(h_old, Rn)\n s = Add(hn, x_t)\n h_new = Relu(s)",
            outside="p = MatMul(x, Wn)\n p1 = Add(p, bn)",
            sequence="p1",
            width=H,
        ),
        "RNN",
    ),
}


@pytest.mark.parametrize("name", RECOGNISED)
def test_a_written_out_cell_becomes_the_node_and_computes_the_same(name):
    text, operator = RECOGNISED[name]
    constants = used(text, {**weights("ifgorzn"), **ONE})
    step = RecogniseCellPass()
    model = after([step], text, constants)
    assert step.recognised == {operator: 1}
    assert operator in nodes_of(model)
    assert "Scan" not in nodes_of(model)
    for T, B in SIZES:
        x = feeds(T, B)
        assert_same(text, model, constants, {name: x[name] for name in x if f"{name}," in text or f"{name})" in text})


NOT_RECOGNISED = {
    "LSTM, another function on the forget gate": two_states(LSTM.replace("f = Sigmoid(af)", "f = Tanh(af)")),
    "LSTM, another function on the input gate": two_states(
        LSTM.replace("i = Sigmoid(ai)", "i = Relu(ai)").replace("g = Tanh", "g = Relu")
    ),
    "LSTM, another function on the output gate": two_states(LSTM.replace("o = Sigmoid(ao)", "o = Relu(ao)")),
    "LSTM, a function that no node has": two_states(LSTM.replace("g = Tanh(ag)", "g = Sin(ag)")),
    "LSTM, the output from the old memory": two_states(LSTM.replace("Tanh(c_new)", "Tanh(c_old)")),
    "LSTM, the memory from the old state": two_states(LSTM.replace("Mul(f, c_old)", "Mul(f, h_old)")),
    "LSTM, the memory subtracted": two_states(LSTM.replace("c_new = Add(kept, new)", "c_new = Sub(new, kept)")),
    "LSTM, twice the memory": two_states(LSTM.replace("c_new = Add(kept, new)", "more = Add(kept, new)\n c_new = Mul(more, two)")),
    "LSTM, half as much again": two_states(LSTM.replace("c_new = Add(kept, new)", "m = Add(kept, new)\n c_new = Mul(m, half)")),
    "LSTM, the output gate sees what is kept of the memory": two_states(
        LSTM.replace("o = Sigmoid(ao)", "").replace(
            "squashed =", "po = Mul(kept, bi)\n qo = Add(po, ao)\n o = Sigmoid(qo)\n squashed ="
        )
    ),
    "LSTM, the output gate sees the new memory unevenly": two_states(
        LSTM.replace("o = Sigmoid(ao)", "").replace(
            "squashed =",
            "po = Mul(kept, bi)\n qo = Add(po, ao)\n ro = Mul(new, bf)\n to = Add(qo, ro)\n o = Sigmoid(to)\n squashed =",
        )
    ),
    "RNN, half as much again": one_state(RNN.replace("h_new = Tanh(an)", "t = Tanh(an)\n h_new = Mul(t, half)")),
    "LSTM, coupled with another gate": two_states(LSTM.replace("new = Mul(i, g)", "rest = Sub(one, o)\n new = Mul(rest, g)")),
    "LSTM, the state through a side path": two_states(
        LSTM.replace("h_new = Mul(o, squashed)", "h = Mul(o, squashed)\n h_new = Add(h, h_old)")
    ),
    "LSTM, a gate sees the memory by a matrix": two_states(LSTM.replace("hi = MatMul(h_old, Ri)", "hi = MatMul(c_old, Ri)")),
    "LSTM, the candidate sees the memory": two_states(
        LSTM.replace("g = Tanh(ag)", "cg = Mul(bf, c_old)\n qg = Add(ag, cg)\n g = Tanh(qg)")
    ),
    "LSTM, the output gate sees the old memory": two_states(
        LSTM.replace("o = Sigmoid(ao)", "co = Mul(bf, c_old)\n qo = Add(ao, co)\n o = Sigmoid(qo)")
    ),
    "LSTM, its output is the memory": two_states(LSTM, output="c_new"),
    "LSTM, a product of two gates": two_states(LSTM.replace("kept = Mul(f, c_old)", "both = Mul(f, o)\n kept = Mul(both, c_old)")),
    "GRU, another gate on the old state": one_state(GRU.replace("kept = Mul(z, h_old)", "kept = Mul(r, h_old)")),
    "GRU, another gate on the new state": one_state(GRU.replace("Sub(one, z)", "Sub(one, r)")),
    "GRU, twice the new state": one_state(GRU.replace("Sub(one, z)", "Sub(two, z)")),
    "GRU, another function on the reset gate": one_state(GRU.replace("r = Sigmoid(ar)", "r = Tanh(ar)")),
    "GRU, another function on the update gate": one_state(GRU.replace("z = Sigmoid(az)", "z = Tanh(az)")),
    "GRU, the input inside the reset gate": one_state(GRU.replace("inner = Mul(r, hb)", "hx = Add(hb, xn)\n inner = Mul(r, hx)")),
    "GRU, the state beside the reset gate": one_state(
        GRU.replace("an = Add(xn, inner)", "ab = Add(xn, inner)\n an = Add(ab, h_old)")
    ),
    "GRU, two reset gates": one_state(
        GRU.replace("an = Add(xn, inner)", "zr = Mul(z, h_old)\n ab = Add(xn, inner)\n an = Add(ab, zr)")
    ),
    "RNN, its state through a side path": one_state(RNN.replace("h_new = Tanh(an)", "t = Tanh(an)\n h_new = Add(t, h_old)")),
    "RNN, of twice its sum": one_state(RNN.replace("h_new = Tanh(an)", "t = Tanh(an)\n h_new = Mul(t, two)")),
    "RNN, two products of the state in a row": one_state(
        RNN.replace("hn = MatMul(h_old, Rn)", "hm = MatMul(h_old, Rn)\n hn = MatMul(hm, Rn)")
    ),
    "RNN, the state squared": one_state(RNN.replace("hn = MatMul(h_old, Rn)", "hh = Mul(h_old, h_old)\n hn = MatMul(hh, Rn)")),
    "RNN, an output of its own": one_state(RNN + "\n own = MatMul(h_new, Rz)", output="own"),
    "RNN, a function of two": one_state(RNN.replace("h_new = Tanh(an)", "t = Tanh(an)\n h_new = Tanh(t)")),
    "RNN, normalised over the batch": one_state(RNN.replace("h_new = Tanh(an)", "m = Softmax <axis = 0> (an)\n h_new = Tanh(m)")),
}


@pytest.mark.parametrize("name", NOT_RECOGNISED)
def test_what_is_nearly_a_cell_stays_a_scan(name):
    text = NOT_RECOGNISED[name]
    step = RecogniseCellPass()
    model = after([step], text, used(text, {**weights("ifgorzn"), **ONE}))
    assert not step.recognised
    assert nodes_of(model).count("Scan") == 1


def test_a_scan_of_an_input_that_no_weights_were_for_stays_a_scan_where_ones_and_zeros_would_cost_more():
    def text(width):
        small = one_state("hn = MatMul(h_old, Rn)\n s = Add(hn, x_t)\n h_new = Relu(s)")
        return small.replace("B,3]", f"B,{width}]").replace("B,4]", f"B,{width}]")

    for width, recognised in ((16, 1), (300, 0)):
        step = RecogniseCellPass()
        after([step], text(width), drawn({"Rn": (width, width)}))
        assert sum(step.recognised.values()) == recognised


@pytest.mark.parametrize("B", ["1", "N", "?"])
def test_an_input_of_another_batch_than_the_states_stays_in_the_scan(B):
    text = one_state(RNN).replace("float[T,B,3]", f"float[T,{B},3]").replace("float[B,3]", f"float[{B},3]")
    step = RecogniseCellPass()
    after([step], text, used(text, weights("n")))
    assert not step.recognised


MASKED = """g (float[T,B,3] x, float[B,4] h0, int32[B] lengths) => (float[T,B,4] y, float[B,4] h) {{
      T1 = Shape <start = 0, end = 1> (x)
      T0 = Squeeze(T1)
      steps = Range(zero, T0, step1)
      at = Unsqueeze(steps, axis1)
      counts = Cast <to = 7> ({lengths})
      until = Unsqueeze(counts, axis0)
      less = {less}(at, until)
      live = Unsqueeze(less, axis2)
      h, y = Scan <num_scan_inputs = 2 {directions},
        body = step (float[B,4] h_old, float[B,3] x_t, bool[B,1] on) => (float[B,4] h_out, float[B,4] y_t) {{
          hn = MatMul(h_old, Rn)
          xn = MatMul(x_t, Wn)
          s = Add(hn, xn)
          h_new = Tanh(s)
          h_out = Where(on, h_new, {old})
          y_t = Where(on, h_new, {otherwise})
        }}> (h0, x, live)
    }}"""
MASK_CONSTANTS = {
    "zero": np.array(0),
    "step1": np.array(1),
    "axis0": np.array([0]),
    "axis1": np.array([1]),
    "axis2": np.array([2]),
    "nought": np.array(0, np.float32),
    "one": np.array(1, np.float32),
    **{name: array for name, array in weights("n").items() if name != "bn"},
}


def masked(lengths="lengths", less="Less", old="h_old", otherwise="nought", directions=""):
    return MASKED.format(lengths=lengths, less=less, old=old, otherwise=otherwise, directions=directions)


def mask_constants(text):
    return used(text, MASK_CONSTANTS)


@pytest.mark.parametrize("lengths", [[5, 1, 3], [5, 5, 5], [2, 1, 2]])
def test_a_mask_up_to_lengths_becomes_the_nodes_lengths(lengths):
    text = masked()
    step = RecogniseCellPass()
    model = after([step], text, mask_constants(text))
    assert nodes_of(model) == ["Unsqueeze", "RNN", "Squeeze", "Squeeze"]
    x = {name: array for name, array in feeds(5, 3).items() if name != "c0"}
    assert_same(text, model, mask_constants(text), {**x, "lengths": np.array(lengths, np.int32)})


@pytest.mark.parametrize(
    "text",
    [
        masked(less="LessOrEqual"),
        masked(old="nought"),
        masked(otherwise="h_old"),
        masked(otherwise="one"),
        masked(otherwise="h_new"),
        masked().replace("counts = Cast <to = 7> (lengths)", "more = Add(lengths, lengths)\n counts = Cast <to = 7> (more)"),
        masked().replace("Range(zero,", "Range(step1,").replace("T0 = Squeeze(T1)", "T2 = Squeeze(T1)\n T0 = Add(T2, step1)"),
        masked().replace("Less(at, until)", "Less(until, at)"),
        masked(directions=", scan_input_directions = [0, 1]"),
        masked(directions=", scan_input_directions = [1, 1]"),
    ],
)
def test_any_other_mask_stays_in_the_scan(text):
    step = RecogniseCellPass()
    after([step], text, mask_constants(text))
    assert not step.recognised


TURNED = """g (float[T,B,3] x, float[B,4] h0) => (float[T,B,4] y, float[B,4] h) {{
      back = Slice(x, {start}, {end}, first, {step})
      h, yb = Scan <num_scan_inputs = 1,
        body = step (float[B,4] h_old, float[B,3] x_t) => (float[B,4] h_out, float[B,4] y_t) {{
          hn = MatMul(h_old, Rn)
          xn = MatMul(x_t, Wn)
          s = Add(hn, xn)
          h_out = Tanh(s)
          y_t = Identity(h_out)
        }}> (h0, {sequence})
      y = Slice(yb, minus, least, first, minus)
    }}"""
TURN_CONSTANTS = {
    "minus": np.array([-1]),
    "two": np.array([-2]),
    "least": np.array([np.iinfo(np.int64).min]),
    "first": np.array([0]),
    "before": np.array([0]),
}


def turned(sequence="back", start="minus", end="least", step="minus"):
    return TURNED.format(sequence=sequence, start=start, end=end, step=step)


def turn_constants(text):
    return used(text, {**TURN_CONSTANTS, **{name: array for name, array in weights("n").items() if name != "bn"}})


@pytest.mark.parametrize(("T", "B"), SIZES)
def test_a_scan_of_reversed_copies_runs_backwards_and_so_does_the_node_that_it_is(T, B):
    text = turned()
    x = {name: array for name, array in feeds(T, B).items() if name != "c0"}
    backwards = after([TurnScanPass()], text, turn_constants(text))
    assert nodes_of(backwards) == ["Scan"]
    assert_same(text, backwards, turn_constants(text), x)
    native = after([TurnScanPass(), RecogniseCellPass()], text, turn_constants(text))
    (node,) = [node for node in native.graph.node if node.op_type == "RNN"]
    assert {a.name: a.s for a in node.attribute}["direction"] == b"reverse"
    assert_same(text, native, turn_constants(text), x)


@pytest.mark.parametrize("text", [turned(sequence="x"), turned(start="two"), turned(end="before"), turned(step="two")])
def test_a_scan_whose_sequences_are_not_all_turned_stays_as_it_is(text):
    model = after([TurnScanPass()], text, turn_constants(text))
    assert nodes_of(model).count("Slice") >= 1
    assert not [a for node in model.graph.node if node.op_type == "Scan" for a in node.attribute if "directions" in a.name]


AXES = {
    "axis1": [1],
    "axis0": [0],
    "start": [1],
    "end": [5],
    "fold": [0, 2, 4],
    "unfold": [-1, 8],
    "halves": [4, 4],
    "some": [0, 2, 4, 6],
}


def step_of(lines, end):
    """A body that hoists `end` (B, 4), made of x_t, into h' = tanh(h R + end)."""
    # Shapes are inferred in a body from constants that are in the body too.
    inside = [f"{name} = Constant <value_ints = {numbers}> ()" for name, numbers in AXES.items() if name in lines]
    joined = "\n".join(inside)
    return one_state(f"{joined}\n{lines}\n hr = MatMul(h_old, Rn)\n s = Add(hr, {end})\n h_new = Tanh(s)")


NUMBERS = {
    "square": np.array(2, np.float32),
    "W8": drawn({"W8": (I, 8)})["W8"],
    "R8": drawn({"R8": (8, H)})["R8"],
    "b8": drawn({"b8": (8,)})["b8"],
    "W8t": drawn({"W8": (I, 8)})["W8"].T.copy(),
    **weights("n"),
}
MOVED = {
    "a layer": ("p = MatMul(x_t, Wn)\n q = Add(p, bn)", "q"),
    "a Gemm": ("q = Gemm(x_t, Wn, bn)", "q"),
    "a transposed Gemm of a transposed one": ("p = Gemm <transB = 1> (x_t, W8t, b8)\n r = Relu(p)\n q = Gemm(r, R8)", "q"),
    "softmax along the last axis, counted from the first": ("p = MatMul(x_t, Wn)\n q = Softmax <axis = 1> (p)", "q"),
    "softmax over the batch": ("p = MatMul(x_t, Wn)\n q = Softmax <axis = 0> (p)", "q"),
    "layer normalisation": ("p = MatMul(x_t, Wn)\n q = LayerNormalization <axis = 1> (p, bn)", "q"),
    "a mean over the batch": ("p = MatMul(x_t, Wn)\n m = ReduceMean(p, axis0)\n q = Sub(p, m)", "q"),
    "side by side": (
        "p = Concat <axis = 1> (x_t, x_t, x_t)\n r = Slice(p, start, end, axis1)\n q = MatMul(r, Rn)",
        "q",
    ),
    "a table": ("p = Gather <axis = 1> (x_t, axis0)\n r = Concat <axis = -1> (p, x_t)\n q = MatMul(r, Rn)", "q"),
    "more axes and back": (
        "p = MatMul(x_t, W8)\n r = Reshape(p, fold)\n t = Transpose <perm = [0, 2, 1]> (r)\n"
        " u = Reshape(t, unfold)\n q = MatMul(u, R8)",
        "q",
    ),
    "an axis more and back": (
        "u = Unsqueeze(x_t, axis1)\n p = MatMul(u, Wn)\n v = Unsqueeze(p, axis0)\n w = Squeeze(v, axis0)\n"
        " k = Squeeze(w, axis1)\n r = Tanh(k)\n q = MatMul(r, Rn)",
        "q",
    ),
    "some features": ("p = MatMul(x_t, W8)\n r = Gather <axis = 1> (p, some)\n q = MatMul(r, Rn)", "q"),
    "halves": ("p = MatMul(x_t, W8)\n a, b = Split <axis = 1> (p, halves)\n c = Mul(a, b)\n q = MatMul(c, Rn)", "q"),
    "a power and a function": ("p = MatMul(x_t, Wn)\n r = Pow(p, square)\n q = Sigmoid(r)", "q"),
}


@pytest.mark.parametrize("name", MOVED)
def test_products_of_the_input_move_before_the_scan_with_what_they_are_of_and_what_is_made_of_them(name):
    text = step_of(*MOVED[name])
    constants = used(text, NUMBERS)
    model = after([HoistPass()], text, constants)
    assert body_of(model).count("MatMul") + body_of(model).count("Gemm") == 1
    assert len(body_of(model)) <= 6
    for T, B in SIZES:
        assert_same(text, model, constants, {name: array for name, array in feeds(T, B).items() if name != "c0"})


STAYING = {
    "a product of the state": ("p = MatMul(h_old, Wh)\n q = Add(p, bn)", "q"),
    "no product": ("p = Concat <axis = 1> (x_t, x_t)\n r = Slice(p, start, end, axis1)\n q = Tanh(r)", "q"),
    "a product of the input and the state": ("p = Concat <axis = 1> (x_t, h_old)\n q = MatMul(p, Wxh)", "q"),
    "a product with a state": (
        "p = Transpose(h_old)\n r = MatMul(p, x_t)\n m = ReduceMean <keepdims = 0> (r, axis1)\n q = Add(m, bn)",
        "q",
    ),
}


@pytest.mark.parametrize("name", STAYING)
def test_what_needs_the_state_or_is_no_product_stays_in_the_body(name):
    text = step_of(*STAYING[name])
    constants = used(text, {**NUMBERS, **drawn({"Wh": (H, H), "Wxh": (I + H, H)})})
    model = after([HoistPass()], text, constants)
    assert nodes_of(model) == ["Scan"]
    assert_same(text, model, constants, {name: array for name, array in feeds(5, 2).items() if name != "c0"})


def test_a_value_without_all_its_axes_is_not_hoisted_into_a_sum_where_time_would_be_matched_with_another_axis():
    # (B, 4) + (4,): of the sequence it would be (T, B, 4) + (T, 4), which fits where T is B.
    lines = "p = MatMul(x_t, Wn)\n m = ReduceMean <keepdims = 0> (p, axis0)\n q = Add(p, m)"
    text = step_of(lines, "q")
    constants = used(text, NUMBERS)
    model = after([HoistPass()], text, constants)
    assert "Add" in body_of(model)
    for T, B in ((2, 2), (5, 2), (3, 3)):
        assert_same(text, model, constants, {name: array for name, array in feeds(T, B).items() if name != "c0"})


def test_an_output_and_a_next_state_that_need_no_state_are_hoisted_too():
    text = one_state("h_new = MatMul(x_t, Wn)\n other = Tanh(h_new)", output="other")
    constants = used(text, NUMBERS)
    model = after([HoistPass()], text, constants)
    assert "MatMul" in nodes_of(model)
    assert "MatMul" not in body_of(model)
    for T, B in SIZES:
        assert_same(text, model, constants, {name: array for name, array in feeds(T, B).items() if name != "c0"})


def test_a_next_state_that_is_a_product_of_the_input_itself_is_hoisted_too():
    body = one_state("other = Tanh(h_old)", output="other")
    text = body.replace("h_out = Identity(h_new)", "h_out = MatMul(x_t, Wn)")
    constants = used(text, NUMBERS)
    model = after([HoistPass()], text, constants)
    assert "MatMul" not in body_of(model)
    for T, B in SIZES:
        assert_same(text, model, constants, without_c0(feeds(T, B)))


def test_nothing_moves_where_two_sequences_run_in_opposite_directions():
    text = masked(directions=", scan_input_directions = [0, 1]")
    model = after([HoistPass()], text, mask_constants(text))
    assert body_of(model).count("MatMul") == 2


def test_a_sequence_that_is_scanned_backwards_is_hoisted_as_it_is():
    forwards = step_of("q = MatMul(x_t, Wn)", "q")
    text = forwards.replace("num_scan_inputs = 1", "num_scan_inputs = 1, scan_input_directions = [1], scan_output_directions = [1]")
    constants = used(text, NUMBERS)
    model = after([HoistPass()], text, constants)
    assert body_of(model).count("MatMul") == 1
    x = {name: array for name, array in feeds(6, 2).items() if name != "c0"}
    y, h = run(model, x)
    reference = after([], forwards, constants)
    y_forwards, h_forwards = run(reference, {**x, "x": x["x"][::-1].copy()})
    np.testing.assert_allclose(y, y_forwards[::-1], atol=1e-6)
    np.testing.assert_allclose(h, h_forwards, atol=1e-6)


LOOP = """g (float[B,3] x, float[B,4] h0, int64 trips) => (float[B,4] h) {
      h = Loop <body = step (int64 number, bool go, float[B,4] h_old) => (bool goes, float[B,4] h_out) {
          p = MatMul(x, Wn)
          q = Tanh(p)
          hr = MatMul(h_old, Rn)
          s = Add(hr, q)
          h_out = Tanh(s)
          goes = Identity(go)
        }> (trips, yes, h0)
    }"""


@pytest.mark.parametrize("trips", [0, 1, 4])
def test_what_is_the_same_at_every_step_moves_before_a_loop(trips):
    constants = used(LOOP, {**NUMBERS, "yes": np.array(True)})
    model = after([HoistPass()], LOOP, constants)
    assert nodes_of(model) == ["MatMul", "Tanh", "Loop"]
    assert body_of(model, "Loop") == ["MatMul", "Add", "Tanh", "Identity"]
    x = drawn({"x": (2, I), "h0": (2, H)})
    assert_same(LOOP, model, constants, {**x, "trips": np.array(trips)})


def test_numbers_drawn_at_every_step_are_drawn_at_every_step():
    text = LOOP.replace("q = Tanh(p)", "n = RandomNormalLike(x)\n m = MatMul(n, Wn)\n q = Add(p, m)")
    model = after([HoistPass()], text, used(text, {**NUMBERS, "yes": np.array(True)}))
    assert "RandomNormalLike" in body_of(model, "Loop")
    assert nodes_of(model) == ["MatMul", "Loop"]


READOUT = {
    "a layer": ("own = Gemm(h_new, Rz, bz)", H),
    "a layer and a softmax": ("p = MatMul(h_new, Rz)\n own = Softmax <axis = 1> (p)", H),
    "of the input too": ("p = MatMul(h_new, Rz)\n q = MatMul(x_t, Wz)\n own = Add(p, q)", H),
    "of the old state": ("d = Sub(h_new, h_old)\n own = MatMul(d, Rz)", H),
}


@pytest.mark.parametrize("name", READOUT)
def test_a_readout_moves_after_the_scan(name):
    lines, _ = READOUT[name]
    text = one_state(f"{RNN}\n{lines}", output="own")
    constants = used(text, weights("nz"))
    model = after([SinkPass()], text, constants)
    assert body_of(model).count("MatMul") == 2
    assert {"MatMul"} <= set(nodes_of(model))
    for T, B in SIZES:
        assert_same(text, model, constants, {name: array for name, array in feeds(T, B).items() if name != "c0"})


def test_a_scan_with_a_readout_is_recognised_after_it_moved():
    text = one_state(f"{RNN}\n own = MatMul(h_new, Rz)", output="own")
    constants = used(text, weights("nz"))
    model = after([SinkPass(), RecogniseCellPass()], text, constants)
    assert nodes_of(model) == ["Unsqueeze", "RNN", "Squeeze", "Squeeze", "MatMul", "Identity"]
    assert_same(text, model, constants, {name: array for name, array in feeds(5, 2).items() if name != "c0"})


MASKED_READOUT = masked().replace("y_t = Where(on, h_new, nought)", "own = MatMul(h_new, Rz)\n y_t = Where(on, own, one)")


def test_a_masked_readout_moves_after_the_scan_which_is_then_recognised():
    constants = used(MASKED_READOUT, {**MASK_CONSTANTS, **weights("z")})
    x = {**{name: array for name, array in feeds(5, 3).items() if name != "c0"}, "lengths": np.array([5, 1, 3], np.int32)}
    for steps, operator in (([SinkPass()], "Scan"), ([SinkPass(), RecogniseCellPass()], "RNN")):
        model = after(steps, MASKED_READOUT, constants)
        assert operator in nodes_of(model)
        assert "MatMul" in nodes_of(model)
        assert_same(MASKED_READOUT, model, constants, x)


def test_a_masked_readout_that_mixes_sequences_moves_with_its_values_at_dead_steps():
    text = MASKED_READOUT.replace("own = MatMul(h_new, Rz)", "raw = MatMul(h_new, Rz)\n own = Softmax <axis = 0> (raw)")
    constants = used(text, {**MASK_CONSTANTS, **weights("z")})
    model = after([SinkPass(), RecogniseCellPass()], text, constants)
    x = {**{name: array for name, array in feeds(5, 3).items() if name != "c0"}, "lengths": np.array([5, 1, 3], np.int32)}
    assert_same(text, model, constants, x)
    assert "RNN" not in nodes_of(model)


@pytest.mark.parametrize(
    ("body", "output"),
    [
        (RNN, "h_new"),
        (f"{sums('n')}\n own = MatMul(an, Rz)\n h_new = Tanh(own)", "own"),  # what the state needs
        (f"{RNN}\n own = Exp(h_new)", "own"),  # no product
        (
            f"{RNN}\n p = MatMul(h_new, Rz)\n flat = Flatten(p)\n own = Tanh(flat)",
            "own",
        ),  # what can't be done for all steps at once
    ],
)
def test_what_the_state_needs_or_gains_nothing_stays_in_the_scan(body, output):
    text = one_state(body, output=output)
    constants = used(text, weights("nz"))
    assert nodes_of(after([SinkPass()], text, constants)) == ["Scan"]


def test_a_product_that_the_body_of_a_node_sees_stays_with_it():
    branches = "then_branch = yes () => (float[B,4] a) { a = Exp(p) }, else_branch = no () => (float[B,4] b) { b = Tanh(p) }"
    text = one_state(f"{RNN}\n p = MatMul(h_new, Rz)\n own = If (flag) <{branches}>", output="own")
    constants = {**used(text, weights("nz")), "flag": np.array(True)}
    model = after([SinkPass()], text, constants)
    assert nodes_of(model) == ["Scan"]
    assert_same(text, model, constants, {name: array for name, array in feeds(5, 2).items() if name != "c0"})


SIDE_BY_SIDE = one_state("xh = Concat <axis = 1> ({order})\n a = {product}\n h_new = Tanh(a)")


@pytest.mark.parametrize("product", ["MatMul(xh, W)", "Gemm(xh, W, bn)", "Gemm <transB = 1> (xh, Wt, bn)"])
@pytest.mark.parametrize("order", ["x_t, h_old", "h_old, x_t", "x_t, h_old, x_t", "h_old, x_t, h_old"])
def test_a_product_of_input_and_state_side_by_side_is_taken_apart_and_its_inputs_share_hoisted(product, order):
    text = SIDE_BY_SIDE.replace("{order}", order).replace("{product}", product)
    rows = sum({"x_t": I, "h_old": H}[name] for name in order.split(", "))
    W = drawn({"W": (rows, H)})["W"]
    constants = used(text, {"W": W, "Wt": W.T.copy(), **weights("n")})
    model = after([SplitProductPass(), HoistPass()], text, constants)
    assert "MatMul" in nodes_of(model)
    for T, B in SIZES:
        assert_same(text, model, constants, {name: array for name, array in feeds(T, B).items() if name != "c0"})


@pytest.mark.parametrize("order", ["h_old, h_old", "x_t, x_t"])
def test_a_product_of_inputs_or_of_states_alone_is_left_whole(order):
    text = SIDE_BY_SIDE.replace("{order}", order).replace("{product}", "MatMul(xh, W)")
    rows = 2 * (I if "x_t" in order else H)
    model = after([SplitProductPass()], text, drawn({"W": (rows, H)}))
    assert body_of(model).count("MatMul") == 1


def test_a_product_of_input_and_state_one_below_the_other_is_left_whole():
    stacked = "p = MatMul(x_t, Wn)\n ph = Concat <axis = 0> (p, h_old)\n a = MatMul(ph, Rn)"
    text = one_state(f"{stacked}\n top, low = Split <axis = 0, num_outputs = 2> (a)\n s = Add(top, low)\n h_new = Tanh(s)")
    constants = used(text, weights("n"))
    model = after([SplitProductPass()], text, constants)
    assert body_of(model).count("MatMul") == 2
    assert_same(text, model, constants, {name: array for name, array in feeds(5, 2).items() if name != "c0"})


GATES = "c = Sigmoid(ar)\n d = Tanh(az)\n e = Relu(an)\n de = Mul(d, e)\n h_new = Mul(c, de)"
APART = {
    "a difference": ("sz = Add(xz, hz)", "sz = Sub(xz, hz)"),
    "an input used twice": ("sz = Add(xz, hz)", "tz = Add(xz, xr)\n sz = Add(tz, hz)"),
    "a product with the state used twice": ("an = Add(sn, bn)", "tn = Add(sn, hr)\n an = Add(tn, bn)"),
    "weights used twice": ("hz = MatMul(h_old, Rz)", "hz = MatMul(h_old, Rr)"),
    "another state": ("hz = MatMul(h_old, Rz)", "other = Tanh(h_old)\n hz = MatMul(other, Rz)"),
    "another operator": ("hz = MatMul(h_old, Rz)", "hz = Gemm(h_old, Rz)"),
    "a matrix that varies": ("hz = MatMul(h_old, Rz)", "varying = Tanh(Rz)\n hz = MatMul(h_old, varying)"),
}


def without_c0(arrays):
    """What a Scan of one state is fed."""
    return {name: array for name, array in arrays.items() if name != "c0"}


def test_an_output_that_is_not_put_together_along_the_first_axis_stays_in_the_scan():
    text = """g (float[T,B,3] x, float[B,4] h0) => (float[B,4] h, float[B,T,4] y) {
      h, y = Scan <num_scan_inputs = 1, scan_output_axes = [1],
        body = step (float[B,4] h_old, float[B,3] x_t) => (float[B,4] h_out, float[B,4] y_t) {
          y_t = MatMul(x_t, Wn)
          s = Add(y_t, h_old)
          h_out = Tanh(s)
        }> (h0, x)
    }"""
    constants = used(text, weights("n"))
    model = after([SinkPass(), RecogniseCellPass(), HoistPass()], text, constants)
    assert nodes_of(model) == ["Scan"]
    x, h = (feeds(5, 2)[name].astype(np.float64) for name in ("x", "h0"))  # the ONNX package evaluates no such Scan
    projected = x @ constants["Wn"]
    for step in projected:
        h = np.tanh(step + h)
    for found, wanted in zip(run(model, without_c0(feeds(5, 2))), (h, projected.swapaxes(0, 1)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "change",
    [None, ("sz = Add(xz, hz)", "sz = Add(hz, xz)"), ("sr = Add(xr, hr)", "sr = Add(hr, xr)")],
    ids=["", "second", "first"],
)
def test_a_layer_a_gate_is_one_product_of_the_state_one_before_the_scan_and_one_sum(change):
    text = one_state(f"{sums('rzn').replace(*change) if change else sums('rzn')}\n{GATES}")
    constants = used(text, weights("rzn"))
    model = after([FuseProductsPass(), HoistPass()], text, constants)
    assert nodes_of(model) == ["MatMul", "Scan"]
    assert body_of(model)[:3] == ["MatMul", "Add", "Split"]
    assert body_of(model).count("MatMul") == 1
    for T, B in SIZES:
        assert_same(text, model, constants, without_c0(feeds(T, B)))


def test_gates_with_and_without_a_bias_and_transposed_become_one():
    body = "\n".join(
        f"x{g} = Gemm <transB = {int(g in turned)}> (x_t, {w})\n h{g} = Gemm(h_old, R{g}, b{g})\n a{g} = Add(x{g}, h{g})"
        for g, w, turned in (("r", "Wr", ""), ("z", "Wzt, bw", "z"), ("n", "Wn", ""))
    )
    text = one_state(f"{body}\n{GATES}")
    own = weights("rzn")
    constants = used(text, {**own, "Wzt": own["Wz"].T.copy(), "bw": np.array([0.3], np.float32)})
    model = after([FuseProductsPass()], text, constants)
    assert body_of(model)[:4] == ["Gemm", "Gemm", "Add", "Split"]
    for T, B in SIZES:
        assert_same(text, model, constants, without_c0(feeds(T, B)))


@pytest.mark.parametrize("name", APART)
def test_products_that_are_not_added_gate_by_gate_stay_apart(name):
    text = one_state(f"{sums('rzn').replace(*APART[name])}\n{GATES}")
    constants = used(text, weights("rzn"))
    model = after([FuseProductsPass()], text, constants)
    assert "Split" not in body_of(model)
    assert_same(text, model, constants, without_c0(feeds(4, 2)))


@pytest.mark.parametrize("attribute", ["alpha = 2.0", "beta = 2.0", "transA = 1"])
def test_a_product_that_is_more_than_one_stays_apart(attribute):
    rows = "transA" in attribute
    body = "\n".join(
        f"x{g} = Gemm(x_t, W{g})\n h{g} = Gemm {f'<{attribute}>' if g == 'z' else ''} (h_old, R{g}, b{g})\n a{g} = Add(x{g}, h{g})"
        for g in "rzn"
    )
    text = one_state(f"{body}\n{GATES}")
    constants = used(text, weights("rzn"))
    model = after([FuseProductsPass()], text, constants)
    assert "Split" not in body_of(model)
    assert_same(text, model, constants, without_c0(feeds(4, H if rows else 2)))


def test_a_bias_of_two_dimensions_stays_where_it_is():
    body = "\n".join(f"x{g} = Gemm(x_t, W{g})\n h{g} = Gemm(h_old, R{g}, row)\n a{g} = Add(x{g}, h{g})" for g in "rzn")
    text = one_state(f"{body}\n{GATES}")
    constants = used(text, {**weights("rzn"), **drawn({"row": (1, H)})})
    model = after([FuseProductsPass()], text, constants)
    assert "Split" not in body_of(model)
    assert_same(text, model, constants, without_c0(feeds(4, 2)))


def test_two_gates_stay_apart():
    text = one_state(f"{sums('rz')}\n c = Sigmoid(ar)\n d = Tanh(az)\n h_new = Mul(c, d)")
    assert "Split" not in body_of(after([FuseProductsPass()], text, used(text, weights("rz"))))


NORM = """g (float[B,4] x, float[B,4] other) => (float[B,4] y) {
  m = ReduceMean(x, last)
  d = Sub(x, m)
  q = Mul(d, d)
  v = ReduceMean(q, last)
  e = Add(v, epsilon)
  s = Sqrt(e)
  n = Div(d, s)
  g1 = Mul(n, gain)
  y = Add(g1, shift)
}"""
NORM_CONSTANTS = {
    "last": np.array([-1]),
    "first": np.array([0]),
    "both": np.array([0, 1]),
    "epsilon": np.array(1e-3, np.float32),
    "less": np.array(-1e-3, np.float32),
    "power": np.array(2, np.float32),
    "third": np.array(4 / 3, np.float32),
    "cube": np.array(3, np.float32),
    "number": np.array(1.5, np.float32),
    **drawn({"gain": (H,), "shift": (H,), "column": (1, H)}),
}
NORMS = {
    "as it is": (NORM, 3),
    "axis counted from the first": (NORM.replace("(x, last)", "(x, one)"), 3),
    "a power": (NORM.replace("q = Mul(d, d)", "q = Pow(d, power)"), 3),
    "a reciprocal": (NORM.replace("n = Div(d, s)", "i = Reciprocal(s)\n n = Mul(i, d)"), 3),
    "operands swapped": (
        NORM.replace("Add(v, epsilon)", "Add(epsilon, v)")
        .replace("Mul(n, gain)", "Mul(gain, n)")
        .replace("Add(g1, shift)", "Add(shift, g1)"),
        3,
    ),
    "no shift": (NORM.replace("y = Add(g1, shift)", "y = Tanh(g1)"), 2),
    "no gain": (NORM.replace("g1 = Mul(n, gain)", "g1 = Identity(n)").replace("Add(g1, shift)", "Tanh(n)"), 2),
    "a gain that is no constant": (NORM.replace("Mul(n, gain)", "Mul(n, other)"), 2),
    "a gain of another shape": (NORM.replace("Mul(n, gain)", "Mul(n, column)"), 2),
    "a gain that is one number": (NORM.replace("Mul(n, gain)", "Mul(n, number)"), 2),
}


@pytest.mark.parametrize("name", NORMS)
def test_layer_normalisation_written_out_becomes_one_node(name):
    text, inputs = NORMS[name]
    constants = used(text, {**NORM_CONSTANTS, "one": np.array([1])})
    model = after([LayerNormalizationPass()], text, constants)
    (node,) = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    assert len(node.input) == inputs
    assert "Sqrt" not in nodes_of(model)
    for B in (1, 5):
        assert_same(text, model, constants, drawn({"x": (B, H), "other": (B, H)}), to=5e-6)


NO_NORMS = {
    "over the batch": NORM.replace("(x, last)", "(x, first)").replace("(q, last)", "(q, first)"),
    "over everything": NORM.replace("(x, last)", "(x, both)").replace("(q, last)", "(q, both)"),
    "variance over the batch": NORM.replace("(q, last)", "(q, first)"),
    "mean over the batch": NORM.replace("(x, last)", "(x, first)"),
    "of n - 1": NORM.replace("e = Add(v, epsilon)", "u = Mul(v, third)\n e = Add(u, epsilon)"),
    "nothing added": NORM.replace("e = Add(v, epsilon)", "e = Abs(v)"),
    "less than nothing added": NORM.replace("epsilon", "less"),
    "added to the root": NORM.replace("e = Add(v, epsilon)\n  s = Sqrt(e)", "e = Sqrt(v)\n  s = Add(e, epsilon)"),
    "another mean": NORM.replace("m = ReduceMean(x, last)", "m = ReduceMean(other, last)"),
    "another's variance": NORM.replace("q = Mul(d, d)", "q = Mul(other, other)"),
    "not squared": NORM.replace("q = Mul(d, d)", "q = Abs(d)"),
    "cubed": NORM.replace("q = Mul(d, d)", "q = Pow(d, cube)"),
    "times another": NORM.replace("q = Mul(d, d)", "q = Mul(d, other)"),
    "not divided": NORM.replace("n = Div(d, s)", "n = Mul(d, s)"),
    "divided the other way": NORM.replace("n = Div(d, s)", "n = Div(s, d)"),
    "what is not centred": NORM.replace("n = Div(d, s)", "n = Div(x, s)"),
    "the largest": NORM.replace("m = ReduceMean(x, last)", "m = ReduceMax(x, last)"),
}


@pytest.mark.parametrize("name", NO_NORMS)
def test_what_is_nearly_layer_normalisation_stays_as_it_is(name):
    text = NO_NORMS[name]
    model = after([LayerNormalizationPass()], text, used(text, NORM_CONSTANTS))
    assert "LayerNormalization" not in nodes_of(model)


def test_a_value_that_is_used_again_keeps_its_node():
    text = NORM.replace("y = Add(g1, shift)", "t = Add(g1, shift)\n u = Add(g1, v)\n w = Add(t, u)\n y = Add(w, n)")
    constants = used(text, NORM_CONSTANTS)
    model = after([LayerNormalizationPass()], text, constants)
    assert "LayerNormalization" in nodes_of(model)
    assert_same(text, model, constants, drawn({"x": (3, H), "other": (3, H)}), to=5e-6)


def test_every_pass_is_an_in_place_pass_that_changes_nothing_in_a_graph_without_its_pattern():
    text = "g (float[T,B,3] x) => (float[T,B,4] y) { p = MatMul(x, Wn) y = Tanh(p) }"
    for make in PASSES.values():
        step = make()
        assert isinstance(step, ir.passes.InPlacePass)
        assert nodes_of(after([step], text, used(text, NUMBERS))) == ["MatMul", "Tanh"]


WRONG_CENSUS = (({"Scan": 1}, {}), ({"LSTM": 1}, {"LSTM": 1}), ({"Scan": 2}, {"LSTM": 1}), ({"Scan": 1}, {"GRU": 1}))


def test_the_census_counts_a_recognised_scan_as_the_node_that_it_became():
    model = ir.from_proto(parsed(two_states(LSTM), used(two_states(LSTM), weights("ifgo"))))
    RecogniseCellPass()(model)
    require_census(model, {"Scan": 1}, {"LSTM": 1})
    for called, recognised in (
        ({"Scan": 1}, {}),
        ({"LSTM": 1}, {"LSTM": 1}),
        ({"Scan": 2}, {"LSTM": 1}),
        ({"Scan": 1}, {"GRU": 1}),
    ):
        with pytest.raises(PostconditionError, match="the module's forward calls for"):
            require_census(model, called, recognised)


def request(cell, *, lengths=False, reverse=False, without=()):
    """A cell over x (T, B, I), exported with what it needs."""
    torch.manual_seed(0)
    inputs = {"x": torch.randn(5, 3, I)} | ({"lengths": torch.tensor([5, 3, 1])} if lengths else {})
    axes = {"x": ("T", "B", None)} | ({"lengths": ("B",)} if lengths else {})
    return ExportRequest(Sequence(cell(I, H), reverse=reverse), inputs, axes, without=without)


def exported(asked, folder):
    """Its bundle, and its graph."""
    bundle = open_bundle(export_request(asked, folder / "graph.edgeseq"))
    return bundle.manifest, onnx.load_from_string(bundle.model())


def assert_as_pytorch(asked, model):
    """The graph gives what PyTorch gives in float64, at several sizes."""
    for T, B in ((1, 1), (9, 4)):
        x = {"x": torch.randn(T, B, I)} | ({"lengths": torch.randint(1, T + 1, (B,))} if "lengths" in asked.inputs else {})
        fed = {name: tensor.numpy().astype(np.int32 if name == "lengths" else np.float32) for name, tensor in x.items()}
        for found, wanted in zip(run(model, fed), torch_outputs(asked.model, x, torch.float64), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


QUICK = ("GRU, reset before the product", True, True)
WAYS = [(False, False), (True, False), (False, True), (True, True)]  # lengths, backwards


@pytest.mark.parametrize(
    ("name", "lengths", "reverse"),
    [
        pytest.param(
            name, *way, marks=[] if (name, way) in (("GRU, reset before the product", (True, True)),) else pytest.mark.slow
        )
        for name in CELLS
        for way in WAYS
    ],
)
def test_a_users_cell_with_everything_in_its_step_becomes_a_node(name, lengths, reverse, tmp_path):
    cell, operator = CELLS[name]
    asked = request(cell, lengths=lengths, reverse=reverse)
    manifest, model = exported(asked, tmp_path)
    assert manifest.census == {operator: 1}
    assert manifest.provenance["recognised"] == f"1 {operator}"
    assert_as_pytorch(asked, model)


PRODUCTS_OF_STATE = {"LSTM with LayerNorm written out": 1, "gated, softsign of a deep input": 2}


@pytest.mark.slow
@pytest.mark.parametrize(("lengths", "reverse"), WAYS)
@pytest.mark.parametrize("name", OTHERS)
def test_a_users_cell_that_no_node_has_keeps_the_products_of_its_state_alone_in_its_scan(name, lengths, reverse, tmp_path):
    asked = request(OTHERS[name], lengths=lengths, reverse=reverse)
    manifest, model = exported(asked, tmp_path)
    assert manifest.census == {"Scan": 1}
    # Of two gates each keeps its own: three or more that meet in sums are fused.
    assert body_of(model).count("Gemm") == PRODUCTS_OF_STATE[name]
    assert "ReduceMean" not in body_of(model) + nodes_of(model)
    assert_as_pytorch(asked, model)


@pytest.mark.slow
@pytest.mark.parametrize("left_out", PASSES)
@pytest.mark.parametrize("name", [*CELLS, *OTHERS])
def test_every_written_out_cell_is_exported_with_each_pass_left_out(name, left_out, tmp_path):
    cell = CELLS[name][0] if name in CELLS else OTHERS[name]
    asked = request(cell, lengths=True, reverse=True, without=[left_out])
    _, model = exported(asked, tmp_path)
    assert_as_pytorch(asked, model)


def test_passes_are_left_out_by_name():
    with pytest.raises(UsageError, match=r"without=\['hoisting'\] names no graph passes; give a list of layer-normalization, "):
        request(CELLS["RNN"][0], without=["hoisting"])
