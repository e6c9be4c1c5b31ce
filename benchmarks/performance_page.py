"""The part of docs/performance.md on other runtimes, and its table in the terminal, from what `benchmarks/peers` measured."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filled_page import fill
from peers.statistics import Spread, fastest, ratios, spread
from performance_reasons import reasons
from rich.table import Table

Record = Mapping[str, Any]
DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "performance.md"
OURS, NATIVE, TUNED, INT8 = "edgeseq", "edgeseq_native", "edgeseq_tuned", "edgeseq_int8"
TITLES = {
    OURS: "edgeseq",
    NATIVE: "edgeseq, own kernels",
    TUNED: "edgeseq, tuned",
    INT8: "edgeseq, int8, tuned",
    "onnxruntime_plain": "ONNX Runtime, plain `run`",
    "torch_eager": "PyTorch eager",
    "torch_compile": "`torch.compile`",
    "openvino_cpu": "OpenVINO",
    "tract_cpu": "tract",
    "ncnn_cpu": "ncnn",
    "mnn_cpu": "MNN",
    "litert": "LiteRT",
    "executorch_xnnpack": "ExecuTorch",
}
PEERS = tuple(name for name in TITLES if not name.startswith("edgeseq"))
GROUPS = {
    "step": "A step of a stream, one sequence",
    "sequence": "A whole sequence, one at a time",
    "throughput": "Many sequences at once",
    "scan": "Cells that no runtime has a node for",
}
FOOTPRINT = "lstm-2x256-step"  # the workload whose loading and memory are shown


def terminal_table(record: Record) -> Table:
    """One workload."""
    made = Table(title=f"{record['title']}, {threads_of(record)}", title_justify="left")
    for column in ("runtime", "median", "10–90 %", "best µs", "/ edgeseq", "/ limit", "load ms", "first ms", "MiB", "MB"):
        made.add_column(column, justify="left" if column == "runtime" else "right", no_wrap=True)
    ours, limit = times_of(record, OURS), record["limit"]["microseconds"]
    for name, found in sorted(record["candidates"].items(), key=lambda pair: spread(pair[1]["microseconds"]).median):
        times = found["microseconds"]
        middle = spread(times)
        made.add_row(
            TITLES[name].replace("`", ""),
            figure(middle.median),
            f"{figure(middle.low)}–{figure(middle.high)}",
            figure(found["best"]),
            f"{ratios(times, ours).median:.2f}" if ours else "",
            f"{ratios(times, limit).median:.2f}",
            f"{found['load_ms']:.0f}",
            f"{found['first_ms']:.1f}",
            f"{found['peak_mib']:.0f}",
            f"{found['bytes'] / 1e6:.1f}",
        )
    middle = spread(limit)
    made.add_row(f"limit: {record['limit']['bound']}", figure(middle.median), f"{figure(middle.low)}–{figure(middle.high)}")
    if record["failed"]:
        made.caption = "\n".join(f"{TITLES[name]}: {why[:110]}" for name, why in record["failed"].items())
        made.caption_justify = "left"
    return made


def write_page(header: Record, records: Sequence[Record], page: Path = PAGE, pictures: Path = DOCS) -> Path:
    """Fill the page's part and draw its pictures."""
    from performance_picture import draw

    names = {}
    for threads in sorted({record["threads"] for record in records}):
        chosen = [record for record in records if record["threads"] == threads]
        names[threads] = draw(chosen, TITLES, pictures / f"performance-{threads}-thread{'s' if threads > 1 else ''}.png").name
    fill(page, {"peers": "\n".join(part(header, records, names))})
    return page


def part(header: Record, records: Sequence[Record], pictures: Mapping[int, str]) -> Iterator[str]:
    """The Markdown between the page's marks."""
    asked = header["asked"]
    yield from introduction(header, records)
    for threads, picture in pictures.items():
        chosen = [record for record in records if record["threads"] == threads]
        yield f"### {number_of(threads).capitalize()}"
        yield ""
        yield f"![Time of each runtime over edgeseq's, {number_of(threads)}]({picture})"
        yield ""
        for group, title in GROUPS.items():
            members = [record for record in chosen if record["group"] == group]
            if members:
                yield from group_table(title, members, asked["runtimes"])
    yield "### Where edgeseq is behind, and why"
    yield ""
    yield from reasons(records, TITLES)
    yield ""
    yield from footprint([record for record in records if (record["workload"], record["threads"]) == (FOOTPRINT, 1)])
    yield from failures(records, asked["runtimes"])


