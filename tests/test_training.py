"""The training loop: its steps, clipping, stopping, and checkpoints from which it goes on bit for bit."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from edgeseq import load_weights
from edgeseq.training import CheckpointError, Schedule, fit, save_weights


@pytest.fixture(autouse=True)
def _python_handles_ctrl_c():
    """Which it does not where the test run is a shell's background job: those ignore it, and what they start inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Net(nn.Module):
    """Dropout, a buffer that training changes, tied weights, and a recurrence."""

    def __init__(self, H=5):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.rnn = nn.RNN(2, H)
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(H, 1)
        self.again = self.out

    def forward(self, x):
        x = self.norm(x.flatten(0, 1)).reshape(x.shape)
        return self.again(self.drop(self.rnn(x)[0]))


def setting(H=5):
    torch.manual_seed(3)
    net = Net(H)
    held_out = torch.randn(6, 8, 2)

    def loss(generator):
        x = torch.randn(6, 4, 2, generator=generator)
        return (net(x) - x.sum(-1, keepdim=True)).square().mean()

    # Best at step 14, so that neither the last weights nor those at an interruption are the best.
    return net, loss, lambda: net(held_out).square().mean().tanh() + abs(net.norm.num_batches_tracked - 14)


SCHEDULE = Schedule(30, learning_rate=0.02, evaluate_every=7, seed=4)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def assert_same_checkpoint(a, b):
    """The same tensors and metadata; safetensors writes the latter in any order."""
    with safe_open(a, framework="pt") as first, safe_open(b, framework="pt") as second:
        assert first.metadata() == second.metadata()
        assert equal(*({name: file.get_tensor(name) for name in file.keys()} for file in (first, second)))  # noqa: SIM118


def interrupt_at(step):
    def watch(now, loss, score):
        if now == step:
            signal.raise_signal(signal.SIGINT)

    return watch


OPTIMIZERS = {
    "adam": None,
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.02, amsgrad=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
}


@pytest.mark.parametrize(
    ("optimizer", "decay"), [("adam", "cosine"), ("amsgrad", "none"), ("momentum", "cosine"), ("rmsprop", "none")]
)
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(optimizer, decay, tmp_path):
    schedule = replace(SCHEDULE, decay=decay)
    net, loss, score = setting()
    whole = fit(net, loss, schedule, score=score, optimizer=OPTIMIZERS[optimizer], checkpoint=tmp_path / "whole.safetensors")
    again, loss, score = setting()
    path = tmp_path / "parts.safetensors"
    for stop in (1, 7, 18):
        with pytest.raises(KeyboardInterrupt):
            fit(
                again,
                loss,
                schedule,
                score=score,
                optimizer=OPTIMIZERS[optimizer],
                checkpoint=path,
                resume=True,
                # Ctrl-C in the middle of a step, when the optimizer is half-way, waits for the step's end.
                watch=interrupt_at(stop),
            )
        again, loss, score = setting()
        torch.rand(stop)  # another state of the global generator
    parts = fit(again, loss, schedule, score=score, optimizer=OPTIMIZERS[optimizer], checkpoint=path, resume=True)
    assert parts == whole
    assert equal(net.state_dict(), again.state_dict())
    assert_same_checkpoint(path, tmp_path / "whole.safetensors")


def test_the_comparison_above_sees_other_batches_and_other_dropout(tmp_path):
    net, loss, score = setting()
    fit(net, loss, SCHEDULE, score=score)
    other, loss, score = setting()
    fit(other, loss, replace(SCHEDULE, seed=5), score=score)
    assert not equal(net.state_dict(), other.state_dict())
    other, loss, score = setting()
    fit(other, lambda generator: (torch.rand(1), loss(generator))[1], SCHEDULE, score=score)  # shifts dropout's draws
    assert not equal(net.state_dict(), other.state_dict())


def test_ctrl_c_waits_for_the_step_and_its_handler_is_given_back(tmp_path):
    net, loss, _ = setting()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fit(net, loss, SCHEDULE, optimizer=lambda _: optimizer, checkpoint=tmp_path / "c.safetensors")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        assert json.loads(file.metadata()["edgeseq_training"])["step"] == 1
        assert torch.equal(file.get_tensor("model/out.weight"), net.out.weight)


