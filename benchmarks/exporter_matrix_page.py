"""The page that `torch_exporter_matrix` writes from its measurements."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from recurrent_cases import Case

Row = Mapping[str, Any]
Rows = Mapping[str, Mapping[str, Row]]  # exporter -> case -> its result

TITLES = {"torch": "PyTorch", "edgeseq": "edgeseq"}
COLUMNS = ("exported", "kept", "dynamic", "right")
FACTORS = {
    "kind": "Kind",
    "mode": "Sequence",
    "layers": "Layers",
    "directions": "Directions",
    "state": "Initial state given",
    "batch_first": "batch_first",
    "bias": "Bias",
    "dropout": "Dropout between layers",
    "dense": "Dense layer before",
}
OUTCOMES = {
    "right": "right at every size",
    "refused": "error at export",
    "fails": "exported, fails to load or to run at another size",
    "silent": "exported, runs without an error, gives a wrong shape or wrong values",
}

INTRO = """# PyTorch's ONNX exporter on recurrent modules, case by case

{cases} small modules, each exported once with time and batch declared dynamic, then run by ONNX Runtime at four other sizes
and compared with the same module in eager PyTorch.

| | |
|---|---|
| PyTorch's exporter | `torch.onnx.export(..., dynamo=True, opset_version=20)` of torch {torch}; named `Dim`s |
{edgeseq}| Packages | onnx {onnx}, onnxscript {onnxscript}, onnxruntime {onnxruntime}, Python {python} |
| Machine | {machine} |
| Command | `python benchmarks/torch_exporter_matrix.py --out docs/torch-exporter-matrix.md` |
| Cases | [tests/recurrent_cases.py](../tests/recurrent_cases.py) |

Every case has a process of its own. A module that takes `lengths` is run at each size with max(lengths) = T and with
max(lengths) < T. Each column supposes the ones before it, except that `kept` stands alone:

- **exported**: a model was written. ONNX Runtime may still refuse to load it.
- **kept**: the recurrence is `LSTM`, `GRU`, `RNN`, `Scan` or `Loop` nodes, at least one a recurrent layer, and not unrolled.
  A cell called once a forward has nothing to unroll and counts as kept.
- **dynamic**: runs at the four other sizes with the right shapes, max(lengths) being T.
- **right**: also the right values (max abs error at most 1e-5 of max(1, largest value); 5e-3 for half precision), and the right
  shapes and values where max(lengths) < T.
"""

FROZEN = """Where tracing finds a constant size, PyTorch's exporter follows its own suggested fix: a named `Dim` is frozen at
the example's size and nothing is raised. `Dim.DYNAMIC` raises instead; in the cases tried, it changes nothing else.
"""


def page(data: Mapping[str, Any], cases: Sequence[Case], loops: Sequence[Case]) -> str:
    """The Markdown page; `data` holds `environment` and `results`."""
    rows: dict[str, dict[str, Row]] = {}
    for row in data["results"]:
        rows.setdefault(row["exporter"], {})[row["case"]] = row
    rows = {exporter: rows[exporter] for exporter in TITLES if exporter in rows}
    parts = [
        _intro(data["environment"], len(cases), "edgeseq" in rows),
        "## Summary\n",
        _summary(rows, cases),
        "## Right, by kind and layout\n",
        _by_layout(rows, cases),
        "## By factor\n",
        _by_factor(rows, cases),
        "## What goes wrong in PyTorch's exporter\n",
        _messages(rows["torch"], cases),
        FROZEN,
        "## Modules with a loop of their own\n",
        _loops(rows, loops),
        "## Every case\n",
        _every(rows, cases),
    ]
    return "\n".join(parts)


def _intro(environment: Mapping[str, str], cases: int, with_edgeseq: bool) -> str:
    line = f"| edgeseq's exporter | `edgeseq_export.export(...)` of edgeseq {environment['edgeseq']} |\n" if with_edgeseq else ""
    return INTRO.format(**{**environment, "cases": cases, "edgeseq": line})


def outcome(row: Row) -> str:
    """Which of `OUTCOMES` a result is."""
    if row["right"]:
        return "right"
    if not row["exported"]:
        return "refused"
    return "silent" if row["silent"] else "fails"


def _summary(rows: Rows, cases: Sequence[Case]) -> str:
    mine = [_of(results, cases) for results in rows.values()]
    header = [f"of {len(cases)} modules", *(TITLES[exporter] for exporter in rows)]
    columns = [[f"**{name}**", *(sum(bool(row[name]) for row in each) for each in mine)] for name in COLUMNS]
    outcomes = [[title, *(sum(outcome(row) == kind for row in each) for each in mine)] for kind, title in OUTCOMES.items()]
    exact = [case for case in cases if case.tolerance < 1e-3]
    worst = [max((row["error"] for row in _of(results, exact) if row["right"]), default=0.0) for results in rows.values()]
    columns.append(["largest error of those that are right, half precision apart", *(f"{error:.1e}" for error in worst)])
    return _table(header, outcomes) + "\n" + _table(header, columns)


def _by_layout(rows: Rows, cases: Sequence[Case]) -> str:
    """Right of all, in the matrix: the factors that decide PyTorch's outcome, against each other."""
    matrix = [case for case in cases if case.factors]
    layouts = {
        f"{sequence}, {order}": [
            case
            for case in matrix
            if case.factors["mode"].startswith("packed") == (sequence == "packed")
            and (case.factors["batch_first"] == "True") == (order == "batch first")
        ]
        for sequence in ("plain or padded", "packed")
        for order in ("batch first", "time first")
    }
    lines: list[list[object]] = []
    for exporter, results in rows.items():
        for kind in dict.fromkeys(case.factors["kind"] for case in matrix):
            mine = [_of(results, [case for case in group if case.factors["kind"] == kind]) for group in layouts.values()]
            lines.append([TITLES[exporter], kind, *(f"{sum(bool(row['right']) for row in each)} of {len(each)}" for each in mine)])
    return _table(["", "", *layouts], lines)


