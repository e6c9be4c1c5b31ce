"""Recursive networks over batches of different trees, and trees as the tensors they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgeseq.cells.recursive import TreeCell
from edgeseq.layers import Recurrent

NO_CHILD = -1


class Tree(NamedTuple):
    """A node and all below it; where there is one child, it is the left one."""

    label: int
    children: tuple[Tree, ...] = ()  # up to two


class TreeBatch(NamedTuple):
    """Trees as their nodes, children before parents, each tree's root last."""

    labels: Tensor  # (N, B) int64
    children: Tensor  # (N, B, 2) int64: numbers of the left and right child among the nodes of the same tree, or -1
    lengths: Tensor  # (B,) int64: nodes of each tree

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> TreeBatch:
        """Trees of any shapes; past its root a tree is padded with nodes of label 0 and no child.

        Raises:
            ValueError: there is no tree, or a node has more than two children.
        """
        if not trees:
            raise ValueError("there is no tree; give at least one")
        rows = [nodes_in_order(tree) for tree in trees]
        N, padding = max(map(len, rows)), (0, NO_CHILD, NO_CHILD)
        nodes = torch.tensor([row + [padding] * (N - len(row)) for row in rows]).transpose(0, 1).contiguous()  # (N, B, 3)
        return cls(nodes[..., 0], nodes[..., 1:], torch.tensor([len(row) for row in rows]))


def nodes_in_order(tree: Tree) -> list[tuple[int, int, int]]:
    """Label, left child and right child of every node, children before parents and the root last. Any depth will do."""
    nodes: list[tuple[int, int, int]] = []
    done: list[int] = []  # numbers of finished subtrees whose parent is still to come
    pending = [(tree, False)]
    while pending:
        node, expanded = pending.pop()
        if len(node.children) > 2:
            raise ValueError(f"a node has {len(node.children)} children; a binary tree's nodes have at most 2")
        if not expanded:
            pending += [(node, True), *((child, False) for child in reversed(node.children))]
            continue
        own = [done.pop() for _ in node.children][::-1]
        left, right = [*own, NO_CHILD, NO_CHILD][:2]
        done.append(len(nodes))
        nodes.append((node.label, left, right))
    return nodes


class TreeClassifier(nn.Module):
    """Scores of a class for each tree, from its root's vector (*Deep Learning*, section 10.6 and figure 10.14).

    Args:
        cell: the composition, shared by all nodes.
        classes: number K of classes.
    """

    def __init__(self, cell: TreeCell, classes: int) -> None:
        super().__init__()
        self.nodes = Recurrent(cell)
        self.readout = nn.Linear(cell.hidden_size, classes)

    def forward(self, labels: Tensor, children: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, K) from labels (N, B), children (N, B, 2) and nodes of each tree (B,), as in `TreeBatch`."""
        x = torch.cat([labels.unsqueeze(-1), children], dim=-1)  # (N, B, 3)
        vectors, _ = self.nodes(x, lengths=lengths)  # (N, B, H)
        root = (lengths - 1)[None, :, None].expand(1, -1, vectors.shape[-1])
        return self.readout(vectors.gather(0, root).squeeze(0))  # type: ignore[no-any-return]
