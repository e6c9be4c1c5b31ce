"""What must hold of an exported graph before a byte of it is written.

Each function checks one promise and raises `PostconditionError` where it is broken; none changes anything.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeseq_export.cases import DRAWS, Oracle
from edgeseq_export.causality import failing_layer, find_fault
from edgeseq_export.graph import IR_VERSION, all_nodes, census
from edgeseq_export.graph64 import evaluate_graph64
from edgeseq_export.onnx_runner import OnnxRunner
from edgeseq_export.operators import OPSET
from edgeseq_export.request import BATCH
from edgeseq_export.subject import Subject
from edgeseq_runtime.bundle import EXACT_GATE, CaseArrays, Gate, judge
from edgeseq_runtime.errors import PostconditionError
from edgeseq_runtime.tensors import Distance, TensorSpec
from edgeseq_runtime.tensors.spec import Array

TIME = "T"
EXACT_DRAWS = 4  # of each case, where nothing is rounded and one would do
CHUNKS = (1, 3, 1, 4)  # in units of the smallest chunk that the module runs on


class FrozenAxis(PostconditionError):
    """A size of the trace is in the graph."""


class UnequalOutput(PostconditionError):
    """An output has the right shape and is further from float64 than rounding explains."""


def require_contract(model: ir.Model) -> None:
    """Opset 20, IR 10, time-major nodes, no clip, no input_forget."""
    opsets = dict(model.opset_imports)
    if opsets != {"": OPSET} or model.ir_version != IR_VERSION:
        raise PostconditionError(
            f"the graph has opsets {opsets} and IR {model.ir_version}; the contract is {OPSET} and {IR_VERSION}"
        )
    for node in all_nodes(model.graph):
        for name, allowed in (("layout", 0), ("input_forget", 0), ("clip", None)):
            attribute = node.attributes.get(name)
            if node.op_type in ("LSTM", "GRU", "RNN") and attribute is not None and attribute.value != allowed:
                raise PostconditionError(
                    f"{node.op_type} node '{node.name}' has {name}={attribute.value}, which backends read differently"
                )


def require_census(model: ir.Model, called: Mapping[str, int], recognised: Mapping[str, int]) -> None:
    """As many recurrent nodes of each kind as the module's forward calls for: none unrolled, none lost.

    Scans that were recognised as native nodes are counted as those.
    """
    found, moved = census(model.graph), Counter(called)
    moved.update(recognised)
    moved["Scan"] -= sum(recognised.values())
    expected = {name: count for name, count in sorted(moved.items()) if count}
    if found != expected:
        raise PostconditionError(
            f"the graph has recurrent nodes {found}; the module's forward calls for {expected}. A layer whose result "
            "reaches no output is left out of a graph: if there is one, take it out of forward"
        )


def require_nothing_frozen(model: ir.Model, trace_sizes: Mapping[str, int]) -> None:
    """No dimension of an input or output and no integer constant holds a size that the module was traced at.

    Raises:
        FrozenAxis: one does.
    """
    for axis, size in trace_sizes.items():
        for value in (*model.graph.inputs, *model.graph.outputs):
            if value.shape is not None and size in list(value.shape):
                raise FrozenAxis(f"'{value.name}' has the fixed shape {value.shape}: axis '{axis}' was frozen at {size}")
        for name, constant in _integer_constants(model):
            if size in constant:
                raise FrozenAxis(
                    f"constant '{name}' holds {size}, the size that axis '{axis}' was traced at: the graph would be right at that "
                    "size only. Take sizes from x.shape instead of fixing them"
                )


def require_symbolic_outputs(outputs: Sequence[TensorSpec], cases: Sequence[CaseArrays]) -> None:
    """A size that varies between PyTorch's runs is declared by name, and a declared number is what PyTorch gives."""
    for spec in outputs:
        for case in cases:
            shape = case.float32[spec.name].shape[1:]
            if len(shape) != len(spec.shape):
                raise PostconditionError(
                    f"output {spec} has rank {len(spec.shape)}; PyTorch's has shape {shape} at {case.case.sizes}"
                )
            for declared, found in zip(spec.shape, shape, strict=True):
                expected = declared if isinstance(declared, int) else case.case.sizes.get(declared, found)
                if expected != found:
                    raise PostconditionError(f"output {spec} does not follow PyTorch's shape {shape} at sizes {case.case.sizes}")


