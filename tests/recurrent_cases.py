"""The recurrent modules that export must get right, as data, and those that it must refuse.

`CASES` holds a matrix over nine factors, in which every pair of values of any two factors occurs, and cases written by
hand. `LOOP_CASES` have no faithful recurrent graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import loop_models as loops
import recurrent_models as models
import torch
from torch import Tensor, nn

# The first is the example to export with, the others are to run at. S is the time axis of a second sequence.
SIZES: tuple[dict[str, int], ...] = (
    {"T": 7, "B": 3, "S": 5},
    {"T": 5, "B": 2, "S": 9},
    {"T": 12, "B": 4, "S": 3},
    {"T": 3, "B": 1, "S": 6},
    {"T": 17, "B": 6, "S": 11},
)
EVEN_SIZES = tuple({**sizes, "T": 2 * sizes["T"]} for sizes in SIZES)


@dataclass(frozen=True)
class Inputs:
    """Draws a module's inputs at given sizes; each shape holds ints and axis names, in the order of forward's arguments.

    An input named `lengths` holds int64 lengths of the axis `counts`; one in `vocabulary` holds int64 tokens below it.
    """

    shapes: Mapping[str, tuple[int | str, ...]]
    dtype: torch.dtype = torch.float32
    vocabulary: Mapping[str, int] = field(default_factory=dict)
    sorted_lengths: bool = False
    counts: str = "T"

    def __call__(self, sizes: Mapping[str, int], seed: int = 0, short: bool = False) -> dict[str, Tensor]:
        """Inputs drawn from `seed`; `short` makes max(lengths) < T where T allows it, else max(lengths) = T."""
        generator = torch.Generator().manual_seed(seed)
        inputs = {}
        for name, shape in self.shapes.items():
            size = [sizes[axis] if isinstance(axis, str) else axis for axis in shape]
            if name == "lengths":
                inputs[name] = self._lengths(size[0], sizes[self.counts], short, generator)
            elif name in self.vocabulary:
                inputs[name] = torch.randint(self.vocabulary[name], size, generator=generator)
            else:
                inputs[name] = torch.randn(size, generator=generator).to(self.dtype)
        return inputs

    def _lengths(self, B: int, T: int, short: bool, generator: torch.Generator) -> Tensor:
        longest = max(1, T - 2) if short else T
        lengths = torch.randint(1, longest + 1, (B,), generator=generator)
        lengths[torch.randint(B, (), generator=generator)] = longest
        return lengths.sort(descending=True).values if self.sorted_lengths else lengths

    @property
    def axes(self) -> dict[str, tuple[str | None, ...]]:
        return {name: tuple(a if isinstance(a, str) else None for a in shape) for name, shape in self.shapes.items()}


@dataclass(frozen=True)
class Case:
    """One module to export.

    `census` counts the recurrent nodes the graph must hold, by operator. `factors` is empty for a case written by hand.
    `multiple` gives what an axis' size must be divisible by. `tolerance` is on max |error| / max(1, max |output|).
    """

    id: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    census: dict[str, int]
    outputs: tuple[str, ...] = ("y",)
    state: dict[str, str] | None = None
    factors: Mapping[str, str] = field(default_factory=dict)
    sizes: tuple[dict[str, int], ...] = SIZES
    multiple: Mapping[str, int] = field(default_factory=dict)
    tolerance: float = 1e-5

    @property
    def axes(self) -> dict[str, tuple[str | None, ...]]:
        return self.inputs.axes

    @property
    def has_lengths(self) -> bool:
        return "lengths" in self.inputs.shapes

    @property
    def steps_once(self) -> bool:
        """A cell called once a forward: there is no time axis to keep."""
        return not {"T", "S"} & {axis for shape in self.inputs.shapes.values() for axis in shape}

    def module(self) -> nn.Module:
        """The module in eval mode, with the same weights on every call; the global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.build().eval()


FEATURES, HIDDEN = 6, 8
KINDS: dict[str, tuple[Callable[..., nn.RNNBase], str]] = {
    "rnn_tanh": (partial(nn.RNN, nonlinearity="tanh"), "RNN"),
    "rnn_relu": (partial(nn.RNN, nonlinearity="relu"), "RNN"),
    "lstm": (nn.LSTM, "LSTM"),
    "gru": (nn.GRU, "GRU"),
}
MODES = ("plain", "packed", "packed-sorted", "packed-total-length", "packed-padding-value", "padded-mask", "padded-last")
DEPTHS = ((1, 0.0), (3, 0.0), (3, 0.3))  # layers, dropout between them


