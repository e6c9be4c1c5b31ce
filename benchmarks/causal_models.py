"""Every causal model of the library as something to export with its state: what can be fed in chunks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

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
from edgeseq.cells import NTMCell
from edgeseq.layers import SequenceLayer
from edgeseq.models import (
    AttentionDecoder,
    AttentionGraph,
    AutoregressiveRNN,
    DeepTransitionRNN,
    FixedContextDecoder,
    FixedContextGraph,
    HierarchicalRNN,
    IndependentOutputsRNN,
    NeuralTuringMachine,
    SequenceConditionedRNN,
    StreamingMachine,
    VectorConditionedRNN,
)
from edgeseq.models.conditional import IndependentOutputsGraph, SequenceStepGraph, VectorStepGraph
from edgeseq.models.graphical import StepGraph
from edgeseq.streaming import CausalConv1d, CausalPool1d, Delay, FrameStack, Framewise, StreamGraph, WindowNorm
from edgeseq_export import ExportRequest

I, H, V, S = 40, 64, 30, 9  # noqa: E741  features of the input and of the state, tokens, steps of a memory
T, B = 12, 3  # of the examples
Make = Callable[[], ExportRequest]


def layer(make: Callable[[], SequenceLayer]) -> ExportRequest:
    """A layer, or a stack of them."""
    graph = StreamGraph(make())
    inputs = graph.inputs(torch.randn(T, B, I))
    return ExportRequest(graph, inputs, graph.axes(inputs), graph.state, graph.outputs)


def cell(make: Callable[[int, int], Cell]) -> ExportRequest:
    """A cell run over time."""
    return layer(lambda: Recurrent(make(I, H)))


class Torch(nn.Module):
    """PyTorch's own layers, two on top of each other, and a readout."""

    def __init__(self, kind: type[nn.RNNBase], states: int) -> None:
        super().__init__()
        self.layers = kind(I, H, num_layers=2)
        self.readout = nn.Linear(H, 8)
        self.states = states

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None) -> tuple[Tensor, ...]:
        """From x (T, B, I) and the states (2, B, H) to the readout (T, B, 8) and the next states."""
        y, end = self.layers(x, h if c is None else (h, c))
        return (self.readout(y), *(end if self.states == 2 else (end,)))


def torch_layers(kind: type[nn.RNNBase], states: int = 1) -> ExportRequest:
    """`nn.RNN`, `nn.GRU` or `nn.LSTM`."""
    names = ("h", "c")[:states]
    inputs = {"x": torch.randn(T, B, I), **{name: torch.zeros(2, B, H) for name in names}}
    axes = {"x": ("T", "B", None), **dict.fromkeys(names, (None, "B", None))}
    state = {name: f"{name}_out" for name in names}
    return ExportRequest(Torch(kind, states), inputs, axes, state, ("y", *state.values()))


def model(module: nn.Module, inputs: dict[str, Tensor], axes: dict[str, tuple[str | None, ...]], output: str) -> ExportRequest:
    """A model of `edgeseq.models` whose one state is h."""
    return ExportRequest(module, inputs, axes, {"h": "h_out"}, (output, "h_out"))


TOKENS: dict[str, tuple[str | None, ...]] = {"previous": ("T", "B"), "h": ("B", None)}
FRAMES: dict[str, tuple[str | None, ...]] = {"x": ("T", "B", None), "h": ("B", None)}


def tokens(**further: Tensor) -> dict[str, Tensor]:
    """Tokens before each step, further inputs, and a state."""
    return {**further, "previous": torch.randint(V, (T, B)), "h": torch.zeros(B, H)}


def frames(h: Tensor | None = None) -> dict[str, Tensor]:
    """Frames and a state."""
    return {"x": torch.randn(T, B, I), "h": torch.zeros(B, H) if h is None else h}


def vector_step() -> ExportRequest:
    """A model conditioned on a vector."""
    made = VectorConditionedRNN(nn.Linear(I, 16), 16, V, H)
    return model(VectorStepGraph(made), tokens(context=torch.randn(B, 16)), {**TOKENS, "context": ("B", None)}, "log_p")


def decoder(attention: bool) -> ExportRequest:
    """The decoder of an encoder-decoder, with a fixed vector or with attention."""
    made = (AttentionDecoder if attention else FixedContextDecoder)(V, 16, H, 32)
    if isinstance(made, FixedContextDecoder):
        return model(FixedContextGraph(made), tokens(context=torch.randn(B, 32)), {**TOKENS, "context": ("B", None)}, "logits")
    inputs = tokens(annotations=torch.randn(S, B, 32), lengths=torch.tensor([S, 2, 5]))
    axes = {"annotations": ("S", "B", None), "lengths": ("B",), **TOKENS}
    return model(AttentionGraph(made), inputs, axes, "logits")


