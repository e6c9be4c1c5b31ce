"""What an installation takes: disk, time to import, and memory beside the weights.

    python benchmarks/footprint.py                  # builds the wheel and an environment of its own: a minute
    python benchmarks/footprint.py --venv DIRECTORY # keeps the environment there, or measures the one that is there

Disk: the files of each distribution, as pip notes them, compiled ones included. Time: a fresh process each, in turns, medians.
Memory: a fresh process for each LSTM and way, as the kernel counts it (VmRSS, and VmHWM for the most at a time), less what the
process had after its imports, over the bytes of the weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filled_page import fill
from rich.console import Console

sys.path.append(str(Path(__file__).parent.parent / "tests"))

import runtime_models  # type: ignore[import-not-found]

HERE = Path(__file__).parent
FEATURES = 256
UNITS = (128, 256, 512, 1024, 2048)
ROUNDS = 9
TOOLS = ("pip", "setuptools", "wheel")  # of the environment, not of the installation
MIB = 2**20

SIZES = """
import json, sys
from importlib import metadata
found = {}
for one in metadata.distributions(path=[sys.argv[1]]):
    parts = {}
    for file in one.files or ():
        path = file.locate()
        if path.is_file():
            part = "/".join(file.parts[:2]) if len(file.parts) > 2 else file.parts[0]
            parts[part] = parts.get(part, 0) + path.stat().st_size
    found[one.metadata["Name"]] = parts
print(json.dumps(found))
"""

LEFT_OUT = {  # what nothing on a board imports: glob patterns below site-packages
    "Python's compiled copies, which make a start quicker": ("**/__pycache__",),
    "NumPy's tests and f2py": ("numpy/**/tests", "numpy/f2py"),
    "ONNX Runtime's `transformers`, `tools`, `quantization`, `datasets`, `backend`": tuple(
        f"onnxruntime/{name}" for name in ("transformers", "tools", "quantization", "datasets", "backend")
    ),
    "packages that ONNX Runtime names for those": ("google", "protobuf-*", "flatbuffers*", "packaging*"),
    "what needs PyTorch: `edgeseq`, `edgeseq_export`, `edgeseq_recipes`": ("edgeseq", "edgeseq_export", "edgeseq_recipes"),
}
OWN_KERNELS = {"ONNX Runtime, where device `native` runs every model": ("onnxruntime", "onnxruntime-*")}
PROOF = """
import sys
sys.path[:] = [*(p for p in sys.path if "site-packages" not in p), sys.argv[1]]
sys.dont_write_bytecode = True
import numpy, edgeseq_runtime
session = edgeseq_runtime.load(sys.argv[2], device=sys.argv[3])
x = numpy.ones((10, 1, 256), "float32")
session.run({"x": x}), session.stream().step({"x": x})
edgeseq_runtime.open_bundle(sys.argv[2]).reference()
assert session._model.__class__.__module__.startswith("edgeseq_runtime") and numpy.__file__.startswith(sys.argv[1])
from edgeseq_runtime.cli.main import main
sys.argv = ["edgeseq", "inspect", sys.argv[2]]
main()
"""

TIMES = {
    "python alone": "pass",
    "import numpy": "import numpy",
    "import onnxruntime": "import onnxruntime",
    "import edgeseq_runtime": "import edgeseq_runtime",
    "edgeseq_runtime.load": "import edgeseq_runtime; edgeseq_runtime.load",
    "load and run a model": "import edgeseq_runtime, numpy; "
    "edgeseq_runtime.load({path!r}).run({{'x': numpy.ones((1, 1, 256), 'float32')}})",
    "edgeseq --help": "from edgeseq_runtime.cli.main import main; import sys; sys.argv = ['edgeseq', '--help']; main()",
    "edgeseq inspect": "from edgeseq_runtime.cli.main import main; import sys; sys.argv = ['edgeseq', 'inspect', {path!r}]; main()",
}

MEMORY = """
import json, sys
import numpy
import edgeseq_runtime, edgeseq_runtime.session
from edgeseq_runtime.bundle import open_bundle
if sys.argv[1] == "native":
    import edgeseq_runtime.backends.native_backend
else:
    import onnxruntime, edgeseq_runtime.backends.onnxruntime_backend

def memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {name: int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}

