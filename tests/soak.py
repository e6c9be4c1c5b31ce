"""A stream stepped a million times in a process of its own, which holds no PyTorch: what it prints is JSON.

python soak.py BUNDLE STEPS LENGTHS...: pieces of the lengths in turn, a snapshot half-way, memory noted on the way.
"""

from __future__ import annotations

import gc
import json
import sys
from itertools import cycle, islice
from pathlib import Path

import numpy as np

import edgeseq_runtime

SETTLED = 10_000  # steps after which memory must not grow
POOL = 997  # inputs made beforehand and given in turn


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def pieces(session: edgeseq_runtime.Session, lengths: list[int]) -> list[dict[str, np.ndarray]]:
    """Inputs of the lengths in turn."""
    random = np.random.default_rng(0)
    (spec,) = session.interface.data_inputs
    shape = {"T": 1, "B": 1}
    made = []
    for length in islice(cycle(lengths), POOL):
        sizes = [size if isinstance(size, int) else {**shape, "T": length}[size] for size in spec.shape]
        made.append({spec.name: random.standard_normal(sizes).astype(np.float32)})
    return made


def main() -> None:
    path, steps, *lengths = sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:])
    session = edgeseq_runtime.load(path)
    stream, given = session.stream(), pieces(session, lengths)
    before = 0
    for step in range(steps):
        outputs = stream.step(given[step % POOL])
        if step == SETTLED:
            stream.snapshot()  # the first one loads the hash functions
            gc.collect()
            before = resident_bytes()
        if step == steps // 2:
            snapshot = stream.snapshot()
    gc.collect()
    growth = resident_bytes() - before
    again = edgeseq_runtime.load(path).stream()
    again.restore(snapshot)
    for step in range(steps // 2 + 1, steps):
        repeated = again.step(given[step % POOL])
    print(
        json.dumps(
            {
                "growth": growth,
                "finite": all(bool(np.isfinite(state).all()) for state in stream.state.values()),
                "equal": all(np.array_equal(outputs[name], repeated[name]) for name in outputs)
                and all(np.array_equal(state, again.state[name]) for name, state in stream.state.items()),
                "largest": max(float(np.abs(state).max()) for state in stream.state.values()),
                "steps": stream.times.steps,
                "median": stream.times.median,
            }
        )
    )


if __name__ == "__main__":
    main()
