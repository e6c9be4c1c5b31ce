"""Nested Boolean expressions, read as trees by a recursive network and as sequences of tokens by an LSTM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq import LSTMCell, Recurrent
from edgeseq.cells.recursive import TreeLSTMCell
from edgeseq.models.recursive import Tree, TreeBatch, TreeClassifier
from edgeseq.training import Schedule
from edgeseq_export import ExportRequest
from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_least
from edgeseq_recipes.run import Run

FALSE, TRUE, NOT, AND, OR, XOR = range(6)  # labels of nodes, and tokens too
OPEN, CLOSE = 6, 7  # tokens only
LABELS, TOKENS = 6, 8
NEGATED = 0.2  # share of inner nodes that are `not`

TREE_HIDDEN = 24
LSTM_EMBEDDING, LSTM_HIDDEN = 16, 32  # as many parameters as the tree network, within a few per cent
BATCH = 64
CHUNK = 100  # expressions evaluated at once
VALIDATION, TEST = 10_000, 20_000  # added to the run's seed


def expression(depth: int, random: Random) -> Tree:
    """An expression exactly `depth` operators deep: one operand of each operator is one less deep, the other at most that."""
    if depth == 0:
        return Tree(random.choice((FALSE, TRUE)))
    deep = expression(depth - 1, random)
    if random.random() < NEGATED:
        return Tree(NOT, (deep,))
    operands = [deep, expression(random.randrange(depth), random)]
    random.shuffle(operands)
    return Tree(random.choice((AND, OR, XOR)), tuple(operands))


def value(tree: Tree) -> int:
    """What an expression evaluates to, 0 or 1."""
    operands = [value(child) for child in tree.children]
    if tree.label == NOT:
        return 1 - operands[0]
    if tree.label == XOR:
        return operands[0] ^ operands[1]
    return min(operands) if tree.label == AND else max(operands) if tree.label == OR else tree.label


def tokens(tree: Tree) -> list[int]:
    """An expression as it is written: (1 and (not 0))."""
    if not tree.children:
        return [tree.label]
    *left, right = map(tokens, tree.children)
    return [OPEN, *(left[0] if left else []), tree.label, *right, CLOSE]


def balanced(count: int, depths: Sequence[int], random: Random) -> list[Tree]:
    """Expressions that go through `depths` in turn, and at each depth through false and true."""
    trees: list[Tree] = []
    while len(trees) < count:
        tree = expression(depths[len(trees) % len(depths)], random)
        if value(tree) == len(trees) // len(depths) % 2:
            trees.append(tree)
    return trees


class SequenceClassifier(nn.Module):
    """Scores of a class from an LSTM's state after the last token.

    Args:
        vocabulary: number V of tokens.
        embedding_size: features E of a token.
        hidden_size: features H of the state.
        classes: number K of classes.
    """

    def __init__(self, vocabulary: int, embedding_size: int, hidden_size: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding_size)
        self.layer = Recurrent(LSTMCell(embedding_size, hidden_size, squash="tanh", peepholes=False))
        self.readout = nn.Linear(hidden_size, classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, K) from tokens (T, B) and lengths (B,)."""
        _, (h, _) = self.layer(self.embedding(tokens), lengths=lengths)
        return self.readout(h)  # type: ignore[no-any-return]


def tree_scores(model: nn.Module, trees: Sequence[Tree]) -> Tensor:
    """Scores (B, K) of expressions as trees."""
    return model(*TreeBatch.of(trees))  # type: ignore[no-any-return]


def sequence_scores(model: nn.Module, trees: Sequence[Tree]) -> Tensor:
    """Scores (B, K) of expressions as sequences of tokens."""
    written = [torch.tensor(tokens(tree)) for tree in trees]
    return model(nn.utils.rnn.pad_sequence(written), torch.tensor([len(w) for w in written]))  # type: ignore[no-any-return]


Scores = Callable[[nn.Module, Sequence[Tree]], Tensor]
READERS: dict[str, tuple[Callable[[], nn.Module], Scores]] = {
    "tree": (lambda: TreeClassifier(TreeLSTMCell(LABELS, TREE_HIDDEN), 2), tree_scores),
    "sequence": (lambda: SequenceClassifier(TOKENS, LSTM_EMBEDDING, LSTM_HIDDEN, 2), sequence_scores),
}


def values(trees: Sequence[Tree]) -> Tensor:
    """The class of each expression (B,)."""
    return torch.tensor([value(tree) for tree in trees])