way, path, file, x = sys.argv[1], sys.argv[2], sys.argv[3], numpy.ones((10, 1, 256), "float32")
found = {"import": memory()}
if way in ("edgeseq", "native"):
    session = edgeseq_runtime.load(path, device="auto" if way == "edgeseq" else way)
    found["load"] = memory()
    session.run({"x": x})
    found["run"] = memory()
    stream = session.stream()
    for _ in range(1000):
        stream.step({"x": x[:1]})
    found["stream"] = memory()
elif way == "onnxruntime":
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    found["load"] = memory()
    state = numpy.zeros((1, 1, session.get_inputs()[1].shape[2]), "float32")
    session.run(None, {"x": x, "h": state, "c": state})
    found["run"] = memory()
else:
    open_bundle(path)
    found["open_bundle"] = memory()
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    units: int
    weights: int
    way: str
    steps: dict[str, dict[str, int]]  # after what -> VmRSS and VmHWM

    def over_weights(self, step: str, which: str) -> float:
        """Beyond the imports, in units of the weights."""
        return (self.steps[step][which] - self.steps["import"][which]) / self.weights


def environment(folder: Path) -> Path:
    """An environment with the wheel and its `[ort]` extra; made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        with tempfile.TemporaryDirectory() as wheels:
            pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", wheels, str(HERE.parent))
            subprocess.run(pip, check=True)
            (wheel,) = Path(wheels).glob("edgeseq-*.whl")
            subprocess.run((sys.executable, "-m", "venv", str(folder)), check=True)
            constraints = str(HERE.parent / "constraints.txt")
            subprocess.run((str(python), "-m", "pip", "install", "--quiet", "-c", constraints, f"{wheel}[ort]"), check=True)
    return python


def output_of(python: Path, code: str, *arguments: str) -> str:
    """What a program prints."""
    return subprocess.run((str(python), "-c", code, *arguments), check=True, capture_output=True, text=True).stdout


def installed(python: Path) -> dict[str, dict[str, int]]:
    """Bytes of each distribution, by folder."""
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    found: dict[str, dict[str, int]] = json.loads(output_of(python, SIZES, str(site)))
    return {name: parts for name, parts in found.items() if name.lower() not in TOOLS}


def left_out(python: Path, folder: Path, path: Path) -> dict[str, int]:
    """Bytes that a copy of the installation does without, and proof that it does; in the end without ONNX Runtime, too."""
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    copied = folder / "board"
    shutil.copytree(site, copied, ignore=shutil.ignore_patterns(*TOOLS, *(f"{tool}-*" for tool in TOOLS)))
    found = {}
    for what, device, left in ((LEFT_OUT, "auto", "left"), (OWN_KERNELS, "native", "left for device `native`")):
        for name, patterns in what.items():
            places = [place for pattern in patterns for place in copied.glob(pattern)]
            found[name] = sum(_bytes_below(place) for place in places)
            for place in places:
                shutil.rmtree(place, ignore_errors=True)
        found[left] = _bytes_below(copied)
        output_of(python, PROOF, str(copied), str(path), device)
    return found


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def import_times(python: Path, path: Path, rounds: int) -> dict[str, float]:
    """Milliseconds of each program, the medians of the rounds."""
    found: dict[str, list[float]] = {name: [] for name in TIMES}
    for code in TIMES.values():
        output_of(python, code.format(path=str(path)))  # once for the caches
    for _ in range(rounds):
        for name, code in TIMES.items():
            start = time.perf_counter()
            output_of(python, code.format(path=str(path)))
            found[name].append((time.perf_counter() - start) * 1e3)
    return {name: round(statistics.median(times), 1) for name, times in found.items()}


def memories(python: Path, folder: Path, units: Sequence[int]) -> list[Memory]:
    """Each LSTM each way."""
    rows = []
    for H in units:
        model = runtime_models.lstm(FEATURES, H)
        path, file = model.write(folder / f"{H}.edgeseq", ({"T": 1, "B": 1},), draws=1), folder / f"{H}.onnx"
        file.write_bytes(model.onnx)
        weights = 4 * (4 * H * (FEATURES + H) + 8 * H)
        for way in ("edgeseq", "native", "onnxruntime", "open_bundle"):
            rows.append(Memory(H, weights, way, json.loads(output_of(python, MEMORY, way, str(path), str(file)))))
    return rows


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Markdown."""
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *rows)]
    return [*lines, ""]