class Combination(NamedTuple):
    """One row of the matrix."""

    kind: str
    mode: str
    layers: int
    directions: int
    bias: bool
    batch_first: bool
    state: bool
    dropout: float
    dense: bool

    @property
    def id(self) -> str:
        flags = {"no-bias": not self.bias, "batch-first": self.batch_first, "state": self.state, "dense": self.dense}
        parts = [self.kind, f"{self.layers}x{self.directions}", self.mode, *(name for name, on in flags.items() if on)]
        return "-".join([*parts, f"dropout{self.dropout}"] if self.dropout else parts)

    def module(self) -> nn.Module:
        rnn = KINDS[self.kind][0](
            FEATURES,
            HIDDEN,
            self.layers,
            bias=self.bias,
            batch_first=self.batch_first,
            dropout=self.dropout,
            bidirectional=self.directions == 2,
        )
        return models.Recurrent(rnn, self.mode, self.dense)

    def case(self) -> Case:
        shapes: dict[str, tuple[int | str, ...]] = {"x": ("B", "T", FEATURES) if self.batch_first else ("T", "B", FEATURES)}
        if self.mode != "plain":
            shapes["lengths"] = ("B",)
        carried = (("h", "c") if self.kind == "lstm" else ("h",)) if self.state else ()
        shapes |= {f"{name}0": (self.layers * self.directions, "B", HIDDEN) for name in carried}
        return Case(
            id=self.id,
            build=self.module,
            inputs=Inputs(shapes, sorted_lengths=self.mode == "packed-sorted"),
            census={KINDS[self.kind][1]: self.layers},
            outputs=("y", *(f"{name}_out" for name in carried)),
            # A backward direction needs the whole sequence: its state can't be carried from chunk to chunk.
            state={f"{name}0": f"{name}_out" for name in carried} if carried and self.directions == 1 else None,
            factors={name: str(value) for name, value in self._asdict().items()},
        )


