"""What an export promises beside equality: it refuses what it can't do, and leaves everything else alone."""

from __future__ import annotations

import copy
import threading
import warnings

import numpy as np
import onnx
import pytest
import torch
from recurrent_cases import CASES, LOOP_CASES
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import edgeseq_runtime
from edgeseq import Cell, GRUCell, Recurrent
from edgeseq_export import ExportNotice, export
from edgeseq_runtime.errors import ExportError, InputError, UnsupportedModule, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::edgeseq_export.ExportNotice")


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, 2, bidirectional=True, dropout=0.5)
        self.out = nn.Linear(16, 3)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.lstm(packed)[0])
        return self.out(y)


class Carrying(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 8)

    def forward(self, x, h, c):
        y, (h, c) = self.lstm(x, (h, c))
        return y, h, c


def export_tagger(path, model=None):
    inputs = {"x": torch.randn(7, 3, 6, generator=torch.Generator().manual_seed(0)), "lengths": torch.tensor([7, 2, 5])}
    return export(model or Tagger(), inputs, path, axes={"x": ("T", "B", None), "lengths": ("B",)}, outputs=("y",))


def carrying_inputs(state):
    return {"x": torch.randn(5, 2, 6), "h": state, "c": state}


CARRYING = {
    "axes": {"x": ("T", "B", None), "h": (None, "B", None), "c": (None, "B", None)},
    "state": {"h": "h_out", "c": "c_out"},
    "outputs": ("y", "h_out", "c_out"),
}


@pytest.mark.parametrize("case", LOOP_CASES, ids=lambda case: case.id)
def test_what_has_no_faithful_graph_is_refused_and_nothing_is_written(case, tmp_path):
    path = tmp_path / "refused.edgeseq"
    with pytest.raises(ExportError) as refusal:
        export(case.module(), case.inputs(case.sizes[0]), path, axes=case.axes, outputs=case.outputs)
    assert len(str(refusal.value)) > 60  # a reason, not a code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cell", ["RNNCell", "LSTMCell", "GRUCell"])
def test_a_loop_over_a_cell_is_refused_by_name_with_what_to_write_instead(cell, tmp_path):
    case = next(c for c in LOOP_CASES if c.id == f"loop-{cell}")
    with pytest.raises(UnsupportedModule, match=r"module 'cell'.*loop.*unrolled.*nn\.LSTM.*edgeseq\.Recurrent"):
        export(case.module(), case.inputs(case.sizes[0]), tmp_path / "x.edgeseq", axes=case.axes)


def test_a_loop_of_one_step_in_the_example_is_still_refused(tmp_path):
    case = next(c for c in LOOP_CASES if c.id == "loop-LSTMCell")
    with pytest.raises(UnsupportedModule, match="called 1 times at sizes"):
        export(case.module(), case.inputs({"T": 1, "B": 2}), tmp_path / "x.edgeseq", axes=case.axes)


class LoopOverALayersCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Recurrent(GRUCell(6, 8))

    def forward(self, x):
        state = self.layer.initial_state(x)
        for t in range(x.shape[0]):
            state, y = self.layer.cell(state, x[t])
        return y


def test_a_loop_over_the_cell_of_a_layer_is_refused(tmp_path):
    with pytest.raises(UnsupportedModule, match=r"module 'layer\.cell' is called 5 times at sizes.*loop"):
        export(LoopOverALayersCell(), {"x": torch.randn(5, 2, 6)}, tmp_path / "x.edgeseq", axes={"x": ("T", "B", None)})


class OwnCell(Cell):
    def __init__(self, inner):
        super().__init__()
        self.state_shapes = ((8,),)
        self.inner = inner

    def project(self, x):
        return x

    def step(self, state, projected):
        h = self.inner(projected, state[0])
        return (h,), h


class PyTorchCellInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Recurrent(OwnCell(nn.GRUCell(6, 8)))

    def forward(self, x):
        return self.layer(x)[0]


