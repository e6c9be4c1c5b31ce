"""The copy task (Graves, Wayne and Danihelka, 2014, section 4.1), learnt on short sequences and done on longer ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq import LSTMCell, Recurrent
from edgeseq.cells import NTMCell
from edgeseq.models import NeuralTuringMachine, StreamingMachine
from edgeseq.training import Schedule
from edgeseq_export import ExportRequest
from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_most
from edgeseq_recipes.run import Run

BITS = 6
FEATURES = BITS + 2  # and a feature each for where the sequence starts and where it ends
START, END = BITS, BITS + 1
ROWS, WIDTH, HIDDEN = 32, 10, 32
LSTM_HIDDEN = 64
BATCH = 16
VALIDATION, TEST, SHOWN = 10_000, 20_000, 30_000  # added to the run's seed


class Copying(NamedTuple):
    """A batch of the task; what is to be said begins after the end flag."""

    x: Tensor  # (2 L + 2, B, FEATURES): start flag, L vectors of bits as -1 and 1, end flag, then zeros
    bits: Tensor  # (L, B, BITS), 0 and 1


def copy_task(generator: torch.Generator, L: int, B: int) -> Copying:
    """B sequences of L random vectors."""
    bits = torch.randint(2, (L, B, BITS), generator=generator).float()
    x = torch.zeros(2 * L + 2, B, FEATURES)
    x[0, :, START] = 1
    x[1 : L + 1, :, :BITS] = 2 * bits - 1
    x[L + 1, :, END] = 1
    return Copying(x, bits)


class LSTMCopier(nn.Module):
    """An LSTM with an affine readout: all it can remember is in its state."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.layer = Recurrent(LSTMCell(FEATURES, hidden_size, squash="tanh", peepholes=False))
        self.readout = nn.Linear(hidden_size, BITS)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """X (T, B, FEATURES) -> logits (T, B, BITS) and the state after the last step."""
        y, end = self.layer(x)
        return self.readout(y), end


def said(model: nn.Module, x: Tensor, L: int) -> Tensor:
    """Logits (L, B, BITS) of the last L steps."""
    logits: Tensor = model(x)[0]
    return logits[-L:]


def cross_entropy(model: nn.Module, task: Copying) -> Tensor:
    """Of the bits, given the logits."""
    return F.binary_cross_entropy_with_logits(said(model, task.x, len(task.bits)), task.bits)


@torch.no_grad()
def bit_error(model: nn.Module, task: Copying) -> float:
    """Share of bits that are wrong."""
    return ((said(model, task.x, len(task.bits)) > 0) != (task.bits > 0)).double().mean().item()


def trained(run: Run, name: str, model: nn.Module, longest: int, schedule: Schedule) -> nn.Module:
    """A model trained on batches of one length each, uniform in 1 to `longest`."""
    validation = copy_task(torch.Generator().manual_seed(run.seed + VALIDATION), longest, run.pick(100, 20))

    def loss(generator: torch.Generator) -> Tensor:
        L = int(torch.randint(1, longest + 1, (), generator=generator))
        return cross_entropy(model, copy_task(generator, L, BATCH))

    run.fit(name, model, loss, schedule, score=lambda: cross_entropy(model, validation).item())
    return model


class Trace(NamedTuple):
    """What one sequence (T, ...) makes a machine do."""

    x: Tensor  # (T, FEATURES)
    said: Tensor  # probability of each bit, (T, BITS)
    written: Tensor  # address of the write head, (T, N)
    read: Tensor  # of the read head, (T, N)


@torch.no_grad()
def traced(machine: NeuralTuringMachine, x: Tensor) -> Trace:
    """A machine with one head of each kind, run step by step over x (T, 1, FEATURES)."""
    state, steps = machine.layer.initial_state(x), []
    for step in x:
        logits, state = machine(step.unsqueeze(0), state)
        steps.append((step[0], torch.sigmoid(logits[0, 0]), state[2][0, 0], state[1][0, 0]))
    return Trace(*(torch.stack(part) for part in zip(*steps, strict=True)))


