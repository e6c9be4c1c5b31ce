"""A recurrent layer as a map of one state vector: s_t = step(s_{t-1}, x_t)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgeseq.cells import Cell
from edgeseq.fused import reversed_in_time
from edgeseq.layers import Recurrent

Step = Callable[[Tensor, Tensor], Tensor]
Layer = nn.RNNBase | Recurrent
PLAIN = {"RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}


class DiagnosticsError(ValueError):
    """What was given can't be diagnosed."""


@dataclass(frozen=True)
class Recurrence:
    """One direction of a recurrent layer over one batch.

    Sequences end together: a shorter one begins later, and before it does its state stays `initial`.

    Attributes:
        step: state (B, n) and input (B, ...) -> next state (B, n). It treats every sequence by itself.
        inputs: (T, B, ...), in the order in which they are read: a reversed layer's come reversed.
        initial: state before the first step (B, n).
        lengths: live steps of each sequence (B,), int64.
    """

    step: Step
    inputs: Tensor
    initial: Tensor
    lengths: Tensor

    def live(self, t: int) -> Tensor:
        """Which sequences read step t: (B,) bool."""
        return t >= len(self.inputs) - self.lengths

    @torch.no_grad()
    def states(self) -> Tensor:
        """s_0 to s_T: (T+1, B, n).

        Raises:
            DiagnosticsError: the state leaves the numbers.
        """
        states = [self.initial]
        for t, x in enumerate(self.inputs):
            states.append(torch.where(self.live(t)[:, None], self.step(states[-1], x), states[-1]))
            if not states[-1].isfinite().all():
                raise DiagnosticsError(
                    f"the state is no longer finite after step {t + 1} of {len(self.inputs)}; give a shorter input"
                )
        return torch.stack(states)

    def last(self, steps: int) -> Recurrence:
        """The last `steps` steps, from the state that the network has reached there."""
        T = len(self.inputs)
        if steps >= T:
            return self
        return replace(
            self, inputs=self.inputs[T - steps :], initial=self.states()[T - steps], lengths=self.lengths.clamp(max=steps)
        )


def recurrence(
    layer: Layer | Cell, x: Tensor, state: Tensor | Sequence[Tensor] | None = None, lengths: Tensor | None = None
) -> Recurrence:
    """A layer of one direction over x: the state is everything that it carries, one vector a sequence.

    Of a stack (`num_layers` > 1) that is the state of all layers; of an LSTM, h and then the cell.

    Args:
        layer: nn.RNN, nn.LSTM or nn.GRU, edgeseq.Recurrent, or a cell.
        x: (T, B, I); (B, T, I) where the layer says `batch_first`.
        state: initial state as the layer takes it; its own (zeros, mostly) where omitted.
        lengths: (B,) integers in 1..T.

    Raises:
        DiagnosticsError: two directions, whose states have no common order in time (see `recurrences`).
    """
    if isinstance(layer, nn.RNNBase):
        if layer.bidirectional:
            raise DiagnosticsError(
                "a bidirectional layer is two recurrences; take them apart with edgeseq.diagnostics.recurrences()"
            )
        x = x.transpose(0, 1) if layer.batch_first else x
        return _aligned(_layer_step(layer), x, _layer_state(layer, x, state), lengths, reverse=False)
    if isinstance(layer, Recurrent) and layer.backward is not None:
        raise DiagnosticsError(
            "a Recurrent with backward=... is two recurrences; take them apart with edgeseq.diagnostics.recurrences()"
        )
    cell, reverse = (layer.cell, layer.reverse) if isinstance(layer, Recurrent) else (layer, False)
    parts = cell.initial_state(x) if state is None else tuple(state)
    return _aligned(cell_step(cell, parts), x, flatten(parts), lengths, reverse=reverse)


def recurrences(
    layer: Layer, x: Tensor, state: Tensor | Sequence[Tensor] | None = None, lengths: Tensor | None = None
) -> dict[str, Recurrence]:
    """Each layer and direction as a recurrence of its own; arguments as `recurrence`.

    Returns:
        By PyTorch's suffix ("l0", "l0_reverse", "l1"...), or for edgeseq.Recurrent with two cells "cell" and "backward". One
        layer of one direction alone is called "".
    """
    if isinstance(layer, Recurrent):
        return _of_recurrent(layer, x, state, lengths)
    x = x.transpose(0, 1) if layer.batch_first else x
    return _of_stack(layer, x, state, lengths)


def _of_recurrent(
    layer: Recurrent, x: Tensor, state: Tensor | Sequence[Tensor] | None, lengths: Tensor | None
) -> dict[str, Recurrence]:
    remaining = layer.initial_state(x) if state is None else tuple(state)
    found: dict[str, Recurrence] = {}
    for name, (cell, reverse) in zip(("cell", "backward"), layer.directions, strict=False):
        size = len(cell.state_shapes)
        parts, remaining = remaining[:size], remaining[size:]
        found[name] = _aligned(cell_step(cell, parts), x, flatten(parts), lengths, reverse=reverse)
    return found if len(found) > 1 else {"": found["cell"]}