class StateOfAnotherDtype(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Recurrent(OwnCell(lambda x, h: (h + x.sum(-1, keepdim=True)).long()))

    def forward(self, x):
        return self.layer(x)[0]


class DecidingOnValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Recurrent(OwnCell(lambda x, h: -h if h.sum() > 0 else h + 1))

    def forward(self, x):
        return self.layer(x)[0]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (PyTorchCellInside, r"'layer\.cell\.inner', an nn\.GRUCell, is called by the cell.*edgeseq\.GRUCell"),
        (StateOfAnotherDtype, r"differ in 'dtype: torch\.float32 vs torch\.int64'.*initial_state.*make the two alike"),
        (DecidingOnValues, r"A cell's step does what no graph can hold.*torch\.where"),
    ],
)
def test_a_cell_that_no_scan_can_hold_is_refused_with_the_reason(module, message, tmp_path):
    with pytest.raises(UnsupportedModule, match=message):
        export(module(), {"x": torch.randn(5, 2, 6)}, tmp_path / "x.edgeseq", axes={"x": ("T", "B", None)})


def test_the_users_module_is_left_exactly_as_it_was(tmp_path):
    model = Tagger()
    model.train()
    seen = []
    model.lstm.register_forward_hook(lambda *_: seen.append(1))
    model(torch.randn(4, 2, 6), torch.tensor([4, 2])).sum().backward()
    before = copy.deepcopy(model.state_dict())
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    identities = {name: id(p) for name, p in model.named_parameters()}
    buffers, hooks = list(model.named_buffers()), [len(m._forward_hooks) for m in model.modules()]
    export_tagger(tmp_path / "a.edgeseq", model)
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert {name: id(p) for name, p in model.named_parameters()} == identities
    assert list(model.named_buffers()) == buffers
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert all(torch.equal(p.grad, gradients[name]) for name, p in model.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not hasattr(model.lstm, "onnx_W0")


def test_pytorchs_own_functions_and_classes_are_restored(tmp_path):
    forward, code = nn.LSTM.forward, pack_padded_sequence.__code__
    export_tagger(tmp_path / "a.edgeseq")
    assert nn.LSTM.forward is forward
    assert pack_padded_sequence.__code__ is code
    case = next(c for c in LOOP_CASES if c.id == "loop-GRUCell")
    with pytest.raises(ExportError):
        export(case.module(), case.inputs(case.sizes[0]), tmp_path / "x.edgeseq", axes=case.axes)
    assert nn.LSTM.forward is forward
    assert pack_padded_sequence.__code__ is code


def test_the_same_module_gives_the_same_bytes(tmp_path):
    model = Tagger()
    first, second = (export_tagger(tmp_path / name, model) for name in ("a.edgeseq", "b.edgeseq"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_exports_from_threads_are_those_of_one_thread_and_disturb_no_other(tmp_path):
    models = [Tagger() for _ in range(3)]
    x, lengths = torch.randn(7, 3, 6), torch.tensor([7, 2, 5])
    expected = [model.eval()(x, lengths).detach() for model in models]
    failures, done = [], threading.Event()

    def infer():
        while not done.is_set():
            for model, y in zip(models, expected, strict=True):
                with torch.no_grad():
                    if not torch.equal(model(x, lengths), y):
                        failures.append("an inference beside the exports changed")

    def run(index):
        try:
            export_tagger(tmp_path / f"{index}.edgeseq", models[index])
        except Exception as error:
            failures.append(error)

    bystander = threading.Thread(target=infer)
    bystander.start()
    workers = [threading.Thread(target=run, args=(index,)) for index in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done.set()
    bystander.join()
    assert failures == []
    for index, model in enumerate(models):
        alone = export_tagger(tmp_path / "alone.edgeseq", model)
        assert edgeseq_runtime.open_bundle(alone).model() == edgeseq_runtime.open_bundle(tmp_path / f"{index}.edgeseq").model()


def test_two_example_inputs_that_are_one_tensor_stay_two_inputs(tmp_path):
    path = export(Carrying(), carrying_inputs(torch.zeros(1, 2, 8)), tmp_path / "a.edgeseq", **CARRYING)
    session = edgeseq_runtime.load(path)
    x = np.zeros((1, 1, 6), np.float32)
    h, c = np.ones((1, 1, 8), np.float32), np.zeros((1, 1, 8), np.float32)
    assert not np.array_equal(session.run({"x": x, "h": h, "c": c})["y"], session.run({"x": x, "h": c, "c": h})["y"])


def test_a_state_that_is_not_carried_is_found(tmp_path):
    class Forgetful(Carrying):
        def forward(self, x, h, c):
            y, _ = self.lstm(x)
            return y, h, c

    with pytest.raises(ExportError, match="chunks"):
        export(Forgetful(), carrying_inputs(torch.zeros(1, 2, 8)), tmp_path / "a.edgeseq", **CARRYING)


def test_a_model_that_sees_the_future_is_not_exported_with_state(tmp_path):
    class Smoothed(Carrying):
        def __init__(self):
            super().__init__()
            self.smooth = nn.Conv1d(8, 8, 3, padding=1)

        def forward(self, x, h, c):
            y, (h, c) = self.lstm(x, (h, c))
            return self.smooth(y.permute(1, 2, 0)).permute(2, 0, 1), h, c

    with pytest.raises(ExportError, match="not causal"):
        export(Smoothed(), carrying_inputs(torch.zeros(1, 2, 8)), tmp_path / "a.edgeseq", **CARRYING)


class Halving(Carrying):
    """Runs on an even number of steps only, and gives half as many."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(12, 8)

    def forward(self, x, h, c):
        T, B, _ = x.shape
        y, (h, c) = self.lstm(x.view(T // 2, 2, B, 6).transpose(1, 2).reshape(T // 2, B, 12), (h, c))
        return y, h, c


def test_a_model_that_takes_chunks_of_two_steps_carries_its_state(tmp_path):
    inputs = {"x": torch.randn(6, 2, 6), "h": torch.zeros(1, 2, 8), "c": torch.zeros(1, 2, 8)}
    path = export(Halving(), inputs, tmp_path / "a.edgeseq", **CARRYING)
    session = edgeseq_runtime.load(path)
    assert session.outputs[0].shape == ("T//2", "B", 8)
    x = np.random.default_rng(0).standard_normal((10, 1, 6)).astype(np.float32)
    stream = session.stream()
    pieces = [stream.step({"x": x[start:stop]})["y"] for start, stop in ((0, 2), (2, 8), (8, 10))]
    np.testing.assert_allclose(np.concatenate(pieces), session.run({"x": x})["y"], atol=1e-6)
    before = stream.state
    with pytest.raises(InputError, match="multiples of 2 steps"):
        stream.step({"x": x[:3]})
    assert all(np.array_equal(before[name], value) for name, value in stream.state.items())
    report = edgeseq_runtime.measure_parity(path)
    assert report.passed
    assert {row.verdict for row in report.rows if row.mode == "stream"} == {"pass"}


def test_dropout_is_off_and_weights_that_are_shared_are_stored_once(tmp_path):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.GRU(64, 64, dropout=0.0), nn.GRU(64, 64)
            for name, parameter in self.first.named_parameters():
                setattr(self.second, name, parameter)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.second(self.drop(self.first(x)[0]))[0]

    path = export(Shared(), {"x": torch.randn(5, 2, 64)}, tmp_path / "a.edgeseq", axes={"x": ("T", "B", None)})
    model = onnx.load_from_string(edgeseq_runtime.open_bundle(path).model())
    gates = [t for t in model.graph.initializer if list(t.dims) == [1, 192, 64]]
    assert len(gates) == 2  # W and R, once each
    assert [n.op_type for n in model.graph.node].count("GRU") == 2


def test_a_conversion_is_said(tmp_path):
    with pytest.warns(ExportNotice, match="float64.*converted to float32"):
        path = export(
            nn.GRU(3, 4).double(),
            {"input": torch.randn(5, 2, 3).double()},
            tmp_path / "a.edgeseq",
            axes={"input": ("T", "B", None)},
        )
    assert any("float64" in note for note in edgeseq_runtime.open_bundle(path).manifest.notes)


def test_nothing_is_said_where_nothing_was_converted(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(nn.GRU(3, 4), {"input": torch.randn(5, 2, 3)}, tmp_path / "a.edgeseq", axes={"input": ("T", "B", None)})


def test_legacy_weight_norm_is_exported_with_its_effective_weights(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.utils.weight_norm(nn.GRU(3, 4), "weight_hh_l0")
    model(torch.randn(2, 1, 3))  # leaves a tensor that deepcopy refuses
    with torch.no_grad():
        model.weight_hh_l0_g.mul_(1.5)  # the effective weight is stale until the next forward
    path = export(model, {"input": torch.randn(5, 2, 3)}, tmp_path / "a.edgeseq", axes={"input": ("T", "B", None)})
    x = torch.randn(9, 2, 3)
    found = edgeseq_runtime.load(path).run({"input": x.numpy()})["y0"]
    np.testing.assert_allclose(found, model(x)[0].detach().numpy(), atol=1e-6)


def test_a_parametrised_layer_that_has_been_trained_is_exported(tmp_path):
    model = nn.utils.parametrizations.weight_norm(nn.GRU(3, 4), "weight_hh_l0")
    model(torch.randn(2, 1, 3))[0].sum().backward()  # leaves computed tensors in the layer
    with torch.no_grad():
        model.parametrizations.weight_hh_l0.original0.mul_(1.5)
    path = export(model, {"input": torch.randn(5, 2, 3)}, tmp_path / "a.edgeseq", axes={"input": ("T", "B", None)})
    x = torch.randn(9, 2, 3)
    found = edgeseq_runtime.load(path).run({"input": x.numpy()})["y0"]
    np.testing.assert_allclose(found, model(x)[0].detach().numpy(), atol=1e-6)


class Rebuilt(nn.Module):
    """Works on a packed sequence's data and puts the sequence together again by hand."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.GRU(6, 8, bidirectional=True), nn.GRU(16, 5)

    def forward(self, x, lengths):
        packed, _ = self.first(pack_padded_sequence(x, lengths, enforce_sorted=False))
        data, batch_sizes, order, back = packed
        packed = PackedSequence(torch.cos(data), batch_sizes, order, back)
        return pad_packed_sequence(self.second(packed)[0], padding_value=2.0)[0], pad_packed_sequence(packed)[0]


def test_a_packed_sequence_rebuilt_by_hand_keeps_its_meaning(tmp_path):
    model = Rebuilt()
    inputs = {"x": torch.randn(7, 3, 6), "lengths": torch.tensor([3, 7, 5])}
    path = export(model, inputs, tmp_path / "a.edgeseq", axes={"x": ("T", "B", None), "lengths": ("B",)})
    x, lengths = torch.randn(9, 4, 6), torch.tensor([4, 6, 1, 2])
    found = edgeseq_runtime.load(path).run({"x": x.numpy(), "lengths": lengths.numpy()})
    for name, expected in zip(("y0", "y1"), model(x, lengths), strict=True):
        np.testing.assert_allclose(found[name], expected.detach().numpy(), atol=1e-6)


class OwnNumbers(nn.Module):
    """Holds the numbers that a trace would use for its sizes, in a place where no weight shows them."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(6, 8)

    def forward(self, x):
        y, _ = self.gru(x)
        return torch.cat([y, y.new_zeros(*y.shape[:2], 11), y.new_ones(*y.shape[:2], 13)], dim=-1)


def test_a_number_of_the_modules_own_is_no_frozen_axis(tmp_path):
    path = export(OwnNumbers(), {"x": torch.randn(5, 2, 6)}, tmp_path / "a.edgeseq", axes={"x": ("T", "B", None)})
    assert edgeseq_runtime.load(path).outputs[0].shape == ("T", "B", 32)
    assert edgeseq_runtime.measure_parity(path).passed


class UnregisteredState(nn.Module):
    """Keeps its initial state as a plain attribute, which `module.double()` does not convert."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(6, 8)
        self.h0 = torch.full((1, 1, 8), 0.3)

    def forward(self, x):
        return self.gru(x[:, :1], self.h0)[0]


def test_a_state_that_is_no_buffer_is_exported(tmp_path):
    path = export(UnregisteredState(), {"x": torch.randn(5, 2, 6)}, tmp_path / "a.edgeseq", axes={"x": ("T", "B", None)})
    assert edgeseq_runtime.measure_parity(path).passed


class WithResidual(nn.Module):
    """Adds T steps to the max(lengths) steps of a padded sequence: PyTorch fails wherever the two differ."""

    def __init__(self, **padding):
        super().__init__()
        self.gru = nn.GRU(6, 6)
        self.padding = padding

    def forward(self, x, lengths):
        padding = {"total_length": x.shape[0]} if self.padding else {}
        y, _ = pad_packed_sequence(self.gru(pack_padded_sequence(x, lengths, enforce_sorted=False))[0], **padding)
        return x + y


def test_steps_to_max_lengths_are_pytorchs_own(tmp_path):
    path = export_tagger(tmp_path / "a.edgeseq")
    session = edgeseq_runtime.load(path)
    x, lengths = np.zeros((9, 2, 6), np.float32), np.array([4, 2], np.int32)
    assert session.run({"x": x, "lengths": lengths})["y"].shape == (4, 2, 3)
    assert session.outputs[0].shape == ("max(lengths)", "B", 3)


def test_a_residual_over_total_length_is_exported_and_right_where_lengths_are_short(tmp_path):
    model = WithResidual(total_length=True)
    inputs = {"x": torch.randn(7, 2, 6), "lengths": torch.tensor([7, 3])}
    path = export(model, inputs, tmp_path / "a.edgeseq", axes={"x": ("T", "B", None), "lengths": ("B",)})
    x, lengths = torch.randn(9, 2, 6), torch.tensor([4, 6])
    found = edgeseq_runtime.load(path).run({"x": x.numpy(), "lengths": lengths.numpy().astype(np.int32)})["y0"]
    np.testing.assert_allclose(found, model(x, lengths).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {}}, "inputs is empty"),
        ({"inputs": {"z": torch.zeros(2, 2, 6)}}, "name each input as forward does"),
        ({"inputs": {"x": torch.zeros(0, 2, 6), "lengths": torch.ones(2)}}, "is empty"),
        ({"axes": {"x": ("T", "B")}}, "has 2 entries"),
        ({"axes": {"x": ("T", "T", None)}}, "same name is the"),
        ({"axes": {"x": (None, None, None)}}, "no dynamic axis"),
        ({"axes": {"q": ("T",)}}, "input 'q'"),
        ({"outputs": ("a", "b")}, "names 2 tensors"),
        ({"outputs": ("x",)}, "used twice"),
        ({"state": {"x": "y"}}, "outputs is not given"),
        ({"state": {"h": "y"}, "outputs": ("y",)}, "state names an input 'h'"),
        ({"state": {"x": "z"}, "outputs": ("y",)}, "state names an output 'z'"),
        ({"model": "lstm"}, "give an nn.Module"),
    ],
)
def test_a_request_that_makes_no_sense_says_what_is_wrong(change, message, tmp_path):
    request = {
        "model": Tagger(),
        "inputs": {"x": torch.randn(7, 2, 6), "lengths": torch.tensor([7, 3])},
        "axes": {"x": ("T", "B", None), "lengths": ("B",)},
        **change,
    }
    with pytest.raises(UsageError, match=message):
        export(request.pop("model"), request.pop("inputs"), tmp_path / "a.edgeseq", **request)


def test_inputs_that_do_not_run_are_reported_as_such(tmp_path):
    with pytest.raises(UsageError, match="fails on the example inputs"):
        export(nn.GRU(3, 4), {"input": torch.randn(5, 2, 7)}, tmp_path / "a.edgeseq", axes={"input": ("T", "B", None)})


def test_every_kind_of_case_is_there():
    assert {case.id.split("-")[0] for case in CASES} >= {"bare", "float64", "half"}


class ByFunction(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.gru, self.function, self.kept = nn.GRU(6, 8), function, None

    def forward(self, x):
        return self.function(self, x)


def mean_of_the_last_50(self, x):
    y = self.gru(x)[0]
    return y.mean(0) if x.shape[0] <= 50 else y[-50:].mean(0)


def keeps_a_state_inside(self, x):
    fits = self.kept is not None and self.kept.shape[1] == x.shape[1]
    y, h = self.gru(x, self.kept if fits else x.new_zeros(1, x.shape[1], 8))
    self.kept = h.detach()
    return y


def export_function(function, path):
    return export(ByFunction(function), {"x": torch.randn(9, 2, 6)}, path, axes={"x": ("T", "B", None)})


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: self.gru(x[-64:] if x.shape[0] > 64 else x)[0],
        lambda self, x: self.gru(x[-64:])[0],
        lambda self, x: self.gru(x[:60])[0],
        lambda self, x: self.gru(x)[0] * (1 if x.shape[1] < 16 else -1),
        mean_of_the_last_50,
    ],
)
def test_a_decision_on_the_size_of_an_axis_is_refused(function, tmp_path):
    with pytest.raises(UnsupportedModule, match="decides on the size of a named axis: its graph is right only where"):
        export_function(function, tmp_path / "a.edgeseq")
    assert list(tmp_path.iterdir()) == []