def matrix() -> Iterator[Combination]:
    """Kind x mode x directions x state in full, twice each: the twin has the opposite bias, batch_first and dense layer."""
    for index, (kind, mode, directions, state) in enumerate(product(KINDS, MODES, (1, 2), (False, True))):
        flags = (3 * index + index // 8) % 8
        for twin in (0, 1):
            layers, dropout = DEPTHS[(index + twin) % 3]
            bias, batch_first, dense = (bool((7 * twin ^ flags) >> bit & 1) for bit in range(3))
            yield Combination(kind, mode, layers, directions, bias, batch_first, state, dropout, dense)


def _lstm_state(layers: int, width: int = HIDDEN, cell: int = HIDDEN) -> dict[str, tuple[int | str, ...]]:
    return {"h": (layers, "B", width), "c": (layers, "B", cell)}


X: dict[str, tuple[int | str, ...]] = {"x": ("T", "B", FEATURES)}
X_BATCH_FIRST: dict[str, tuple[int | str, ...]] = {"x": ("B", "T", FEATURES)}
LENGTHS: dict[str, tuple[int | str, ...]] = {"lengths": ("B",)}
LSTM_PAIRS = {"h": "h_out", "c": "c_out"}


def _unbatched() -> Iterator[Case]:
    x: dict[str, tuple[int | str, ...]] = {"x": ("T", FEATURES)}
    for kind, (make, operator) in KINDS.items():
        build = partial(_recurrent, make, num_layers=2)
        yield Case(f"unbatched-{kind}", build, Inputs(x), {operator: 2})
    build = partial(_recurrent, nn.LSTM, bidirectional=True)
    yield Case("unbatched-bidirectional", build, Inputs(x), {"LSTM": 1})
    yield Case("unbatched-proj", partial(_recurrent, nn.LSTM, proj_size=3), Inputs(x), {"Scan": 1})
    yield Case(
        "unbatched-state",
        partial(_recurrent, nn.LSTM, num_layers=2),
        Inputs({**x, "h0": (2, HIDDEN), "c0": (2, HIDDEN)}),
        {"LSTM": 2},
        outputs=("y", "h_out", "c_out"),
        state={"h0": "h_out", "c0": "c_out"},
    )


def _recurrent(make: Callable[..., nn.RNNBase], mode: str = "plain", **options: Any) -> nn.Module:
    return models.Recurrent(make(FEATURES, HIDDEN, **options), mode, dense=False)


def _projected() -> Iterator[Case]:
    for layers, bidirectional, mode, batch_first in (
        (1, False, "plain", False),
        (2, False, "plain", True),
        (1, True, "plain", False),
        (2, True, "plain", True),
        (1, False, "packed", False),
        (2, True, "packed", True),
        (1, False, "packed-padding-value", True),
        (2, False, "padded-last", False),
    ):
        directions = 1 + bidirectional
        options = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": batch_first, "proj_size": 3}
        shapes = {**(X_BATCH_FIRST if batch_first else X), **({} if mode == "plain" else LENGTHS)}
        name = f"proj-{layers}x{directions}-{mode}" + ("-batch-first" if batch_first else "")
        yield Case(name, partial(_recurrent, nn.LSTM, mode, **options), Inputs(shapes), {"Scan": layers * directions})
    yield Case(
        "proj-2x1-plain-state",
        partial(_recurrent, nn.LSTM, num_layers=2, proj_size=3),
        Inputs({**X, "h0": (2, "B", 3), "c0": (2, "B", HIDDEN)}),
        {"Scan": 2},
        outputs=("y", "h_out", "c_out"),
        state={"h0": "h_out", "c0": "c_out"},
    )
    yield Case(
        "proj-1x2-packed-state",
        partial(_recurrent, nn.LSTM, "packed", bidirectional=True, proj_size=3),
        Inputs({**X, **LENGTHS, "h0": (2, "B", 3), "c0": (2, "B", HIDDEN)}),
        {"Scan": 2},
        outputs=("y", "h_out", "c_out"),
    )


def _cells() -> Iterator[Case]:
    cells: dict[str, tuple[Callable[..., nn.RNNCellBase], str]] = {
        "rnn_tanh": (nn.RNNCell, "RNN"),
        "rnn_relu": (partial(nn.RNNCell, nonlinearity="relu"), "RNN"),
        "lstm": (nn.LSTMCell, "LSTM"),
        "gru": (nn.GRUCell, "GRU"),
    }
    for (kind, (make, operator)), bias in product(cells.items(), (True, False)):
        names = ("h", "c") if kind == "lstm" else ("h",)
        yield Case(
            f"cell-{kind}" + ("" if bias else "-no-bias"),
            lambda make=make, bias=bias: models.CellStep(make(FEATURES, HIDDEN, bias=bias)),
            Inputs({"x": ("B", FEATURES), **dict.fromkeys(names, ("B", HIDDEN))}),
            {operator: 1},
            outputs=("y", *(f"{name}_out" for name in names)),
            state={name: f"{name}_out" for name in names},
        )
    yield Case(
        "cell-lstm-then-gru",
        models.TwoCells,
        Inputs({"x": ("B", 6), "h": ("B", 8), "c": ("B", 8), "g": ("B", 5)}),
        {"LSTM": 1, "GRU": 1},
        outputs=("y", "h_out", "c_out", "g_out"),
        state={**LSTM_PAIRS, "g": "g_out"},
    )


def _whole_models() -> Iterator[Case]:
    tokens = Inputs({"tokens": ("B", "T"), **LENGTHS}, vocabulary={"tokens": 20})
    yield Case("tagger", models.Tagger, tokens, {"LSTM": 2})
    yield Case("crnn", models.Crnn, Inputs({"image": ("B", 1, 8, "T")}), {"LSTM": 1})
    yield Case("flip-between", models.FlipBetween, Inputs(X), {"GRU": 1, "LSTM": 1})
    pair: dict[str, tuple[int | str, ...]] = {"source": ("S", "B", 6), "target": ("T", "B", 6)}
    yield Case("encoder-decoder-lstm", partial(models.EncoderDecoder, nn.LSTM), Inputs(pair), {"GRU": 1, "LSTM": 1})
    yield Case("encoder-decoder-gru", partial(models.EncoderDecoder, nn.GRU), Inputs(pair), {"GRU": 2})
    packed_source = Inputs({**pair, **LENGTHS}, counts="S")
    build = partial(models.EncoderDecoder, nn.GRU, packed=True)
    yield Case("encoder-decoder-packed", build, packed_source, {"GRU": 2})
    yield Case(
        "tied-language-model",
        models.TiedLanguageModel,
        Inputs({"tokens": ("T", "B"), **_lstm_state(2)}, vocabulary={"tokens": 20}),
        {"LSTM": 2},
        outputs=("y", "h_out", "c_out"),
        state=LSTM_PAIRS,
    )
    yield Case("siamese", models.Siamese, Inputs({"left": ("B", "T", 6), "right": ("B", "S", 6)}), {"GRU": 2})
    yield Case("residual-stack", models.ResidualStack, Inputs(X_BATCH_FIRST), {"LSTM": 3})
    yield Case("pair-frames", models.PairFrames, Inputs(X_BATCH_FIRST), {"GRU": 1}, sizes=EVEN_SIZES, multiple={"T": 2})
    yield Case("strided-conv", models.StridedConv, Inputs(X_BATCH_FIRST), {"LSTM": 1})
    yield Case(
        "strided-conv-packed",
        models.StridedConvPacked,
        Inputs({**X_BATCH_FIRST, **LENGTHS}),
        {"GRU": 1},
        outputs=("y", "lengths_out"),
    )
    yield Case("packed-twice", models.PackedTwice, Inputs({**X, **LENGTHS}), {"GRU": 1, "LSTM": 1})
    yield Case("mean-pool", models.MeanPool, Inputs({**X_BATCH_FIRST, **LENGTHS}), {"GRU": 1})
    yield Case("zero-state", models.ZeroState, Inputs(X_BATCH_FIRST), {"LSTM": 2})
    yield Case("learned-state", models.LearnedState, Inputs(X), {"GRU": 1})


def _bare_layers() -> Iterator[Case]:
    x: dict[str, tuple[int | str, ...]] = {"input": ("T", "B", FEATURES)}
    yield Case("bare-lstm", partial(nn.LSTM, FEATURES, HIDDEN, 2), Inputs(x), {"LSTM": 2}, outputs=("y", "h", "c"))
    yield Case("bare-gru", partial(nn.GRU, FEATURES, HIDDEN), Inputs(x), {"GRU": 1}, outputs=("y", "h"))
    hx: dict[str, tuple[int | str, ...]] = {**x, "hx": (1, "B", HIDDEN)}
    yield Case("bare-gru-state", partial(nn.GRU, FEATURES, HIDDEN), Inputs(hx), {"GRU": 1}, outputs=("y", "h"), state={"hx": "h"})
    yield Case("subclassed-lstm", partial(models.ScaledLstm, FEATURES, HIDDEN), Inputs(X), {"LSTM": 1})
    yield Case("weight-norm-gru", models.weight_normed_gru, Inputs({"input": ("T", "B", 6)}), {"GRU": 1}, ("y", "h"))
    double, half = torch.float64, torch.float16
    yield Case("float64-lstm", lambda: _recurrent(nn.LSTM).double(), Inputs(X, double), {"LSTM": 1})
    yield Case("float64-gru-packed", lambda: _recurrent(nn.GRU, "packed").double(), Inputs({**X, **LENGTHS}, double), {"GRU": 1})
    yield Case("half-lstm", lambda: _recurrent(nn.LSTM).half(), Inputs(X, half), {"LSTM": 1}, tolerance=5e-3)
    yield Case("half-gru", lambda: _recurrent(nn.GRU).half(), Inputs(X, half), {"GRU": 1}, tolerance=5e-3)


def _final_states() -> Iterator[Case]:
    for kind, (make, operator) in KINDS.items():
        yield Case(f"final-state-{kind}", partial(_final_state, make, every_layer=False), Inputs(X), {operator: 2})
        name = f"every-final-state-{kind}"
        yield Case(name, partial(_final_state, make, bidirectional=True), Inputs(X), {operator: 2})
        name = f"every-final-state-packed-{kind}"
        build = partial(_final_state, make, packed=True, bidirectional=True)
        yield Case(name, build, Inputs({**X, **LENGTHS}), {operator: 2})


def _final_state(
    make: Callable[..., nn.RNNBase], every_layer: bool = True, packed: bool = False, bidirectional: bool = False
) -> nn.Module:
    return models.FinalState(make(FEATURES, HIDDEN, 2, bidirectional=bidirectional), every_layer, packed)


def _loop_cases() -> Iterator[Case]:
    x_lengths = Inputs({**X, **LENGTHS})
    for cell in (nn.RNNCell, nn.LSTMCell, nn.GRUCell):
        yield Case(f"loop-{cell.__name__}", lambda cell=cell: loops.CellLoop(cell(6, 8)), Inputs(X), {})
    yield Case("loop-linear", loops.LinearLoop, Inputs(X), {})
    yield Case("loop-iteration", loops.IterationLoop, Inputs(X), {})
    yield Case("loop-fixed-steps", loops.FixedSteps, Inputs({"h": ("B", 8)}), {})
    yield Case("loop-layer-over-time", loops.LayerLoopOverTime, Inputs(X), {})
    yield Case("loop-lengths-tolist", loops.LengthsToList, x_lengths, {})
    yield Case("list-of-lengths", loops.ListOfLengths, x_lengths, {})
    yield Case("batch-sizes", loops.BatchSizes, x_lengths, {})
    yield Case("returns-packed", loops.ReturnsPacked, x_lengths, {}, outputs=("data", "batch_sizes", "sorted", "unsorted"))
    yield Case("data-dependent-if", loops.DataDependentIf, Inputs(X), {})


MATRIX: list[Case] = [combination.case() for combination in matrix()]
BY_HAND: list[Case] = [*_unbatched(), *_projected(), *_cells(), *_whole_models(), *_bare_layers(), *_final_states()]
CASES: list[Case] = MATRIX + BY_HAND
LOOP_CASES: list[Case] = list(_loop_cases())
