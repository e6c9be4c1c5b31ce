"""Correct exports of modules drawn at random raise no alarm: a reduced run of what the gates of parity rest on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from calibration import measure
from calibration_page import tables
from parity_rules import RULES, US
from random_modules import CELLS, TORCH_KINDS, random_module

from edgeseq_runtime.bundle import DEFAULT_GATES

GATE = DEFAULT_GATES["fp32"]
QUICK = (3, 9)  # seeds: a packed RNN and a plain one, of 2 and 3 layers


def test_seeds_cover_every_kind_and_every_way_to_use_it():
    drawn = [random_module(seed) for seed in range(120)]
    assert {one.traits["kind"] for one in drawn} == {*TORCH_KINDS, *CELLS}
    assert {one.traits["takes"] for one in drawn} == {"nothing", "lengths", "states"}
    assert {one.traits["depth"] for one in drawn} == {1, 2, 3, 4}
    assert min(one.traits["T"] for one in drawn) == 1
    assert max(one.traits["T"] for one in drawn) > 1000
    assert min(one.traits["H"] for one in drawn) <= 2
    assert max(one.traits["H"] for one in drawn) > 400


def test_a_seed_is_one_module():
    one, other = (random_module(11) for _ in range(2))
    assert one.traits == other.traits
    for a, b in zip(one.request.model.parameters(), other.request.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore")
def test_correct_exports_raise_no_alarm(tmp_path):
    found = [measure(seed, tmp_path) for seed in QUICK]
    for one in found:
        assert one["outcome"] == "exported"
        assert not one["alarms"][US], one["reason"]
        assert set(one["alarms"]) == set(RULES)
        long = [row for row in one["rows"] if row["sizes"]["T"] == one["T"]]
        assert {row["mode"] for row in long} >= {"whole"}
        for row in one["rows"]:
            # The measure anew, from what it is made of.
            scale = max(row["own"], 2 * 2.0**-23 * row["rms"])
            assert row["k"] == pytest.approx(row["error"] / scale)
            assert row["k"] <= GATE.k
    assert f"| {US} | {len(QUICK)} | 0 | 0.0 % |" in tables(found)["false alarms"]