def test_a_limit_that_pytorch_itself_has_is_no_decision(tmp_path):
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(6, 8)
            self.register_buffer("table", torch.randn(100, 1, 6))

        def forward(self, x):
            return self.gru(x + self.table[: x.shape[0]])[0]

    path = export(Positions(), {"x": torch.randn(9, 2, 6)}, tmp_path / "a.edgeseq", axes={"x": ("T", "B", None)})
    assert edgeseq_runtime.load(path).run({"x": np.zeros((100, 1, 6), np.float32)})["y0"].shape == (100, 1, 8)


def test_a_decision_between_two_axes_is_refused_whichever_way_the_example_lies(tmp_path):
    class Longer(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.memory = nn.GRU(6, 8), nn.Linear(6, 8)

        def forward(self, x, memory):
            y = self.gru(x)[0]
            return (-y if x.shape[0] > memory.shape[0] else y) + self.memory(memory).mean(0)

    for T, S in ((9, 5), (5, 9)):
        inputs = {"x": torch.randn(T, 2, 6), "memory": torch.randn(S, 2, 6)}
        with pytest.raises(ExportError):
            export(Longer(), inputs, tmp_path / "a.edgeseq", axes={"x": ("T", "B", None), "memory": ("S", "B", None)})


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: nn.functional.dropout(self.gru(x)[0], 0.5),
        lambda self, x: self.gru(x + torch.randn_like(x))[0],
        keeps_a_state_inside,
    ],
)
def test_a_module_that_does_not_repeat_itself_is_refused(function, tmp_path):
    with pytest.raises(UnsupportedModule, match="different outputs on the same inputs"):
        export_function(function, tmp_path / "a.edgeseq")


