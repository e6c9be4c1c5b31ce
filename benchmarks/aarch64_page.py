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

## A board of one's own

```bash
sudo apt-get install qemu-user
python tests/emulated_board.py edgeseq devices --detect
python tests/emulated_board.py edgeseq parity build/vad.edgeseq
python tests/emulated_board.py --onnxruntime 1.23.2 edgeseq parity build/vad.edgeseq
```

The first of these makes the board under `build/emulated-board`, in less than a minute and without root: Debian's arm64 Python
and aarch64 wheels of what `edgeseq[ort]` needs (250 MB), and this checkout's package (5 MB), which is made anew when the
sources change. A CI cache of that folder saves the downloads. `edgeseq` and `python3` in its `bin` are ordinary programs to the
machine: they start processes of their own, too, as `edgeseq parity FOLDER` does.

Two things are needed for ONNX Runtime to start there with QEMU 7.2, and are planted: an ARM `/proc/cpuinfo` (QEMU from version 10
brings its own), and lists of processors below `/sys/devices/system/cpu` that fit it; with one processor in the one and two in
the other, `import onnxruntime` ends the process.
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


def page(rows: Sequence[Row], *, detected: str, cpu: str, chunk: int) -> str:
    """The Markdown page."""
    worst = max(rows, key=lambda row: row.difference.relative)
    gate = rows[0].board["gate"]
    figures = {
        f"{figure}_{machine}": max(row.worst(machine, figure) for row in rows)
        for figure in ("k", "k999")
        for machine in ("here", "board")
    }
    return PAGE.format(
        count=len(rows),
        cpu=cpu,
        board=versions(rows[0].board["versions"]),
        here=versions(rows[0].here["versions"]),
        passed=sum(row.passed for row in rows),
        equal=sum(row.difference.same for row in rows),
        worst=worst.difference.relative,
        worst_model=worst.model,
        gate=f"{gate['k']:g} and {gate['k999']:g}",
        detected="\n".join(line.rstrip() for line in detected.strip("\n").splitlines()),
        chunk=chunk,
        table=table(HEADER, map(line, rows)),
        discrete=discrete(rows),
        **figures,
    )


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
