"""What a user asks the exporter for, checked before any work is done."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeseq_export.passes import PASSES
from edgeseq_runtime.bundle import Generation, TextInput
from edgeseq_runtime.errors import UnsupportedModule, UsageError

AxisNames = tuple[str | None, ...]

BATCH = "B"

_DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.int16: "int16",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.bool: "bool",
}


@dataclass(frozen=True)
class ExportRequest:
    """A module and how to export it; the arguments of `edgeseq_export.export`, which documents them."""

    model: nn.Module
    inputs: Mapping[str, Tensor]
    axes: Mapping[str, AxisNames]
    state: Mapping[str, str] | None = None
    outputs: Sequence[str] | None = None
    name: str | None = None
    text: TextInput | None = None
    generation: Generation | None = None
    without: Sequence[
        str
    ] = ()  # graph passes to leave out, by their names in `edgeseq_export.passes`, to measure what each is worth

    def __post_init__(self) -> None:
        _require_module(self.model)
        _require_tensors(self.inputs)
        _require_arguments(self.model, self.inputs)
        _require_axes(self.inputs, self.axes)
        _require_state(self)
        _require_text(self)
        _require_passes(self.without)

    @property
    def bundle_name(self) -> str:
        return self.name or type(self.model).__name__

    def input_axes(self, name: str) -> AxisNames:
        """Axis names of an input, None where its size is fixed."""
        return tuple(self.axes.get(name, (None,) * self.inputs[name].dim()))

    def sizes(self) -> dict[str, int]:
        """Size of every named axis in the example inputs."""
        return {
            axis: size
            for name, tensor in self.inputs.items()
            for axis, size in zip(self.input_axes(name), tensor.shape, strict=True)
            if axis is not None
        }


def _require_module(model: object) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModule(
            f"{type(model).__name__} is TorchScript, which hides its recurrent layers; export the nn.Module it was made from"
        )
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a {type(model).__name__}; give an nn.Module")
    if hasattr(model, "_orig_mod"):
        raise UsageError("model was wrapped by torch.compile; export the module inside it (model._orig_mod)")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise UsageError(f"model is wrapped in {type(model).__name__}; export the module inside it (model.module)")


def _require_tensors(inputs: Mapping[str, object]) -> None:
    if not inputs:
        raise UsageError("inputs is empty; give an example tensor for each argument of forward")
    for name, tensor in inputs.items():
        if not isinstance(tensor, Tensor):
            raise UsageError(
                f"input '{name}' is a {type(tensor).__name__}; give tensors only. A tuple of states becomes one input a state "
                "(wrap the module so that forward takes h and c); a constant belongs into the module"
            )
        if not name.isidentifier():
            raise UsageError(f"input '{name}' is no argument name")
        if tensor.dtype not in _DTYPES:
            raise UsageError(f"input '{name}' has dtype {tensor.dtype}; ONNX recurrent models take {', '.join(_DTYPES.values())}")
        if tensor.numel() == 0:
            raise UsageError(f"input '{name}' is empty, shape {tuple(tensor.shape)}; give an example with at least one element")


def _require_arguments(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    signature = inspect.signature(model.forward)
    try:
        signature.bind(**inputs)
    except TypeError as error:
        raise UsageError(
            f"inputs {list(inputs)} do not fit {type(model).__name__}.forward{signature}: {error}; name each input as forward does"
        ) from error


def _require_axes(inputs: Mapping[str, Tensor], axes: Mapping[str, AxisNames]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for name, names in axes.items():
        if name not in inputs:
            raise UsageError(f"axes names an input '{name}'; the inputs are {list(inputs)}")
        shape = tuple(inputs[name].shape)
        if len(names) != len(shape):
            raise UsageError(
                f"axes['{name}'] = {names} has {len(names)} entries, the example has shape {shape}; give a name for each dynamic "
                "axis and None for each fixed one"
            )
        for axis, size in zip(names, shape, strict=True):
            if axis is None:
                continue
            if not isinstance(axis, str) or not axis.isidentifier():
                raise UsageError(f"axes['{name}'] holds {axis!r}; an axis' name is an identifier such as 'T' or 'B', or None")
            known, owner = sizes.setdefault(axis, (size, name))
            if known != size:
                raise UsageError(
                    f"axis '{axis}' has size {size} in the example input '{name}' and {known} in '{owner}'; the same name is the "
                    "same size: name them differently or give matching examples"
                )
    if not sizes:
        raise UsageError(f"axes {dict(axes)} names no dynamic axis; name at least the batch, such as {{'x': ('T', 'B', None)}}")


def _require_state(request: ExportRequest) -> None:
    state = request.state or {}
    for source, target in state.items():
        if source not in request.inputs:
            raise UsageError(f"state names an input '{source}'; the inputs are {list(request.inputs)}")
        if source == target:
            raise UsageError(
                f"state input and output are both called '{source}'; name the output otherwise, such as '{source}_out'"
            )
        if request.outputs is None:
            raise UsageError(
                f"state {dict(state)} names outputs, and outputs is not given; name all of the module's outputs in their order, "
                "such as outputs=('y', 'h_out')"
            )
        if target not in request.outputs:
            raise UsageError(f"state names an output '{target}'; outputs are {list(request.outputs)}")
        others = sorted({axis for axis in request.input_axes(source) if axis is not None} - {BATCH})
        if others:
            raise UsageError(
                f"state input '{source}' has the dynamic axis {others}; a state varies with the batch alone, and the batch axis is "
                f"called '{BATCH}': name it so in axes, for every input"
            )
    if len(set(state.values())) != len(state):
        raise UsageError(f"state {dict(state)} continues two inputs by one output; give each its own")
    names = [*request.inputs, *(request.outputs or ())]
    odd = [name for name in request.outputs or () if not re.fullmatch(r"[A-Za-z_][\w.\-]*", name)]
    if odd:
        raise UsageError(f"outputs {odd} are no names; use letters, digits, '_', '-' and '.', such as 'y'")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"names {repeated} are used twice; inputs and outputs need names of their own")


def _require_text(request: ExportRequest) -> None:
    if request.generation and request.outputs is None:
        raise UsageError("generation names outputs, and outputs is not given; name all of the module's outputs in their order")
    for part in (request.text, request.generation):
        problem = next(part.problems(list(request.inputs), list(request.outputs or ())), None) if part else None
        if problem:
            raise UsageError(f"{problem}; name them as forward's arguments and outputs=(...) do")


def _require_passes(without: Sequence[str]) -> None:
    unknown = [name for name in without if name not in PASSES]
    if unknown or isinstance(without, str):
        raise UsageError(f"without={without!r} names no graph passes; give a list of {', '.join(PASSES)}")