def test_a_swapped_state_is_found_beside_a_second_time_axis(tmp_path):
    class WithMemory(Carrying):
        def forward(self, x, h, c, memory):
            y, (h, c) = self.lstm(x, (h, c))
            return y + memory.mean(), h, c

    inputs = {**carrying_inputs(torch.zeros(1, 2, 8)), "memory": torch.randn(4, 2, 3)}
    request = {**CARRYING, "axes": {**CARRYING["axes"], "memory": ("S", "B", None)}}
    export(WithMemory(), inputs, tmp_path / "a.edgeseq", **request)
    with pytest.raises(ExportError, match="chunks"):
        export(WithMemory(), inputs, tmp_path / "b.edgeseq", **{**request, "state": {"h": "c_out", "c": "h_out"}})


def test_a_state_along_another_axis_than_the_batch_is_bad_usage(tmp_path):
    request = {**CARRYING, "axes": {"x": ("T", "N", None), "h": (None, "N", None), "c": (None, "N", None)}}
    with pytest.raises(UsageError, match="the batch axis is called 'B'"):
        export(Carrying(), carrying_inputs(torch.zeros(1, 2, 8)), tmp_path / "a.edgeseq", **request)


def test_two_lengths_of_equal_values_each_count_their_own_axis(tmp_path):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.source, self.target = nn.GRU(3, 4), nn.GRU(3, 4)

        def forward(self, x, z, x_lengths, z_lengths):
            h = self.source(pack_padded_sequence(x, x_lengths, enforce_sorted=False))[1]
            return self.target(pack_padded_sequence(z, z_lengths, enforce_sorted=False), h)[1]

    lengths = torch.tensor([7, 3])
    inputs = {"x": torch.randn(7, 2, 3), "z": torch.randn(7, 2, 3), "x_lengths": lengths, "z_lengths": lengths.clone()}
    axes = {"x": ("S", "B", None), "z": ("T", "B", None), "x_lengths": ("B",), "z_lengths": ("B",)}
    manifest = edgeseq_runtime.open_bundle(export(Pair(), inputs, tmp_path / "a.edgeseq", axes=axes)).manifest
    assert manifest.lengths == {"x_lengths": "S", "z_lengths": "T"}


