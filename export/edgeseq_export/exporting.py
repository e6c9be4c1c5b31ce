"""nn.Module -> bundle: the stages of an export, in the order they run."""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import onnx_ir as ir
from torch import Tensor, nn

from edgeseq_export.cases import MORE_DRAWS, Oracle, reference_cases
from edgeseq_export.graph import census, finish, input_specs
from edgeseq_export.graph64 import FailedNode, UnknownOperator
from edgeseq_export.limits import Limit, require_no_decision
from edgeseq_export.onnx_runner import OnnxRunner
from edgeseq_export.postconditions import (
    FrozenAxis,
    UnequalOutput,
    require_census,
    require_chunks_equal,
    require_contract,
    require_equal,
    require_exact,
    require_nothing_frozen,
    require_symbolic_outputs,
)
from edgeseq_export.reference import single_threaded
from edgeseq_export.request import AxisNames, ExportRequest
from edgeseq_export.subject import Subject, examine
from edgeseq_export.tensorrt_rules import tensorrt_hazards
from edgeseq_export.trace import Trace, trace
from edgeseq_runtime.bundle import (
    DEFAULT_GATES,
    FORMAT,
    CaseArrays,
    Gate,
    Generation,
    Manifest,
    TextInput,
    pack_reference,
    write_bundle,
)
from edgeseq_runtime.errors import UnsupportedModule, UsageError
from edgeseq_runtime.tensors import TensorSpec

MODEL_MEMBER = "model.onnx"
MAX_MODEL_BYTES = 2**31 - 1  # protobuf's limit

# PyTorch's exporters keep process-wide state, so exports take turns.
_turn = threading.Lock()


class ExportNotice(UserWarning):
    """Something was converted on the way, as the bundle's notes say too."""


def export(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    path: str | PathLike[str],
    *,
    axes: Mapping[str, AxisNames],
    state: Mapping[str, str] | None = None,
    name: str | None = None,
    outputs: Sequence[str] | None = None,
    text: TextInput | None = None,
    generation: Generation | None = None,
) -> Path:
    """Export a module to a bundle, its recurrences kept as single nodes, its time and batch dynamic, and proved equal.

    The module is copied and left as it is. Before anything is written the graph is run at several other sizes, with ragged
    lengths and in chunks, and compared with the module in float64.

    Args:
        model: any `nn.Module`; it is exported in eval mode and float32.
        inputs: example inputs by the names of forward's arguments. They show shapes, dtypes and ranges; values are drawn anew. An
            integer input that reaches `pack_padded_sequence` as it is, or whose name ends in `lengths` or `len`, holds sequence
            lengths: it is int32 in the graph, and the runtime checks that its values are in 1..T.
        path: the `.edgeseq` file to write.
        axes: for each input a tuple with a name a dynamic axis and None a fixed one, such as
            `{"x": ("T", "B", None), "lengths": ("B",)}`. The same name is the same size; `B` is the batch, every other name a
            time axis.
        state: input that carries state -> output that continues it, such as `{"h": "h_out", "c": "c_out"}`.
        name: the model's name; its class' by default.
        outputs: names of forward's outputs, nested ones flattened in order; `y0`, `y1`, ... by default.
        text: which input takes text, and its symbols; `edgeseq run --text` needs it.
        generation: how the graph writes sequences of tokens; see `edgeseq_export.generation_request`.

    Returns:
        The path written.

    Raises:
        UsageError: the arguments do not fit the module or each other.
        UnsupportedModule: the module has no faithful graph; the message says which part and what to write instead.
        PostconditionError: the graph was made and is not equal to the module.

    Warns:
        ExportNotice: dtypes were converted.
    """
    return export_request(ExportRequest(model, inputs, axes, state, outputs, name, text, generation), path)


def export_request(request: ExportRequest, path: str | PathLike[str]) -> Path:
    """`export` for a request."""
    _require_writable(Path(path))
    with _turn, single_threaded():
        subject = examine(request)
        oracle = Oracle(subject)
        cases = reference_cases(subject, oracle)
        translation = translate(subject, cases)
        data = serialise(translation.graph)
        proof = prove(translation, data, subject, oracle, cases)
        manifest = describe(translation, subject, proof)
        written = write_bundle(path, manifest, {MODEL_MEMBER: data}, pack_reference(proof.cases))
    for note in manifest.notes:
        warnings.warn(f"{manifest.name}: {note}", ExportNotice, stacklevel=3)
    return written


def _require_writable(path: Path) -> None:
    """Refuse a destination that can't be written before the work is done."""
    folder = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        found = "it is a folder" if path.is_dir() else f"{folder} can't be written to"
        raise UsageError(f"can't write the bundle {path}: {found}; name a file in a folder of yours")


class Translation(NamedTuple):
    """A module's finished graph."""

    graph: ir.Model
    outputs: tuple[TensorSpec, ...]
    limits: tuple[Limit, ...]  # what the trace assumed of the sizes
    recognised: Mapping[str, int]  # Scans that became native nodes, by the nodes' operator


def translate(subject: Subject, cases: Sequence[CaseArrays]) -> Translation:
    """The finished graph; none of the trace's sizes is frozen in it.

    Raises:
        UnsupportedModule: something in the module has no faithful graph.
        FrozenAxis: a named axis became a constant.
    """
    try:
        return _translate_at(subject.trace_sizes, subject, cases)
    except FrozenAxis:
        # A number of the module's own may coincide with a size of the trace. One that is frozen follows the sizes.
        return _translate_at(subject.other_trace_sizes, subject, cases)


