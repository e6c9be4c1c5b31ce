"""What is timed: networks of the usual sizes and two real ones, as a stream's single step or as a whole sequence.

Weights are PyTorch's own initial ones, or drawn; only the voice-activity network's are trained. That changes no time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
FRAMES = 8  # inputs that a stream is fed, over and over
Inputs = dict[str, Tensor]
AxisNames = tuple[str | None, ...]


@dataclass(frozen=True)
class Network:
    """A module in eval mode, an example of its inputs, and which outputs continue which inputs."""

    module: nn.Module
    inputs: Inputs
    axes: Mapping[str, AxisNames]
    outputs: tuple[str, ...]
    state: Mapping[str, str] = field(default_factory=dict)
    uses: Mapping[str, int] = field(default_factory=dict)  # of a weight at each step, where it is not one


@dataclass(frozen=True)
class Workload:
    """A network at a size.

    Args:
        name: for files and the command line.
        title: for people.
        group: the table that it is in: "step", "sequence", "throughput" or "scan".
        T: time steps of a call; 1 and a carried state in the group "step".
        B: sequences of a call.
        make: the network with an example of T steps and B sequences.
        lighter: one that takes fewer operators once its loop is unrolled.
    """

    name: str
    title: str
    group: str
    T: int
    B: int
    make: Callable[[int, int], Network]
    lighter: str | None = None

    @property
    def streams(self) -> bool:
        """Whether a call is one step of a stream."""
        return self.group == "step"

    def network(self) -> Network:
        """The network; the same weights and inputs at every call."""
        torch.manual_seed(0)
        return self.make(self.T, self.B)

    def frames(self, network: Network) -> list[Inputs]:
        """Inputs without the states: as many as a stream is fed in turn, or one sequence."""
        generator = torch.Generator().manual_seed(1)
        given = {name: tensor for name, tensor in network.inputs.items() if name not in network.state}
        if not self.streams:
            return [given]
        return [{name: _like(tensor, generator) for name, tensor in given.items()} for _ in range(FRAMES)]


def _like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=generator) * tensor.std()


class Layers(nn.Module):
    """PyTorch's own layers with their state in the open: x (T, B, I), h (and c) (L, B, H) -> y (T, B, H) and the next states."""

    def __init__(self, layers: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None) -> tuple[Tensor, ...]:
        y, end = self.layers(x, h if c is None else (h, c))
        return (y, end) if c is None else (y, *end)


class Whole(nn.Module):
    """PyTorch's own layers over a whole sequence from a state of zeros: x (T, B, I) -> y (T, B, D*H)."""

    def __init__(self, layers: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)[0]
        return y


def stream(kind: type[nn.LSTM] | type[nn.GRU], inputs: int, hidden: int, layers: int = 1) -> Callable[[int, int], Network]:
    """Layers whose state is carried."""

    def make(T: int, B: int) -> Network:
        names = ("h", "c") if kind is nn.LSTM else ("h",)
        given = {"x": torch.randn(T, B, inputs), **{name: torch.zeros(layers, B, hidden) for name in names}}
        axes: dict[str, AxisNames] = {"x": ("T", "B", None), **dict.fromkeys(names, (None, "B", None))}
        state = {name: f"{name}_out" for name in names}
        return Network(Layers(kind(inputs, hidden, layers)).eval(), given, axes, ("y", *state.values()), state)

    return make


def sequence(
    kind: type[nn.LSTM] | type[nn.GRU], hidden: int, layers: int = 2, *, both: bool = False
) -> Callable[[int, int], Network]:
    """Layers over whole sequences of 64 features."""

    def make(T: int, B: int) -> Network:
        module = Whole(kind(64, hidden, layers, bidirectional=both)).eval()
        return Network(module, {"x": torch.randn(T, B, 64)}, {"x": ("T", "B", None)}, ("y",))

    return make


def voice_activity(T: int, B: int) -> Network:
    """The network of examples/vad with silero-vad's weights."""
    sys.path.insert(0, str(ROOT / "examples" / "vad"))
    from model import CONTEXT, FRAME, POSITIONS, H, pretrained  # type: ignore[import-not-found]

    inputs = {
        "x": 0.1 * torch.randn(T, B, FRAME),
        "context": torch.zeros(B, CONTEXT),
        "h": torch.zeros(1, B, H),
        "c": torch.zeros(1, B, H),
    }
    axes: dict[str, AxisNames] = {"x": ("T", "B", None), "context": ("B", None), "h": (None, "B", None), "c": (None, "B", None)}
    state = {"context": "context_out", "h": "h_out", "c": "c_out"}
    uses = {"stft.weight": POSITIONS, "conv1.weight": POSITIONS}
    return Network(pretrained(), inputs, axes, ("probability", *state.values()), state, uses)