def test_lengths_whose_axis_cannot_be_told_are_asked_for_and_not_guessed(tmp_path):
    class ShortPair(nn.Module):
        """Runs on at most ten steps, so the axes can't be told apart by trying longer ones."""

        def __init__(self):
            super().__init__()
            self.source, self.target = nn.GRU(3, 4), nn.GRU(3, 4)
            self.register_buffer("table", torch.randn(10, 1, 3))

        def forward(self, x, z, x_lengths, z_lengths):
            x, z = x + self.table[: x.shape[0]], z + self.table[: z.shape[0]]
            h = self.source(pack_padded_sequence(x, x_lengths, enforce_sorted=False))[1]
            return self.target(pack_padded_sequence(z, z_lengths, enforce_sorted=False), h)[1]

    lengths = torch.tensor([7, 3])
    inputs = {"x": torch.randn(7, 2, 3), "z": torch.randn(7, 2, 3), "x_lengths": lengths, "z_lengths": lengths.clone()}
    axes = {"x": ("S", "B", None), "z": ("T", "B", None), "x_lengths": ("B",), "z_lengths": ("B",)}
    with pytest.raises(UsageError, match="give an example in which their sizes differ"):
        export(ShortPair(), inputs, tmp_path / "a.edgeseq", axes=axes)


