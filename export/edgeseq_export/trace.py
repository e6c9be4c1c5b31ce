"""The module as an ONNX graph: `torch.export` with every recurrence opaque, then `torch.onnx`'s translation."""

from __future__ import annotations

import copy
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import sympy
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from edgeseq_export.interception import intercepted
from edgeseq_export.layer_weights import attach_weights
from edgeseq_export.limits import Limit, limits_of
from edgeseq_export.operators import OPSET, TRANSLATIONS
from edgeseq_export.reference import flatten_outputs
from edgeseq_export.subject import Subject
from edgeseq_export.substitution import Substitution
from edgeseq_runtime.errors import ExportError, UnsupportedModule


@dataclass(frozen=True)
class Trace:
    """A translated graph, its tensors still named and shaped as PyTorch left them."""

    model: ir.Model
    output_shapes: tuple[tuple[int | str, ...], ...]
    limits: tuple[Limit, ...]  # what the trace assumed of the sizes


def trace(subject: Subject, sizes: Mapping[str, int]) -> Trace:
    """Trace the subject at the sizes given, every named axis dynamic.

    Raises:
        UnsupportedModule: something in it has no faithful graph.
    """
    positional = _Positional(_prepared_copy(subject.model), dict(subject.dtypes))
    example = subject.draws()(sizes)
    dynamic = tuple({position: Dim.DYNAMIC for position, axis in enumerate(kind.axes) if axis} for kind in subject.kinds.values())
    substitution = Substitution()
    with _quiet(), torch.no_grad(), intercepted(substitution):
        with _refused(subject, sizes, "capture"):
            program = torch.export.export(positional, tuple(example.values()), dynamic_shapes=(dynamic,), strict=False)
        with _refused(subject, sizes, "translation to ONNX"):
            onnx_program = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, custom_translation_table=TRANSLATIONS, verbose=False
            )
    assert onnx_program is not None
    names = _axis_symbols(program, subject)
    return Trace(onnx_program.model, _output_shapes(program, names), limits_of(_guards(program), names))


class _Positional(nn.Module):
    """A module as a function of its inputs in order, giving its outputs as one flat tuple."""

    def __init__(self, model: nn.Module, dtypes: dict[str, torch.dtype]) -> None:
        super().__init__()
        self.model = model
        self.dtypes = dtypes

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        named = zip(self.dtypes.items(), tensors, strict=True)
        return tuple(flatten_outputs(self.model(**{name: t.to(dtype) for (name, dtype), t in named})))


def _prepared_copy(model: nn.Module) -> nn.Module:
    duplicate = copy.deepcopy(model)
    attach_weights(duplicate)
    return duplicate