@torch.no_grad()
def accuracy(model: nn.Module, scores: Scores, trees: Sequence[Tree]) -> float:
    """Share of expressions whose value is found."""
    found = [scores(model, trees[first : first + CHUNK]).argmax(-1) for first in range(0, len(trees), CHUNK)]
    return (torch.cat(found) == values(trees)).double().mean().item()


def trained(run: Run, name: str, depths: Sequence[int]) -> nn.Module:
    """The reader of a name, trained on expressions of all depths alike; each sees the same ones."""
    make, scores = READERS[name]
    model = make()
    validation = balanced(run.pick(400, 100), depths, Random(run.seed + VALIDATION))

    def loss(generator: torch.Generator) -> Tensor:
        random = Random(int(torch.randint(2**62, (), generator=generator)))
        trees = balanced(BATCH, depths, random)
        return F.cross_entropy(scores(model, trees), values(trees))

    def score() -> float:
        return F.cross_entropy(scores(model, validation), values(validation)).item()

    steps = run.pick(1200, 120)
    schedule = Schedule(steps=steps, learning_rate=run.pick(5e-3, 1e-2), decay="cosine", evaluate_every=steps // 5)
    run.fit(name, model, loss, schedule, score=score)
    return model


def run(run: Run) -> Findings:
    """Train both readers on shallow expressions, then measure both on deeper ones."""
    deepest = run.pick(4, 2)
    tested = range(1, 2 * deepest + 1)
    random = Random(run.seed + TEST)
    test = {depth: balanced(run.pick(1000, 200), (depth,), random) for depth in tested}
    models = {name: trained(run, name, range(1, deepest + 1)) for name in READERS}
    reached = {name: [accuracy(model, READERS[name][1], test[depth]) for depth in tested] for name, model in models.items()}
    draw(run, reached, deepest)
    tree, sequence = ({depth: reached[name][depth - 1] for depth in tested} for name in READERS)
    shares = values(test[2 * deepest]).double().mean().item()
    return Findings(
        measures=(
            Measure(f"tree network: right at depth {deepest}, the trained one", tree[deepest], at_least(run.pick(0.98, 0.9))),
            Measure(f"sequence LSTM: right at depth {deepest}", sequence[deepest]),
            Measure(f"tree network: right at depth {2 * deepest}, twice that", tree[2 * deepest]),
            Measure(f"sequence LSTM: right at depth {2 * deepest}", sequence[2 * deepest]),
            Measure(
                f"tree network less sequence LSTM at depth {2 * deepest}",
                tree[2 * deepest] - sequence[2 * deepest],
                at_least(run.pick(0.2, 0.1)),
            ),
            Measure(f"always the more frequent value, at depth {2 * deepest}", max(shares, 1 - shares)),
        ),
        graphs=(tree_request(models["tree"], test[deepest][:4]),),
        caption=(
            f"Share of Boolean expressions evaluated rightly, by depth; half of those at each depth are true. Both networks saw "
            f"depths 1 to {deepest} (shaded) for as many steps: the recursive network applies one composition at any depth."
        ),
    )


def tree_request(model: nn.Module, trees: Sequence[Tree]) -> ExportRequest:
    """The tree network as one Scan over sorted nodes: scores (B, 2) of different trees with any number of nodes N."""
    axes = {"labels": ("N", "B"), "children": ("N", "B", None), "lengths": ("B",)}
    return ExportRequest(model, TreeBatch.of(trees)._asdict(), axes, outputs=("scores",), name="nested-expressions-tree")


def draw(run: Run, reached: dict[str, list[float]], deepest: int) -> None:
    """Accuracy against depth."""
    titles = {"tree": "recursive network over the tree", "sequence": "LSTM over the tokens"}
    with run.figure("accuracy-by-depth") as (_, axes):
        axes.axvspan(0.5, deepest + 0.5, color="0.93")
        axes.text(0.6, 95, "trained depths", color="0.4")
        for (name, right), marker in zip(reached.items(), "os", strict=True):
            axes.plot(range(1, len(right) + 1), [100 * share for share in right], marker=marker, label=titles[name])
        axes.axhline(50, color="0.5", linestyle=":", label="always the same value")
        axes.set(xlabel="depth of the expression (operators)", ylabel="right values (%)", xlim=(0.5, 2 * deepest + 0.5))
        axes.set(ylim=(45, 102), xticks=range(1, 2 * deepest + 1))
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 0.14))


RECIPE = Recipe(
    name="nested-expressions",
    row="8",
    title="Recursive network over trees",
    claim=(
        "A recursive network composes a tree's nodes with shared weights, in a depth that grows with the tree's and not with "
        "its number of nodes; what it learned on shallow trees holds on deeper ones."
    ),
    exported_as="one Scan over sorted nodes",
    run=run,
)
