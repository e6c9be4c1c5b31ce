"""Deep recurrent networks (*Deep Learning*, section 10.5, figure 10.13)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseq.cells import DeepTransitionCell, GRUCell, RNNCell
from edgeseq.layers import Recurrent, RecurrentStack


class HierarchicalRNN(nn.Module):
    """The state in groups, each reading the one below (figure 10.13 a).

        h_1[t] = step(h_1[t-1], x[t]),    h_l[t] = step(h_l[t-1], h_{l-1}[t]),    o[t] = c + V h_L[t]

    Args:
        cell: what each group is.
        input_size: features I of the input.
        hidden_size: features H of each group.
        output_size: features O of the output.
        layers: groups L.
    """

    def __init__(
        self, cell: type[RNNCell] | type[GRUCell], input_size: int, hidden_size: int, output_size: int, *, layers: int
    ) -> None:
        super().__init__()
        self.stack = RecurrentStack(*(Recurrent(cell(hidden_size if n else input_size, hidden_size)) for n in range(layers)))
        self.readout = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor, h: Tensor | None = None, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From x (T, B, I), the groups' states h (L, B, H), zero where omitted, and lengths (B,) to o (T, B, O) and the next h."""
        y, state = self.stack(x, None if h is None else h.unbind(), lengths)
        return self.readout(y), torch.stack(state)  # (T, B, O), (L, B, H)


class DeepTransitionRNN(nn.Module):
    """Perceptrons from input to hidden, from hidden to hidden and from hidden to output (figure 10.13 b; c with `skip`).

        h[t] = step(h[t-1], x[t]) of `DeepTransitionCell`,    o[t] = c + V tanh(r + R h[t])

    Args:
        input_size: features I of the input.
        hidden_size: features H of the state and of all hidden layers.
        output_size: features O of the output.
        depth: layers from h[t-1] to h[t].
        skip: whether h[t-1] reaches h[t] directly too.
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int, *, depth: int = 2, skip: bool = False) -> None:
        super().__init__()
        self.layer = Recurrent(DeepTransitionCell(input_size, hidden_size, depth=depth, skip=skip))
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.readout = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor, h: Tensor | None = None, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From x (T, B, I), state h (B, H), zero where omitted, and lengths (B,) to o (T, B, O) and the next h."""
        y, (h,) = self.layer(x, None if h is None else (h,), lengths)
        return self.readout(torch.tanh(self.hidden(y))), h  # (T, B, O), (B, H)
