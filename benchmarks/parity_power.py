"""What parity's gates rest on: correct exports by the hundred and harmed ones by the thousand; fills the tables of docs/parity.md.

    python benchmarks/parity_power.py                # measure what is not measured yet (two hours of two cores), then write
    python benchmarks/parity_power.py --write-only   # the page from the results that are there

The measurements themselves are `calibration.py` and `detection.py`, which can be run alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import calibration
import calibration_page
import detection
import detection_page
from filled_page import fill

PAGE = Path(__file__).parent.parent / "docs" / "parity.md"
FIGURE = PAGE.with_name("parity-k.png")
MODULES = 500


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", type=int, default=MODULES, help="correct exports")
    parser.add_argument("--jobs", type=int, default=2, help="of them at a time")
    parser.add_argument("--write-only", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.write_only:
        calibration.calibrate(options.modules, options.jobs)
        subprocess.run([sys.executable, str(Path(detection.__file__))], check=True)
    correct = [found for found in calibration.results() if found["seed"] < options.modules]
    mutants = detection.read()
    gates = "\n".join(calibration_page.gates(correct, mutants))
    fill(PAGE, {**calibration_page.tables(correct), **detection_page.tables(mutants), "gates": gates})
    calibration_page.draw(correct, mutants, FIGURE)
    print(f"wrote {PAGE} and {FIGURE}")


if __name__ == "__main__":
    main()
