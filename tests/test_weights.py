"""Weights are read without running code, and fit exactly or not at all."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgeseq import WeightsError, load_weights, read_weights


class Payload:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def saved(tmp_path, suffix):
    model, path = nn.GRU(3, 4), tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(dict(model.state_dict()), path)
    return model, path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_come_back(suffix, tmp_path):
    model, path = saved(tmp_path, suffix)
    other = nn.GRU(3, 4)
    load_weights(other, path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_checkpoint_that_wraps_its_state_dict_is_read(tmp_path):
    model = nn.GRU(3, 4)
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, tmp_path / "checkpoint.pt")
    assert read_weights(tmp_path / "checkpoint.pt").keys() == model.state_dict().keys()


@pytest.mark.parametrize("pack", [lambda o, p: torch.save(o, p), lambda o, p: p.write_bytes(pickle.dumps(o, protocol=2))])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(pack, tmp_path):
    pack({"w": Payload(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="plain weights"):
        read_weights(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_change_nothing(tmp_path):
    _, path = saved(tmp_path, ".safetensors")
    other = nn.GRU(3, 5)
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(WeightsError, match="should be"):
        load_weights(other, path)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))
    with pytest.raises(WeightsError, match="missing"):
        load_weights(nn.GRU(3, 4, num_layers=2), path)


@pytest.mark.parametrize("name", ["none.pt", "none.safetensors"])
def test_a_missing_or_damaged_file_is_said(name, tmp_path):
    with pytest.raises(WeightsError, match="no weights file"):
        read_weights(tmp_path / name)
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(WeightsError):
        read_weights(tmp_path / name)
