"""Parity calls wrong whatever changes a graph by more than its gate, and each kind of mutation changes one."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from detection import UNHARMED, Mutant, Task, judge, share_caught
from mutated_models import activations
from mutation_change import Yardstick
from mutations import KINDS
from parity_rules import EXACT, US

from edgeseq import LayerNormLSTMCell, LSTMCell, Recurrent, RecurrentStack
from edgeseq.streaming import StreamGraph
from edgeseq_export import ExportNotice, ExportRequest, export_request
from edgeseq_runtime.bundle import DEFAULT_GATES, EXACT_GATE, CaseArrays, Gate, open_bundle, pack_reference, write_bundle

GATE = DEFAULT_GATES["fp32"]


class Ragged(nn.Module):
    """Embedding, convolution, two packed BiLSTMs, masked attention; the states of a GRU at each length and at the end."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.conv = nn.Conv1d(6, 6, 3, padding=1)
        self.lstm = nn.LSTM(6, 4, 2, bidirectional=True)
        self.grus = nn.ModuleList(nn.GRU(8, 8) for _ in range(2))
        self.out = nn.Linear(24, 4)
        self.last = nn.Linear(16, 4)

    def forward(self, tokens, lengths):
        T, _ = tokens.shape
        x = torch.relu(self.conv(self.embed(tokens).permute(1, 2, 0))).permute(2, 0, 1)  # (T, B, 6)
        y = pad_packed_sequence(self.lstm(self.packed(x, lengths))[0], total_length=T)[0].transpose(0, 1)  # (B, T, 8)
        valid = torch.arange(T) < lengths.unsqueeze(1)
        attention = (y @ y.transpose(1, 2) / 8**0.5).masked_fill(~valid.unsqueeze(1), float("-inf")).softmax(-1)
        shifted = torch.cat([y[:, 1:], y[:, :1]], 1)
        tags = self.out(torch.cat([y, attention @ y, shifted], -1)).log_softmax(-1)
        z, _ = self.grus[0](y.transpose(0, 1))
        _, h = self.grus[1](self.packed(z, lengths))
        at = (lengths - 1).view(1, -1, 1).expand(1, -1, 8)
        return tags, self.last(torch.cat([z.gather(0, at).squeeze(0) + z.sum(0), h.squeeze(0)], -1))

    def packed(self, x, lengths):
        return pack_padded_sequence(x, lengths, enforce_sorted=False)


def ragged():
    inputs = {"tokens": torch.randint(9, (7, 3)), "lengths": torch.tensor([7, 2, 5])}
    return ExportRequest(Ragged(), inputs, {"tokens": ("T", "B"), "lengths": ("B",)}, outputs=("tags", "last"))


def stack():
    graph = StreamGraph(RecurrentStack(Recurrent(LSTMCell(4, 6)), Recurrent(LayerNormLSTMCell(6, 6))))
    inputs = graph.inputs(torch.randn(7, 3, 4))
    return ExportRequest(graph, inputs, graph.axes(inputs), graph.state, graph.outputs)


# Between them they have a place for every kind; a kind is tried on the first that has one.
MODELS = {"ragged": ragged, "activations": activations, "stack": stack}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("mutated"), {}
    for name, request in MODELS.items():
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExportNotice)
            made[name] = with_fewer_draws(export_request(request(), folder / f"{name}.edgeseq"))
    return made


def with_fewer_draws(path, draws=8):
    """The bundle with part of its reference, to save time."""
    bundle = open_bundle(path)
    cases = [
        CaseArrays(msgspec.structs.replace(case.case, draws=draws), *({n: a[:draws] for n, a in kind.items()} for kind in case[1:]))
        for case in bundle.reference()
    ]
    manifest = msgspec.structs.replace(bundle.manifest, reference=tuple(case.case for case in cases), sha256={})
    return write_bundle(path, manifest, {"model.onnx": bundle.model()}, pack_reference(cases))


@pytest.fixture(scope="module")
def graphs(bundles):
    return {name: onnx.load_from_string(open_bundle(path).model()) for name, path in bundles.items()}


@pytest.fixture(scope="module")
def places(graphs):
    """Each kind's first place in the first model that has one."""
    return {
        name: next(((model, sites[0]) for model, graph in graphs.items() if (sites := kind.sites(graph))), None)
        for name, kind in KINDS.items()
    }


@pytest.fixture(scope="module")
def unharmed(bundles):
    return {name: judge(Task(name, path, UNHARMED, "")) for name, path in bundles.items()}


@pytest.fixture(scope="module")
def mutants(bundles, places):
    by_model = sorted(places.items(), key=lambda place: list(MODELS).index(place[1][0]))
    return [judge(Task(model, bundles[model], kind, site)) for kind, (model, site) in by_model]