def introduction(header: Record, records: Sequence[Record]) -> Iterator[str]:
    """How it was measured."""
    asked = header["asked"]
    rounds = sorted(len(record["limit"]["microseconds"]) for record in records)
    plain = {"onnxruntime_plain": "ONNX Runtime", "torch_eager": "PyTorch"}
    versions = ", ".join(
        f"{plain.get(name, TITLES[name])} {version or '(not installed)'}"
        for name, version in asked["versions"].items()
        if name not in (NATIVE, TUNED, INT8, "torch_compile")
    )
    yield paragraph(
        f"`make bench` (about {minutes(records):.0f} minutes once everything is converted), {header['started']} UTC, on "
        f"{asked['machine']} ({', '.join(header['features'])}), {header['system']}, whose load before it was {header['load']:.1f}. "
        f"{versions}; Python {header['python']}, NumPy {header['numpy']}."
    )
    yield ""
    yield paragraph(HOW.format(rounds=f"{rounds[0]} to {rounds[-1]}", turn=1000 * asked["pace"]["turn"]))
    yield ""
    yield paragraph(LIMIT)
    yield ""
    yield paragraph(f"No process is bound to a core. How each is told its number of threads: {'. '.join(told(records))}.")
    yield ""


HOW = """Each runtime has the same network with the same weights, converted as it likes it best (with fixed sizes where it gains
from them), in a process of its own. Before it is timed its outputs are compared with PyTorch's in float64, over eight steps of
a stream or one sequence: what is off by more than 1e-4 of an output's rms (int8: 2 %) is listed as wrong. Then all sleep, and in
each of {rounds} rounds each is woken once, in a random order, warmed up, and timed for about {turn:.0f} ms. Figures are medians of
the rounds' medians; ratios are taken round by round, as the clock of a core moves. States are carried from step to step as the
runtime does it best, new input is copied in at each step, and the output is left where a program can read it (tract's is not copied
out, nor are PyTorch's and ExecuTorch's tensors made arrays). *edgeseq* is what `load` opens unless told otherwise, with ONNX
Runtime."""
LIMIT = """*Limit* is the larger of two times, measured in the same rounds: reading the weights that each step must read, at the
rate at which this machine reads a buffer of that size, and multiplying at the rate of a large matrix product. For int8 it is that
of fp32. Weights are random but for the voice-activity network's; features are 64 (LSTM 1024: 256)."""


def told(records: Sequence[Record]) -> Iterator[str]:
    """How each runtime is told the number of threads."""
    found = {name: each["told_threads_by"] for record in records for name, each in record["candidates"].items()}
    yield from (f"{title}: {found[name]}" for name, title in TITLES.items() if name in found)


def minutes(records: Sequence[Record]) -> float:
    """How long the measuring took."""
    return sum(record["seconds"] for record in records) / 60


def paragraph(text: str) -> str:
    """Of lines that are not too long."""
    return textwrap.fill(" ".join(text.split()), 130, break_long_words=False, break_on_hyphens=False)


def group_table(title: str, records: Sequence[Record], runtimes: Sequence[str]) -> Iterator[str]:
    """A table of a group: a row a runtime, a column a workload."""
    yield f"**{title}** (µs a call, and in brackets the time over edgeseq's)"
    yield ""
    yield from row("runtime", *(record["title"] for record in records))
    yield from row("---", *("---:" for _ in records))
    best = [best_in_fp32(record) for record in records]
    for name in runtimes:
        yield from row(TITLES[name], *(cell(record, name, name == first) for record, first in zip(records, best, strict=True)))
    yield from row("*limit*", *(limit_cell(record) for record in records))
    yield from row("*edgeseq's best fp32 over its limit*", *(over_limit(record) for record in records))
    yield from row("*edgeseq's best fp32 over the best peer*", *(against_best(record) for record in records))
    if any(INT8 in record["candidates"] for record in records):
        yield from row("*best fp32 peer over int8*", *(int8_gain(record) for record in records))
    yield ""


def cell(record: Record, name: str, first: bool) -> str:
    """A runtime's time of a workload; bold where it is the fastest in fp32."""
    times = times_of(record, name)
    if not times:
        return "–"
    ours = times_of(record, OURS)
    over = f" ({ratios(times, ours).median:.2f})" if ours and name != OURS else ""
    shown = figure(spread(times).median)
    return f"**{shown}**{over}" if first else f"{shown}{over}"


def limit_cell(record: Record) -> str:
    """The limit and what binds."""
    limit = record["limit"]
    rate = f"{limit['gigabytes_a_second']:.0f} GB/s" if limit["bound"] == "reading" else f"{limit['gigaflops']:.0f} GFLOP/s"
    return f"{figure(spread(limit['microseconds']).median)}, {rate}"


def over_limit(record: Record) -> str:
    """How far edgeseq's fastest in fp32 is from it."""
    ours = own_times(record)
    return f"{ratios(ours[fastest(ours)], record['limit']['microseconds']).median:.2f}" if ours else "–"