def test_an_index_that_equals_the_length_is_no_length(tmp_path):
    class Speaker(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.gru = nn.Embedding(40, 3), nn.GRU(3, 4)

        def forward(self, x, lengths, speaker, valence):
            x = x + self.embed(speaker) + self.embed(valence)
            return pad_packed_sequence(self.gru(pack_padded_sequence(x, lengths, enforce_sorted=False))[0])[0]

    seven = {name: torch.tensor([7]) for name in ("lengths", "speaker", "valence")}
    axes = {"x": ("T", "B", None), **dict.fromkeys(seven, ("B",))}
    path = export(Speaker(), {"x": torch.randn(7, 1, 3), **seven}, tmp_path / "a.edgeseq", axes=axes)
    assert edgeseq_runtime.open_bundle(path).manifest.lengths == {"lengths": "T"}


class Subsampled(nn.Module):
    def __init__(self, kernel):
        super().__init__()
        self.kernel, self.conv, self.gru = kernel, nn.Conv1d(3, 4, kernel, stride=kernel), nn.GRU(4, 4, batch_first=True)

    def forward(self, x, lengths):
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        packed = pack_padded_sequence(x, lengths // self.kernel, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]


def test_an_encoder_that_shortens_its_sequences_is_exported(tmp_path):
    inputs = {"x": torch.randn(3, 20, 3), "lengths": torch.tensor([20, 12, 8])}
    path = export(Subsampled(2), inputs, tmp_path / "a.edgeseq", axes={"x": ("B", "T", None), "lengths": ("B",)})
    x, lengths = torch.randn(2, 31, 3), torch.tensor([5, 22])
    found = edgeseq_runtime.load(path).run({"x": x.numpy(), "lengths": lengths.numpy()})["y0"]
    assert found.shape[1] == 11


def test_a_module_that_needs_long_sequences_is_exported(tmp_path):
    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gru = nn.Conv1d(1, 4, 64, stride=64), nn.GRU(4, 4, batch_first=True)

        def forward(self, x):
            return self.gru(self.conv(x[:, None]).transpose(1, 2))[0]

    path = export(Frames(), {"x": torch.randn(2, 1600)}, tmp_path / "a.edgeseq", axes={"x": ("B", "T")})
    assert edgeseq_runtime.load(path).outputs[0].shape == ("B", "T//64", 4)


def test_lengths_from_a_mask_over_time_are_drawn_as_masks_are(tmp_path):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(3, 4)

        def forward(self, x, mask):
            return pad_packed_sequence(self.gru(pack_padded_sequence(x, mask.sum(0), enforce_sorted=False))[0])[0]

    mask = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 0]]).bool()
    axes = {"x": ("T", "B", None), "mask": ("T", "B")}
    path = export(Masked(), {"x": torch.randn(4, 2, 3), "mask": mask}, tmp_path / "a.edgeseq", axes=axes)
    assert edgeseq_runtime.measure_parity(path).passed


