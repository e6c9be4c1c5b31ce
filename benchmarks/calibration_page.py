"""The tables and the figure of `calibration`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detection import Mutant, share_caught
from parity_rules import RULES

from edgeseq_runtime.bundle import DEFAULT_GATES, Gate

Found = Mapping[str, Any]  # a module of `calibration.results`
GATE = DEFAULT_GATES["fp32"]
QUANTILES = {"median": 50, "90 %": 90, "99 %": 99, "99.9 %": 99.9, "largest": 100}


def tables(modules: Sequence[Found]) -> dict[str, str]:
    """By the names of their places in the page."""
    measured = [found for found in modules if found.get("rows")]
    return {
        "modules": "\n".join(_modules(modules)),
        "distribution": "\n".join(_distribution(measured)),
        "distribution by kind": "\n".join(_by_kind(measured)),
        "false alarms": "\n".join(_false_alarms(modules)),
        "largest": "\n".join(_largest(measured)),
    }


def gated(modules: Iterable[Found]) -> list[tuple[Found, dict[str, Any]]]:
    """Every row that has a verdict, with its module."""
    return [(found, row) for found in modules for row in found["rows"] if row["verdict"] != "skip"]


def _modules(modules: Sequence[Found]) -> Iterator[str]:
    outcomes = defaultdict(int)
    for found in modules:
        outcomes[found["outcome"]] += 1
    rows = gated(found for found in modules if found.get("rows"))
    skipped = sum(row["verdict"] == "skip" for found in modules for row in found.get("rows", ()))
    cut = sum("chaotic" in row["reason"] for _, row in rows)
    yield (
        f"{len(modules)} modules: {', '.join(f'{count} {outcome}' for outcome, count in sorted(outcomes.items()))}. "
        f"{len(rows)} rows (an output at one reference case, whole or streamed) were gated, {cut} of them on the steps before the "
        f"recurrence is chaotic; {skipped} could not be gated for that reason."
    )


def _distribution(measured: Sequence[Found]) -> Iterator[str]:
    rows = gated(measured)
    yield _line("", *QUANTILES)
    yield _line(*["---"] * (1 + len(QUANTILES)))
    for figure in ("k", "k999"):
        yield _line(f"{figure}, of a row", *_quantiles([row[figure] for _, row in rows]))
        yield _line(f"{figure}, the worst of a module", *_quantiles(list(worst(measured, figure).values())))


def _by_kind(measured: Sequence[Found]) -> Iterator[str]:
    grouped = defaultdict(list)
    for found in measured:
        grouped[found["kind"]].append(found)
    yield _line(
        "kind", "modules", "rows", *(f"{figure} {name}" for figure in ("k", "k999") for name in ("median", "99 %", "largest"))
    )
    yield _line(*["---"] * 9)
    for kind, group in sorted(grouped.items()):
        rows = gated(group)
        figures = [f"{np.percentile([row[f] for _, row in rows], q):.2f}" for f in ("k", "k999") for q in (50, 99, 100)]
        yield _line(kind, str(len(group)), str(len(rows)), *figures)


def _false_alarms(modules: Sequence[Found]) -> Iterator[str]:
    judged = [found["alarms"] for found in modules if "alarms" in found]
    yield _line("rule", "correct exports", "called wrong", "share")
    yield _line(*["---"] * 4)
    for rule in RULES:
        alarms = [found[rule] for found in judged if rule in found]
        if alarms:
            yield _line(rule, str(len(alarms)), str(sum(alarms)), f"{100 * sum(alarms) / len(alarms):.1f} %")


def _largest(measured: Sequence[Found], most: int = 8) -> Iterator[str]:
    """The modules nearest to the gate."""
    by_seed = {found["seed"]: found for found in measured}
    nearness = {
        seed: max(worst(measured, "k")[seed] / GATE.k, worst(measured, "k999")[seed] / GATE.k999) for seed in worst(measured, "k")
    }
    yield _line("seed", "module", "feedback", "T", "k", "k999")
    yield _line(*["---"] * 6)
    for seed in sorted(nearness, key=lambda seed: -nearness[seed])[:most]:
        found = by_seed[seed]
        directions = ", both directions" if found["bidirectional"] else ""
        text = f"{found['kind']}, {found['I']} -> {found['H']}, layers {found['depth']}{directions}"
        yield _line(
            str(seed),
            text,
            f"{found['feedback']:.2f}",
            str(found["T"]),
            *(f"{worst(measured, figure)[seed]:.2f}" for figure in ("k", "k999")),
        )


def worst(measured: Iterable[Found], figure: str) -> dict[int, float]:
    """The largest of a figure, by the module's seed."""
    found = {module["seed"]: [row[figure] for _, row in gated([module])] for module in measured}
    return {seed: max(values) for seed, values in found.items() if values}


def gates(modules: Sequence[Found], mutants: Sequence[Mutant]) -> Iterator[str]:
    """What other gates would catch and call wrong."""
    measured = [found for found in modules if found.get("rows")]
    k, k999 = worst(measured, "k"), worst(measured, "k999")
    small = [mutant for mutant in mutants if mutant.change is not None and 1 < mutant.change <= GATE.k]
    yield _line("gates", "correct exports called wrong", "harmed ones caught", f"of those harmed by 1 to {GATE.k:g}")
    yield _line(*["---"] * 4)
    for gate in (Gate(k, 2 * k) for k in (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)):
        wrong = sum(k[seed] > gate.k or k999[seed] > gate.k999 for seed in k)
        shares = (f"{100 * share_caught(some, gate):.1f} %" for some in (mutants, small))
        yield _line(f"k <= {gate.k:g}, k999 <= {gate.k999:g}", f"{wrong} of {len(k)}", *shares)


def draw(modules: Sequence[Found], mutants: Sequence[Mutant], path: Path) -> None:
    """Correct exports and harmed ones by their worst k, with the gate between them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    correct = list(worst([found for found in modules if found.get("rows")], "k").values())
    harmed = [mutant.k for mutant in mutants if mutant.above and mutant.k]
    edges = np.logspace(-1, 7, 65)
    figure, axes = pyplot.subplots(figsize=(8, 3.4), layout="constrained")
    for values, label, colour in (
        (correct, f"{len(correct)} correct exports", "#2a6f97"),
        (harmed, f"{len(harmed)} graphs harmed by more than PyTorch's own rounding", "#c1666b"),
    ):
        heights, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        axes.stairs(heights / len(values), edges, fill=True, alpha=0.75, label=label, color=colour)
    axes.axvline(GATE.k, color="black", linewidth=1, linestyle="--", label=f"gate, k = {GATE.k:g}")
    axes.set(xscale="log", xlabel="k of the worst output", ylabel="share of the graphs")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _quantiles(values: Sequence[float]) -> list[str]:
    return [f"{np.percentile(values, q):.2f}" for q in QUANTILES.values()]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
