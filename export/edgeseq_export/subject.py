"""The module under export: a float32 copy, how PyTorch runs it, and what its inputs turn out to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import sympy
import torch
from torch import Tensor, nn

from edgeseq import Recurrent
from edgeseq_export.draws import Draws, InputKind
from edgeseq_export.interception import intercepted
from edgeseq_export.recording import Recorder, loop_message
from edgeseq_export.reference import evaluate, evaluation_copy
from edgeseq_export.request import ExportRequest
from edgeseq_runtime.errors import ExportError, UnsupportedModule, UsageError

BATCH = "B"


@dataclass(frozen=True)
class Subject:
    """Everything that is known of a module before it is traced."""

    request: ExportRequest
    model: nn.Module  # float32, eval mode, on the CPU; never changed
    notes: tuple[str, ...]
    kinds: Mapping[str, InputKind]  # inputs as the graph takes them
    dtypes: Mapping[str, torch.dtype]  # inputs as the module takes them
    lengths: Mapping[str, str]  # input that holds lengths -> time axis
    sorted_lengths: bool
    census: Mapping[str, int]  # recurrent nodes its forward calls for
    output_names: tuple[str, ...]
    trace_sizes: Mapping[str, int]
    other_trace_sizes: Mapping[str, int]

    def draws(self, seed: int = 0) -> Draws:
        return Draws(self.kinds, sorted_lengths=self.sorted_lengths, seed=seed)


def examine(request: ExportRequest) -> Subject:
    """Run the module as PyTorch does, at the example's sizes and at others, and note what it does.

    Raises:
        UsageError: the example inputs do not run, or outputs are named wrongly.
        UnsupportedModule: it loops in Python over a recurrence, or returns what no graph can hold.
    """
    model, notes = evaluation_copy(request.model)
    dtypes = {name: torch.float32 if t.is_floating_point() else t.dtype for name, t in request.inputs.items()}
    notes += [
        f"input '{name}' is {str(t.dtype).removeprefix('torch.')} in PyTorch and float32 in the graph"
        for name, t in request.inputs.items()
        if t.is_floating_point() and t.dtype != torch.float32
    ]
    examples = {name: t.detach().cpu().to(dtypes[name]) for name, t in request.inputs.items()}
    try:
        recorder, calls, outputs = _observe(model, examples, dtypes)
    except ExportError:
        raise
    # The user's forward can raise anything.
    except Exception as error:
        raise UsageError(
            f"{type(model).__name__}.forward fails on the example inputs, in eval mode and float32: {type(error).__name__}: {error}"
        ) from error
    recorder.require_no_cell_loop()
    lengths = _lengths_inputs(request, examples, recorder)
    kinds = {
        name: InputKind(
            example.to(torch.int32).numpy() if name in lengths else example.numpy(), request.input_axes(name), lengths.get(name)
        )
        for name, example in examples.items()
    }
    draws = Draws(kinds, sorted_lengths=recorder.sorted_only)
    trace_sizes = _trace_sizes(request, model, draws, dtypes, calls)
    other_sizes = _trace_sizes(request, model, draws, dtypes, calls, avoid=set(trace_sizes.values()))
    return Subject(
        request=request,
        model=model,
        notes=tuple(notes),
        kinds=kinds,
        dtypes=dtypes,
        lengths=lengths,
        sorted_lengths=recorder.sorted_only,
        census=dict(sorted(recorder.census.items())),
        output_names=_output_names(request, outputs),
        trace_sizes=trace_sizes,
        other_trace_sizes=other_sizes,
    )


def _observe(
    model: nn.Module, inputs: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]
) -> tuple[Recorder, Counter[str], list[Tensor]]:
    """One ordinary run: what the recorder saw, how often each module was called, and the outputs."""
    recorder = Recorder(model)
    calls: Counter[str] = Counter()
    hooks = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: calls.update([name]))
        for name, module in _outside_cells(model)
    ]
    try:
        with intercepted(recorder):
            outputs = evaluate(model, inputs, dtypes)
    finally:
        for hook in hooks:
            hook.remove()
    return recorder, calls, outputs


def _outside_cells(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Submodules but those of cells, which `edgeseq.Recurrent` may call as often as there are steps."""
    inside = {id(part) for layer in model.modules() if isinstance(layer, Recurrent) for part in layer.cell.modules()}
    return ((name, module) for name, module in model.named_modules() if name and id(module) not in inside)