def test_a_destination_that_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "a.edgeseq"):
        with pytest.raises(UsageError, match="can't write the bundle"):
            export_tagger(path)


class Activity(nn.Module):
    """Convolution, maximum over windows, LSTM: what sensor models are made of."""

    def __init__(self, pool):
        super().__init__()
        self.conv = nn.Conv1d(6, 8, 5, padding=2)
        self.pool = pool
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        z = self.pool(torch.relu(self.conv(x.transpose(1, 2)))).transpose(1, 2)
        return self.out(self.lstm(z)[0])


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool1d(2),
        nn.MaxPool1d(3, stride=2, padding=1, ceil_mode=True),
        nn.MaxPool1d((3,), stride=1, dilation=2),
    ],
    ids=str,
)
def test_a_maximum_over_windows_of_time_keeps_time_dynamic(pool, tmp_path):
    original = torch.max_pool1d
    model = Activity(pool).eval()
    path = export(model, {"x": torch.randn(3, 64, 6)}, tmp_path / "m.edgeseq", axes={"x": ("B", "T", None)}, outputs=("y",))
    assert torch.max_pool1d is original
    session = edgeseq_runtime.load(path)
    for B, T in ((1, 9), (4, 50), (2, 131)):
        x = torch.randn(B, T, 6)
        with torch.no_grad():
            np.testing.assert_allclose(session.run({"x": x.numpy()})["y"], model(x), atol=1e-5)