def require_equal(run: OnnxRunner, outputs: Sequence[TensorSpec], cases: Sequence[CaseArrays], gate: Gate) -> Gate:
    """The graph agrees with the module at every case's sizes, lengths and states.

    Returns:
        The narrowest gate that it passes.

    Raises:
        UnequalOutput: values differ by more than the gate.
        PostconditionError: the graph does not run, or shapes differ.
    """
    found = []
    for case in cases:
        results = [run(case.draw_inputs(draw)) for draw in range(case.case.draws)]
        for spec in outputs:
            found.append(_require_equal_output(spec, [r[spec.name] for r in results], case, gate, f"at sizes {case.case.sizes}"))
    return Gate(max(distance.k for distance in found), max(distance.k999 for distance in found))


def require_exact(data: bytes, outputs: Sequence[TensorSpec], cases: Sequence[CaseArrays]) -> None:
    """The graph in float64 is the module in float64, at every case; kernels that round are out of it.

    Whole sequences alone: a state goes in and comes out of each, drawn at random, and chunks are nothing else.

    Raises:
        UnequalOutput: they differ by more than constants in float32 explain.
        UnknownOperator: the graph has an operator that is not evaluated in float64.
        FailedNode: a node can't be.
    """
    run = evaluate_graph64(data, [spec.name for spec in outputs])
    for case in cases:
        draws = min(EXACT_DRAWS, case.case.draws)
        results = [run(case.draw_inputs(draw)) for draw in range(draws)]
        for spec in outputs:
            where = f"at sizes {case.case.sizes}, both in float64"
            _require_equal_output(spec, [r[spec.name] for r in results], case, EXACT_GATE, where, exact=True)


def _require_equal_output(
    spec: TensorSpec, results: Sequence[Array], case: CaseArrays, gate: Gate, where: str, *, exact: bool = False
) -> Distance:
    shapes = {r.shape for r in results}
    if len(shapes) != 1:
        raise PostconditionError(f"output '{spec.name}' {where}: shape varies with the values, {sorted(shapes)[:3]}")
    horizon = case.case.horizon.get(spec.name)
    times = [axis for axis in case.case.sizes if axis != BATCH]
    time_axis = next((p + 1 for p, axis in enumerate(spec.shape) if times and axis == times[0]), None)
    float32, float64 = (kind[spec.name][: len(results)] for kind in (case.float32, case.float64))
    verdict = judge(np.stack(results), float32, float64, gate, time_axis=time_axis, horizon=horizon, exact=exact)
    if not verdict.passed or verdict.distance is None:
        raise UnequalOutput(
            f"the exported graph does not compute what the module does: output '{spec.name}' {where}: {verdict.reason}"
        )
    return verdict.distance


def require_chunks_equal(run: OnnxRunner, subject: Subject, oracle: Oracle, outputs: Sequence[TensorSpec], gate: Gate) -> int:
    """Fed chunk by chunk, its states carried over, the graph gives what the module gives for the whole sequence.

    Applies where there is state and a time axis: the only one, or of several the one called T; the others are given whole.

    Returns:
        The time steps that a chunk must be a multiple of: 1 where nothing in the module asks for more.
    """
    state = dict(subject.request.state or {})
    times = [axis for axis in subject.request.sizes() if axis != BATCH]
    if not state or not times:
        return 1
    if len(times) > 1 and TIME not in times:
        raise PostconditionError(
            f"state={state} is given and the time axes are {times}: call the one that a stream runs along '{TIME}', so that "
            "the state can be proved"
        )
    T = TIME if TIME in times else times[0]
    chunks = _runnable_chunks(subject, oracle, T)
    sizes = {**_chunk_sizes(subject), T: sum(chunks)}
    draw = subject.draws(seed=2000)
    inputs = [draw(sizes) for _ in range(DRAWS)]
    for x in inputs:
        for name, axis in subject.lengths.items():
            if axis == T:
                x[name].fill_(sizes[axis])
    float32, float64, chunked = [], [], []
    for x in inputs:
        float32.append(dict(zip(subject.output_names, oracle.float32(x), strict=True)))
        float64.append(dict(zip(subject.output_names, oracle.float64(x), strict=True)))
        chunked.append(_run_chunks(run, subject, {name: t.numpy() for name, t in x.items()}, outputs, chunks, T))
    for spec in outputs:
        if T not in spec.shape and spec.name not in state.values():
            continue
        results, exact32, exact64 = (np.stack([r[spec.name] for r in runs]) for runs in (chunked, float32, float64))
        verdict = judge(results, exact32, exact64, gate)
        if not verdict.passed:
            fault = find_fault(subject, T, chunks) or (
                f"the module is not causal, or a state is missing from state={state}. Bidirectional layers, attention and "
                "convolutions over time can't be streamed without a state of their own"
            )
            raise PostconditionError(
                f"output '{spec.name}' differs when the sequence is fed in chunks of {chunks} steps with its states carried "
                f"({verdict.reason}): {fault}; or leave state out to export the whole-sequence model"
            )
    return min(chunks)


