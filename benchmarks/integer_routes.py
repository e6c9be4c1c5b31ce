"""Ways to compute a GRU by 8-bit weights in ONNX Runtime, which has no GRU of integers: what each takes, and how far off it is.

    python benchmarks/integer_routes.py             # fills docs/quantize.md

Two layers of 256 units; all routes take turns, round by round, with the native fp32 nodes:

    scan         what `edgeseq quantize` writes: a Scan whose step multiplies by MatMulNBits, rows in one block
    blocks of 32 the same with a scale for every 32 weights and inputs
    tensor       a Scan whose step multiplies by DynamicQuantizeMatMul: 7-bit weights, one scale for the whole state
    if           the step beside the Scan in an If, for a sequence of one step
    no loop      the step alone, which computes one step and no sequence
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime
from filled_page import fill
from onnx import helper
from precisions import recurrent_request
from rich.console import Console

from edgeseq_export import export_request
from edgeseq_quantize import cells, matrices, steps
from edgeseq_quantize.editing import MICROSOFT, Nodes, input_of, output_of
from edgeseq_quantize.layers import Method, find_layers, quantise_layers
from edgeseq_runtime import open_bundle
from edgeseq_runtime.tensors.spec import Array

PAGE = Path(__file__).parent.parent / "docs" / "quantize.md"
ROUNDS, STEPS, HIDDEN, LAYERS = 40, 100, 256, 2
TEXT = """{rows}

One thread; `× fp32` is the median over {rounds} rounds of the ratio within a round; the error is of the output of {steps} steps,
against the fp32 model. ONNX Runtime {version}, {machine}: `python benchmarks/integer_routes.py`."""
SCANNED = cells.quantised
Quantise = Callable[[onnx.NodeProto, cells.Editing, int], list[onnx.NodeProto]]


def by_tensor(nodes: Nodes, x: str, matrix: Array, bits: int, output: str, *, bias: Array | None = None) -> str:
    """A product with 7-bit weights, the other factor with one scale and zero point."""
    columns = matrices.in_seven_bits(matrix)
    constants = {"integers": columns.integers, "scales": columns.scales, "zeros": np.zeros(columns.scales.shape, np.int8)}
    inputs = [x, *(nodes.constant(name, value) for name, value in constants.items())]
    inputs += [] if bias is None else [nodes.constant("bias", bias)]
    nodes.add_many("DynamicQuantizeMatMul", inputs, [output], domain=MICROSOFT)
    return output


def without_loop(node: onnx.NodeProto, editing: cells.Editing, bits: int) -> list[onnx.NodeProto]:
    """One step of a GRU with a state, as nodes of the graph itself."""
    nodes = Nodes(editing, output_of(node, 1))
    W, R, bias = (editing.constant(node.input[at]) for at in (1, 2, 3))
    assert W is not None
    assert R is not None
    assert bias is not None
    step = steps.step_of(node, R[0], bias[0][len(R[0]) :], bits, 0)
    projected = cells._project(nodes, node.input[0], W[0].T, bias[0][: len(R[0])], bits)
    parts = steps.split(nodes, projected, step.parts, "x")
    (h,) = step.make(nodes, parts, [input_of(node, 5)])
    nodes.add_many("Identity", [h], [output_of(node, 1)])
    axis = nodes.constant("axis", np.array([0], np.int64))
    nodes.add_many("Unsqueeze", [h, axis], [output_of(node, 0)])
    return nodes.made


def either(node: onnx.NodeProto, editing: cells.Editing, bits: int) -> list[onnx.NodeProto]:
    """Both, and a choice by the number of steps; the branches have weights of their own."""
    nodes = Nodes(editing, output_of(node, 1))
    branches = []
    for name, make in (("one", without_loop), ("many", SCANNED)):
        renamed = onnx.NodeProto.FromString(node.SerializeToString())
        renamed.output[:] = [nodes.name(name) for _ in node.output]
        values = [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None) for output in renamed.output]
        branches.append(helper.make_graph(make(renamed, editing, bits), name, [], values))
    T = nodes.add("Shape", [node.input[0]], "T", start=0, end=1)
    single = nodes.add("Equal", [T, nodes.constant("one", np.array([1]))], "single")
    nodes.add_many("If", [single], list(node.output), then_branch=branches[0], else_branch=branches[1])
    return nodes.made


@contextmanager
def route(multiply: object = None, blocks: tuple[int, ...] = matrices.BLOCKS, quantised: Quantise | None = None) -> Iterator[None]:
    """`edgeseq quantize` with parts of it exchanged."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(matrices, "BLOCKS", blocks))
        if multiply:
            for module in (cells, steps):
                stack.enter_context(mock.patch.object(module, "multiply", multiply))
        if quantised:
            stack.enter_context(mock.patch("edgeseq_quantize.layers.cells.quantised", quantised))
        yield


