"""docs/aarch64.md: what was computed on an emulated 64-bit ARM processor, beside x86-64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aarch64 import Row

PAGE = """# 64-bit ARM, emulated

A Jetson Orin's CPU is 64-bit ARM, and ONNX Runtime has other kernels there than on x86-64. {count} models, exported here, were
proved and run by the *installed* package on an emulated Orin Nano, and compared with the same bundle on x86-64.

| | |
|---|---|
| How it is shown | *emulated*: QEMU's user mode, `-cpu {cpu}`; no board was at hand |
| On the board | {board} |
| Here | {here} |
| At parity on both | {passed} of {count} |
| Bit for bit the same on both | {equal} of {count} |
| Largest difference of the board from x86-64 | {worst:.1e} of an output's rms ({worst_model}) |
| Largest k, k999 | {k_here:.2f}, {k999_here:.2f} on x86-64; {k_board:.2f}, {k999_board:.2f} on the board; the gates are {gate} |
| Command | `python benchmarks/aarch64.py --out docs/aarch64.md` |

## What the board makes of itself

`edgeseq devices --detect`, from an Orin Nano's files (`tests/orin_nano_files.py`); the memory is that of the machine that
emulates:

```
{detected}
```

## Every model

`k` and `k999` are the largest of all outputs and sizes, whole and in streams, of `edgeseq parity`. The differences are of
`edgeseq run` at the sizes in the table: *ARM - x86* is the largest between the board and here, *over rms* the largest over the
rms of the output it is in, and *chunks* that of the board's own run in chunks of {chunk} steps from its run of the whole, over
the rms; a dash where the model has no state. 0 means that every bit is equal. k is the distance from float64 in units of
PyTorch's own rounding error on x86-64, so a k of 1 on both with different bits means: two roundings, equally near the truth.

{table}{discrete}
{native}
## What it proves, and what not

It proves that the package installs on 64-bit ARM from wheels alone, without PyTorch (with glibc 2.35 or older, as JetPack 6
has); that it starts, finds out where it is, runs, streams and proves bundles there; and that ONNX Runtime's kernels for ARM
compute what PyTorch does on x86-64. The kernels are chosen by what the processor says it can do: {cpu} and Orin's Cortex-A78AE
both have half-precision arithmetic and dot products, and neither has 8-bit matrix products (i8mm), bfloat16 or scalable vectors
(SVE).

It says nothing of speed (an emulated model takes tens to hundreds of times as long), of memory, of a GPU, or of NVIDIA's own
builds of ONNX Runtime. Python is 3.11 on this board and 3.10 on JetPack 6, for which the newest aarch64 wheel of ONNX Runtime is
1.23.2. Of the two, each is tested apart: five models of the library with that release on this board
(`tests/test_emulated_board.py`, emulated), and the installed package on Python 3.10, which takes that release, on x86-64
(`tests/test_board_install.py`, run).

Of edgeseq's own kernels it proves that gcc 12 makes them of the same C for ARM, told by `-mcpu=native` which processor it is, and
that they compute there what they do here; `tests/test_emulated_board.py` does so with what clang makes elsewhere, which takes no
`-mcpu=native` for ARM and is told `-march=armv8.2-a+dotprod` instead. QEMU on x86-64 orders writes to memory more strictly than ARM
does: two threads that agree here share their work rightly, but that memory is ordered well enough for ARM is read, not shown.

## A board of one's own

```bash
sudo apt-get install qemu-user
python tests/emulated_board.py edgeseq devices --detect
python tests/emulated_board.py edgeseq parity build/vad.edgeseq
python tests/emulated_board.py edgeseq parity build/vad.edgeseq --device native
python tests/emulated_board.py --onnxruntime 1.23.2 edgeseq parity build/vad.edgeseq
```