def _by_factor(rows: Rows, cases: Sequence[Case]) -> str:
    header = ["", "cases", *(f"{TITLES[exporter]} {name}" for exporter in rows for name in COLUMNS)]
    lines = []
    for group, members in _groups(cases):
        counts = [sum(bool(row[name]) for row in _of(results, members)) for results in rows.values() for name in COLUMNS]
        lines.append([group, len(members), *counts])
    return _table(header, lines)


def _groups(cases: Sequence[Case]) -> Iterator[tuple[str, list[Case]]]:
    matrix = [case for case in cases if case.factors]
    for factor, title in FACTORS.items():
        for value in dict.fromkeys(case.factors[factor] for case in matrix):
            yield f"{title}: {value}", [case for case in matrix if case.factors[factor] == value]
    yield "Written by hand", [case for case in cases if not case.factors]


def _messages(results: Mapping[str, Row], cases: Sequence[Case]) -> str:
    failed = [row for row in _of(results, cases) if row["note"]]
    kinds = Counter((outcome(row), _without_numbers(short_note(row["note"]))) for row in failed)
    lines: list[list[object]] = []
    for (kind, message), count in kinds.most_common(12):
        example = next(row["case"] for row in failed if _without_numbers(short_note(row["note"])) == message)
        lines.append([count, OUTCOMES[kind], _code(message), f"`{example}`"])
    rest = len(failed) - sum(count for _, count in kinds.most_common(12))
    lines += [[rest, "others", "", ""]] if rest else []
    return _table(["cases", "outcome", "message (N: a number)", "example"], lines)


def _loops(rows: Rows, loops: Sequence[Case]) -> str:
    text = "What edgeseq is meant to refuse: Python loops over steps or sequences, and graphs that depend on values.\n\n"
    header = ["case", "what it does", *(TITLES[exporter] for exporter in rows)]
    lines = []
    for case in loops:
        told = [_loop_outcome(exporter, results[case.id]) for exporter, results in rows.items() if case.id in results]
        lines.append([f"`{case.id}`", (type(case.module()).__doc__ or "").splitlines()[0], *told])
    return text + _table(header, lines)


def _loop_outcome(exporter: str, row: Row) -> str:
    kind = outcome(row)
    if kind == "refused":
        return "refused, with the reason" if exporter == "edgeseq" else OUTCOMES[kind]
    return ("" if row["kept"] else f"unrolled into {row['nodes']} nodes; ") + OUTCOMES[kind]


def _every(rows: Rows, cases: Sequence[Case]) -> str:
    noted = [exporter for exporter, results in rows.items() if any(row["note"] for row in _of(results, cases))]
    header = [
        "case",
        *(f"{TITLES[exporter]} {name}" for exporter in rows for name in COLUMNS),
        *(f"{TITLES[exporter]} says" for exporter in noted),
    ]
    lines = []
    for case in cases:
        mine = [results[case.id] for results in rows.values() if case.id in results]
        marks = [_mark(row, name) for row in mine for name in COLUMNS]
        lines.append([f"`{case.id}`", *marks, *(_code(short_note(row["note"])) for row in mine if row["exporter"] in noted)])
    return f"<details>\n<summary>{len(cases)} cases</summary>\n\n{_table(header, lines)}\n</details>\n"


def _mark(row: Row, name: str) -> str:
    if name != "exported" and not row["exported"]:
        return "–"
    return "yes" if row[name] else "**no**"


def short_note(note: str) -> str:
    """One readable line of an error: what ONNX Runtime says about its own source is left out."""
    text = " ".join(note.split())
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"Non-zero status code returned while running (\w+) node\. Name:'[^']*' Status Message: ", r"\1 node: ", text)
    text = re.sub(r"\S+\.(?:h|cc|cpp):\d+ .*? was false\. ", "", text)
    text = re.sub(r" (?:Please fix either|Caused by|consider using|\(Size-like|\(unhinted).*", "", text)
    text = re.sub(r"Load model from .*? failed:", "", text)
    return text if len(text) <= 150 else text[:149].rstrip() + "…"


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "N", text)


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39)).replace('|', '¦')}`" if text else ""


def _of(results: Mapping[str, Row], cases: Iterable[Case]) -> list[Row]:
    return [results[case.id] for case in cases if case.id in results]


def _table(header: Sequence[object], lines: Iterable[Sequence[object]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "".join("| " + " | ".join(str(cell) for cell in row) + " |\n" for row in rows)