def turing_machine() -> ExportRequest:
    """A Neural Turing Machine with an LSTM controller."""
    made = NTMCell(I, 24, rows=8, width=6, read_heads=1, write_heads=1, controller="lstm")
    names = ("memory", "read_address", "write_address", "reads", "h", "s")
    x = torch.randn(T, B, I)
    inputs = {"x": x, **dict(zip(names, made.initial_state(x), strict=True))}
    axes: dict[str, tuple[str | None, ...]] = {name: ("B", *[None] * (t.dim() - 1)) for name, t in inputs.items()}
    state = {name: f"{name}_out" for name in names}
    graph = StreamingMachine(NeuralTuringMachine(made, 8))
    return ExportRequest(graph, inputs, {**axes, "x": ("T", "B", None)}, state, ("y", *state.values()))


def front_end() -> SequenceLayer:
    """A recogniser over frames: normalised, stacked, convolved, pooled, recurrent."""
    return RecurrentStack(
        WindowNorm(I, 50),
        FrameStack(I, 3),
        CausalConv1d(3 * I, H, 5),
        Framewise(nn.ReLU()),
        CausalPool1d(H, 3, "max"),
        Recurrent(GRUCell(H, H)),
        Framewise(nn.Linear(H, 8)),
    )


def voice_activity() -> ExportRequest:
    """The example's network, its weights drawn at random."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "vad"))
    from model import CONTEXT, FRAME, VoiceActivity  # type: ignore[import-not-found]

    inputs = {
        "x": 0.1 * torch.randn(T, B, FRAME),
        "context": 0.1 * torch.randn(B, CONTEXT),
        **{name: torch.zeros(1, B, 128) for name in ("h", "c")},
    }
    axes = {"x": ("T", "B", None), "context": ("B", None), "h": (None, "B", None), "c": (None, "B", None)}
    state = {name: f"{name}_out" for name in ("context", "h", "c")}
    return ExportRequest(VoiceActivity(), inputs, axes, state, ("probability", *state.values()))


CAUSAL: dict[str, Make] = {
    "nn.RNN": lambda: torch_layers(nn.RNN),
    "nn.GRU": lambda: torch_layers(nn.GRU),
    "nn.LSTM": lambda: torch_layers(nn.LSTM, 2),
    "RNNCell": lambda: cell(RNNCell),
    "GRUCell": lambda: cell(GRUCell),
    "GRUCell(reset_after=False)": lambda: cell(partial(GRUCell, reset_after=False)),
    "LSTMCell": lambda: cell(LSTMCell),
    "LSTMCell(tanh)": lambda: cell(partial(LSTMCell, squash="tanh", peepholes=False)),
    "CoupledLSTMCell": lambda: cell(CoupledLSTMCell),
    "MinimalGatedCell": lambda: cell(MinimalGatedCell),
    "IndRNNCell": lambda: cell(IndRNNCell),
    "LayerNormLSTMCell": lambda: cell(LayerNormLSTMCell),
    "ProjectedLSTMCell": lambda: cell(lambda i, h: ProjectedLSTMCell(i, h, h // 2)),
    "HierarchicalRNN": lambda: model(
        HierarchicalRNN(GRUCell, I, H, 8, layers=2), frames(torch.zeros(2, B, H)), {**FRAMES, "h": (None, "B", None)}, "y"
    ),
    "DeepTransitionRNN": lambda: model(DeepTransitionRNN(I, H, 8), frames(), FRAMES, "y"),
    "DeepTransitionRNN(skip)": lambda: model(DeepTransitionRNN(I, H, 8, skip=True), frames(), FRAMES, "y"),
    "AutoregressiveRNN": lambda: model(StepGraph(AutoregressiveRNN(V, H)), tokens(), TOKENS, "log_p"),
    "VectorConditionedRNN": vector_step,
    "SequenceConditionedRNN": lambda: model(
        SequenceStepGraph(SequenceConditionedRNN(I, V, H)), tokens(x=torch.randn(T, B, I)), {**TOKENS, **FRAMES}, "log_p"
    ),
    "IndependentOutputsRNN": lambda: model(IndependentOutputsGraph(IndependentOutputsRNN(I, V, H)), frames(), FRAMES, "log_p"),
    "FixedContextDecoder": lambda: decoder(attention=False),
    "AttentionDecoder": lambda: decoder(attention=True),
    "NeuralTuringMachine": turing_machine,
    "CausalConv1d": lambda: layer(lambda: CausalConv1d(I, H, 5)),
    "CausalConv1d(dilation=2)": lambda: layer(lambda: CausalConv1d(I, H, 3, dilation=2)),
    "CausalPool1d(max)": lambda: layer(lambda: CausalPool1d(I, 4, "max")),
    "CausalPool1d(mean)": lambda: layer(lambda: CausalPool1d(I, 4, "mean")),
    "WindowNorm": lambda: layer(lambda: WindowNorm(I, 50)),
    "FrameStack": lambda: layer(lambda: FrameStack(I, 3)),
    "Delay": lambda: layer(lambda: Delay(I, 4)),
    "front end": lambda: layer(front_end),
    "VAD": voice_activity,
}


def causal_model(name: str) -> ExportRequest:
    """One of them, its weights and example drawn anew and alike each time."""
    torch.manual_seed(0)
    return CAUSAL[name]()