def _translate_at(sizes: Mapping[str, int], subject: Subject, cases: Sequence[CaseArrays]) -> Translation:
    traced = trace(subject, sizes)
    outputs = output_specs(traced, subject, cases)
    graph, recognised = finish(traced, subject, outputs)
    require_nothing_frozen(graph, sizes)
    return Translation(graph, outputs, traced.limits, recognised)


def output_specs(traced: Trace, subject: Subject, cases: Sequence[CaseArrays]) -> tuple[TensorSpec, ...]:
    """The outputs as the manifest declares them."""
    named = zip(subject.output_names, traced.output_shapes, strict=True)
    return tuple(TensorSpec(name, str(cases[0].float32[name].dtype), shape) for name, shape in named)


def serialise(graph: ir.Model) -> bytes:
    """ONNX bytes, alike for alike graphs."""
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)
    if size >= MAX_MODEL_BYTES:
        raise UnsupportedModule(f"the model's weights take {size} bytes; a single ONNX file holds at most {MAX_MODEL_BYTES}")
    data: bytes = ir.serde.serialize_model(graph).SerializeToString(deterministic=True)
    return data


class Proof(NamedTuple):
    """What a graph was found equal on, and how."""

    cases: tuple[CaseArrays, ...]
    chunk: int  # time steps that a streamed chunk must be a multiple of
    gate: Gate
    notes: tuple[str, ...]


def prove(translation: Translation, data: bytes, subject: Subject, oracle: Oracle, cases: tuple[CaseArrays, ...]) -> Proof:
    """Check every further postcondition; the first broken one raises."""
    graph, outputs, limits, recognised = translation
    gate = DEFAULT_GATES["fp32"]
    require_contract(graph)
    require_census(graph, subject.census, recognised)
    require_symbolic_outputs(outputs, cases)
    run = OnnxRunner(data, [spec.name for spec in outputs])
    equal = True
    try:
        require_equal(run, outputs, cases, gate)
    except UnequalOutput:
        equal = False
    notes = _exactness(data, outputs, cases)
    if not equal:
        cases = reference_cases(subject, oracle, MORE_DRAWS)
        # Of an exact graph, what is off is the kernels of ONNX Runtime, and nothing that another graph would do better.
        found = require_equal(run, outputs, cases, gate if notes else Gate(2 * gate.k, 2 * gate.k999))
        gate, widened = own_gate(found, gate)
        notes += widened
    require_no_decision(limits, run, subject, oracle, outputs, gate)
    return Proof(cases, require_chunks_equal(run, subject, oracle, outputs, gate), gate, notes)


def _exactness(data: bytes, outputs: Sequence[TensorSpec], cases: Sequence[CaseArrays]) -> tuple[str, ...]:
    """Nothing where the graph was found exact in float64, or a note on why it was not evaluated; raises where it is not exact."""
    try:
        require_exact(data, outputs, cases)
    except (UnknownOperator, FailedNode) as reason:
        return (f"not proved in float64: {reason}",)
    return ()


def own_gate(found: Gate, gate: Gate) -> tuple[Gate, tuple[str, ...]]:
    """The gate of a bundle on which a correct runtime was `found` beyond the usual one, and a note that says so.

    Half as much again, rounded up to one digit: another machine's kernels round in another way.
    """
    if found.k <= gate.k and found.k999 <= gate.k999:
        return gate, ()
    wider = Gate(*(max(usual, _rounded_up(1.5 * measured)) for measured, usual in ((found.k, gate.k), (found.k999, gate.k999))))
    return wider, (
        f"the gate of fp32 is {wider}, wider than the usual {gate}: in float64 the graph is the module, and ONNX Runtime's "
        f"kernels round it to k {found.k:.2f}, k999 {found.k999:.2f}",
    )


def _rounded_up(value: float) -> float:
    digit = 10.0 ** math.floor(math.log10(value))
    return math.ceil(value / digit) * digit


def describe(translation: Translation, subject: Subject, proof: Proof) -> Manifest:
    """The bundle's manifest."""
    graph, outputs, _, recognised = translation
    kind = type(subject.request.model)
    packages = ("edgeseq", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")
    return Manifest(
        format=FORMAT,
        name=subject.request.bundle_name,
        inputs=input_specs(subject),
        outputs=outputs,
        state=dict(subject.request.state or {}),
        lengths=dict(subject.lengths),
        chunk=proof.chunk,
        census=census(graph.graph),
        precisions={"fp32": MODEL_MEMBER},
        tolerances={**DEFAULT_GATES, "fp32": proof.gate},
        reference=tuple(case.case for case in proof.cases),
        text=subject.request.text,
        generation=subject.request.generation,
        hazards=tensorrt_hazards(graph.graph),
        notes=(*subject.notes, *proof.notes),
        provenance={
            "module": f"{kind.__module__}.{kind.__qualname__}",
            "parameters": str(sum(p.numel() for p in subject.model.parameters())),
            "nodes": str(sum(1 for _ in graph.graph)),
            "opset": str(graph.opset_imports[""]),
            "ir_version": str(graph.ir_version),
            **({"recognised": ", ".join(f"{count} {name}" for name, count in recognised.items())} if recognised else {}),
            **{package: version(package) for package in packages},
        },
    )


__all__ = ["ExportNotice", "export", "export_request"]