def size_rows(sizes: Mapping[str, Mapping[str, int]]) -> list[tuple[object, ...]]:
    """Distributions, the largest first, each with its largest folders."""
    totals = sorted(((sum(parts.values()), name) for name, parts in sizes.items()), reverse=True)
    rows: list[tuple[object, ...]] = []
    for total, name in totals:
        largest = sorted(sizes[name].items(), key=lambda part: -part[1])[:4]
        share = ", ".join(f"`{part}` {size / MIB:.1f}" for part, size in largest if size > 0.03 * total and size > 0.1 * MIB)
        rows.append((name, f"{total / MIB:.1f}", share))
    return [*rows, ("together", f"{sum(total for total, _ in totals) / MIB:.1f}", "")]


def memory_rows(rows: Sequence[Memory]) -> list[tuple[object, ...]]:
    """One line an LSTM."""
    found = {(row.units, row.way): row for row in rows}
    lines: list[tuple[object, ...]] = []
    for H in dict.fromkeys(row.units for row in rows):
        own, native, raw, opened = (found[H, way] for way in ("edgeseq", "native", "onnxruntime", "open_bundle"))
        lines.append(
            (
                H,
                f"{own.weights / MIB:.1f}",
                f"{opened.over_weights('open_bundle', 'VmHWM'):.2f}",
                f"{own.over_weights('load', 'VmHWM'):.2f}",
                *(f"{own.over_weights(step, 'VmRSS'):.2f}" for step in ("load", "run", "stream")),
                f"{native.over_weights('run', 'VmHWM'):.2f}",
                f"{native.over_weights('stream', 'VmRSS'):.2f}",
                f"{raw.over_weights('load', 'VmHWM'):.2f}",
                f"{raw.over_weights('run', 'VmRSS'):.2f}",
            )
        )
    return lines


OTHERS = ("native, most", "native, after 1,000 steps", "raw load, most", "raw, after `run`")  # columns
TEXT = """`edgeseq[ort]` on Python {release}, {machine}: what pip installs, in MiB, and the largest folders of each.

{sizes}
What a board can leave out; without all of it a model still loads, runs and streams, and `edgeseq inspect` works (*run*):

{left_out}
A fresh process each, medians in milliseconds:

{times}
Memory beyond the {imports:.0f} MiB of Python with NumPy and ONNX Runtime imported, over the bytes of the weights; *raw* is ONNX
Runtime's `InferenceSession` on the `.onnx` file, *native* device `native` beyond NumPy alone. A session of ONNX Runtime takes some
11 MiB whatever the model, which outweighs small ones.

{memory}
`load` holds the serialised model, ONNX Runtime's parse of it and the packed weights for a moment; then one copy is left. Device
`native` reads weights where they lie in the serialised model, and keeps the packed ones.

`python benchmarks/footprint.py`."""


def page(
    sizes: Mapping[str, Mapping[str, int]], spared: Mapping[str, int], times: Mapping[str, float], rows: Sequence[Memory]
) -> str:
    """The part of docs/performance.md."""
    head = ("LSTM", "weights, MiB", "`open_bundle`, most", "`load`, most", "after `load`", "after `run`", "after 1,000 steps")
    return TEXT.format(
        release=".".join(map(str, sys.version_info[:2])),
        machine=platform.machine(),
        sizes="\n".join(table(("distribution", "MiB", "of which"), size_rows(sizes))),
        left_out="\n".join(table(("what", "MiB"), [(name, f"{size / MIB:.1f}") for name, size in spared.items()])),
        times="\n".join(table(("program", "ms"), [(f"`{name}`", f"{ms:.0f}") for name, ms in times.items()])),
        imports=rows[0].steps["import"]["VmRSS"] / MIB,
        memory="\n".join(table((*head, *OTHERS), memory_rows(rows))),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--units", type=int, nargs="+", default=UNITS)
    parser.add_argument("--json", type=Path, default=HERE / "results" / "footprint.json")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "performance.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = environment(given.venv or folder / "venv")
        sizes = installed(python)
        rows = memories(python, folder, given.units)
        model = folder / f"{given.units[0]}.edgeseq"
        spared = left_out(python, folder, model)
        times = import_times(python, model, given.rounds)
    part = page(sizes, spared, times, rows)
    Console().print(part, markup=False, highlight=False)
    report = {"sizes": sizes, "left_out": spared, "milliseconds": times, "memory": [asdict(row) for row in rows]}
    given.json.write_text(json.dumps(report, indent=1) + "\n")
    fill(given.page, {"footprint": part})


if __name__ == "__main__":
    main()
