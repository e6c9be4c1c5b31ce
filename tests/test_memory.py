"""The Neural Turing Machine against the equations of Graves, Wayne and Danihelka (2014) in NumPy float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from systems import assert_parity, checked_export, float64_of, sigmoid, softmax

from edgeseq import Recurrent
from edgeseq.cells import NTMCell
from edgeseq.cells.memory import EMPTY, content_address, read, sharpen, shift, shift_sources, write
from edgeseq.models import NeuralTuringMachine, StreamingMachine
from edgeseq_export import ExportRequest

I, H, N, M, S, O = 3, 5, 6, 4, 3, 2  # noqa: E741
CONTROLLERS = ("feed-forward", "lstm")
HEADS = ((1, 1), (2, 2))


def cell_of(controller, read_heads, write_heads, **sizes):
    return NTMCell(
        I, H, **{"rows": N, "width": M, "read_heads": read_heads, "write_heads": write_heads, "controller": controller} | sizes
    )


def softplus(x):
    return np.log1p(np.exp(x))


def one_head(memory, before, k, emitted):
    """Equations 5 to 9 for one head, row by row; `emitted` are the shift weights, the gate, the strength and the power."""
    s, g, beta, gamma = softmax(emitted[:S]), sigmoid(emitted[S]), softplus(emitted[S + 1]), 1 + softplus(emitted[S + 2])
    rows = range(len(memory))
    cosine = [(k @ memory[i]) / (np.sqrt(k @ k) * np.sqrt(memory[i] @ memory[i]) + EMPTY) for i in rows]
    content = softmax(beta * np.array(cosine))
    between = g * content + (1 - g) * before
    moved = [sum(between[j] * s[d + S // 2] for j in rows for d in (-1, 0, 1) if (i - j - d) % len(memory) == 0) for i in rows]
    powers = np.array([w**gamma for w in moved])
    return powers / powers.sum()


def controller_step(weights, x, reads, inner):
    """tanh(U x + V r + b), or an LSTM with gates i, f, g, o: the output and the next (h, s)."""
    pre = weights["from_reads.weight"] @ np.concatenate(reads)
    if not inner:
        return np.tanh(weights["controller.input.weight"] @ x + weights["controller.input.bias"] + pre), ()
    h, s = inner
    a = weights["controller.weight_ih"] @ x + weights["controller.weight_hh"] @ h + weights["controller.bias"] + pre
    i, f, g, o = np.split(a, 4)
    s = sigmoid(f) * s + sigmoid(i) * np.tanh(g)
    return np.tanh(s) * sigmoid(o), (np.tanh(s) * sigmoid(o), s)


def machine_step(weights, R, W, state, x):
    """One step of one sequence: the next state and (h, r')."""
    memory, read_address, write_address, reads, *inner = state
    h, inner = controller_step(weights, x, reads, inner)
    emitted = weights["heads.weight"] @ h + weights["heads.bias"]
    per_head, size = emitted[: (R + W) * (M + S + 3)].reshape(R + W, -1), (R + W) * (M + S + 3)
    before = [*read_address, *write_address]
    address = [one_head(memory, before[k], per_head[k, :M], per_head[k, M:]) for k in range(R + W)]
    erase, add = sigmoid(emitted[size : size + W * M]).reshape(W, M), emitted[size + W * M :].reshape(W, M)
    after = memory.copy()
    for w in range(W):
        for i in range(len(memory)):
            after[i] = after[i] * (1 - address[R + w][i] * erase[w])
    for w in range(W):
        for i in range(len(memory)):
            after[i] = after[i] + address[R + w][i] * add[w]
    reads = np.array([sum(address[k][i] * after[i] for i in range(len(memory))) for k in range(R)])
    return (after, np.array(address[:R]), np.array(address[R:]), reads, *inner), np.concatenate([h, reads.ravel()])


def equations(cell, x, state, lengths=None):
    """Every sequence on its own: outputs (T, B, H + R M), zero from the length on, and the last states."""
    T, B, _ = x.shape
    weights, R, W = float64_of(cell), cell.read_heads, cell.write_heads
    y, ends = np.zeros((T, B, H + R * M)), [s.astype(np.float64).copy() for s in state]
    for n in range(B):
        own = tuple(end[n].copy() for end in ends)
        for t in range(T if lengths is None else lengths[n]):
            own, y[t, n] = machine_step(weights, R, W, own, x[t, n].astype(np.float64))
        for end, last in zip(ends, own, strict=True):
            end[n] = last
    return y, ends


def drawn_state(cell, random, B):
    """A memory that is in use: addresses that sum to 1, everything else normal."""
    shapes = [(B, *shape) for shape in cell.state_shapes]
    return [softmax(random.standard_normal(s)) if at in (1, 2) else 0.5 * random.standard_normal(s) for at, s in enumerate(shapes)]


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_the_machine_is_its_equations(controller, heads):
    torch.manual_seed(0)
    cell = cell_of(controller, *heads).double()
    with torch.no_grad():
        cell.heads.weight.mul_(3)  # so that heads differ, and addresses move
    random = np.random.default_rng(0)
    x, state, lengths = random.standard_normal((7, 3, I)), drawn_state(cell, random, 3), np.array([7, 1, 4])
    y, ends = Recurrent(cell)(torch.from_numpy(x), [torch.from_numpy(s) for s in state], torch.from_numpy(lengths))
    expected, expected_ends = equations(cell, x, state, lengths)
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-12)
    for found, wanted in zip(ends, expected_ends, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_gradients(controller):
    torch.manual_seed(0)
    cell = cell_of(controller, 2, 1, rows=4, width=2).double()
    state = [torch.from_numpy(s).requires_grad_() for s in drawn_state(cell, np.random.default_rng(1), 2)]
    x = torch.randn(3, 2, I, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *state: Recurrent(cell)(x, state, torch.tensor([3, 2]))[0], (x, *state))


def test_gradients_from_the_initial_state_are_finite():
    torch.manual_seed(0)
    cell = cell_of("feed-forward", 1, 1)
    y, (memory, *_) = Recurrent(cell)(torch.randn(40, 2, I))
    (y.square().sum() + memory.square().sum()).backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in cell.parameters())