def models(folder: Path) -> dict[str, bytes]:
    """The fp32 model, and it on each route."""
    fp32 = open_bundle(export_request(recurrent_request("GRU", HIDDEN, LAYERS), folder / "gru.edgeseq")).model()
    method = Method(8, lstm_operator=True)
    names = [layer.name for layer in find_layers(fp32, method) if layer.operator == "GRU"]
    made = {"fp32": fp32}
    for name, options in {
        "scan": {},
        "blocks of 32": {"blocks": (32, 16)},
        "tensor": {"multiply": by_tensor},
        "if": {"quantised": either},
        "no loop": {"quantised": without_loop},
    }.items():
        with route(**options):  # type: ignore[arg-type]
            made[name] = quantise_layers(fp32, names, method)
    return made


class Bound:
    """A session whose inputs and outputs stay where they are."""

    def __init__(self, model: bytes, T: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.y = np.zeros((T, 1, 8), np.float32)
        x = np.random.default_rng(0).standard_normal((T, 1, 64)).astype(np.float32)
        self.arrays = {"x": x, "h": np.zeros((LAYERS, 1, HIDDEN), np.float32), "h_out": np.zeros((LAYERS, 1, HIDDEN), np.float32)}
        self.binding = self.session.io_binding()
        for name in ("x", "h"):
            array = self.arrays[name]
            self.binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for name, array in (("y", self.y), ("h_out", self.arrays["h_out"])):
            self.binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def seconds(self, count: int) -> float:
        """Of a call."""
        start = time.perf_counter()
        for _ in range(count):
            self.session.run_with_iobinding(self.binding)
        return (time.perf_counter() - start) / count


def measured(made: dict[str, bytes], T: int) -> dict[str, tuple[float, float, float]]:
    """Of each model: microseconds, fp32's time over its own, and its error."""
    bound = {name: Bound(model, T) for name, model in made.items() if T == 1 or name != "no loop"}
    count = max(2, 200 // T)
    times: dict[str, list[float]] = {name: [] for name in bound}
    for _ in range(ROUNDS):
        for name, one in bound.items():
            times[name].append(one.seconds(count))
    exact = bound["fp32"].y
    return {
        name: (
            float(np.median(times[name]) * 1e6),
            float(np.median(np.array(times["fp32"]) / np.array(times[name]))),
            float(np.sqrt(((one.y - exact) ** 2).mean() / (exact**2).mean())),
        )
        for name, one in bound.items()
    }


def main() -> None:
    """Measure, show, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    onnxruntime.set_default_logger_severity(3)
    with tempfile.TemporaryDirectory() as folder:
        made = models(Path(folder))
    step, sequence = measured(made, 1), measured(made, STEPS)
    lines = [f"| route | step µs | × fp32 | T={STEPS} µs | × fp32 | error |", "|---|---:|---:|---:|---:|---:|"]
    for name in made:
        one, many = step[name], sequence.get(name)
        rest = f"{many[0]:.0f} | {many[1]:.2f} | {many[2]:.2%}" if many else " | | "
        lines.append(f"| {name} | {one[0]:.1f} | {one[1]:.2f} | {rest} |")
    table = "\n".join(lines)
    Console().print(table)
    facts = {"rounds": ROUNDS, "steps": STEPS, "version": onnxruntime.__version__, "machine": platform.machine()}
    fill(arguments.page, {"routes": TEXT.format(rows=table, **facts)})


if __name__ == "__main__":
    main()
