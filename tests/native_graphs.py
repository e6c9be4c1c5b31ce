"""Small graphs for device "native", and what it computes of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgeseq_runtime.backends.native_backend import NativeModel, load_model
from edgeseq_runtime.plan import plan_for_device

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler on PATH")
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}


def opened(model: onnx.ModelProto) -> NativeModel:
    """The model as the backend opens it. Arrays that it is given must fit: no session checks them."""
    return load_model(model.SerializeToString(), plan_for_device("native"))


def model_of(
    nodes: Sequence[NodeProto], inputs: Mapping[str, np.ndarray], outputs: Sequence[str], constants: Mapping[str, np.ndarray] = {}
) -> onnx.ModelProto:
    """A graph whose inputs have axes without sizes; outputs are of whatever the nodes make."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TYPES[array.dtype.name], [None] * array.ndim) for name, array in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def computed(
    nodes: Sequence[NodeProto], inputs: Mapping[str, np.ndarray], outputs: Sequence[str], constants: Mapping[str, np.ndarray] = {}
) -> list[np.ndarray]:
    """What device "native" computes of nodes."""
    results = opened(model_of(nodes, inputs, outputs, constants)).run(inputs)
    return [results[name] for name in outputs]


def graph_of(
    nodes: Sequence[NodeProto], inputs: Mapping[str, str], outputs: Sequence[str], constants: Mapping[str, np.ndarray] = {}
) -> onnx.GraphProto:
    """The body of a loop: its inputs with their dtypes."""
    return helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info(name, TYPES[dtype], None) for name, dtype in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )


def node(op: str, inputs: str, outputs: str, **attributes: object) -> NodeProto:
    """A node; its inputs and outputs in one text each, `-` where one is left out."""
    names = [["" if name == "-" else name for name in each.split()] for each in (inputs, outputs)]
    return helper.make_node(op, *names, **attributes)


def strided(name: str, array: np.ndarray) -> tuple[np.ndarray, list[NodeProto], dict[str, np.ndarray]]:
    """Another array to give, nodes that make of it a view `name` equal to the first but of other strides, and their constants."""
    rank = array.ndim
    if not rank:
        return array, [node("Identity", f"{name}_given", name)], {}
    axes = range(rank)
    backwards = {"starts": [-1] * rank, "ends": [-(1 << 40)] * rank, "axes": list(axes), "steps": [-1] * rank}
    constants = {f"{name}_{part}": np.array(values, np.int64) for part, values in backwards.items()}
    nodes = [
        node("Slice", f"{name}_given " + " ".join(constants), f"{name}_turned"),
        node("Transpose", f"{name}_turned", name, perm=list(reversed(axes))),
    ]
    return np.ascontiguousarray(np.flip(array).T), nodes, constants


class Drawn:
    """Random inputs of a graph, each seen through random views: transposed, cut out of something larger, backwards, repeated."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.given: dict[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}

    def values(self, shape: Sequence[int], dtype: str = "float32") -> np.ndarray:
        """Random elements: whole numbers from -9 to 9, booleans, normal floats."""
        if dtype == "float32":
            return self.rng.standard_normal(shape).astype(np.float32)
        return self.rng.integers(0, 2, shape).astype(bool) if dtype == "bool" else self.rng.integers(-9, 10, shape).astype(dtype)

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants[name] = np.asarray(array)
        return name

    def add(self, name: str, array: np.ndarray, *, views: int = 2) -> np.ndarray:
        """A value of the graph that equals the array, after so many random views of what is given."""
        steps: list[NodeProto] = []
        to = name
        for index in range(views if array.ndim and array.size else 0):
            before = f"{name}_{index}"
            array, step = self._before(array, before, to)
            steps.insert(0, step)
            to = before
        steps.insert(0, node("Identity", f"{name}_given", to))
        self.nodes += steps
        self.given[f"{name}_given"] = np.ascontiguousarray(array).reshape(array.shape)
        return array

    def _before(self, array: np.ndarray, before: str, to: str) -> tuple[np.ndarray, NodeProto]:
        """An array and the node that makes of it the one that is asked for."""
        alike = [axis for axis in range(array.ndim) if array.shape[axis] > 1 and (array == array.take([0], axis)).all()]
        if alike:
            shape = self.constant(f"{to}_shape", np.array(array.shape, np.int64))
            return array.take([0], alike[0]), node("Expand", f"{before} {shape}", to)
        if self.rng.integers(2) and array.ndim > 1:
            order = self.rng.permutation(array.ndim)
            return np.transpose(array, np.argsort(order)), node("Transpose", before, to, perm=order.tolist())
        axis = int(self.rng.integers(array.ndim))
        step = int(self.rng.choice([-3, -2, -1, 1, 2, 3]))
        ahead, behind = (int(one) for one in self.rng.integers(0, 3, 2))
        length = array.shape[axis]
        span = (length - 1) * abs(step) + 1
        wide = self.values(
            [ahead + span + behind if one == axis else size for one, size in enumerate(array.shape)], array.dtype.name
        )
        places = np.arange(ahead, ahead + span, abs(step))[:: 1 if step > 0 else -1]
        wide[(*(slice(None) for _ in range(axis)), places)] = array
        start = int(places[0])
        end = start + length * step if step > 0 else start + length * step if start + length * step >= 0 else -(1 << 40)
        bounds = [
            self.constant(f"{to}_{part}", np.array([one], np.int64))
            for part, one in zip("seax", (start, end, axis, step), strict=True)
        ]
        return wide, node("Slice", " ".join((before, *bounds)), to)

    def computed(self, nodes: Sequence[NodeProto], outputs: Sequence[str]) -> list[np.ndarray]:
        """What device "native" computes of these nodes after the views."""
        return computed([*self.nodes, *nodes], self.given, outputs, self.constants)


def near(found: np.ndarray, expected: np.ndarray, size: np.ndarray | float = 0.0, units: float = 4.0) -> None:
    """Require float32 results to be within units in the last place of the expected value, or of the size of what was summed up."""
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~finite], expected[~finite].astype(np.float32))
    scale = np.maximum(np.abs(expected), size)[finite] * np.finfo(np.float32).eps + np.finfo(np.float32).tiny
    off = np.abs(found[finite] - expected[finite]) / scale
    assert not (off > units).any(), f"off by {off.max()} units"
    assert not np.isnan(off).any()
