"""Models that others made: the LSTM, GRU and RNN tests that the ONNX package brings for any backend.

The expected outputs are computed by the package's own NumPy code. The tolerance is that of the package's own runner.
"""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

import edgeseq_runtime
from edgeseq_runtime.errors import UsageError

OPERATORS = ("gru", "lstm", "rnn")
# What ONNX Runtime can't compute, and a part of its own message.
REFUSED = {f"test_{name}_batchwise": r"layout == 1\) are not supported" for name in ("gru", "lstm", "simple_rnn")}
COMPUTED = (
    "test_gru_bidirectional",
    "test_gru_defaults",
    "test_gru_reverse",
    "test_gru_seq_length",
    "test_gru_with_initial_bias",
    "test_lstm_bidirectional",
    "test_lstm_defaults",
    "test_lstm_reverse",
    "test_lstm_with_initial_bias",
    "test_lstm_with_peepholes",
    "test_rnn_seq_length",
    "test_simple_rnn_bidirectional",
    "test_simple_rnn_defaults",
    "test_simple_rnn_reverse",
    "test_simple_rnn_with_initial_bias",
)


@pytest.fixture(scope="module")
def cases():
    """Name -> test case. The wheel holds no data: importing an operator's module makes its cases."""
    node = import_module("onnx.backend.test.case.node")
    for operator in OPERATORS:
        import_module(f"onnx.backend.test.case.node.{operator}")
    # Each operator is there a second time, expanded to what it is made of, only where it is a function; these are none.
    names = tuple(f"test_{kind}" for kind in (*OPERATORS, "simple_rnn"))
    return {case.name: case for case in node._NodeTestCases if case.name.startswith(names)}


@pytest.fixture
def opened(cases, tmp_path):
    """Open a case's model from its file, as anyone's would be."""

    def load(name):
        (tmp_path / "model.onnx").write_bytes(cases[name].model.SerializeToString())
        return edgeseq_runtime.load(tmp_path / "model.onnx")

    return load


def differences(case, session, change=lambda inputs: inputs):
    """What is not as the case expects, by output."""
    wrong = []
    for arrays, expected in case.data_sets:
        inputs = dict(zip([one.name for one in case.model.graph.input], arrays, strict=True))
        got = session.run(change(inputs))
        for output, reference in zip(case.model.graph.output, expected, strict=True):
            found = got[output.name]
            if found.dtype != reference.dtype or found.shape != reference.shape:
                wrong.append(f"{output.name}: {found.dtype} {found.shape}, expected {reference.dtype} {reference.shape}")
            elif not np.allclose(found, reference, rtol=case.rtol, atol=case.atol):
                wrong.append(f"{output.name}: off by {np.abs(found - reference).max()}")
    return wrong


def test_the_lists_are_those_of_the_package(cases):
    assert sorted(cases) == sorted((*COMPUTED, *REFUSED))
    assert {(case.rtol, case.atol) for case in cases.values()} == {(1e-3, 1e-7)}
    assert all(case.data_sets for case in cases.values())


@pytest.mark.parametrize("name", COMPUTED)
def test_it_is_computed(name, cases, opened):
    session = opened(name)
    assert [spec.name for spec in session.outputs] == [output.name for output in cases[name].model.graph.output]
    assert differences(cases[name], session) == []


# Their inputs and weights are so large that every gate is saturated: they see no small fault.
SATURATED = (
    "test_gru_bidirectional",
    "test_gru_seq_length",
    "test_lstm_bidirectional",
    "test_rnn_seq_length",
    "test_simple_rnn_bidirectional",
)


@pytest.mark.parametrize("name", COMPUTED)
def test_weights_that_are_off_are_seen(name, cases, opened):
    """The test above is worth something only if this one passes: by a hundredth, or of the other sign."""

    def off(inputs):
        return {**inputs, "W": -inputs["W"] if name in SATURATED else inputs["W"] * np.float32(1.01)}

    assert differences(cases[name], opened(name), off)


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_computed_is_refused_and_says_why(name, cases, opened):
    with pytest.raises(UsageError, match=f"can't load the model: .*{REFUSED[name]}"):
        opened(name)
