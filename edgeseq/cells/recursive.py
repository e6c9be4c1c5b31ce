"""Recursive networks: cells whose steps are the nodes of trees, children before parents."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells.cell import Cell, State, uniform_by_hidden_size


class TreeCell(Cell):
    """One composition, shared by every node of trees of any shape (Goodfellow et al., *Deep Learning*, section 10.6).

    A tree is read as its nodes in an order in which children come before their parent. The input of node n is three integers:
    its label, and the numbers of its left and right child, counted from 0. A number that is no earlier node's, such as -1,
    is no child. The state is a table of the rows made so far and their count, so a batch may hold a different tree in every
    place: `table` (B, 1 + N, R), with N following the input x (N, B, 3), and `count` (B,). Row 0 stays zero, which is what
    `compose` sees in place of a child that is not there.

    Args:
        hidden_size: features H of a node's vector, which is the output.
        row_size: features R of a row, which begins with the node's vector.
    """

    def __init__(self, hidden_size: int, row_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.row_size = row_size
        self.state_shapes = ((1, row_size), ())  # of no node; `initial_state` makes room for those of an input

    @abstractmethod
    def label_table(self) -> Tensor:
        """U x + b for every label (V, G), x being its one-hot vector."""

    @abstractmethod
    def compose(self, label: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """The row (B, R) of a node from its label's U x + b (B, G) and its children's rows (B, R)."""

    def initial_state(self, x: Tensor) -> State:
        """The table (B, 1 + N, R) and count (B,) of no node yet, for the whole input x (N, B, 3)."""
        N, B, _ = x.shape
        return next(self.parameters()).new_zeros(B, 1 + N, self.row_size), x.new_zeros(B)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Label and children (..., 3) -> U x + b of the label (..., G), and the children's numbers (..., 2)."""
        return F.embedding(x[..., 0], self.label_table()), x[..., 1:]

    def step(self, state: State, projected: tuple[Tensor, Tensor]) -> tuple[State, Tensor]:
        """Table (B, 1 + N, R) and count (B,), U x + b (B, G) and children (B, 2) -> next state and the node's vector (B, H)."""
        table, count = state
        label, children = projected
        earlier = (children >= 0) & (children < count[:, None])
        rows = torch.where(earlier, children + 1, 0)  # (B, 2)
        left, right = table.gather(1, self._every_feature(rows)).unbind(1)  # (B, R) each
        row = self.compose(label, left, right)  # (B, R)
        count = count + 1
        table = table.scatter(1, self._every_feature(count[:, None]), row[:, None])
        return (table, count), row[:, : self.hidden_size]

    def _every_feature(self, rows: Tensor) -> Tensor:
        """Numbers of rows (B, K), repeated for each feature: (B, K, R)."""
        return rows[..., None].expand(-1, -1, self.row_size)


class RecursiveCell(TreeCell):
    r"""The plain recursive network (Pollack, 1990; Socher et al., 2011; *Deep Learning*, section 10.6).

        h = tanh(b + U x + W [h_left; h_right])

    with x the one-hot label. Parameters: `weight_label` (V, H), whose row v is b plus column v of U; `weight_children` W (H, 2H).

    Args:
        labels: number V of different labels.
        hidden_size: features H of a node's vector.
    """

    def __init__(self, labels: int, hidden_size: int) -> None:
        super().__init__(hidden_size, row_size=hidden_size)
        self.weight_label = nn.Parameter(torch.empty(labels, hidden_size))
        self.weight_children = nn.Parameter(torch.empty(hidden_size, 2 * hidden_size))
        uniform_by_hidden_size(self, hidden_size)

    def label_table(self) -> Tensor:
        """U x + b for every label (V, H)."""
        return self.weight_label

    def compose(self, label: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """The node's vector (B, H)."""
        return torch.tanh(label + F.linear(torch.cat([left, right], dim=-1), self.weight_children))

    def extra_repr(self) -> str:
        return f"{self.weight_label.shape[0]}, {self.hidden_size}"


class TreeLSTMCell(TreeCell):
    r"""The binary Tree-LSTM (Tai, Socher and Manning, 2015, equations 9 to 14 with N = 2).

        i   = σ(b^i + U^i x + W^i [h_left; h_right])
        f_k = σ(b^f + U^f x + W^{f_k} [h_left; h_right])        one forget gate a child, k = left, right
        o   = σ(b^o + U^o x + W^o [h_left; h_right])
        u   = tanh(b^u + U^u x + W^u [h_left; h_right])
        c   = i ⊙ u + f_left ⊙ c_left + f_right ⊙ c_right
        h   = o ⊙ tanh(c)

    with x the one-hot label (the paper's U is the W here, and its W the U). A row of the table is [h; c]. Parameters:
    `weight_label` (V, 4H) stacks i, f, o, u, row v being b plus column v of U; b^f begins 1 larger. `weight_children` (5H, 2H)
    stacks i, f_left, f_right, o, u.

    Args:
        labels: number V of different labels.
        hidden_size: features H of a node's vector.
    """

    def __init__(self, labels: int, hidden_size: int) -> None:
        super().__init__(hidden_size, row_size=2 * hidden_size)
        self.weight_label = nn.Parameter(torch.empty(labels, 4 * hidden_size))
        self.weight_children = nn.Parameter(torch.empty(5 * hidden_size, 2 * hidden_size))
        uniform_by_hidden_size(self, hidden_size)
        with torch.no_grad():
            self.weight_label[:, hidden_size : 2 * hidden_size] += 1.0

    def label_table(self) -> Tensor:
        """U x + b for every label (V, 5H), that of the forget gate once for each child."""
        i, f, o, u = self.weight_label.chunk(4, dim=-1)
        return torch.cat([i, f, f, o, u], dim=-1)

    def compose(self, label: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """The node's h and c, side by side (B, 2H)."""
        (h_left, c_left), (h_right, c_right) = left.chunk(2, dim=-1), right.chunk(2, dim=-1)  # (B, H) each
        gates = label + F.linear(torch.cat([h_left, h_right], dim=-1), self.weight_children)  # (B, 5H)
        i, f_left, f_right, o, u = gates.chunk(5, dim=-1)
        c = torch.sigmoid(i) * torch.tanh(u) + torch.sigmoid(f_left) * c_left + torch.sigmoid(f_right) * c_right
        return torch.cat([torch.sigmoid(o) * torch.tanh(c), c], dim=-1)

    def extra_repr(self) -> str:
        return f"{self.weight_label.shape[0]}, {self.hidden_size}"