def draw(run: Run, trace: Trace) -> None:
    """What goes in and comes out, above where the machine writes and reads; a line after the end flag."""
    panels = (
        ("input", trace.x, "feature", (-1, 1), "RdBu_r"),
        ("output: probability of each bit", trace.said, "bit", (0, 1), "Greys"),
        ("write address", trace.written, "row of memory", (0, 1), "Greys"),
        ("read address", trace.read, "row of memory", (0, 1), "Greys"),
    )
    with run.figure("addresses", nrows=2, ncols=2, sharex=True, figsize=(8.5, 5), height_ratios=(1, 2.4)) as (figure, axes):
        for axis, (title, values, label, (low, high), colours) in zip(axes.flat, panels, strict=True):
            image = axis.imshow(values.T, aspect="auto", interpolation="nearest", vmin=low, vmax=high, cmap=colours, origin="lower")
            axis.set(title=title, ylabel=label)
            axis.grid(visible=False)
            axis.axvline(len(trace.x) // 2 + 0.5, color="tab:orange", linestyle="--", linewidth=1)
            figure.colorbar(image, ax=axis, ticks=[low, high] if low == 0 else [low, 0, high])
        for axis in axes[1]:
            axis.set_xlabel("time step")


def streaming_request(machine: NeuralTuringMachine, name: str) -> ExportRequest:
    """The machine with its state as inputs and outputs; in the example it has written three vectors and is shown more."""
    x = copy_task(torch.Generator().manual_seed(SHOWN), 8, 2).x
    with torch.no_grad():
        _, state = machine(x[:4])
    names = ("memory", "read_address", "write_address", "reads")
    inputs = {"x": x[4:9], **dict(zip(names, state, strict=True))}
    axes = {key: ("T", "B", None) if key == "x" else ("B", None, None) for key in inputs}
    carried = {key: f"{key}_out" for key in names}
    return ExportRequest(StreamingMachine(machine), inputs, axes, state=carried, outputs=("logits", *carried.values()), name=name)


def run(run: Run) -> Findings:
    """Train both on short sequences, then measure both on longer ones."""
    longest = run.pick(10, 3)
    beyond = 2 * longest
    machine = NeuralTuringMachine(NTMCell(FEATURES, HIDDEN, rows=ROWS, width=WIDTH), BITS)
    lstm = LSTMCopier(LSTM_HIDDEN)
    schedule = Schedule(
        steps=run.pick(3000, 200), learning_rate=run.pick(3e-3, 1e-2), decay="cosine", evaluate_every=run.pick(200, 100)
    )
    trained(run, "machine", machine, longest, schedule)
    trained(run, "lstm", lstm, longest, schedule)
    tests = {L: copy_task(torch.Generator().manual_seed(run.seed + TEST), L, run.pick(2000, 100)) for L in (longest, beyond)}
    wanted = {beyond: run.pick(at_most(0.01), at_most(0.45))}
    draw(run, traced(machine, copy_task(torch.Generator().manual_seed(run.seed + SHOWN), beyond, 1).x))
    return Findings(
        measures=(
            *(Measure(f"bit error at length {L}", bit_error(machine, task), wanted.get(L)) for L, task in tests.items()),
            *(Measure(f"bit error at length {L}, LSTM", bit_error(lstm, task)) for L, task in tests.items()),
        ),
        graphs=(streaming_request(machine, "copy"),),
        caption=(
            f"A sequence of {beyond} vectors, twice as long as any in training. The machine writes each vector to a row of "
            "its own, one row further at every step; after the end flag (dashed) it reads the rows in the same order."
        ),
    )


RECIPE = Recipe(
    name="copy",
    row="13",
    title="Explicit memory",
    claim="A network that reads and writes a memory by address learns a procedure, which works beyond the lengths it saw.",
    exported_as="one Scan: memory and addresses are its carried state",
    run=run,
)