The first of these makes the board under `build/emulated-board`, in less than a minute and without root: Debian's arm64 Python
and gcc, aarch64 wheels of what `edgeseq[ort]` needs (435 MB in all), and this checkout's package (5 MB), which is made anew when
the sources change. What it keeps, such as the kernels that it compiles, is in `cache` there. A CI cache of that folder saves the
downloads and the compiler's minute. `edgeseq`, `python3` and `cc` in its `bin` are ordinary programs to the machine: they start
processes of their own, too, as `edgeseq parity FOLDER` does.

Two things are needed for ONNX Runtime to start there with QEMU 7.2, and are planted: an ARM `/proc/cpuinfo` (QEMU from version 10
brings its own), and lists of processors below `/sys/devices/system/cpu` that fit it; with one processor in the one and two in
the other, `import onnxruntime` ends the process.
"""
NATIVE = """
## edgeseq's own kernels

The same on device ["native"](native.md): the board compiled the kernels for itself, with Debian's gcc for ARM, which was emulated
like all the rest: a minute, once. {count} models, those above and modules as users write them, {integers} of them in int8, too.

| | |
|---|---|
| How it is shown | *emulated*, as above |
| On the board | {board} |
| Here | {here} |
| Flags there | `{flags}` |
| At parity on both | {passed} of {rows} |
| Bit for bit the same on both machines | {equal} of {count} in fp32, {equal_int8} of {integers} in int8 |
| Every bit the same on two threads as on one | {same_threads} of {rows} |
| Every bit the same in chunks as in the whole | {same_chunks} of {cut}; the others: {unequal} |
| Largest difference of the board from x86-64, fp32 | {worst} |
| Largest difference of the board from x86-64, int8 | {worst_int8} |
| Largest k, k999, fp32 | {k_here:.2f}, {k999_here:.2f} on x86-64; {k_board:.2f}, {k999_board:.2f} on the board; gates {gate} |

{table}
*threads* is how far the board's run on two threads is from that on one, over the rms. Of int8, k and k999 are errors as shares of
an output's rms; the gates are {int8_gate}. Its products are sums of whole numbers, the same on both machines, by ARM's dot products
there; where bits differ, they do so in the float32 operators around them.
"""
DISCRETE = "\nOf the integer and boolean outputs ({models}), {share} differ.\n"
HEADER = (
    "model",
    "recurrent nodes",
    "sizes",
    "k x86",
    "k ARM",
    "k999 x86",
    "k999 ARM",
    "ARM - x86",
    "over rms",
    "chunks",
    "verdict",
)


NATIVE_HEADER = (HEADER[0], "precision", *HEADER[1:-1], "threads", HEADER[-1])


def page(rows: Sequence[Row], native: Sequence[Row], *, detected: str, flags: str, cpu: str, chunk: int) -> str:
    """The Markdown page: of ONNX Runtime's kernels, then of edgeseq's own, if there are rows of those."""
    worst = max(rows, key=lambda row: row.difference.relative)
    return PAGE.format(
        count=len(rows),
        cpu=cpu,
        board=versions(rows[0].board["versions"]),
        here=versions(rows[0].here["versions"]),
        passed=sum(row.passed for row in rows),
        equal=sum(row.difference.same for row in rows),
        worst=worst.difference.relative,
        worst_model=worst.model,
        detected="\n".join(line.rstrip() for line in detected.strip("\n").splitlines()),
        chunk=chunk,
        table=table(HEADER, map(line, rows)),
        discrete=discrete(rows),
        native=native_section(native, flags) if native else "",
        **figures(rows),
    )


def native_section(rows: Sequence[Row], flags: str) -> str:
    """What `rows` of device "native" say; their kernels were compiled with those flags."""
    floats, integers = ([row for row in rows if (row.board["precision"] == "fp32") == wanted] for wanted in (True, False))
    cut = [row for row in rows if row.chunks is not None]
    worst, worst_int8 = (max(each, key=lambda row: row.difference.relative, default=None) for each in (floats, integers))
    return NATIVE.format(
        count=len(floats),
        integers=len(integers),
        rows=len(rows),
        here=f"edgeseq {rows[0].here['versions']['native']}",
        board=f"edgeseq {rows[0].board['versions']['native']}",
        passed=sum(row.passed for row in rows),
        equal=sum(row.difference.same for row in floats),
        equal_int8=sum(row.difference.same for row in integers),
        int8_gate=share_gate(integers[0].board["gate"]) if integers else "–",
        same_chunks=sum(row.chunks.same for row in cut if row.chunks),
        cut=len(cut),
        unequal=", ".join(dict.fromkeys(row.model for row in cut if row.chunks and not row.chunks.same)) or "none",
        same_threads=sum(row.threads is not None and row.threads.same for row in rows),
        worst=named(worst),
        worst_int8=named(worst_int8),
        flags=flags,
        table=table(NATIVE_HEADER, map(native_line, rows)),
        **figures(floats),
    )


def named(row: Row | None) -> str:
    """A model's difference of the board from here."""
    return "–" if row is None else f"{small(row.difference.relative)} of an output's rms ({row.model})"