def test_a_run_that_is_done_is_not_run_again(tmp_path):
    net, loss, score = setting()
    first = fit(net, loss, SCHEDULE, score=score, checkpoint=tmp_path / "c.safetensors")
    again, _, _ = setting()
    second = fit(again, None, SCHEDULE, score=score, checkpoint=tmp_path / "c.safetensors", resume=True)
    assert second == first
    assert equal(net.state_dict(), again.state_dict())
    longer = fit(setting()[0], loss, replace(SCHEDULE, steps=40), score=score, checkpoint=tmp_path / "c.safetensors", resume=True)
    assert longer.steps == 40
    assert longer.losses[:30] == first.losses


def test_a_step_is_the_gradient_times_the_rate():
    """Plain descent on a quadratic, by hand in float64; the learning rate decays along a cosine to a tenth."""
    weight, rates = 3.0, []
    net = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(net.weight, weight)
    fit(
        net,
        lambda _: net.weight.square().sum(),
        Schedule(5, clip_norm=None, decay="cosine"),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )
    for step in range(5):
        rates.append(0.1 * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 4)) / 2))
        weight -= rates[-1] * 2 * weight
    assert rates[0] == 0.1
    assert rates[-1] == pytest.approx(0.01)
    assert net.weight.item() == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize(
    ("clipping", "expected"),
    [
        ({"clip_norm": None}, (3.0, 4.0)),
        ({"clip_norm": 1.0}, (0.6, 0.8)),
        ({"clip_norm": 10.0}, (3.0, 4.0)),
        ({"clip_norm": None, "clip_value": 3.5}, (3.0, 3.5)),
        ({"clip_norm": 2.5, "clip_value": 1.6}, (1.5, 1.6)),  # the norm first
    ],
)
def test_the_gradient_is_clipped_by_norm_and_by_value(clipping, expected):
    net = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(net.weight)
    slope = torch.tensor([[3.0, 4.0]])
    history = fit(
        net, lambda _: (net.weight * slope).sum(), Schedule(1, **clipping), optimizer=lambda p: torch.optim.SGD(p, lr=1.0)
    )
    np.testing.assert_allclose(net.weight.detach().numpy(), [[-e for e in expected]], rtol=1e-5)
    assert history.gradient_norms == (5.0,)


