"""What a module does when PyTorch runs it: which recurrent layers it calls, how often, and what it takes for lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from edgeseq import Recurrent
from edgeseq.loops import Loop
from edgeseq_export.layer_weights import directions, operator_of
from edgeseq_export.native_cells import native_directions
from edgeseq_runtime.errors import UnsupportedModule


class PackCall(NamedTuple):
    """One call of `pack_padded_sequence`, or of a layer that takes lengths."""

    lengths: tuple[int, ...]
    memory: int  # address of the lengths
    steps: int  # size of the padded time axis


class Recorder:
    """The interceptor of an ordinary run: PyTorch's own code, written down."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(module): name for name, module in model.named_modules(remove_duplicate=True)}
        self.census: Counter[str] = Counter()
        self.packs: list[PackCall] = []
        self.cell_calls: Counter[str] = Counter()
        self.inside_layer = False  # of edgeseq
        self.inside_loop = False
        self.sorted_only = False  # some packing call refuses unsorted lengths

    def layer(self, original: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.inside_loop:
            raise UnsupportedModule(self._layer_in_loop(module))
        if isinstance(module, Loop):
            return self._within_loop(original, module, *args, **kwargs)
        self.census.update(recurrent_nodes(module))
        if isinstance(module, nn.RNNCellBase):
            name = self._names.get(id(module), type(module).__name__)
            self._require_outside_layer(name, module)
            self.cell_calls[name] += 1
        if isinstance(module, Recurrent):
            lengths = kwargs.get("lengths", args[2] if len(args) > 2 else None)
            if isinstance(lengths, Tensor):
                x = kwargs.get("x", args[0] if args else None)
                self.packs.append(PackCall(tuple(lengths.tolist()), lengths.data_ptr(), x.shape[0]))  # type: ignore[union-attr]
            return self._within(original, module, *args, **kwargs)
        return original(module, *args, **kwargs)

    def _require_outside_layer(self, name: str, module: nn.RNNCellBase) -> None:
        if self.inside_layer:
            raise UnsupportedModule(
                f"module '{name}', an nn.{type(module).__name__}, is called by the cell of an edgeseq.Recurrent; in a cell of your "
                f"own call one of edgeseq.cells instead, such as edgeseq.{operator_of(module)}Cell, with its state and input"
            )

    def _within_loop(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a loop, whose step is in the graph once, however often it is called."""
        self.census["Loop"] += 1
        self.inside_loop = True
        try:
            return self._within(original, *args, **kwargs)
        finally:
            self.inside_loop = False

    def _layer_in_loop(self, module: nn.Module) -> str:
        name = self._names.get(id(module), type(module).__name__)
        return (
            f"module '{name}', a {type(module).__name__}, is called in the step of an edgeseq Loop; call a cell there, "
            "which is one step: of an edgeseq.Recurrent its `cell(state, x)`"
        )

    def _within(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a layer whose own packing is no call of the user's."""
        outer, self.inside_layer = self.inside_layer, True
        try:
            return original(*args, **kwargs)
        finally:
            self.inside_layer = outer

    def pack(
        self, original: Callable[..., Any], input: Tensor, lengths: Any, batch_first: bool, enforce_sorted: bool
    ) -> PackedSequence:
        if isinstance(lengths, Tensor) and not self.inside_layer:
            self.packs.append(PackCall(tuple(lengths.tolist()), lengths.data_ptr(), input.shape[1 if batch_first else 0]))
        self.sorted_only |= enforce_sorted
        packed: PackedSequence = original(input, lengths, batch_first, enforce_sorted)
        return packed

    def pad(self, original: Callable[..., Any], *args: Any) -> Any:
        return original(*args)

    def max_pool1d(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    def require_no_cell_loop(self) -> None:
        """Refuse a cell that is called more than once in one forward.

        Raises:
            UnsupportedModule: naming the cell and what to write instead.
        """
        for name, calls in self.cell_calls.items():
            if calls > 1:
                raise UnsupportedModule(loop_message(name, f"is called {calls} times in one forward"))


def recurrent_nodes(module: nn.Module) -> Counter[str]:
    """The ONNX nodes that one call of a recurrent layer becomes."""
    if isinstance(module, Recurrent):
        return Counter("Scan" if cells is None else cells[0].operator for cells in native_directions(module))
    if not isinstance(module, nn.RNNBase):
        return Counter({operator_of(module): 1})
    if getattr(module, "proj_size", 0):
        return Counter({"Scan": module.num_layers * directions(module)})
    return Counter({operator_of(module): module.num_layers})


def loop_message(name: str, found: str) -> str:
    """Why a Python loop is refused, and what to write instead."""
    return (
        f"module '{name}' {found}: a Python loop over a recurrence would be unrolled into one copy of its body a step, for one "
        "length only. Write nn.LSTM/nn.GRU/nn.RNN over the whole sequence, or edgeseq.Recurrent around your own cell; or "
        "export a single step, with its state as an input and state={...}"
    )