def test_there_are_many_kinds_and_each_says_what_it_does():
    assert len(KINDS) >= 45
    assert len({kind.text for kind in KINDS.values()}) == len(KINDS)
    assert all(kind.text.endswith(".") and len(kind.text) > 15 for kind in KINDS.values())


def test_every_kind_has_a_place_and_changes_the_graph_alone(graphs, places):
    assert [kind for kind, place in places.items() if place is None] == []
    before = {name: graph.SerializeToString() for name, graph in graphs.items()}
    for name, (model, site) in places.items():
        mutated = KINDS[name].apply(graphs[model], site)
        onnx.checker.check_model(mutated)
        assert mutated.SerializeToString() != before[model], name
        assert KINDS[name].apply(graphs[model], site) == mutated, name  # the same each time
    assert {name: graph.SerializeToString() for name, graph in graphs.items()} == before


def test_the_places_of_a_kind_have_names_of_their_own(graphs):
    for kind in KINDS.values():
        for graph in graphs.values():
            sites = kind.sites(graph)
            assert len(set(sites)) == len(sites), kind.name


def test_unharmed_models_raise_no_alarm(unharmed):
    for mutant in unharmed.values():
        assert (mutant.loads, mutant.equal, mutant.change, mutant.above) == (True, True, 0.0, False)
        assert mutant.k < GATE.k
        assert not {US, EXACT} & set(mutant.alarms)


def test_whatever_changes_a_model_by_more_than_the_gate_is_caught(mutants, unharmed):
    # rms(mutant - float64) >= rms(mutant - unharmed) - rms(unharmed - float64)
    large = [m for m in mutants if m.loads and (m.change is None or m.change > GATE.k + unharmed[m.model].k)]
    assert len(large) > 0.75 * len(mutants)
    assert [(m.kind, m.model, m.site) for m in large if US not in m.alarms] == []
    assert all(m.caught(GATE) == (US in m.alarms) for m in mutants)


def test_in_float64_whatever_changes_a_model_by_more_than_rounding_is_caught(mutants, unharmed):
    # The change is the difference of two results of ONNX Runtime, each of which is off by its rounding.
    noise = {name: 2.5 * mutant.k for name, mutant in unharmed.items()}
    above = [m for m in mutants if m.loads and (m.change is None or m.change > EXACT_GATE.k + noise[m.model])]
    assert len(above) > 0.75 * len(mutants)
    assert [(m.kind, m.model, m.site, m.change) for m in above if EXACT not in m.alarms] == []


def test_mutants_load_and_most_differ(mutants):
    assert [(m.kind, m.reason) for m in mutants if not m.loads] == []
    assert sum(m.equal for m in mutants) <= 3


def test_the_change_is_in_units_of_pytorchs_rounding_error(bundles):
    found = judge(Task("ragged", bundles["ragged"], "biases plus 1e-6", "model.last.bias"))
    expected = 0.0
    for case in open_bundle(bundles["ragged"]).reference():
        own = np.sqrt(np.mean((case.float32["last"] - case.float64["last"]) ** 2))
        floor = 2 * 2.0**-23 * np.sqrt(np.mean(case.float64["last"] ** 2))
        expected = max(expected, 1e-6 / max(own, floor))
    assert found.change == pytest.approx(expected, rel=0.02)


def test_the_change_is_less_where_pytorch_itself_is_further_off(bundles, graphs):
    yardstick = Yardstick(open_bundle(bundles["ragged"]))
    off = [{name: array + 1e-4 for name, array in case.float64.items()} for case in yardstick.cases]
    yardstick.cases = tuple(case._replace(float32=float32) for case, float32 in zip(yardstick.cases, off, strict=True))
    mutated = KINDS["biases plus 1e-6"].apply(graphs["ragged"], "model.last.bias")
    assert yardstick.change(yardstick.outputs(mutated.SerializeToString())) == pytest.approx(1e-6 / 1e-4, rel=0.05)


def test_shares_can_be_had_for_other_gates():
    figures = [(0.5, 1.0, 1.0), (2.0, 2.2, 2.0), (3.0, 3.2, 9.0), (9.0, 9.0, 9.0)]
    mutants = [Mutant(model="m", kind="k", site="s", change=c, k=k, k999=k999, beyond=False) for c, k, k999 in figures]
    assert share_caught(mutants, Gate(k=4, k999=10)) == pytest.approx(1 / 3)  # the first is not above rounding
    assert share_caught(mutants, Gate(k=4, k999=8)) == pytest.approx(2 / 3)
    assert share_caught(mutants, Gate(k=2, k999=8)) == 1
    shape = Mutant(model="m", kind="k", site="s")
    refused = Mutant(model="m", kind="k", site="s", loads=False)
    assert share_caught([shape, refused], GATE) == 1
    assert not refused.above
