"""Make the environments of the benchmark: the peers beside each other, and LiteRT's converter apart.

    python3 benchmarks/peers/environments.py

A peer that can't be installed does not stop the others: it is noted with pip's error, and listed so in the results. Standard
library alone: it runs before there is anything else.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCH = ROOT / ".venv-bench"
CONVERTER = ROOT / ".venv-bench-litert"
MISSING = BENCH / "missing.json"  # package -> why it could not be installed
CONSTRAINTS = Path(__file__).parent / "constraints.txt"
CONVERTER_CONSTRAINTS = Path(__file__).parent / "constraints-litert.txt"
FOUNDATION = ".[train,quantize]"  # of the extra `bench`, without the peers
PEERS = ("ai-edge-litert", "executorch", "MNN", "ncnn", "openvino", "pnnx", "tract")


def main() -> int:
    """Both environments; fails only where edgeseq itself can't be installed."""
    _make(BENCH)
    missing: dict[str, str] = {}
    if _pip(BENCH, "-c", str(CONSTRAINTS), "-e", ".[bench]") is not None:
        if _pip(BENCH, "-c", str(CONSTRAINTS), "-e", FOUNDATION) is not None:
            return 1
        for package in PEERS:
            error = _pip(BENCH, "-c", str(CONSTRAINTS), package)
            if error:
                missing[package] = error
    # Without its dependencies, which are for its own Python code: only its weights are read.
    _pip(BENCH, "--no-deps", "-c", str(CONSTRAINTS), "silero-vad")
    _make(CONVERTER)
    error = _pip(CONVERTER, "-c", str(CONVERTER_CONSTRAINTS), "litert-torch", "ai-edge-litert", "torch")
    if error:
        missing["litert-torch"] = error
    MISSING.write_text(json.dumps(missing, indent=1) + "\n")
    for package, why in missing.items():
        print(f"{package} is left out: {why}", file=sys.stderr)
    return 0


def _make(folder: Path) -> None:
    if not (folder / "bin" / "python").exists():
        print(f"making {folder.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)


def _pip(folder: Path, *arguments: str) -> str | None:
    """Install; None, or the error in a line."""
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    run = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    if run.returncode == 0:
        return None
    errors = re.findall(r"^ERROR: (.*)$", run.stderr, re.MULTILINE)
    reason = errors[0] if errors else run.stderr.strip()[-300:]
    print(f"pip in {folder.name}: {reason}", file=sys.stderr)
    return reason


if __name__ == "__main__":
    sys.exit(main())