def against_best(record: Record) -> str:
    """Edgeseq's faster plan over the fastest peer, with the spread of the ratio."""
    found = ours_against_best_peer(record)
    if found is None:
        return "–"
    ratio, peer = found
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f}), {TITLES[peer]}"


def int8_gain(record: Record) -> str:
    """How many times as fast as the best fp32 peer int8 is."""
    times, peers = times_of(record, INT8), peers_of(record)
    if not times or not peers:
        return "–"
    return f"{ratios(peers[fastest(peers)], times).median:.2f}"


def ours_against_best_peer(record: Record) -> tuple[Spread, str] | None:
    """The ratio of edgeseq's best fp32 time to the best peer's, and that peer; None where one of them is missing."""
    ours, peers = own_times(record), peers_of(record)
    if not ours or not peers:
        return None
    peer = fastest(peers)
    return ratios(ours[fastest(ours)], peers[peer]), peer


def own_times(record: Record) -> dict[str, list[float]]:
    """Edgeseq's times in fp32."""
    return {name: times_of(record, name) for name in (OURS, NATIVE, TUNED) if times_of(record, name)}


def peers_of(record: Record) -> dict[str, list[float]]:
    """Times of what is neither edgeseq nor the runtime under it."""
    return {name: times_of(record, name) for name in PEERS if name != "onnxruntime_plain" and times_of(record, name)}


def best_in_fp32(record: Record) -> str | None:
    """The fastest of all in fp32."""
    times = {name: found["microseconds"] for name, found in record["candidates"].items() if name != INT8}
    return fastest(times) if times else None


def footprint(records: Sequence[Record]) -> Iterator[str]:
    """Loading, first call, memory and size, of one workload."""
    if not records:
        return
    (record,) = records
    yield "### Loading, memory and size"
    yield ""
    yield f"{record['title']}, a step, one thread. *Memory* is the largest of the process, and in brackets without what it needed"
    yield "once the runtime was imported; *files* are what would be shipped (a bundle holds its proof as well)."
    yield ""
    yield from row("runtime", "import ms", "load ms", "first call ms", "memory MiB", "files MB", "converted in s")
    yield from row("---", *["---:"] * 6)
    for name, found in record["candidates"].items():
        yield from row(
            TITLES[name],
            f"{found['import_ms']:.0f}",
            f"{found['load_ms']:.0f}",
            f"{found['first_ms']:.1f}",
            f"{found['peak_mib']:.0f} ({found['peak_mib'] - found['import_mib']:.0f})",
            f"{found['bytes'] / 1e6:.2f}",
            f"{found['convert_s']:.1f}",
        )
    yield ""


def failures(records: Sequence[Record], runtimes: Sequence[str]) -> Iterator[str]:
    """What could not be timed, and why: workloads and numbers of threads with the same reason together."""
    together: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        for name, why in record["failed"].items():
            together.setdefault((name, short(why)), []).append(record)
    yield "### What could not be measured"
    yield ""
    if not together:
        yield "Nothing: every runtime ran every workload."
        return
    yield from row("runtime", "workloads", "what it says")
    yield from row("---", "---", "---")
    for name, why in sorted(together, key=lambda key: runtimes.index(key[0])):
        found = together[name, why]
        titles = dict.fromkeys(record["title"] for record in found)
        numbers = {record["threads"] for record in found}
        everywhere = len(titles) == len({record["title"] for record in records}) and len(titles) > 1
        only = "" if len(numbers) > 1 or len({record["threads"] for record in records}) == 1 else f" ({threads_of(found[0])})"
        yield from row(TITLES[name], ("all" if everywhere else "; ".join(titles)) + only, why)


def short(why: str, most: int = 160) -> str:
    """An error in a cell: its beginning, without what would break the table or names a folder."""
    words = [word for word in why.split() if not word.startswith(("/", "src/"))]
    text = " ".join(words).replace("|", "/").replace("`", "'")
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def times_of(record: Record, name: str) -> list[float]:
    """Microseconds of each round; empty where it was not timed."""
    times: list[float] = record["candidates"].get(name, {}).get("microseconds", [])
    return times


def figure(microseconds: float) -> str:
    """Three digits or so, in µs."""
    return f"{microseconds:.1f}" if microseconds < 100 else f"{microseconds:,.0f}"


def threads_of(record: Record) -> str:
    """For people."""
    return number_of(record["threads"])


def number_of(threads: int) -> str:
    """For people."""
    return "one thread" if threads == 1 else {2: "two threads"}.get(threads, f"{threads} threads")


def row(*cells: str) -> Iterator[str]:
    """A row of a Markdown table."""
    yield f"| {' | '.join(cells)} |"
