"""A stream that runs for hours: a million steps leave memory flat and the state exact."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from edgeseq_export import ExportNotice, export_request

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from causal_models import causal_model

SOAK = Path(__file__).parent / "soak.py"
MEGABYTE = 2**20


def soaked(name, folder, steps, *lengths):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportNotice)
        path = export_request(causal_model(name), folder / "model.edgeseq")
    command = [sys.executable, str(SOAK), str(path), str(steps), *map(str, lengths)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def require_sound(found, steps):
    assert found["steps"] == steps
    assert found["growth"] < MEGABYTE, found
    assert found["finite"]
    assert found["largest"] < 1e3, found
    assert found["equal"], "a run from the snapshot half-way ends elsewhere"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nn.LSTM", "front end"])
def test_a_million_steps_leave_memory_flat_and_the_state_exact(name, tmp_path):
    require_sound(soaked(name, tmp_path, 1_000_000, 1), 1_000_000)


def test_thirty_thousand_steps_of_more_lengths_than_buffers_are_kept(tmp_path):
    """Buffers come and go all the time: 25 lengths, and a stream keeps those of 16."""
    require_sound(soaked("GRUCell", tmp_path, 30_000, *range(1, 26)), 30_000)
