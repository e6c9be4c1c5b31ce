"""`edgeseq export` and `edgeseq bench --torch`, as a user types them."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import edgeseq_runtime
from edgeseq_export.bench_peer import load_pytorch

FACTORY = """
import torch
from torch import nn
from helper_beside_it import SIZE

from edgeseq_export import ExportRequest


def request():
    torch.manual_seed(0)
    inputs, axes = {"input": torch.randn(5, 2, 3)}, {"input": ("T", "B", None)}
    return ExportRequest(nn.GRU(3, SIZE), inputs, axes, outputs=("y", "h"), name="tiny")


def wrong():
    return 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("factory")
    (folder / "tiny_factory.py").write_text(FACTORY)
    (folder / "helper_beside_it.py").write_text("SIZE = 4\n")
    return folder


def edgeseq(folder, *arguments, **environment):
    command = [sys.executable, "-m", "edgeseq_runtime.cli.main", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80", **environment})


def weights_of(path):
    x = np.ones((6, 2, 3), np.float32)
    return edgeseq_runtime.load(path).run({"input": x})["y"]


def test_a_factory_is_found_by_file_or_by_module_and_its_neighbours_with_it(folder):
    by_file = edgeseq(folder, "export", folder / "tiny_factory.py:request", "-o", "file.edgeseq")
    assert by_file.returncode == 0, by_file.stderr
    assert "1 GRU" in by_file.stdout
    by_module = edgeseq(folder, "export", "tiny_factory:request", "-o", "module.edgeseq")
    assert by_module.returncode == 0, by_module.stderr
    assert (folder / "file.edgeseq").read_bytes() == (folder / "module.edgeseq").read_bytes()
    assert edgeseq(folder, "parity", "file.edgeseq").returncode == 0


def test_weights_from_a_file_are_the_ones_exported(folder):
    gru = torch.nn.GRU(3, 4)
    save_file(gru.state_dict(), folder / "w.safetensors")
    run = edgeseq(folder, "export", "tiny_factory:request", "--weights", "w.safetensors", "-o", "weighted.edgeseq")
    assert run.returncode == 0, run.stderr
    expected = gru(torch.ones(6, 2, 3))[0].detach().numpy()
    np.testing.assert_allclose(weights_of(folder / "weighted.edgeseq"), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no_such_module:request", "can't import"),
        ("nowhere.py:request", "there is no file"),
        ("tiny_factory:absent", "has no function 'absent'"),
        ("tiny_factory:wrong", "returned a int"),
    ],
)
def test_a_wrong_source_is_bad_usage(source, message, folder):
    run = edgeseq(folder, "export", source, "-o", "never.edgeseq")
    assert run.returncode == 2
    assert message in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr
    assert not (folder / "never.edgeseq").exists()


def test_weights_that_do_not_fit_are_bad_usage(folder):
    save_file(torch.nn.GRU(3, 5).state_dict(), folder / "odd.safetensors")
    run = edgeseq(folder, "export", "tiny_factory:request", "--weights", "odd.safetensors", "-o", "never.edgeseq")
    assert run.returncode == 2
    assert "does not fit" in " ".join(run.stderr.split())


def test_pytorch_is_timed_beside_and_computes_the_same(folder):
    path = folder / "beside.edgeseq"
    assert edgeseq(folder, "export", "tiny_factory:request", "-o", path).returncode == 0
    bench = edgeseq(folder, "bench", path, "--torch", "tiny_factory.py:request")
    assert bench.returncode == 0, bench.stderr
    assert "pytorch" in bench.stdout
    peer = load_pytorch(f"{folder / 'tiny_factory.py'}:request")
    x = np.random.default_rng(0).standard_normal((9, 3, 3)).astype(np.float32)
    for found, expected in zip(peer({"input": x}).values(), edgeseq_runtime.load(path).run({"input": x}).values(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
