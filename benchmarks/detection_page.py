"""The tables of `detection`, as Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from detection import UNHARMED, Mutant
from mutations import KINDS
from parity_rules import EXACT, RULES, US

FAMILIES = {
    "weights": "Weights",
    "precision": "Fewer bits",
    "recurrent": "Recurrent nodes",
    "lengths": "Lengths and masks",
    "loops": "Loops",
    "operators": "Other nodes",
    "wiring": "Wiring",
}


def page(mutants: Sequence[Mutant]) -> str:
    """All tables, one after another."""
    return "\n\n".join(tables(mutants).values()) + "\n"


def tables(mutants: Sequence[Mutant]) -> dict[str, str]:
    """By the names of their places in docs/parity.md."""
    harmed = [mutant for mutant in mutants if mutant.kind != UNHARMED]
    unharmed = [mutant for mutant in mutants if mutant.kind == UNHARMED]
    return {
        "detection by size": "\n".join(by_size(harmed, unharmed)),
        "detection by kind": "\n".join(by_kind(harmed)),
        "missed": "\n".join(missed(harmed)),
    }


def by_size(harmed: Sequence[Mutant], unharmed: Sequence[Mutant]) -> Iterator[str]:
    """How many mutants change the function by how much, and the share of them that each rule calls wrong."""
    running = [mutant for mutant in harmed if mutant.loads]
    classes = {
        "unharmed exports": unharmed,
        "mutants with the same bits everywhere": [m for m in running if m.equal],
        "change up to 1": [m for m in running if not m.equal and not m.above],
        "change 1 to 4": [m for m in running if m.above and m.change is not None and m.change <= 4],
        "change 4 to 100": [m for m in running if m.change is not None and 4 < m.change <= 100],
        "change above 100, or in shape": [m for m in running if m.change is None or m.change > 100],
        "**all above 1**": [m for m in running if m.above],
    }
    yield from _header("", "", *RULES)
    for name, found in classes.items():
        yield _row(name, str(len(found)), *_shares(found))
    kinds, refused = len({mutant.kind for mutant in harmed}), len(harmed) - len(running)
    yield ""
    yield f"{len(running)} mutants of {len(unharmed)} models by {kinds} kinds; {refused} more could not be loaded."


def by_kind(harmed: Sequence[Mutant]) -> Iterator[str]:
    """A row a kind: what it does, its mutants, those above PyTorch's rounding, and the share of these that each rule catches."""
    grouped = defaultdict(list)
    for mutant in harmed:
        grouped[mutant.kind].append(mutant)
    yield from _header("kind", "what it does", "mutants", "above 1", *RULES)
    for family, title in FAMILIES.items():
        kinds = [kind for kind in KINDS.values() if kind.family == family and kind.name in grouped]
        if kinds:
            yield _row(f"**{title}**", *_counted([m for kind in kinds for m in grouped[kind.name]], ""))
        for kind in kinds:
            yield _row(kind.name, *_counted(grouped[kind.name], kind.text))


def _counted(mutants: Sequence[Mutant], text: str) -> list[str]:
    above = [mutant for mutant in mutants if mutant.above]
    return [text, str(len(mutants)), str(len(above)), *_shares(above)]


def missed(harmed: Sequence[Mutant]) -> Iterator[str]:
    """Every mutant above PyTorch's rounding that parity lets pass."""
    passed = [mutant for mutant in harmed if mutant.above and US not in mutant.alarms]
    yield from _header("kind", "model", "where", "change", "k", "k999", "with `--exact`")
    for m in sorted(passed, key=lambda mutant: -(mutant.change or 0.0)):
        exact = "caught" if EXACT in m.alarms else "**missed**"
        yield _row(m.kind, m.model, f"`{m.site}`", _figure(m.change), _figure(m.k), _figure(m.k999), exact)


def _shares(mutants: Sequence[Mutant]) -> Iterator[str]:
    for rule in RULES:
        caught = sum(rule in mutant.alarms for mutant in mutants)
        # Rounded down: 100 % means all of them.
        yield f"{1000 * caught // len(mutants) / 10:g} %" if mutants else "-"


def _header(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield "|" + "---|" * len(names)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
