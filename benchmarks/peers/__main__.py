"""The command line of `peers.benchmark`: measures, prints a table as each workload is done, and writes docs/performance.md.

python -m peers [--quick] [--workload NAME ...] [--runtime NAME ...] [--threads N ...] [--write-only]
"""

from __future__ import annotations

import os

# Before NumPy is imported: the limits are measured with threads of their own.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import time
from pathlib import Path

from performance_page import terminal_table, write_page
from rich.console import Console

from peers.benchmark import BUILD, RESULTS, Asked, measure, quickly, read
from peers.runtimes import NAMES
from peers.workloads import WORKLOADS, workload


def main() -> None:
    """Measure, print, and write the page after a full run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few workloads at one thread in few rounds; no page")
    parser.add_argument("--workload", action="append", choices=[one.name for one in WORKLOADS], help="only these; no page")
    parser.add_argument("--runtime", action="append", choices=NAMES, help="only these; no page")
    parser.add_argument("--threads", type=int, action="append", help="only these; no page")
    parser.add_argument("--write-only", action="store_true", help="measure nothing: the page from the results that are there")
    options = parser.parse_args()
    console = Console(highlight=False, width=130)
    if options.write_only:
        console.print(f"wrote {write_page(*read(RESULTS))}")
        return
    asked = _asked(options)
    total, start = len(asked.workloads) * len(asked.threads), time.monotonic()
    for number, record in enumerate(measure(asked, lambda text: console.print(text, style="dim")), 1):
        console.print(terminal_table(record))
        console.print(f"{number} of {total}, {time.monotonic() - start:.0f} s\n", style="dim")
    if asked.results == RESULTS:
        console.print(f"wrote {write_page(*read(RESULTS))} from {RESULTS}")


def _asked(options: argparse.Namespace) -> Asked:
    asked = quickly() if options.quick else Asked()
    if options.workload:
        asked = asked._replace(workloads=[workload(name) for name in options.workload])
    if options.runtime:
        asked = asked._replace(runtimes=options.runtime)
    if options.threads:
        asked = asked._replace(threads=options.threads)
    partly = options.workload or options.runtime or options.threads
    return asked._replace(results=Path(BUILD / "partly.jsonl")) if partly else asked


if __name__ == "__main__":
    main()