def test_every_head_begins_at_row_0_of_an_empty_memory():
    memory, read_address, write_address, reads = cell_of("feed-forward", 2, 1).initial_state(torch.zeros(4, 3, I))
    assert memory.shape == (3, N, M)
    assert memory.abs().max() == reads.abs().max() == 0
    row_0 = torch.eye(N)[0]
    assert torch.equal(read_address, row_0.expand(3, 2, N))
    assert torch.equal(write_address, row_0.expand(3, 1, N))


def test_a_shift_moves_an_address_round_the_memory():
    address, sources = torch.eye(N)[[N - 1]].unsqueeze(0), shift_sources(N, 5)  # (1, 1, N): the last row
    for place, distance in enumerate((-2, -1, 0, 1, 2)):
        weights = torch.eye(5)[[place]].unsqueeze(0)  # (1, 1, S)
        assert shift(address, weights, sources).argmax() == (N - 1 + distance) % N


def test_a_key_finds_its_row_and_none_finds_an_empty_one():
    memory = torch.tensor([[[0.0, 0.0], [3.0, 0.1], [-1.0, 5.0]]])
    address = content_address(torch.tensor([[[0.2, 0.0]]]), torch.full((1, 1, 1), 50.0), memory)
    assert address[0, 0, 1] > 0.99
    assert address[0, 0, 0] < 0.01
    empty = content_address(torch.randn(1, 1, 2), torch.full((1, 1, 1), 50.0), torch.zeros(1, 4, 2))
    torch.testing.assert_close(empty, torch.full((1, 1, 4), 0.25))


def test_sharpening_holds_where_the_powers_underflow():
    address, power = torch.full((1, 1, 128), 1 / 128), torch.full((1, 1, 1), 40.0)
    assert (address**power).sum() == 0  # equation 9 as it stands
    torch.testing.assert_close(sharpen(address, power), address)
    certain = torch.eye(4)[[2]].unsqueeze(0)
    torch.testing.assert_close(sharpen(certain, torch.full((1, 1, 1), 1.0)), certain)


def test_what_is_written_is_read_and_what_is_erased_is_not():
    there = torch.eye(N)[[2]].unsqueeze(0)  # (1, 1, N)
    row, everything = torch.randn(1, 1, M), torch.ones(1, 1, M)
    memory = write(torch.randn(1, N, M), there, everything, row)
    torch.testing.assert_close(read(memory, there), row)
    assert read(write(memory, there, everything, 0 * row), there).abs().max() == 0


