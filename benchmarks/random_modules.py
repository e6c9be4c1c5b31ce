"""Recurrent modules drawn at random, as users might write them: what a measure of equality is calibrated on.

One seed is one module: its kind, depth, sizes, how strongly its recurrence feeds back, whether it takes lengths or states, what is
around it, and the sizes of a long sequence to run it at.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from edgeseq import (
    Cell,
    CoupledLSTMCell,
    GRUCell,
    IndRNNCell,
    LayerNormLSTMCell,
    LSTMCell,
    MinimalGatedCell,
    ProjectedLSTMCell,
    Recurrent,
    RecurrentStack,
    RNNCell,
)
from edgeseq.layers import SequenceLayer
from edgeseq_export import ExportRequest

MAX_SIZE = 512  # features of the input, and hidden units
MAX_T = 2000
# The long sequence is shortened where its multiplications, all draws together, would be more.
MAX_WORK = 4e9
MAX_EAGER_STEPS = 150  # of cells that PyTorch runs step by step

TORCH_KINDS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "nn.LSTM": (nn.LSTM, {}),
    "nn.GRU": (nn.GRU, {}),
    "nn.RNN tanh": (nn.RNN, {"nonlinearity": "tanh"}),
    "nn.RNN relu": (nn.RNN, {"nonlinearity": "relu"}),
    "nn.LSTM proj": (nn.LSTM, {"proj_size": 1}),  # its size is set to half of the hidden units
}
CELLS: dict[str, Callable[[int, int], Cell]] = {
    "LSTMCell with peepholes": lambda i, h: LSTMCell(i, h, squash="tanh", peepholes=True),
    "LSTMCell of the lecture": LSTMCell,
    "GRUCell, reset before": lambda i, h: GRUCell(i, h, reset_after=False),
    "RNNCell": RNNCell,
    "CoupledLSTMCell": CoupledLSTMCell,
    "MinimalGatedCell": MinimalGatedCell,
    "IndRNNCell": IndRNNCell,
    "LayerNormLSTMCell": LayerNormLSTMCell,
    "ProjectedLSTMCell": lambda i, h: ProjectedLSTMCell(i, h + 1, max(1, h // 2)),
}
# At which multiple of PyTorch's initial recurrent weights, uniform in +-1/sqrt(H), is the feedback about to amplify what it is fed?
# tanh: its spectral radius is 1/sqrt(3). Gates halve what passes them.
EDGE = {"nn.RNN tanh": 1.7, "nn.RNN relu": 1.7, "RNNCell": 1.7, "IndRNNCell": 1.0}
GATED_EDGE = 4.0


class Drawn(NamedTuple):
    """A module to export, what was drawn, and the sizes of its long sequence."""

    request: ExportRequest
    traits: dict[str, Any]
    sizes: dict[str, int]
    longest: dict[str, int]  # the longest of the lengths, where shorter than T


class Drawing(nn.Module):
    """x -> [linear, tanh] -> recurrent layers -> [linear]; with lengths packed, with states given and returned."""

    def __init__(self, before: nn.Module, layers: nn.Module, after: nn.Module, *, last: bool) -> None:
        super().__init__()
        self.before, self.layers, self.after = before, layers, after
        self.last = last

    def _readout(self, y: Tensor, hidden: Tensor) -> Tensor:
        result: Tensor = self.after(hidden if self.last else y)
        return result


class TorchDrawing(Drawing):
    """Around one of PyTorch's layers."""

    def run(self, x: Tensor, state: Any, lengths: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Y and the states after the last step."""
        x = self.before(x)
        if lengths is not None:
            y, end = self.layers(pack_padded_sequence(x, lengths, enforce_sorted=False), state)
            y = pad_packed_sequence(y)[0]
        else:
            y, end = self.layers(x, state)
        ends = end if isinstance(end, tuple) else (end,)
        return self._readout(y, ends[0][-1]), ends


class CellDrawing(Drawing):
    """Around a layer or a stack of edgeseq's."""

    def run(self, x: Tensor, state: Any, lengths: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Y and the states after the last step."""
        y, ends = self.layers(self.before(x), state, lengths)
        return self._readout(y, torch.cat([ends[at] for at in _hidden_states(self.layers)], -1)), ends


def _forwards(base: type[Any]) -> dict[tuple[bool, int], type[Any]]:
    """A class for each signature: with lengths or not, with 0, 1 or 2 states, since an exported forward names its arguments."""

    class Plain(base):
        def forward(self, x: Tensor) -> Tensor:
            return self.run(x, None, None)[0]

    class Padded(base):
        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            return self.run(x, None, lengths)[0]

    class OneState(base):
        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            y, (end,) = self.run(x, h if base is TorchDrawing else (h,), None)
            return y, end

    class TwoStates(base):
        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y, (h_end, c_end) = self.run(x, (h, c), None)
            return y, h_end, c_end

    return {(False, 0): Plain, (True, 0): Padded, (False, 1): OneState, (False, 2): TwoStates}


FORWARDS = {base: _forwards(base) for base in (TorchDrawing, CellDrawing)}


def random_module(seed: int) -> Drawn:
    """The module of this seed."""
    random = np.random.default_rng([20, seed])
    torch.manual_seed(seed)
    torch_kind = bool(random.random() < 0.6)
    kind = str(random.choice(list(TORCH_KINDS if torch_kind else CELLS)))
    I, H = (_log_uniform(random, 1, MAX_SIZE) for _ in range(2))  # noqa: E741
    if kind == "nn.LSTM proj":
        H = max(H, 2)
    depth = int(random.choice([1, 1, 2, 3, 4]))
    bidirectional = bool(random.random() < 0.3)
    feedback = float(np.exp(random.uniform(math.log(0.1), math.log(1.2)))) * EDGE.get(kind, GATED_EDGE)
    layers, states = (_torch_layers if torch_kind else _cell_layers)(kind, I, H, depth, bidirectional)
    _scale_feedback(layers, feedback)
    width = _width(layers, I)
    # States of a stack of cells are tensors of their own: one layer's are given, so that their number stays that of the names.
    takes = str(random.choice(["nothing", "lengths", "states"], p=[0.3, 0.35, 0.35]))
    if takes == "states" and (bidirectional or (not torch_kind and depth > 1)):
        takes = "lengths"
    last = bool(takes != "states" and random.random() < 0.2)
    readout = bool(random.random() < 0.6)
    before = nn.Sequential(nn.Linear(I, I), nn.Tanh()) if random.random() < 0.3 else nn.Identity()
    entering = _hidden_width(layers) if last else width
    after = nn.Linear(entering, _log_uniform(random, 1, 64)) if readout else nn.Identity()
    scale = float(np.exp(random.uniform(math.log(0.1), math.log(10))))
    base = TorchDrawing if torch_kind else CellDrawing
    module = FORWARDS[base][takes == "lengths", states if takes == "states" else 0](before, layers, after, last=last).eval()

    T, B = 7, 3
    x = scale * torch.randn(T, B, I)
    inputs: dict[str, Tensor] = {"x": x}
    axes: dict[str, tuple[str | None, ...]] = {"x": ("T", "B", None)}
    outputs, pairs = ["y"], None
    if takes == "lengths":
        inputs["lengths"], axes["lengths"] = torch.tensor([T, 2, 5]), ("B",)
    elif takes == "states":
        names = ("h", "c")[:states]
        inputs |= dict(zip(names, _initial_states(layers, x), strict=True))
        axes |= dict.fromkeys(names, (None, "B", None) if torch_kind else ("B", None))
        pairs = {name: f"{name}_out" for name in names}
        outputs += pairs.values()
    sizes = _long_sizes(random, module, torch_kind)
    shorter = {"T": max(1, sizes["T"] - int(random.integers(0, 1 + sizes["T"] // 4)))} if takes == "lengths" else {}
    traits = {
        "seed": seed, "kind": kind, "I": I, "H": H, "depth": depth, "bidirectional": bidirectional, "feedback": round(feedback, 3),
        "takes": takes, "last": last, "readout": readout, "input scale": round(scale, 3), "T": sizes["T"], "B": sizes["B"],
    }  # fmt: skip
    return Drawn(ExportRequest(module, inputs, axes, pairs, outputs, name=f"random{seed}"), traits, sizes, shorter)


def _log_uniform(random: np.random.Generator, low: int, high: int) -> int:
    return int(np.exp(random.uniform(math.log(low), math.log(high + 1))))


def _torch_layers(kind: str, I: int, H: int, depth: int, bidirectional: bool) -> tuple[nn.Module, int]:  # noqa: E741
    layer, options = TORCH_KINDS[kind]
    if "proj_size" in options:
        options = {"proj_size": H // 2}
    return layer(I, H, num_layers=depth, bidirectional=bidirectional, **options), 2 if layer is nn.LSTM else 1


def _cell_layers(kind: str, I: int, H: int, depth: int, bidirectional: bool) -> tuple[nn.Module, int]:  # noqa: E741
    make = CELLS[kind]
    layers = []
    for _ in range(depth):
        cell = make(I, H)
        layers.append(Recurrent(cell, backward=make(I, H) if bidirectional else None))
        I = _width(layers[-1], I)  # noqa: E741
    states = len(layers[0].directions[0][0].state_shapes)
    return (layers[0] if depth == 1 else RecurrentStack(*layers)), states


def _scale_feedback(layers: nn.Module, factor: float) -> None:
    """Multiply what the hidden state is multiplied with; a projection and a forget gate's bias stay."""
    with torch.no_grad():
        for name, parameter in layers.named_parameters():
            if "weight_hh" in name:
                parameter *= factor


def _width(layers: nn.Module, I: int) -> int:  # noqa: E741
    with torch.no_grad():
        y = layers(torch.zeros(1, 1, I))[0]
    return int(y.shape[-1])


def _hidden_width(layers: nn.Module) -> int:
    """Features of the last layer's hidden state: of PyTorch's in one direction, of a cell's in all."""
    if isinstance(layers, nn.RNNBase):
        return layers.proj_size or layers.hidden_size
    shapes = _last_layer(layers).state_shapes
    return sum(shapes[at][0] for at in _hidden_states(layers))


def _hidden_states(layers: nn.Module) -> list[int]:
    """Which of the states are the hidden ones of the last layer, counted from the end: one a direction."""
    last = _last_layer(layers)
    directions = len(last.directions) if isinstance(last, Recurrent) else 1
    total = len(last.state_shapes)
    return [number * total // directions - total for number in range(directions)]


def _last_layer(layers: nn.Module) -> SequenceLayer:
    layer = layers.layers[-1] if isinstance(layers, RecurrentStack) else layers
    assert isinstance(layer, SequenceLayer)
    return layer


def _initial_states(layers: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    if not isinstance(layers, nn.RNNBase):
        state: tuple[Tensor, ...] = layers.initial_state(x)  # type: ignore[operator]
        return state
    with torch.no_grad():
        end = layers(torch.zeros(1, x.shape[1], layers.input_size))[1]
    return tuple(torch.zeros_like(t) for t in (end if isinstance(end, tuple) else (end,)))


def _long_sizes(random: np.random.Generator, module: nn.Module, torch_kind: bool) -> dict[str, int]:
    """T from 1 to 2,000, by its logarithm, and B, within the work."""
    T, B = _log_uniform(random, 1, MAX_T), int(random.integers(1, 5))
    weights = sum(p.numel() for p in module.parameters())
    most = int(MAX_WORK / (32 * weights))
    if not torch_kind:
        T = min(T, MAX_EAGER_STEPS)
    while max(most, 4) < T * B:
        T, B = (T, B // 2) if B > 1 else (T // 2, B)
    return {"T": max(T, 1), "B": B}
