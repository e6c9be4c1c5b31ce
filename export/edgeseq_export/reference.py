"""The module as PyTorch runs it: in float32, and in float64, which is the truth that both are held to."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from edgeseq_runtime.errors import UnsupportedModule


def evaluation_copy(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A float32 copy on the CPU in eval mode without gradients, and notes on what had to be converted.

    The user's module is read and not touched.
    """
    # A tensor that some computation made (weight_norm leaves them, also in a layer's `_flat_weights`) has no deepcopy of its own.
    kept = (value for module in model.modules() for value in module.__dict__.values())
    tensors = (t for value in kept for t in (value if isinstance(value, list) else [value]) if isinstance(t, Tensor))
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in tensors if not t.is_leaf}
    try:
        duplicate = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError) as error:
        raise UnsupportedModule(
            f"{type(model).__name__} can't be copied ({error}); it holds something that copy.deepcopy refuses: keep that out of "
            "the module, or give it a __deepcopy__"
        ) from error
    weights = [*duplicate.parameters(), *duplicate.buffers()]
    notes = []
    odd = sorted({str(t.dtype).removeprefix("torch.") for t in weights if t.is_floating_point() and t.dtype != torch.float32})
    if odd:
        notes.append(f"weights in {', '.join(odd)} were converted to float32")
    if any(t.device.type != "cpu" for t in weights):
        notes.append("weights were copied to the CPU")
    return duplicate.eval().requires_grad_(False).float().cpu(), notes


def float64_copy(model: nn.Module) -> nn.Module:
    """A float64 copy of an evaluation copy."""
    return copy.deepcopy(model).double()


def evaluate(model: nn.Module, inputs: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype] | None = None) -> list[Tensor]:
    """The module's outputs, flattened; inputs are first converted to `dtypes` where it names them."""
    dtypes = dtypes or {}
    with torch.no_grad():
        return flatten_outputs(model(**{name: t.to(dtypes.get(name, t.dtype)) for name, t in inputs.items()}))


def evaluate64(model64: nn.Module, inputs: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype] | None = None) -> list[Tensor]:
    """The outputs of a float64 copy, nothing on the way being rounded to float32."""
    promoted = {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}
    whole = {name: dtype for name, dtype in (dtypes or {}).items() if not dtype.is_floating_point}
    with _Float64():
        return evaluate(model64, promoted, whole)


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread for PyTorch: reference values that do not depend on the number of cores, and small steps without hand-overs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Float64(TorchFunctionMode):
    """Promotes what a module makes in float32 by itself, or holds without registering it: `torch.zeros(...)`, `.float()`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # What is changed in place has to stay the tensor it is.
        if not getattr(func, "__name__", "").endswith("_"):
            args, kwargs = _promoted(args), _promoted(kwargs)
        return _promoted(func(*args, **kwargs))


def _promoted(values: Any) -> Any:
    """The same values, float32 tensors in float64. Every operation passes here: what is no tensor is left without a look inside."""
    if isinstance(values, Tensor):
        return values.double() if values.dtype == torch.float32 else values
    if type(values) in (tuple, list):
        return type(values)([_promoted(value) for value in values])
    if type(values) is dict:
        return {key: _promoted(value) for key, value in values.items()}
    if values is None or isinstance(values, _PLAIN):
        return values
    return pytree.tree_map_only(Tensor, _promoted, values)


_PLAIN = (bool, int, float, str, slice, torch.dtype, torch.Size)


def flatten_outputs(outputs: Any) -> list[Tensor]:
    """A module's outputs, whatever they are nested in, as a list of tensors.

    Raises:
        UnsupportedModule: an output is a packed sequence or no tensor.
    """
    leaves, _ = pytree.tree_flatten(outputs, is_leaf=lambda leaf: isinstance(leaf, PackedSequence))
    tensors = []
    for leaf in leaves:
        if isinstance(leaf, PackedSequence):
            raise UnsupportedModule(
                "forward returns a PackedSequence, which no graph can hold; return pad_packed_sequence(...) of it"
            )
        if leaf is None:
            continue
        if not isinstance(leaf, Tensor):
            raise UnsupportedModule(f"forward returns a {type(leaf).__name__} ({leaf!r}); return tensors only")
        tensors.append(leaf)
    if not tensors:
        raise UnsupportedModule("forward returns no tensor")
    return tensors
