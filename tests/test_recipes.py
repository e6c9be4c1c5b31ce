"""Every recipe's short version: what it leaves is whole, and its figures are what was wanted."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from edgeseq_recipes.catalogue import NAMES
from edgeseq_runtime.errors import UsageError


def train(*arguments):
    """`edgeseq train` in this process; its exit code."""
    from edgeseq_recipes.command import main

    return main(list(map(str, arguments))) or 0


@pytest.fixture
def lecture():
    """Makes a recipe that trains two small networks with dropout, and measures what it is told to."""
    import torch
    from torch import nn

    from edgeseq.training import Schedule
    from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_most

    def run_small(run, reached=0.5, interrupt=None, figures=("small",)):
        histories = []
        for name in ("first", "second"):
            steps = []
            net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 1))

            def loss(generator, net=net, name=name, steps=steps):
                if (name, len(steps)) == interrupt:
                    raise KeyboardInterrupt
                steps.append(name)
                x = torch.randn(8, 2, generator=generator)
                return (net(x) - x.sum(-1, keepdim=True)).square().mean()

            histories.append(
                run.fit(name, net, loss, Schedule(20, evaluate_every=5), score=lambda net=net: net(torch.ones(1, 2)).item())
            )
        for name in figures:
            with run.figure(name, ncols=2) as (_, (left, _)):
                left.plot(histories[0].losses)
        return Findings((Measure("a figure", reached, at_most(1.0)), Measure("another", math.inf)), caption="What is shown.")

    def make(**options):
        return Recipe("small", "0", "Small", "It is small.", "–", lambda run: run_small(run, **options))

    return make


@pytest.fixture
def install(monkeypatch, lecture):
    def install(**options):
        monkeypatch.setattr("edgeseq_recipes.command.load_recipe", lambda name: lecture(**options))

    return install


def weights(folder):
    from edgeseq import read_weights

    return {path.name: read_weights(path) for path in folder.glob("*.safetensors")}


def equal(a, b):
    import torch

    return a.keys() == b.keys() and all(torch.equal(a[f][n], b[f][n]) for f in a for n in a[f])


def picture(path):
    """Its pixels (H, W, 3)."""
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG")
    return imread(path)[..., :3]


# The exports of one recipe stand for all of them: `make gallery` exports the rest.
EXPORTED = {"adding-problem"}


@pytest.mark.parametrize("name", NAMES)
def test_its_short_version_runs_and_reaches_what_it_wants(name, tmp_path, monkeypatch):
    import torch

    from edgeseq import load_weights
    from edgeseq_recipes.run import Run

    trained = {}
    original = Run.fit

    def fit(self, fit_name, model, *arguments, **options):
        history = original(self, fit_name, model, *arguments, **options)
        trained[fit_name] = (model, {key: value.clone() for key, value in model.state_dict().items()})
        return history

    monkeypatch.setattr(Run, "fit", fit)
    assert train(name, "--quick", "--out", tmp_path, *(["--export"] if name in EXPORTED else [])) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert (found["name"], found["quick"], found["seed"]) == (name, True, 0)
    bounded = [measure for measure in found["measures"] if measure["wanted"]]
    assert bounded
    assert all(measure["ok"] for measure in bounded)
    assert found["figures"]
    assert found["caption"]
    for figure in found["figures"]:
        pixels = picture(tmp_path / figure)
        assert 300 <= pixels.shape[1] <= 1000
        assert np.mean(pixels.min(axis=-1) < 0.95) > 0.01  # more than a blank page
    assert [fit["name"] for fit in found["fits"]] == list(trained)
    for fit_name, (model, state) in trained.items():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        load_weights(model, tmp_path / f"{fit_name}.safetensors")
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    if name in EXPORTED:
        assert found["graphs"]
        for graph in found["graphs"]:
            assert graph["passed"]
            assert (tmp_path / graph["file"]).is_file()
            assert sum(graph["census"].values()) >= 1


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gait-phase"])  # it streams for seconds
def test_a_short_version_that_learns_nothing_misses_what_it_wants(name, tmp_path, monkeypatch):
    import torch

    from edgeseq_recipes.run import Run

    original = Run.fit

    def fit(self, fit_name, model, loss, schedule, *, score=None, optimizer=None):
        schedule = replace(schedule, steps=1, decay="none")
        return original(self, fit_name, model, loss, schedule, score=score, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))

    monkeypatch.setattr(Run, "fit", fit)
    assert train(name, "--quick", "--out", tmp_path) == 1


def test_the_catalogue_is_read_without_pytorch():
    code = "import sys; from edgeseq_recipes.catalogue import NAMES; assert NAMES and 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_recipe_says_what_it_is(capsys):
    from edgeseq_recipes.catalogue import load_recipe

    for name in NAMES:
        recipe = load_recipe(name)
        assert recipe.name == name
        assert all((recipe.row, recipe.title, recipe.claim.endswith("."), recipe.exported_as))
    assert train("--list") == 0
    shown = capsys.readouterr().out
    assert [name for name in NAMES if f"{name} " not in shown] == []


@pytest.mark.parametrize(("reached", "code"), [(0.5, 0), (1.0, 0), (1.01, 1), (math.nan, 1)])
def test_a_missed_figure_exits_1(reached, code, install, tmp_path, capsys):
    install(reached=reached)
    assert train("small", "--out", tmp_path) == code
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["measures"][0]["ok"] is (code == 0)
    assert found["measures"][1] == {"what": "another", "reached": "inf", "wanted": None, "ok": None}
    assert ("✗" in capsys.readouterr().out) is (code == 1)


@pytest.mark.parametrize("interrupt", [("first", 12), ("second", 3), ("second", 7)])
def test_a_run_that_was_interrupted_goes_on_to_the_same_weights(interrupt, install, tmp_path):
    install()
    assert train("small", "--out", tmp_path / "whole", "--seed", "3") == 0
    install(interrupt=interrupt)
    assert train("small", "--out", tmp_path / "parts", "--seed", "3") == 130
    assert not (tmp_path / "parts" / "metrics.json").exists()
    install()
    assert train("small", "--out", tmp_path / "parts", "--seed", "3", "--resume") == 0
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    for file in ("metrics.json", "small.png"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()
    assert train("small", "--out", tmp_path / "other", "--seed", "4") == 0
    assert not equal(weights(tmp_path / "whole"), weights(tmp_path / "other"))


def test_the_real_program_is_interrupted_and_goes_on(tmp_path):
    """Ctrl-C to `edgeseq train`, as soon as there is a checkpoint."""
    name = "clipping"
    command = [sys.executable, "-m", "edgeseq_runtime.cli.main", "train", name, "--quick", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    run = subprocess.Popen(
        [*command, tmp_path / "parts"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs, which a test run may be one of, ignore Ctrl-C and hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while run.poll() is None and not list((tmp_path / "parts" / "checkpoints").glob("by-norm.safetensors")):
        time.sleep(0.005)
    run.send_signal(signal.SIGINT)
    assert "--resume goes on from" in " ".join(run.communicate()[1].split())
    assert run.returncode == 130
    assert not (tmp_path / "parts" / "metrics.json").exists()
    assert train(name, "--quick", "--out", tmp_path / "parts", "--resume") == 0
    assert train(name, "--quick", "--out", tmp_path / "whole") == 0
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_a_fresh_run_leaves_nothing_to_go_on_from_but_its_own(install, tmp_path):
    install()
    assert train("small", "--out", tmp_path) == 0
    install(interrupt=("first", 12))
    assert train("small", "--out", tmp_path) == 130
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["first.safetensors"]


def test_going_on_with_another_seed_is_bad_usage(install, tmp_path):
    install()
    train("small", "--out", tmp_path)
    with pytest.raises(UsageError, match="seed was 0 and is 1"):
        train("small", "--out", tmp_path, "--seed", "1", "--resume")


@pytest.mark.parametrize(("arguments", "message"), [(["nothing"], "there is no recipe 'nothing'"), ([], "--list")])
def test_bad_usage_says_what_to_do(arguments, message):
    with pytest.raises(UsageError, match=message):
        train(*arguments)


def test_a_folder_that_can_not_be_made_is_bad_usage(install, tmp_path):
    install()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--out"):
        train("small", "--out", tmp_path / "file" / "folder")


def test_a_folder_that_can_not_be_written_to_is_bad_usage(install, tmp_path):
    install()
    (tmp_path / "small.png").mkdir()
    with pytest.raises(UsageError, match=r"can't write to .*small\.png.*--out"):
        train("small", "--out", tmp_path)


def test_a_fresh_run_deletes_what_an_earlier_one_left_and_nothing_else(install, tmp_path):
    folder = tmp_path / "run"
    install(figures=("early",))
    assert train("small", "--out", folder) == 0
    found = json.loads((folder / "metrics.json").read_text())
    found["graphs"] = [{"file": "early.edgeseq"}, {"file": "../beside.edgeseq"}]
    (folder / "metrics.json").write_text(json.dumps(found))
    for path in (folder / "early.edgeseq", folder / "notes.png", tmp_path / "beside.edgeseq"):
        path.touch()
    install(figures=("late",))
    assert train("small", "--out", folder, "--resume") == 0
    assert (folder / "early.edgeseq").exists()
    (folder / "metrics.json").write_text(json.dumps(found))
    assert train("small", "--out", folder) == 0
    left = {path.name for path in folder.iterdir()}
    assert left == {"checkpoints", "first.safetensors", "second.safetensors", "late.png", "metrics.json", "notes.png"}
    assert (tmp_path / "beside.edgeseq").exists()
    (folder / "metrics.json").write_text("[]")
    assert train("small", "--out", folder) == 0


def test_a_fit_or_figure_is_never_overwritten_by_another(install, tmp_path):
    install(figures=("a", "a"))
    with pytest.raises(ValueError, match="has a figure 'a' already"):
        train("small", "--out", tmp_path)


def test_a_wide_figure_is_made_to_fit(tmp_path):
    from edgeseq_recipes.run import Run

    run = Run(tmp_path)
    with run.figure("wide", figsize=(20, 4)) as (_, axes):
        axes.plot([1, 2])
    assert picture(tmp_path / "wide.png").shape[1] == 1000
    with pytest.raises(RuntimeError), run.figure("broken"):
        raise RuntimeError
    assert not (tmp_path / "broken.png").exists()
    assert run.figures == ["wide"]