def _lengths_inputs(request: ExportRequest, examples: Mapping[str, Tensor], recorder: Recorder) -> dict[str, str]:
    """Integer inputs of one dynamic axis whose values reached a packing call, or whose name says lengths."""
    times = [axis for axis in request.sizes() if axis != BATCH]
    found = {}
    for name, example in examples.items():
        if example.is_floating_point() or example.dtype == torch.bool or example.dim() > 1 or not times:
            continue
        packs = [pack for pack in recorder.packs if pack.lengths == tuple(example.reshape(-1).tolist())]
        if packs:
            fitting = [axis for axis in times if request.sizes()[axis] == packs[0].steps]
            found[name] = fitting[0] if fitting else times[0]
        elif "len" in name.lower() and request.input_axes(name) == (BATCH,):
            found[name] = times[0]
    return found


def _output_names(request: ExportRequest, outputs: list[Tensor]) -> tuple[str, ...]:
    names = tuple(request.outputs or (f"y{index}" for index in range(len(outputs))))
    if len(names) != len(outputs):
        shapes = [tuple(t.shape) for t in outputs]
        raise UsageError(f"outputs names {len(names)} tensors {names}; forward returns {len(outputs)}, of shapes {shapes}")
    return names


def _trace_sizes(
    request: ExportRequest,
    model: nn.Module,
    draws: Draws,
    dtypes: Mapping[str, torch.dtype],
    calls: Counter[str],
    avoid: Collection[int] = (),
) -> dict[str, int]:
    """Sizes to trace at: primes that occur nowhere in the module, so that one frozen into the graph can be recognised.

    A module that can't run at them (a stride asks for multiples) is traced at the nearest larger sizes that it runs at.

    Raises:
        UnsupportedModule: the number of calls of some submodule changes with the sizes.
    """
    taken = {size for t in (*model.parameters(), *model.buffers()) for size in t.shape}
    taken |= {size for t in request.inputs.values() for size in t.shape}
    primes = (p for p in sympy.primerange(11, 10_000) if p not in taken and p not in avoid)
    axes = sorted(request.sizes(), key=lambda axis: axis != BATCH)
    wanted = dict(zip(axes, primes, strict=False))
    error: Exception | None = None
    for step in range(16):
        sizes = {axis: size if axis == BATCH else size + step for axis, size in wanted.items()}
        try:
            _, found, _ = _observe(model, draws(sizes), dtypes)
        except ExportError:
            raise
        # The user's forward can raise anything at a size that it was not written for.
        except Exception as raised:
            error = error or raised
            continue
        _require_same_calls(model, request.sizes(), calls, sizes, found)
        return sizes
    raise UnsupportedModule(
        f"{type(model).__name__}.forward runs on the example ({request.sizes()}) and at no other size tried, such as {wanted}: "
        f"{type(error).__name__}: {error}. Leave the axes that can't vary out of axes (None), or mend forward"
    ) from error


def _require_same_calls(
    model: nn.Module, sizes: Mapping[str, int], calls: Counter[str], other: Mapping[str, int], found: Counter[str]
) -> None:
    # Containers are called no more often than what loops inside them: the innermost name says most.
    for name in sorted(calls | found, key=lambda n: -n.count(".")):
        if calls[name] != found[name]:
            raise UnsupportedModule(
                loop_message(name, f"is called {calls[name]} times at sizes {dict(sizes)} and {found[name]} times at {dict(other)}")
            )