def share_gate(gate: Mapping[str, float]) -> str:
    """The gate of a precision below fp32."""
    return f"{gate['relative']:.0%} and {gate['relative999']:.0%}"


def figures(rows: Sequence[Row]) -> dict[str, object]:
    """The gate of some rows, and their largest k and k999 on each machine."""
    gate = rows[0].board["gate"]
    worst = {
        f"{figure}_{machine}": max(row.worst(machine, figure) for row in rows)
        for figure in ("k", "k999")
        for machine in ("here", "board")
    }
    return {"gate": f"{gate['k']:g} and {gate['k999']:g}", **worst}


def versions(found: Mapping[str, str]) -> str:
    """What was run, as a list."""
    return ", ".join(f"{name} {version}" for name, version in found.items() if name != "machine") + f"; {found['machine']}"


def line(row: Row) -> Sequence[str]:
    """The cells of one model."""
    nodes = ", ".join(f"{count} {name}" for name, count in sorted(row.nodes.items())) or "none"
    sizes = " ".join(f"{axis}={size}" for axis, size in row.sizes.items())
    ks = [f"{row.worst(machine, figure):.2f}" for figure in ("k", "k999") for machine in ("here", "board")]
    chunks = "–" if row.chunks is None else small(row.chunks.relative)
    return (row.model, nodes, sizes, *ks, small(row.difference.max_abs), small(row.difference.relative), chunks, verdict(row))


def native_line(row: Row) -> Sequence[str]:
    """The cells of one model of device "native"."""
    model, nodes, sizes, *ks, absolute, relative, chunks, found = line(row)
    if row.board["precision"] != "fp32":
        ks = [f"{row.worst(machine, figure):.1%}" for figure in ("relative", "relative999") for machine in ("here", "board")]
    threads = "–" if row.threads is None else small(row.threads.relative)
    return (model, row.board["precision"], nodes, sizes, *ks, absolute, relative, chunks, threads, found)


def verdict(row: Row) -> str:
    """Whether it passed, and where not."""
    failed = [name for name, report in (("x86", row.here), ("ARM", row.board)) if not report["passed"]]
    return f"**fails on {' and '.join(failed)}**" if failed else "pass"


def small(value: float) -> str:
    """A difference."""
    return "0" if value == 0 else f"{value:.1e}"


def discrete(rows: Sequence[Row]) -> str:
    """A sentence on integer and boolean outputs, where there are any."""
    found = {row.model: row.difference.unequal for row in rows if row.difference.unequal is not None}
    if not found:
        return ""
    share = max(found.values())
    return DISCRETE.format(models=", ".join(found), share="none" if share == 0 else f"up to {share:.2%}")


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (header, ["---"] * len(header), *lines))
