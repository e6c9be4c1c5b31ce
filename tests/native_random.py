"""Random graphs whose values live long and short, with their NumPy equations: what finds memory that two values share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from native_graphs import node
from onnx import NodeProto

Arrays = dict[str, np.ndarray]


class Step(NamedTuple):
    """A node, and what it computes. All of these are exact in float32."""

    node: NodeProto
    inputs: tuple[str, ...]
    output: str
    compute: Callable[..., np.ndarray]


def evaluated(steps: list[Step], values: Mapping[str, np.ndarray]) -> Arrays:
    """Every value of the graph."""
    found = dict(values)
    for step in steps:
        found[step.output] = step.compute(*(found[name] for name in step.inputs))
    return found


def random_steps(
    rng: np.random.Generator, start: Mapping[str, np.ndarray], count: int, prefix: str = "v"
) -> tuple[list[Step], Arrays]:
    """Nodes that read any value before them, and the constants that they need.

    Args:
        rng: what draws them.
        start: values that are there at the beginning, matrices of float32; only their shapes count.
        count: how many nodes.
        prefix: of the names of results.
    """
    shapes = {name: array.shape for name, array in start.items()}
    steps: list[Step] = []
    constants: Arrays = {}

    def constant(name: str, *numbers: int) -> str:
        constants[name] = np.array(numbers, np.int64)
        return name

    for index in range(count):
        names = list(shapes)
        recent = names[-6:] if rng.integers(3) else names  # some values are read long after they were made
        a = str(rng.choice(recent))
        alike = [name for name in names if shapes[name] == shapes[a]]
        b = str(rng.choice(alike))
        out = f"{prefix}{index}"
        rows, columns = shapes[a]
        kind = rng.choice(["add", "sub", "max", "neg", "turn", "cut", "join", "flat", "scatter", "backwards", "widen", "same"])
        if kind in ("add", "sub", "max"):
            op, function = {"add": ("Add", np.add), "sub": ("Sub", np.subtract), "max": ("Max", np.maximum)}[str(kind)]
            step = Step(node(op, f"{a} {b}", out), (a, b), out, function)
        elif kind == "turn":
            step = Step(node("Transpose", a, out, perm=[1, 0]), (a,), out, np.transpose)
        elif kind == "cut" and rows > 2:
            bounds = [constant(f"{out}_{letter}", number) for letter, number in (("s", 1), ("e", rows), ("x", 0))]
            step = Step(node("Slice", " ".join((a, *bounds)), out), (a,), out, lambda x: x[1:])
        elif kind == "backwards":
            bounds = [constant(f"{out}_{letter}", number) for letter, number in (("s", -1), ("e", -999), ("x", 1), ("t", -1))]
            step = Step(node("Slice", " ".join((a, *bounds)), out), (a,), out, lambda x: x[:, ::-1])
        elif kind == "join" and rows < 12:
            step = Step(node("Concat", f"{a} {b}", out, axis=0), (a, b), out, lambda x, y: np.concatenate([x, y]))
        elif kind == "flat":
            step = Step(
                node("Reshape", f"{a} {constant(out + '_d', columns, rows)}", out), (a,), out, lambda x: x.reshape(x.shape[::-1])
            )
        elif kind == "scatter":
            name = f"{out}_i"
            constants[name] = np.full((1, columns), int(rng.integers(rows)), np.int64)
            bounds = [constant(f"{out}_{letter}", number) for letter, number in (("s", 0), ("e", 1), ("x", 0))]
            row = f"{out}_row"
            steps.append(Step(node("Slice", " ".join((b, *bounds)), row), (b,), row, lambda x: x[:1]))
            step = Step(node("ScatterElements", f"{a} {name} {row}", out, axis=0), (a, row), out, _scattering(constants[name]))
        elif kind == "widen" and rows == 1:
            shape = constant(f"{out}_d", 3, columns)
            step = Step(node("Expand", f"{a} {shape}", out), (a,), out, lambda x: np.broadcast_to(x, (3, x.shape[1])))
        elif kind == "same":
            step = Step(node("Identity", a, out), (a,), out, lambda x: x)
        else:
            step = Step(node("Neg", a, out), (a,), out, np.negative)
        steps.append(step)
        shapes[out] = step.compute(*(np.zeros(shapes.get(name, (1, columns)), np.float32) for name in step.inputs)).shape
    return steps, constants


def _scattering(indices: np.ndarray) -> Callable[..., np.ndarray]:
    def scattered(x: np.ndarray, row: np.ndarray) -> np.ndarray:
        made = x.copy()
        np.put_along_axis(made, indices, row, 0)
        return made

    return scattered
