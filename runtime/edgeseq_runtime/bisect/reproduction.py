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

from edgeseq_runtime.bisect import graphs
from edgeseq_runtime.bisect.computation import Computation
from edgeseq_runtime.bisect.differences import constant_of, level_graphs
from edgeseq_runtime.bisect.expose import Value
from edgeseq_runtime.bisect.graphs import Graph, Node
from edgeseq_runtime.bisect.locate import Located
from edgeseq_runtime.bisect.protobuf import Field, bytes_field, parse, serialise
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
        UsageError: the folder is not empty, or can't be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"can't write a reproduction to {folder}: it is not an empty folder; name a new one")
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
        except _NotShown:
            continue


class _NotShown(Exception):
    """A value that the cut needs can't be had."""


def _parts(made: Reproduction, located: Located) -> bool:
    """Whether the cut shows the fault, run as the whole was."""
    try:
        suspect = located.suspect.with_model(made.suspect).outputs(_fed(made.suspect, made.inputs))
        reference = located.reference.with_model(made.reference).outputs(_fed(made.reference, made.inputs))
    except EdgeseqError:
        return False
    return any(_apart(suspect[a], reference[b], made.allowed[b]) for a, b in made.outputs)


def _fed(model: bytes, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name: inputs[name] for name in graphs.read_graph(model).inputs}


def _apart(suspect: Array, reference: Array, allowed: float) -> bool:
    difference = Difference(suspect, reference)
    return difference.kind in ("dtype", "shape", "nan") or (difference.kind == "value" and float(difference.error.max()) > allowed)


def _cut(located: Located, depth: int) -> Reproduction:
    pair, level = located.pair, located.level
    if pair is None or level is None:
        raise _NotShown
    sides = [_Side(located, suspect=True), _Side(located, suspect=False)]
    pieces = [side.cut(depth) for side in sides]
    inputs: dict[str, Array] = {}
    for side, piece in zip(sides, pieces, strict=True):
        for name in piece.inputs:
            array = side.array(name)
            if name in inputs and not _same(inputs[name], array):
                raise _NotShown
            inputs[name] = array
    outputs = pair.outputs
    models = [
        piece.model(computation.model, inputs, [pair_names[at] for pair_names in outputs])
        for at, (piece, computation) in enumerate(zip(pieces, (located.suspect, located.reference), strict=True))
    ]
    expected = located.reference.with_model(models[1]).outputs(_fed(models[1], inputs))
    return Reproduction(models[0], models[1], inputs, expected, outputs, _allowances(located, expected))


def _same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=np.issubdtype(one.dtype, np.floating))


def _allowances(located: Located, expected: Mapping[str, Array]) -> dict[str, float]:
    """Nothing where bits must be equal; else what rounding explains of an element, a generous multiple of the rms."""
    if not located.divergence.allowed:
        return dict.fromkeys(expected, 0.0)
    sizes = {name: rms(np.nan_to_num(array.astype(np.float64))) for name, array in expected.items()}
    return {name: float(f"{located.divergence.allowed * size:.{_DIGITS}g}") for name, size in sizes.items()}


class _Piece(NamedTuple):
    """Nodes of one graph with the constants they read; what else they read becomes an input."""

    nodes: tuple[Node, ...]
    constants: dict[str, memoryview]
    inputs: tuple[str, ...]

    def model(self, whole: bytes, arrays: Mapping[str, Array], outputs: list[str]) -> bytes:
        """A model of these nodes alone, of the versions that the whole one declares."""
        fields: list[Field] = [bytes_field(graphs.GRAPH_NODE, serialise(node.fields)) for node in self.nodes]
        fields.append(bytes_field(2, "reproduction"))
        fields += [bytes_field(graphs.GRAPH_TENSOR, _renamed(data, name)) for name, data in self.constants.items()]
        fields += [bytes_field(graphs.GRAPH_INPUT, graphs.value_info(name, arrays[name])) for name in self.inputs]
        fields += [bytes_field(graphs.GRAPH_OUTPUT, graphs.value_info(name)) for name in outputs]
        return graphs.with_graph(whole, serialise(fields))


def _renamed(data: memoryview, name: str) -> bytes:
    """A tensor under the name of the value that holds it: a `Constant` node's has its own or none."""
    return serialise([*(field for field in parse(data) if field.number != 8), bytes_field(8, name)])


class _Side:
    """One of the two graphs, seen from the node that was found."""

    def __init__(self, located: Located, *, suspect: bool) -> None:
        pair, level = located.pair, located.level
        if pair is None or level is None:
            raise _NotShown
        self._located = located
        self._level, self._pair = level, pair
        self._suspect = suspect
        self._node = pair.suspect if suspect else pair.reference
        scopes = level_graphs(level, pair)
        self._scopes = scopes[0] if suspect else scopes[1]
        values = level.at(pair.place).values
        self._answers = values if suspect else {name: name for name in values.values()}

    def cut(self, depth: int) -> _Piece:
        """The node, those before it up to a depth, and beyond that those whose values the other graph has not."""
        nodes: dict[int, tuple[int, int, Node]] = {}
        constants: dict[str, memoryview] = {}
        inputs: list[str] = []
        left = [(name, depth - 1) for name in graphs.reads(self._node)]
        seen: dict[str, int] = {}
        while left:
            name, more = left.pop()
            if not name or seen.get(name, -1) >= more:
                continue
            seen[name] = more
            constant = constant_of(name, self._scopes)
            maker = self._maker(name)
            if constant is not None:
                constants[name] = constant
            elif maker is not None and (more > 0 or name not in self._answers):
                nodes[id(maker[2])] = maker
                left += [(read, more - 1) for read in graphs.reads(maker[2])]
            else:
                inputs.append(name)
        made = {name for _, _, node in nodes.values() for name in node.outputs}
        ordered = [node for _, _, node in sorted(nodes.values(), key=lambda one: (-one[0], one[1]))]
        given = tuple(sorted({name for name in inputs if name not in made}))
        return _Piece((*ordered, self._node), constants, given)

    def _maker(self, name: str) -> tuple[int, int, Node] | None:
        """The node that makes a value, how many graphs out, and its place there."""
        for out, graph in enumerate(self._scopes):
            for index, node in enumerate(graph.nodes):
                if name in node.outputs:
                    return out, index, node
        return None

    def array(self, name: str) -> Array:
        """What the reference computed for a value, in the step that was found."""
        answer = self._answers.get(name)
        if answer is None and name in self._located.inputs:
            answer = name
        if answer is None:
            raise _NotShown
        if answer in self._level.reference.inputs:
            return self._located.inputs[answer]
        scopes = level_graphs(self._level, self._pair)[1]
        out = next((at for at, graph in enumerate(scopes) if _has(graph, answer)), None)
        if out is None:
            raise _NotShown
        place = self._pair.reference_place[: len(scopes) - 1 - out]
        seen = self._located.reference.values([Value(place, answer)], self._located.inputs).get(Value(place, answer))
        if seen is None:
            raise _NotShown
        return np.asarray(seen.array[self._located.iterations[: len(place)]])


def _has(graph: Graph, name: str) -> bool:
    return name in graph.inputs or any(name in node.outputs for node in graph.nodes)


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
    optimise = located.suspect.optimise
    script = (files("edgeseq_runtime.bisect") / "reproduce.txt").read_text("utf-8")
    values = {
        "OUTPUTS": [(a, b, made.allowed[b]) for a, b in made.outputs],
        "PROVIDERS": list(located.suspect.plan.providers),
        "OPTIMISE": optimise,
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