def _of_stack(
    layer: nn.RNNBase, x: Tensor, state: Tensor | Sequence[Tensor] | None, lengths: Tensor | None
) -> dict[str, Recurrence]:
    states = None if state is None else [state] if isinstance(state, Tensor) else list(state)  # (L*D, B, H) each
    suffixes = ("", "_reverse") if layer.bidirectional else ("",)
    found: dict[str, Recurrence] = {}
    for number in range(layer.num_layers):
        outputs = []
        for direction, suffix in enumerate(suffixes):
            single = single_layer(layer, f"l{number}{suffix}")
            row = number * len(suffixes) + direction
            own = None if states is None else [s[row : row + 1] for s in states]
            initial = _layer_state(single, x, own)
            found[f"l{number}{suffix}"] = _aligned(_layer_step(single), x, initial, lengths, reverse=bool(direction))
            outputs.append(_outputs(single, x, own, lengths, reverse=bool(direction)))
        x = torch.cat(outputs, dim=-1)  # (T, B, D*H)
    return found if len(found) > 1 else {"": found["l0"]}


def single_layer(layer: nn.RNNBase, suffix: str) -> nn.RNNBase:
    """One layer and direction of a stack, named by PyTorch's suffix of its parameters, as a layer of its own."""
    weights = {name.removesuffix(suffix) + "l0": p for name, p in layer.named_parameters() if name.endswith(f"_{suffix}")}
    options: dict[str, object] = {"bias": layer.bias}
    if layer.mode == "RNN_RELU":
        options["nonlinearity"] = "relu"
    if layer.proj_size:
        options["proj_size"] = layer.proj_size
    single: nn.RNNBase = PLAIN[layer.mode](weights["weight_ih_l0"].shape[1], layer.hidden_size, **options)
    single.to(weights["weight_ih_l0"])
    single.load_state_dict({name: p.detach() for name, p in weights.items()})
    return single


@torch.no_grad()
def _outputs(layer: nn.RNNBase, x: Tensor, state: Sequence[Tensor] | None, lengths: Tensor | None, *, reverse: bool) -> Tensor:
    """Outputs (T, B, H) of a layer of one direction; past a sequence's length they mean nothing."""
    x = reversed_in_time(x, lengths) if reverse else x
    hidden = None if state is None else (tuple(state) if layer.mode == "LSTM" else state[0])
    y: Tensor = layer(x, hidden)[0]
    return reversed_in_time(y, lengths) if reverse else y


def _layer_state(layer: nn.RNNBase, x: Tensor, state: Tensor | Sequence[Tensor] | None) -> Tensor:
    """The initial state of an nn.RNN, LSTM or GRU, (L, B, H) each, as (B, n)."""
    if state is None:
        B = x.shape[1]
        sizes = [layer.proj_size or layer.hidden_size, layer.hidden_size][: 2 if layer.mode == "LSTM" else 1]
        parts = [x.new_zeros(layer.num_layers, B, size) for size in sizes]
    else:
        parts = [state] if isinstance(state, Tensor) else list(state)
    return flatten([part.transpose(0, 1) for part in parts])


def _layer_step(layer: nn.RNNBase) -> Step:
    """One time step of an nn.RNN, LSTM or GRU: all layers' h (then all layers' cells) one after the other."""
    layer = copy.deepcopy(layer)
    layer.batch_first = False
    h_size = layer.proj_size or layer.hidden_size
    shapes = [(layer.num_layers, h_size), (layer.num_layers, layer.hidden_size)][: 2 if layer.mode == "LSTM" else 1]

    def step(state: Tensor, x: Tensor) -> Tensor:
        parts = tuple(part.transpose(0, 1).contiguous() for part in unflatten(state, shapes))  # (L, B, H) each
        end = layer(x.unsqueeze(0), parts if layer.mode == "LSTM" else parts[0])[1]
        return flatten([part.transpose(0, 1) for part in (end if layer.mode == "LSTM" else (end,))])

    return step


def cell_step(cell: Cell, state: Sequence[Tensor]) -> Step:
    """One time step of a cell whose state tensors have the shapes of `state`, (B, ...) each."""
    shapes = [tuple(part.shape[1:]) for part in state]
    return lambda flat, x: flatten(cell(unflatten(flat, shapes), x)[0])


def flatten(state: Sequence[Tensor]) -> Tensor:
    """State tensors (B, ...) as one (B, n)."""
    if not all(part.is_floating_point() for part in state):
        raise DiagnosticsError(f"the state holds {[str(part.dtype) for part in state]}; only floating-point states have gradients")
    return torch.cat([part.flatten(1) for part in state], dim=1)


def unflatten(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
    """State tensors (B, *shape) of one (B, n)."""
    parts = torch.split_with_sizes(flat, [torch.Size(shape).numel() for shape in shapes], dim=1)
    return tuple(part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True))


def _aligned(step: Step, x: Tensor, initial: Tensor, lengths: Tensor | None, *, reverse: bool) -> Recurrence:
    """The recurrence over x (T, B, ...) whose sequences all begin at step 0."""
    T, B = x.shape[:2]
    inputs = x if reverse else reversed_in_time(x, lengths)
    # Read backwards, sequences that began together end together.
    inputs = inputs.flip(0) if reverse or lengths is not None else x
    ends = torch.full((B,), T) if lengths is None else lengths.long()
    # Steps that no sequence reaches are at the beginning now.
    return Recurrence(step, inputs[T - int(ends.max()) :].detach(), initial.detach(), ends.to(x.device))
