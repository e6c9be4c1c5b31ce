"""The list of cases is itself sound: enough of them, all different, all valid PyTorch, every pair of factors together."""

from itertools import combinations, product

import pytest
import torch
from recurrent_cases import CASES, LOOP_CASES, MATRIX, SIZES, Case
from torch.utils._pytree import tree_leaves

EVERY = CASES + LOOP_CASES


def test_there_are_at_least_200_different_cases():
    print(f"{len(CASES)} cases ({len(MATRIX)} in the matrix), {len(LOOP_CASES)} to refuse")
    assert len(CASES) >= 200
    assert len({case.id for case in EVERY}) == len(EVERY)


def test_every_pair_of_factor_values_occurs():
    values = {name: sorted({case.factors[name] for case in MATRIX}) for name in MATRIX[0].factors}
    wanted = {
        ((a, x), (b, y))
        for a, b in combinations(values, 2)
        for x, y in product(values[a], values[b])
        if {(a, x), (b, y)} != {("layers", "1"), ("dropout", "0.3")}  # dropout acts between layers
    }
    found = {pair for case in MATRIX for pair in combinations(case.factors.items(), 2)}
    assert wanted - found == set()


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.id)
def test_case_runs_in_pytorch_at_several_sizes(case: Case):
    module = case.module()
    for sizes, short in ((case.sizes[0], False), (case.sizes[1], True), (case.sizes[3], True)):
        with torch.no_grad():
            outputs = tree_leaves(module(**case.inputs(sizes, seed=1, short=short)))
        assert len(outputs) == len(case.outputs)
        assert all(torch.isfinite(y).all() for y in outputs)


def test_short_lengths_leave_unused_steps():
    case = next(case for case in CASES if case.factors.get("mode") == "packed")
    for sizes in SIZES:
        assert case.inputs(sizes, short=True)["lengths"].max() < sizes["T"]
        assert case.inputs(sizes, short=False)["lengths"].max() == sizes["T"]


def test_packed_outputs_have_max_lengths_steps():
    by_mode = {case.factors["mode"]: case for case in MATRIX if case.factors["batch_first"] == "False"}
    T = SIZES[0]["T"]
    steps = {}
    for mode, case in by_mode.items():
        y = tree_leaves(case.module()(**case.inputs(SIZES[0], short=True)))[0]
        steps[mode] = y.shape[0] if y.ndim == 3 else None
    assert steps.pop("padded-last") is None
    assert {mode for mode, n in steps.items() if n == T} == {"plain", "packed-total-length", "padded-mask"}
    assert set(steps.values()) == {T, T - 2}


def test_modules_are_the_same_on_every_call_and_leave_the_random_state_alone():
    before = torch.random.get_rng_state()
    first, second = (dict(CASES[0].module().state_dict()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(before, torch.random.get_rng_state())
