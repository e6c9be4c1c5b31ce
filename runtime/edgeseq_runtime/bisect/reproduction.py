"""The node that was found, as two small models that run with ONNX Runtime alone.

The suspect's node and the reference's get the same inputs: what the reference computed for them. Nodes that only one of the graphs
has are taken along, back to values that both have. A node of a body is cut out for the step in which it first differs. Where a node
does not show the fault by itself, as with nodes that are fused, more nodes before it are taken along, in the end the whole graph.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgeseq_runtime.bisect.computation import Computation
from edgeseq_runtime.bisect.cut import NotShown, Side, fed
from edgeseq_runtime.bisect.locate import Located
from edgeseq_runtime.bisect.rule import Difference, rms
from edgeseq_runtime.errors import EdgeseqError, UsageError
from edgeseq_runtime.tensors.spec import Array

DEPTHS = (1, 2, 3, 4, 6, 8)  # nodes one before the other that are tried, fewest first
_DIGITS = 3


class Reproduction(NamedTuple):
    """Two models that part on the same inputs."""

    suspect: bytes
    reference: bytes
    inputs: dict[str, Array]
    expected: dict[str, Array]  # by the reference's names
    outputs: tuple[tuple[str, str], ...]  # (of the suspect, of the reference)
    allowed: dict[str, float]  # largest difference that rounding explains, by the reference's names


def write_reproduction(folder: str | PathLike[str], located: Located) -> Path:
    """Write the folder, whole or not at all: two models, their inputs and outputs, a script, and a page that says what it is.

    Raises:
        UsageError: the folder is not empty or can't be written, or the suspect was run by something else than ONNX Runtime.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"can't write a reproduction to {folder}: it is not an empty folder; name a new one")
    backend = located.suspect.plan.backend
    if backend != "onnxruntime":
        raise UsageError(
            f"{located.divergence.path} is where backend '{backend}' differs, and a reproduction runs with ONNX Runtime alone; "
            "ask for it without --reproduction"
        )
    made = make_reproduction(located)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _write_files(partial, made, located)
            partial.chmod(0o755)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"can't write a reproduction to {folder}: {error.strerror or error}; nothing was written") from error
    return folder


def make_reproduction(located: Located) -> Reproduction:
    """The smallest cut of the two graphs that shows the fault."""
    for candidate in _candidates(located):
        if _parts(candidate, located):
            return candidate
    return _whole(located)


def _candidates(located: Located) -> Iterator[Reproduction]:
    for depth in DEPTHS:
        try:
            yield _cut(located, depth)
        except NotShown:
            continue


def _parts(made: Reproduction, located: Located) -> bool:
    """Whether the cut shows the fault, run as the whole was."""
    try:
        reference = located.reference.with_model(made.reference).outputs(fed(made.reference, made.inputs))
    except EdgeseqError:
        return False
    try:
        suspect = located.suspect.with_model(made.suspect).outputs(fed(made.suspect, made.inputs))
    except EdgeseqError:
        return located.divergence.kind == "error"
    return any(_apart(suspect[a], reference[b], made.allowed[b]) for a, b in made.outputs)


def _apart(suspect: Array, reference: Array, allowed: float) -> bool:
    difference = Difference(suspect, reference)
    return difference.kind in ("dtype", "shape", "nan") or (difference.kind == "value" and float(difference.error.max()) > allowed)


def _cut(located: Located, depth: int) -> Reproduction:
    if located.spotted is None:
        raise NotShown
    given = located.spotted, located.reference, located.inputs
    sides = [Side(*given, located.suspect), Side(*given)]
    pieces = [side.cut(depth) for side in sides]
    inputs: dict[str, Array] = {}
    for side, piece in zip(sides, pieces, strict=True):
        for name in piece.inputs:
            array = side.array(name)
            if name in inputs and not _same(inputs[name], array):
                raise NotShown
            inputs[name] = array
    outputs = located.spotted.pair.outputs
    models = [
        piece.model(computation.model, inputs, [pair_names[at] for pair_names in outputs])
        for at, (piece, computation) in enumerate(zip(pieces, (located.suspect, located.reference), strict=True))
    ]
    expected = located.reference.with_model(models[1]).outputs(fed(models[1], inputs))
    return Reproduction(models[0], models[1], inputs, expected, outputs, _allowances(located, expected))


def _same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=np.issubdtype(one.dtype, np.floating))


def _allowances(located: Located, expected: Mapping[str, Array]) -> dict[str, float]:
    """Nothing where bits must be equal; else what rounding explains of an element, a generous multiple of the rms."""
    if not located.divergence.allowed:
        return dict.fromkeys(expected, 0.0)
    sizes = {name: rms(np.nan_to_num(array.astype(np.float64))) for name, array in expected.items()}
    return {name: float(f"{located.divergence.allowed * size:.{_DIGITS}g}") for name, size in sizes.items()}


def _whole(located: Located) -> Reproduction:
    """Both graphs as they are: for a fault that shows nowhere else."""
    reference: Computation = located.reference
    inputs = dict(located.inputs)
    expected = reference.outputs(inputs)
    names = tuple((name, name) for name in located.suspect.graph.outputs if name in expected)
    return Reproduction(located.suspect.model, reference.model, inputs, expected, names, _allowances(located, expected))


def _write_files(folder: Path, made: Reproduction, located: Located) -> None:
    (folder / "suspect.onnx").write_bytes(made.suspect)
    (folder / "reference.onnx").write_bytes(made.reference)
    for name, arrays in (("inputs", made.inputs), ("outputs", made.expected)):
        np.savez(folder / f"{name}.npz", allow_pickle=False, **arrays)
    divergence = located.divergence
    script = (files("edgeseq_runtime.bisect") / "reproduce.txt").read_text("utf-8")
    values = {
        "OUTPUTS": [(a, b, made.allowed[b]) for a, b in made.outputs],
        "PROVIDERS": list(located.suspect.plan.providers),
        "OPTIMISE": located.suspect.optimise,
        "OPTIONS": dict(located.suspect.plan.session_options),
    }
    header = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    (folder / "reproduce.py").write_text(script.replace("# VALUES\n", header), "utf-8")
    lines = "\n".join(f"- {heading or 'and'}: {text}" for heading, text in divergence.lines())
    (folder / "README.md").write_text(PAGE.format(lines=lines), "utf-8")


PAGE = """# A node that computes something else than its reference

{lines}

`suspect.onnx` and `reference.onnx` hold that node, or the fewest nodes that show the difference; `inputs.npz` what both are given,
`outputs.npz` what the reference computed where this was found. NumPy and ONNX Runtime are all it takes:

```
python reproduce.py                                   # exit code 1 while the two differ, 0 once they are equal
python reproduce.py --provider CUDAExecutionProvider  # the suspect on another provider; the reference stays on the CPU
```
"""