class Frames(nn.Module):
    """Sound cut into frames of 160 samples by a reshape."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(160, 8, batch_first=True)

    def forward(self, x):
        B, T = x.shape
        return self.gru(x.reshape(B, T // 160, 160))[0]


def test_sound_that_is_cut_into_frames_by_a_reshape(tmp_path):
    model = Frames().eval()
    path = export(model, {"x": torch.randn(2, 1600)}, tmp_path / "m.edgeseq", axes={"x": ("B", "T")}, outputs=("y",))
    session = edgeseq_runtime.load(path)
    for B, frames in ((1, 1), (3, 7), (2, 40)):
        x = torch.randn(B, 160 * frames)
        with torch.no_grad():
            np.testing.assert_allclose(session.run({"x": x.numpy()})["y"], model(x), atol=1e-5)


def test_a_window_as_large_as_a_size_of_the_trace_is_no_frozen_axis(tmp_path):
    """The sizes of the trace keep clear of every whole number that a module holds."""
    layers = nn.ModuleList(nn.AvgPool1d(n, stride=1, padding=n // 2) for n in (11, 13, 17, 19, 23))

    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers
            self.gru = nn.GRU(6, 4)

        def forward(self, x):
            z = x.permute(1, 2, 0)
            for layer in self.layers:
                z = layer(z)
            return self.gru(z.permute(2, 0, 1))[0]

    path = export(Windows(), {"x": torch.randn(30, 2, 6)}, tmp_path / "m.edgeseq", axes={"x": ("T", "B", None)}, outputs=("y",))
    assert edgeseq_runtime.measure_parity(path).passed


class Masked(nn.Module):
    """A GRU that runs over padding too; lengths only mask its output."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(5, 6)

    def forward(self, x, lengths, h):
        y, h_out = self.gru(x, h)
        return y * (torch.arange(x.shape[0])[:, None] < lengths).unsqueeze(-1), h_out


def test_a_state_that_runs_past_the_lengths_is_no_fault(tmp_path):
    inputs = {"x": torch.randn(7, 3, 5), "lengths": torch.tensor([7, 2, 5]), "h": torch.zeros(1, 3, 6)}
    axes = {"x": ("T", "B", None), "lengths": ("B",), "h": (None, "B", None)}
    path = export(Masked(), inputs, tmp_path / "m.edgeseq", axes=axes, state={"h": "h_out"}, outputs=("y", "h_out"))
    report = edgeseq_runtime.measure_parity(path)
    assert report.passed, [row.reason for row in report.rows]
    states = [row for row in report.rows if row.output == "h_out" and row.mode == "stream"]
    assert {row.verdict for row in states} == {"pass", "skip"}  # where every length is T there is nothing past it
    assert all("padded end" in row.reason for row in states if row.verdict == "skip")
    assert all(row.verdict == "pass" for row in report.rows if row.output == "y")


class Unused(nn.Module):
    """Two layers, the second for nothing."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.GRU(5, 6), nn.GRU(6, 6)

    def forward(self, x):
        y, _ = self.used(x)
        self.unused(y)
        return y


def test_a_layer_for_nothing_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ExportError, match=r"reaches no output is left out .* take it out of forward"):
        export(Unused(), {"x": torch.randn(7, 3, 5)}, tmp_path / "m.edgeseq", axes={"x": ("T", "B", None)})
    assert list(tmp_path.iterdir()) == []