def gait(T: int, B: int) -> Network:
    """The recipe's network for the phase of the gait, with weights drawn at random."""
    from edgeseq_recipes.experiments.gait_network import INPUTS, OUTPUTS, GaitNetwork

    module = GaitNetwork(torch.zeros(INPUTS), torch.ones(INPUTS)).eval()
    context, h = module.start(B)
    axes: dict[str, AxisNames] = {"x": ("T", "B", None), "context": (None, "B", None), "h": (None, "B", None)}
    state = {"context": "context_out", "h": "h_out"}
    return Network(module, {"x": torch.randn(T, B, INPUTS), "context": context, "h": h}, axes, OUTPUTS, state)


def layer_norm(T: int, B: int) -> Network:
    """A LayerNorm-LSTM of 256 units over 64 features."""
    from hoisting import Sequence

    from edgeseq import LayerNormLSTMCell

    module = Sequence(LayerNormLSTMCell(64, 256)).eval()
    return Network(module, {"x": torch.randn(T, B, 64)}, {"x": ("T", "B", None)}, ("y",))


def turing_machine(T: int, B: int) -> Network:
    """A Neural Turing Machine of the size of the paper's copy task, with an LSTM controller."""
    from hoisting import Sequence, machine

    module = Sequence(machine("lstm")).eval()
    return Network(module, {"x": torch.randn(T, B, 64)}, {"x": ("T", "B", None)}, ("y",))


def tree(T: int, B: int) -> Network:
    """A binary Tree-LSTM of 128 units over T nodes, children before parents."""
    from hoisting import LABELS, Trees, drawn_trees

    from edgeseq.cells import TreeLSTMCell

    axes: dict[str, AxisNames] = {"labels": ("T", "B"), "children": ("T", "B", None)}
    return Network(Trees(TreeLSTMCell(LABELS, 128)).eval(), drawn_trees(T, B), axes, ("y",))


WORKLOADS = (
    Workload("lstm-128-step", "LSTM 128", "step", 1, 1, stream(nn.LSTM, 64, 128)),
    Workload("lstm-2x256-step", "LSTM 2×256", "step", 1, 1, stream(nn.LSTM, 64, 256, 2)),
    Workload("gru-2x256-step", "GRU 2×256", "step", 1, 1, stream(nn.GRU, 64, 256, 2)),
    Workload("lstm-1024-step", "LSTM 1024", "step", 1, 1, stream(nn.LSTM, 256, 1024)),
    Workload("vad-step", "voice activity (examples/vad)", "step", 1, 1, voice_activity),
    Workload("gait-step", "gait phase (recipe)", "step", 1, 1, gait),
    Workload("lstm-2x256-100", "LSTM 2×256, T = 100", "sequence", 100, 1, sequence(nn.LSTM, 256)),
    Workload("lstm-2x256-500", "LSTM 2×256, T = 500", "sequence", 500, 1, sequence(nn.LSTM, 256), "lstm-2x256-100"),
    Workload("bilstm-2x256-100", "BiLSTM 2×256, T = 100", "sequence", 100, 1, sequence(nn.LSTM, 256, both=True), "lstm-2x256-100"),
    Workload(
        "bilstm-2x256-500", "BiLSTM 2×256, T = 500", "sequence", 500, 1, sequence(nn.LSTM, 256, both=True), "bilstm-2x256-100"
    ),
    Workload("gru-2x256-100", "GRU 2×256, T = 100", "sequence", 100, 1, sequence(nn.GRU, 256)),
    Workload("gru-2x256-500", "GRU 2×256, T = 500", "sequence", 500, 1, sequence(nn.GRU, 256), "gru-2x256-100"),
    Workload("lstm-2x512-b32", "LSTM 2×512, T = 100, B = 32", "throughput", 100, 32, sequence(nn.LSTM, 512), "lstm-2x256-100"),
    Workload("layer-norm-lstm-256", "LayerNorm-LSTM 256, T = 100", "scan", 100, 1, layer_norm),
    Workload("ntm-100", "Neural Turing Machine, T = 100", "scan", 100, 1, turing_machine, "layer-norm-lstm-256"),
    Workload("tree-lstm-128", "binary Tree-LSTM 128, 100 nodes", "scan", 100, 1, tree, "layer-norm-lstm-256"),
)


def workload(name: str) -> Workload:
    """The workload of that name.

    Raises:
        KeyError: there is none.
    """
    return {one.name: one for one in WORKLOADS}[name]