def scored(scores, schedule):
    """A run whose scores are given; its weight counts the steps."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    answers = iter(scores)
    history = fit(
        net,
        lambda _: -net.weight.sum(),
        replace(schedule, clip_norm=None, evaluate_every=1),
        score=lambda: next(answers),
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
    )
    return history, net.weight.item()


@pytest.mark.parametrize(
    ("scores", "schedule", "stopped", "steps", "best_step"),
    [
        ([3, 2, 4], Schedule(3), "finished", 3, 2),
        ([3, 2, 4, 5, 6], Schedule(9, patience=2), "patience", 4, 2),
        ([3, 3, 3, 3], Schedule(9, patience=3), "patience", 4, 1),
        ([3, 1, 0.5, 9], Schedule(9, target=1.0), "target", 2, 2),
        ([math.nan, 5, math.nan], Schedule(3), "finished", 3, 2),
    ],
)
def test_it_stops_when_it_should_with_the_best_weights(scores, schedule, stopped, steps, best_step):
    history, weight = scored(scores, schedule)
    assert (history.stopped, history.steps, weight) == (stopped, steps, best_step)
    assert history.best == min(score for _, score in history.scores if not math.isnan(score))
    assert [step for step, _ in history.scores] == list(range(1, steps + 1))


def test_a_run_that_diverges_stops_with_the_weights_before():
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    grow = lambda p: torch.optim.SGD(p, lr=1e12)  # noqa: E731
    history = fit(net, lambda _: net.weight.pow(4).sum(), Schedule(50, clip_norm=None), optimizer=grow)
    assert history.stopped == "diverged"
    assert history.steps < 5
    assert not math.isfinite(history.losses[-1])
    assert net.weight.isfinite().all()


def test_where_every_score_is_nan_so_is_the_best():
    net, loss, _ = setting()
    assert math.isnan(fit(net, loss, Schedule(2), score=lambda: math.nan).best)
    history = fit(net, loss, Schedule(2))
    assert history.best == history.losses[-1]


def test_what_a_model_draws_is_not_what_its_batch_is_drawn_from():
    net, loss, _ = setting()
    drawn = []
    fit(net, lambda generator: (drawn.append((torch.rand(9, generator=generator), torch.rand(9))), loss(generator))[1], Schedule(2))
    (batch, own), (next_batch, next_own) = drawn
    assert len({tuple(draws.tolist()) for draws in (batch, own, next_batch, next_own)}) == 4


def test_evaluation_is_in_eval_mode_without_gradients_and_training_is_not():
    net, loss, _ = setting()
    modes = []

    def score():
        modes.append((net.training, torch.is_grad_enabled()))
        return 0.0

    fit(net, lambda generator: (modes.append(net.training), loss(generator))[1], Schedule(2, evaluate_every=1), score=score)
    assert modes == [True, (False, False)] * 2
    assert not net.training


def test_a_checkpoint_is_written_at_every_evaluation_whole_or_not_at_all(tmp_path):
    net, loss, _ = setting()
    path = tmp_path / "new" / "c.safetensors"
    seen = []
    fit(net, loss, SCHEDULE, checkpoint=path, watch=lambda step, *_: seen.append(path.exists() and path.read_bytes()))
    assert [step for step, (a, b) in enumerate(pairwise(seen), 2) if a != b] == [7, 14, 21, 28, 30]
    assert [file.name for file in path.parent.iterdir()] == ["c.safetensors"]


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "cut":
        del data[len(data) // 2 :]
    if how == "flipped":
        data[-5] ^= 1
    if how == "settings":
        data = data.replace(b"0.999", b"0.888")
    if how == "empty":
        data.clear()
    path.write_bytes(data)
    if how == "weights":
        save_file({"w": torch.zeros(2)}, path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "no readable"),
        ("flipped", "damaged"),
        ("settings", "damaged"),
        ("empty", "no readable"),
        ("weights", "format 1; found none"),
    ],
)
def test_a_damaged_checkpoint_is_said_and_changes_nothing(how, message, tmp_path):
    net, loss, _ = setting()
    fit(net, loss, Schedule(3), checkpoint=tmp_path / "c.safetensors")
    damage(tmp_path / "c.safetensors", how)
    other, loss, _ = setting()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        fit(other, loss, Schedule(3), checkpoint=tmp_path / "c.safetensors", resume=True)
    assert equal(before, other.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": replace(SCHEDULE, seed=9)}, "seed was 4 and is 9"),
        ({"schedule": replace(SCHEDULE, clip_norm=None)}, "clip_norm was 1.0 and is None"),
        ({"H": 6}, r"out.weight is \(1, 5\) and should be \(1, 6\)"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}, "optimizer was Adam and is SGD"),
        ({"optimizer": lambda p: torch.optim.Adam(list(p)[2:])}, r"had \[8\] parameters and have \[6\]"),
        ({"optimizer": lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.8, 0.9))}, r"betas was \[0.9, 0.999\] and is \[0.8, 0.9\]"),
        ({"optimizer": lambda p: torch.optim.Adam(p, lr=0.5)}, r"learning_rates was \[0.02\] and is \[0.5\]"),
        ({"schedule": replace(SCHEDULE, steps=20)}, "30 steps"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(change, message, tmp_path):
    net, loss, _ = setting()
    fit(net, loss, SCHEDULE, checkpoint=tmp_path / "c.safetensors")
    other, loss, _ = setting(change.get("H", 5))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        fit(
            other,
            loss,
            change.get("schedule", SCHEDULE),
            optimizer=change.get("optimizer"),
            checkpoint=tmp_path / "c.safetensors",
            resume=True,
        )
    assert equal(before, other.state_dict())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Schedule(0),
        lambda: Schedule(1, clip_norm=0.0),
        lambda: Schedule(1, decay="linear"),
        lambda: Schedule(1, seed=-1),
        lambda: fit(nn.Linear(1, 1), None, Schedule(1, target=1.0)),
        lambda: fit(nn.Linear(1, 1), None, Schedule(1), resume=True),
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"positive|choose|0 or more|give one|name its file"):
        wrong()


def test_saved_weights_load(tmp_path):
    net, other = Net(), Net()
    save_weights(net, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert equal(net.state_dict(), other.state_dict())