def _chunk_sizes(subject: Subject) -> dict[str, int]:
    return {axis: 2 if axis == BATCH else 8 for axis in subject.request.sizes()}


def _runnable_chunks(subject: Subject, oracle: Oracle, T: str) -> tuple[int, ...]:
    """Lengths of chunks that PyTorch runs the module on, alone and together."""
    failure: Exception | None = None
    for unit in _units(subject, T):
        chunks = tuple(unit * steps for steps in CHUNKS)
        try:
            for steps in (*chunks, sum(chunks)):
                oracle.float32(subject.draws()({**_chunk_sizes(subject), T: steps}))
        # The user's forward can raise anything at a size that it was not written for.
        except Exception as error:
            failure = failure or error
        else:
            return chunks
    layer = failing_layer(subject, T, min(CHUNKS))
    where = f"{layer}: " if layer else ""
    raise PostconditionError(
        f"state={dict(subject.request.state or {})} is given, and PyTorch itself runs the module on no short chunks, such as "
        f"{CHUNKS} steps or multiples of them ({where}{failure}); leave state out to export the whole-sequence model"
    ) from failure


def _units(subject: Subject, T: str) -> list[int]:
    """Steps that a module may ask a chunk to be a multiple of, the fewest first: what divides the sizes it was traced at."""
    common = math.gcd(subject.trace_sizes[T], subject.other_trace_sizes[T])
    return sorted({1, 2, 3, 4, 8, *(steps for steps in range(1, common + 1) if common % steps == 0)})


def _run_chunks(
    run: OnnxRunner, subject: Subject, inputs: Mapping[str, Array], outputs: Sequence[TensorSpec], chunks: Sequence[int], T: str
) -> dict[str, Array]:
    state = {name: inputs[name] for name in subject.request.state or {}}
    pieces: dict[str, list[Array]] = {spec.name: [] for spec in outputs}
    start = 0
    for steps in chunks:
        chunk = {name: _slice(array, subject.kinds[name].axes, T, start, steps) for name, array in inputs.items()}
        chunk.update({name: np.full_like(inputs[name], steps) for name, axis in subject.lengths.items() if axis == T})
        result = run({**chunk, **state})
        state = {source: result[target] for source, target in (subject.request.state or {}).items()}
        for name, value in result.items():
            pieces[name].append(value)
        start += steps
    return {
        spec.name: np.concatenate(pieces[spec.name], axis=spec.shape.index(T)) if T in spec.shape else pieces[spec.name][-1]
        for spec in outputs
    }


def _slice(array: Array, axes: Sequence[str | None], T: str, start: int, steps: int) -> Array:
    return np.take(array, range(start, start + steps), axis=list(axes).index(T)) if T in axes else array


def _sizes_in(values: Sequence[int]) -> frozenset[int]:
    """The numbers that may be sizes: of 0, ..., n-1, which is a range over a size, only n."""
    if len(values) > 2 and list(values) == list(range(len(values))):
        return frozenset([len(values)])
    return frozenset(values)


def _integer_constants(model: ir.Model) -> Iterator[tuple[str, frozenset[int]]]:
    """Every small integer constant of the graph, by name."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is not None and tensor.dtype in (ir.DataType.INT64, ir.DataType.INT32) and tensor.size <= 64:
                yield name, _sizes_in(tensor.numpy().reshape(-1).tolist())
    for node in all_nodes(model.graph):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.INTS:
                yield f"{node.name}.{attribute.name}", frozenset(attribute.as_ints())
            elif attribute.type == ir.AttributeType.INT:
                yield f"{node.name}.{attribute.name}", frozenset([attribute.as_int()])