def test_impossible_machines_are_refused():
    with pytest.raises(ValueError, match="controller is 'gru'"):
        cell_of("gru", 1, 1)
    with pytest.raises(ValueError, match="shifts is 4"):
        cell_of("lstm", 1, 1, shifts=4)
    with pytest.raises(ValueError, match="at most rows"):
        cell_of("lstm", 1, 1, rows=3, shifts=5)


STATES = ("memory", "read_address", "write_address", "reads", "h", "s")


def machine_of(cell):
    torch.manual_seed(2)
    return StreamingMachine(NeuralTuringMachine(cell, O)).eval()


def inputs_of(cell, T, B, seed, ragged):
    random = np.random.default_rng(seed)
    arrays = {"x": random.standard_normal((T, B, I)), **dict(zip(STATES, drawn_state(cell, random, B), strict=False))}
    inputs = {name: array.astype(np.float32) for name, array in arrays.items()}
    if ragged:
        inputs["lengths"] = np.maximum(T - np.arange(B) * 2, 1)
    return inputs


def request_of(machine, ragged):
    cell, names = machine.machine.cell, [name for name, _ in zip(STATES, machine.machine.cell.state_shapes, strict=False)]
    inputs = {name: torch.from_numpy(array) for name, array in inputs_of(cell, 5, 3, 0, ragged).items()}
    state = {name: f"{name}_out" for name in names}
    return ExportRequest(
        machine,
        inputs,
        {name: ("T", "B", None) if name == "x" else ("B", *[None] * (tensor.dim() - 1)) for name, tensor in inputs.items()},
        state=None if ragged else state,
        outputs=("logits", *state.values()),
        name="machine",
    )


def graph_equations(machine):
    """Outputs and next states by the graph's names, in float64."""
    cell, readout = machine.machine.cell, float64_of(machine.machine.readout)

    def result(inputs):
        names = [name for name in STATES if name in inputs]
        y, ends = equations(cell, inputs["x"], [inputs[name] for name in names], inputs.get("lengths"))
        logits = y @ readout["weight"].T + readout["bias"]
        return {"logits": logits, **{f"{name}_out": end for name, end in zip(names, ends, strict=True)}}

    return result


@pytest.mark.parametrize(
    ("controller", "heads", "ragged"),
    [("feed-forward", (1, 1), True), pytest.param("lstm", (2, 2), False, marks=pytest.mark.slow)],
)
def test_the_exported_machine_is_one_scan_that_computes_the_equations(controller, heads, ragged, tmp_path):
    torch.manual_seed(1)
    cell = cell_of(controller, *heads)
    machine = machine_of(cell)
    request = request_of(machine, ragged)
    longer = {name: torch.from_numpy(array) for name, array in inputs_of(cell, 9, 2, 1, ragged).items()} if ragged else None
    session = checked_export(request, tmp_path, census={"Scan": 1}, longer=longer)
    for T, B in ((1, 1), (11, 3)):
        assert_parity(session, machine, graph_equations(machine), lambda seed, T=T, B=B: inputs_of(cell, T, B, seed, ragged))
    if not ragged:
        stream_from_the_start(session, machine)


def stream_from_the_start(session, machine):
    """A stream begins with zeros: step by step it gives what the machine gives from its initial state in one run."""
    x = np.random.default_rng(3).standard_normal((12, 2, I)).astype(np.float32)
    initial = [state.numpy() for state in machine.machine.layer.initial_state(torch.from_numpy(x))]
    expected, ends = equations(machine.machine.cell, x, initial)
    readout = float64_of(machine.machine.readout)
    stream = session.stream(batch=2)
    for _ in range(2):
        streamed = np.concatenate([stream.step({"x": step[None]})["logits"] for step in x])
        np.testing.assert_allclose(streamed, expected @ readout["weight"].T + readout["bias"], atol=1e-5)
        for end, name in zip(ends, STATES, strict=True):
            np.testing.assert_allclose(stream.state[name], end, atol=1e-5)
        stream.reset()
    zeros = {name: np.zeros_like(array) for name, array in stream.state.items()}
    whole = session.run({"x": x, **zeros})["logits"]
    np.testing.assert_allclose(streamed, whole, atol=1e-6)
