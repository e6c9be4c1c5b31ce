"""The tables of docs/low-precision.md, from what benchmarks/low_precision.py measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgeseq_runtime.bundle import LOW_PRECISION_GATES, RelativeGate

KINDS = ("LSTM", "GRU", "RNN")
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)
GAINS = (1.0, 2.0, 4.0, 16.0, 256.0, math.inf)  # upper ends of the groups of how much a small change of the input is amplified

Record = Mapping[str, Any]


def tables(records: Sequence[Record]) -> Iterator[str]:
    """Markdown."""
    tame = [one for one in records if not one["wild"]]
    yield f"Correct programs, {len(tame)} modules with 0.3 to 3 times PyTorch's initial weights; one figure an output of a module:"
    yield ""
    yield from _quantiles(tame)
    yield ""
    yield "Which unit of `y` is largest, at each step of each sequence: the share of steps at which it is not the one of float64:"
    yield ""
    yield from _unequal(tame)
    yield ""
    yield "Correct programs against the default gates; a module passes if all of its outputs do:"
    yield ""
    yield from _passing(tame)
    yield ""
    faulty = [one for one in tame if "faulty" in one]
    yield f"One fault each in {len(faulty)} of the modules; the larger error of a module's outputs, and how many the gate caught:"
    yield ""
    yield from _faults(faulty)
    yield ""
    yield f"By how much a module amplifies a small change of its input, all {len(records)} modules:"
    yield ""
    yield from _amplified(records)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _head(*cells: str) -> Iterator[str]:
    yield _row(*cells)
    yield "|" + "---|" * len(cells)


def _figures_of(record: Record, part: str, name: str) -> list[tuple[float, float]]:
    """(relative, relative999) of each output that was compared; infinite where not finite."""
    found = record[part].get(name, {})
    pairs = (pair for output, pair in found.items() if output != "argmax")
    return [(_number(relative), _number(relative999)) for relative, relative999 in pairs]


def _number(value: float | None) -> float:
    return math.inf if value is None else value


def _names(records: Sequence[Record], part: str) -> list[str]:
    return sorted({name for one in records for name in one[part]})


def _at(values: Sequence[float], share: float) -> str:
    """A quantile that is one of the values."""
    value = float(np.quantile(np.asarray(values), share, method="lower"))
    return f"{value:.2g}" if math.isfinite(value) else "not finite"


def _quantiles(records: Sequence[Record]) -> Iterator[str]:
    columns = [f"{100 * share:g} %" if share < 1 else "max" for share in QUANTILES]
    titles = [f"`{figure}` {columns[0]}" for figure in ("relative", "relative999")]
    yield from _head("precision, how", "kind", "outputs", titles[0], *columns[1:], titles[1], *columns[1:])
    for name in _names(records, "correct"):
        for kind in KINDS:
            pairs = [pair for one in records if one["kind"] == kind for pair in _figures_of(one, "correct", name)]
            if pairs:
                values = [_at(figures, share) for figures in zip(*pairs, strict=True) for share in QUANTILES]
                yield _row(name, kind, len(pairs), *values)


def _unequal(records: Sequence[Record]) -> Iterator[str]:
    yield from _head("precision, how", "modules", "50 %", "90 %", "99 %", "max", "over the default gate")
    for name in _names(records, "correct"):
        shares = [one["correct"][name]["argmax"][0] for one in records if "argmax" in one["correct"].get(name, {})]
        over = sum(share > _gate(name).unequal for share in shares)
        yield _row(
            name, len(shares), *(_at(shares, at) for at in (0.5, 0.9, 0.99, 1)), f"{over} ({100 * over / len(shares):.1f} %)"
        )


def _gate(name: str) -> RelativeGate:
    """Of the precision that a program's name begins with; fp16 where it names none."""
    return LOW_PRECISION_GATES.get(name[:4], LOW_PRECISION_GATES["fp16"])


def _passes(pairs: Sequence[tuple[float, float]], gate: RelativeGate) -> bool:
    return all(relative <= gate.relative and relative999 <= gate.relative999 for relative, relative999 in pairs)


def _passing(records: Sequence[Record]) -> Iterator[str]:
    yield from _head("precision, how", "gate", "modules", "pass", "largest `relative`", "largest `relative999`")
    for name in _names(records, "correct"):
        found = [pairs for one in records if (pairs := _figures_of(one, "correct", name))]
        passed, gate = sum(_passes(pairs, _gate(name)) for pairs in found), _gate(name)
        largest = [max(pair[at] for pairs in found for pair in pairs) for at in (0, 1)]
        yield _row(name, f"{gate.relative:g}, {gate.relative999:g}", len(found), passed, *(f"{one:.2g}" for one in largest))


def _faults(records: Sequence[Record]) -> Iterator[str]:
    yield from _head(
        "fault", "modules", "`relative` 10 %", "50 %", "90 %", *(f"caught by {name}'s gate" for name in LOW_PRECISION_GATES)
    )
    for name in _names(records, "faulty"):
        found = [pairs for one in records if (pairs := _figures_of(one, "faulty", name))]
        largest = [max(pair[0] for pair in pairs) for pairs in found]
        cells = [_at(largest, share) for share in (0.1, 0.5, 0.9)]
        for precision, gate in LOW_PRECISION_GATES.items():
            caught = sum(not _passes(pairs, gate) for pairs in found)
            meant = (precision == "int8") == name.startswith("int8")
            cells.append(f"{100 * caught / len(found):.0f} %" if meant else "")
        yield _row(name, len(found), *cells)


def _amplified(records: Sequence[Record]) -> Iterator[str]:
    shown = ("fp16, emulated", "bf16, emulated", "int8 per channel, weights")
    yield from _head("amplified", "modules", "with a horizon", *(f"{name}: `relative` of y 50 %, max; pass" for name in shown))
    low = 0.0
    for high in GAINS:
        group = [one for one in records if low < one["gain"] <= high]
        low = high
        if not group:
            continue
        cells = []
        for name in shown:
            values = [one["correct"][name]["y"][0] for one in group]
            passed = sum(_passes(_figures_of(one, "correct", name), _gate(name)) for one in group)
            cells.append(f"{_at(values, 0.5)}, {_at(values, 1)}; {100 * passed / len(group):.0f} %")
        cut = sum(one["horizon"] < one["T"] for one in group)
        yield _row(f"up to {high:g}" if math.isfinite(high) else "more", len(group), cut, *cells)
