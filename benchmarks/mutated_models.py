"""The models whose exported graphs are mutated: every system of the library, and modules as its users write them.

Their bundles are kept under build/ by a hash of the code that makes them: exporting takes a few seconds each, mutating does not.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from causal_models import causal_model
from torch import Tensor, nn

from edgeseq import GRUCell, RNNCell
from edgeseq.cells import RecursiveCell, TreeLSTMCell
from edgeseq.models import (
    BidirectionalRNN,
    Encoder,
    EncoderDecoder,
    EncoderGraph,
    FixedContextDecoder,
    GridClassifier,
    GridRNN,
    Tree,
    TreeBatch,
    TreeClassifier,
)
from edgeseq_export import ExportNotice, ExportRequest, export_request

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples" / "vad")]

from model import request as trained_vad  # type: ignore[import-not-found]  # noqa: E402
from recurrent_cases import CASES  # type: ignore[import-not-found]  # noqa: E402

I, H, V = 24, 32, 30  # noqa: E741  features of the input and of the state, tokens
T, B = 7, 3  # of the examples
CODE = ("edgeseq", "export", "tests/recurrent_cases.py", "tests/recurrent_models.py", "benchmarks/causal_models.py", "examples/vad")
Make = Callable[[], ExportRequest]


class Activations(nn.Module):
    """Each of the functions that have a parameter or an approximation, around a GRU, with a residual and a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Linear(I, H), nn.GELU(), nn.Linear(H, H), nn.LeakyReLU(), nn.LayerNorm(H))
        self.layer = nn.GRU(H, H)
        self.after = nn.Sequential(nn.ELU(), nn.Linear(H, H), nn.Softplus(), nn.Linear(H, 8), nn.Hardsigmoid())

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """From x (T, B, I) and h (1, B, H) to y (T, B, 8) and the next h."""
        x = self.before(x)
        y, h = self.layer(x, h)
        return self.after(x + y), h


def activations() -> ExportRequest:
    """Functions with parameters."""
    inputs = {"x": torch.randn(T, B, I), "h": torch.zeros(1, B, H)}
    axes = {"x": ("T", "B", None), "h": (None, "B", None)}
    return ExportRequest(Activations(), inputs, axes, {"h": "h_out"}, ("y", "h_out"))


def bidirectional(cell: Callable[[int, int], nn.Module]) -> ExportRequest:
    """Two layers, each in both directions, over ragged sequences."""
    inputs = {"x": torch.randn(T, B, I), "lengths": torch.tensor([T, 2, 4])}
    return ExportRequest(BidirectionalRNN(cell, I, H, 8, layers=2), inputs, {"x": ("T", "B", None), "lengths": ("B",)})  # type: ignore[arg-type]


def grid() -> ExportRequest:
    """Classes of small images."""
    model = GridClassifier(GridRNN(RNNCell, 3, 12), 5)
    return ExportRequest(model, {"x": torch.randn(7, 8, B, 3)}, {"x": ("H", "W", "B", None)})


def encoder() -> ExportRequest:
    """What an encoder-decoder keeps of its source."""
    model = EncoderDecoder(Encoder(V, 16, H), FixedContextDecoder(V, 16, H, 2 * H))
    inputs = {"source": torch.randint(V, (T, B)), "lengths": torch.tensor([T, 1, 4])}
    return ExportRequest(EncoderGraph(model), inputs, {"source": ("S", "B"), "lengths": ("B",)}, outputs=("memory", "h"))


def trees(cell: type[RecursiveCell] | type[TreeLSTMCell]) -> ExportRequest:
    """Classes of trees, from their roots."""
    leaf = Tree(0)
    drawn = (leaf, Tree(2, (Tree(3, (Tree(4, (leaf,)),)), Tree(5))), Tree(4, (Tree(2, (leaf, Tree(3, (leaf, Tree(1))))), leaf)))
    axes = {"labels": ("N", "B"), "children": ("N", "B", None), "lengths": ("B",)}
    return ExportRequest(TreeClassifier(cell(6, 12), 4), TreeBatch.of(drawn)._asdict(), axes)


def user(name: str) -> ExportRequest:
    """A module around PyTorch's own layers."""
    case = next(case for case in CASES if case.id == name)
    return ExportRequest(case.module(), case.inputs(case.sizes[0]), case.axes, case.state, case.outputs)


CAUSAL = (
    "nn.RNN",
    "nn.GRU",
    "nn.LSTM",
    "GRUCell(reset_after=False)",
    "LSTMCell",
    "CoupledLSTMCell",
    "MinimalGatedCell",
    "IndRNNCell",
    "LayerNormLSTMCell",
    "ProjectedLSTMCell",
    "HierarchicalRNN",
    "DeepTransitionRNN(skip)",
    "AutoregressiveRNN",
    "VectorConditionedRNN",
    "SequenceConditionedRNN",
    "IndependentOutputsRNN",
    "FixedContextDecoder",
    "AttentionDecoder",
    "NeuralTuringMachine",
    "CausalConv1d",
    "WindowNorm",
    "Delay",
    "front end",
)
USERS = {
    "packed BiLSTM tagger": "tagger",
    "CTC text-line recogniser": "crnn",
    "last state at its length": "lstm-1x1-padded-last-dense",
    "masked ReLU RNN": "rnn_relu-3x1-padded-mask",
    "packed with a padding value": "gru-3x2-packed-padding-value",
    "final states of every layer": "every-final-state-packed-lstm",
    "mean over valid steps": "mean-pool",
    "residual LSTMs": "residual-stack",
    "packed encoder, decoder": "encoder-decoder-packed",
    "tied language model": "tied-language-model",
    "strided convolution, packed": "strided-conv-packed",
    "projected BiLSTM, packed": "proj-1x2-packed-state",
    "forwards, then backwards": "flip-between",
}
MODELS: dict[str, Make] = {
    "VAD": trained_vad,
    **{name: lambda name=name: causal_model(name) for name in CAUSAL},  # type: ignore[misc]
    "Activations": activations,
    "BidirectionalRNN(GRUCell)": lambda: bidirectional(GRUCell),
    "GridClassifier": grid,
    "Encoder": encoder,
    "TreeClassifier": lambda: trees(RecursiveCell),
    "TreeClassifier(TreeLSTMCell)": lambda: trees(TreeLSTMCell),
    **{name: lambda case=case: user(case) for name, case in USERS.items()},  # type: ignore[misc]
}


def bundle_of(name: str, folder: Path | None = None) -> Path:
    """The model's bundle, exported if the folder has none yet; its weights and example are drawn alike each time.

    Args:
        name: one of `MODELS`.
        folder: under build/, and named by the code, unless said.
    """
    return exported(name, MODELS[name], folder or cache())


def exported(name: str, make: Make, folder: Path) -> Path:
    """The bundle of that name in the folder, made if there is none."""
    path = folder / f"{''.join(c if c.isalnum() else '_' for c in name)}.edgeseq"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        request = make()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExportNotice)
            export_request(request, path)
    return path


def cache() -> Path:
    """Where the bundles of this code are kept."""
    files = [file for each in CODE for file in ([ROOT / each] if (ROOT / each).is_file() else sorted((ROOT / each).rglob("*.py")))]
    hashed = hashlib.sha256(Path(__file__).read_bytes() + version("torch").encode() + version("onnx").encode())
    for file in files:
        hashed.update(file.read_bytes())
    return ROOT / "build" / "mutated" / hashed.hexdigest()[:12]