def _axis_symbols(program: ExportedProgram, subject: Subject) -> dict[sympy.Symbol, sympy.Symbol]:
    """The trace's symbols and the names they go by: the user's axes, `max(lengths)` for padded sequences, and `value(longest)`
    for a size that an input without dimensions holds.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    names: dict[sympy.Symbol, sympy.Symbol] = {}
    for name, kind in zip(program.graph_signature.user_inputs, subject.kinds.values(), strict=True):
        for size, axis in zip(nodes[str(name)].meta["val"].shape, kind.axes, strict=True):
            if axis and isinstance(size, torch.SymInt) and isinstance(size.node.expr, sympy.Symbol):
                names.setdefault(size.node.expr, sympy.Symbol(axis))
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.edgeseq.trim.default):
        source = _origin(node.args[1])
        counted = dict(zip(program.graph_signature.user_inputs, subject.kinds, strict=True)).get(source, source)
        names[node.meta["val"].shape[0].node.expr] = sympy.Symbol(f"max({counted})")
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.item.default):
        held = dict(zip(program.graph_signature.user_inputs, subject.kinds, strict=True)).get(_origin(node.args[0]))
        size = node.meta["val"]
        if held is not None and isinstance(size, torch.SymInt):
            names[size.node.expr] = sympy.Symbol(f"value({held})")
    return names


def _output_shapes(program: ExportedProgram, names: dict[sympy.Symbol, sympy.Symbol]) -> tuple[tuple[int | str, ...], ...]:
    """Every output's sizes, the symbols replaced by the user's axis names."""

    def named(size: Any) -> int | str:
        if not isinstance(size, torch.SymInt):
            return int(size)
        expression = size.node.expr.xreplace(names)
        constant = _constant(expression)
        return _text(expression) if constant is None else constant

    outputs = program.graph.output_node().args[0]
    return tuple(tuple(named(size) for size in output.meta["val"].shape) for output in outputs)


def _constant(expression: sympy.Expr) -> int | None:
    """The number that a size always is (`5 * (T // (T // 2))` for even T); None where it varies."""
    # Multiples of everything small, because a module may ask for divisible sizes.
    values = {expression.xreplace({s: sympy.Integer(n) for s in expression.free_symbols}) for n in (5040, 55440, 720720)}
    (value,) = values if len(values) == 1 else (None,)
    return int(value) if isinstance(value, sympy.Integer) else None


def _guards(program: ExportedProgram) -> Iterator[tuple[sympy.Basic, str]]:
    """What the trace assumed of its symbols, and the line of code that made it."""
    symbols = [size for node in program.graph.find_nodes(op="placeholder") for size in getattr(node.meta.get("val"), "shape", ())]
    environments = {id(s.node.shape_env): s.node.shape_env for s in symbols if isinstance(s, torch.SymInt)}
    for environment in environments.values():
        for guard in environment.guards:
            place = str(guard.sloc).strip("()")
            yield guard.expr, "" if place.startswith("_") or ".py" not in place else place  # PyTorch's own code helps nobody


def _origin(node: torch.fx.Node) -> str:
    """Name of the node that a chain of conversions started from."""
    while node.target in _CONVERSIONS and isinstance(node.args[0], torch.fx.Node):
        node = node.args[0]
    return node.name


_CONVERSIONS = {torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default, torch.ops.aten.to.device, torch.ops.aten.to.dtype_layout}


def _text(expression: sympy.Expr) -> str:
    text = str(expression)
    return text[1:-1] if text.startswith("(") and text.endswith(")") and text.count("(") == 1 else text


_REMARKING = (
    "onnxscript",
    "onnxscript.optimizer._constant_folding",
    "torch.fx.experimental.symbolic_shapes",
    "torch.onnx",
    "torch.onnx._internal.exporter._registration",
)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's remarks about packages that are not installed and about its own deprecations."""
    loggers = [logging.getLogger(name) for name in _REMARKING]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _refused(subject: Subject, sizes: Mapping[str, int], stage: str) -> Iterator[None]:
    """Turn whatever PyTorch raises into a refusal that names the place in the user's code and the way out."""
    try:
        yield
    except ExportError:
        raise
    # torch.export and torch.onnx raise dozens of types, some private.
    except Exception as error:
        cause = _root(error)
        if isinstance(cause, ExportError):
            raise cause from error
        raise UnsupportedModule(
            f"{type(subject.model).__name__} has no faithful graph: {stage} failed{_place(cause, subject.model)}: "
            f"{_first_line(cause)}. {_way_out(str(cause), sizes)}"
        ) from error


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {line[:300].rstrip('.')}"


def _place(error: BaseException, model: nn.Module) -> str:
    """The innermost frame of the user's own code, and the submodule it belongs to."""
    own = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not any(part in frame.f_code.co_filename for part in ("/torch/", "/edgeseq_export/", "/onnxscript/", "/onnx_ir/"))
    ]
    # A frame outside the model is the caller of the export, not a part of the module.
    own = [(frame, line) for frame, line in own if isinstance(frame.f_locals.get("self"), nn.Module)]
    if not own:
        return ""
    frame, line = own[-1]
    return f" in {type(frame.f_locals['self']).__name__} ({frame.f_code.co_filename}:{line})"


_WAYS_OUT: tuple[tuple[Callable[[str], bool], str], ...] = (
    (
        lambda text: "Expected init and carry to have same metadata" in text,
        "A cell's step gives a state (rhs) of another dtype or shape than it was given (lhs), which is the cell's initial_state in "
        "the first step; make the two alike",
    ),
    (
        lambda text: "higher order operator" in text and "captured completely" in text,
        "A cell's step does what no graph can hold: an `if` on a tensor's values, .item(), or a recurrent layer inside the step. "
        "Use torch.where, and run layers in project or around the edgeseq.Recurrent",
    ),
    (
        lambda text: "specialized it to be a constant" in text or ("constant" in text and "dynamic" in text),
        "A named axis became a constant: a Python loop over it, a reshape to a fixed size, or len(), int(), float(), "
        "math.sqrt() or torch.linspace() of its size. Write the loop as nn.LSTM/nn.GRU/nn.RNN or edgeseq.Recurrent over the "
        "whole sequence, and calculate with x.shape as it is (x.shape[0] ** 0.5 works)",
    ),
    (
        lambda text: "data-dependent" in text or "Eq(u" in text,
        "The graph would depend on values: an `if` on a tensor, .item(), .tolist(), or a tensor of T steps combined with the "
        "max(lengths) steps of pad_packed_sequence. Use torch.where, or pad_packed_sequence(..., total_length=x.size(time axis))",
    ),
)


def _way_out(text: str, sizes: Mapping[str, int]) -> str:
    hints = [hint for matches, hint in _WAYS_OUT if matches(text)]
    return f"{hints[0]}. (Traced at {dict(sizes)}.)" if hints else f"(Traced at {dict(sizes)}.)"
