"""The module under export: a float32 copy, how PyTorch runs it, and what its inputs turn out to be."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import sympy
import torch
from torch import Tensor, nn

from edgeseq_export.draws import Draws, InputKind
from edgeseq_export.interception import intercepted
from edgeseq_export.recording import Recorder, loop_message
from edgeseq_export.reference import evaluate, evaluation_copy
from edgeseq_export.request import BATCH, ExportRequest
from edgeseq_runtime.errors import ExportError, UnsupportedModule, UsageError

STEPS = 17  # sizes tried one after the other


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
    shortest: int  # sequence that the module takes
    census: Mapping[str, int]  # recurrent nodes its forward calls for
    output_names: tuple[str, ...]
    trace_sizes: Mapping[str, int]
    other_trace_sizes: Mapping[str, int]

    def draws(self, seed: int = 0) -> Draws:
        return Draws(self.kinds, sorted_lengths=self.sorted_lengths, seed=seed, shortest=self.shortest)


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
    found = _lengths_inputs(request, examples, recorder)
    kinds = {
        name: InputKind(example.to(torch.int32).numpy() if name in found else example.numpy(), request.input_axes(name), None)
        for name, example in examples.items()
    }
    lengths = _time_axes_of(found, request, model, kinds, dtypes, recorder)
    kinds = {name: kind._replace(counts=lengths.get(name)) for name, kind in kinds.items()}
    trace_sizes, shortest = _runnable_sizes(request, model, kinds, recorder.sorted_only, dtypes, calls)
    draws = Draws(kinds, sorted_lengths=recorder.sorted_only, shortest=shortest)
    other_sizes = _trace_sizes(request, model, draws, dtypes, calls, avoid=set(trace_sizes.values()))
    return Subject(
        request=request,
        model=model,
        notes=tuple(notes),
        kinds=kinds,
        dtypes=dtypes,
        lengths=lengths,
        sorted_lengths=recorder.sorted_only,
        shortest=shortest,
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
    # Inside `edgeseq.Recurrent` a module may be called as often as there are steps: it is in the Scan's body once.
    hooks = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: calls.update([] if recorder.inside_layer else [name]))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with intercepted(recorder):
            outputs = evaluate(model, inputs, dtypes)
    finally:
        for hook in hooks:
            hook.remove()
    return recorder, calls, outputs


def _lengths_inputs(request: ExportRequest, examples: Mapping[str, Tensor], recorder: Recorder) -> dict[str, int | None]:
    """Integer inputs that hold lengths, and the packing call they reached (None where only the name says lengths).

    A packing call takes the input whose memory it was given; failing that, the only input that holds the same values.
    """
    candidates = {
        name: example
        for name, example in examples.items()
        if not example.is_floating_point() and example.dtype != torch.bool and example.dim() <= 1
    }
    found: dict[str, int | None] = {}
    for index, pack in enumerate(recorder.packs):
        same = [name for name, example in candidates.items() if example.data_ptr() == pack.memory]
        same = same or [name for name, e in candidates.items() if tuple(e.reshape(-1).tolist()) == pack.lengths]
        if len(same) == 1:
            found.setdefault(same[0], index)
    for name, example in candidates.items():
        longest = max(request.sizes().values())
        if _NAMED_LENGTHS.search(name) and request.input_axes(name) == (BATCH,) and example.min() >= 1 and example.max() <= longest:
            found.setdefault(name, None)
    return found


_NAMED_LENGTHS = re.compile(r"(^|_)(len|lens|length|lengths)$", re.IGNORECASE)


def _time_axes_of(
    lengths: Mapping[str, int | None],
    request: ExportRequest,
    model: nn.Module,
    kinds: Mapping[str, InputKind],
    dtypes: Mapping[str, torch.dtype],
    recorder: Recorder,
) -> dict[str, str]:
    """The axis that each lengths input counts: that of the sequence it was packed with, told apart at sizes that all differ."""
    times = [axis for axis in request.sizes() if axis != BATCH]
    if not lengths or not times:
        return {}
    if len(times) > 1 and any(index is not None for index in lengths.values()):
        sizes = {axis: 3 if axis == BATCH else size for axis, size in zip(request.sizes(), (23, 29, 31, 37, 41, 43), strict=False)}
        counted = {name: kind._replace(counts=times[0] if name in lengths else None) for name, kind in kinds.items()}
        draws = Draws(counted, sorted_lengths=recorder.sorted_only)
        try:
            other, _, _ = _observe(model, draws(sizes, dict.fromkeys(times, min(sizes.values()))), dtypes)
            steps = {size: axis for axis, size in sizes.items() if axis != BATCH}
            return {n: steps.get(other.packs[i].steps, times[0]) if i is not None else times[0] for n, i in lengths.items()}
        # The user's forward can raise anything at sizes that it was not written for; then the example has to tell.
        except Exception as error:
            if len({request.sizes()[axis] for axis in times}) < len(times):
                raise UsageError(
                    f"axes {times} have the sizes {[request.sizes()[axis] for axis in times]} in the example, so which of them "
                    f"{sorted(lengths)} count can't be told; give an example in which their sizes differ"
                ) from error
    by_size = {size: axis for axis, size in reversed(request.sizes().items()) if axis != BATCH}
    return {n: by_size.get(recorder.packs[i].steps, times[0]) if i is not None else times[0] for n, i in lengths.items()}


def _output_names(request: ExportRequest, outputs: list[Tensor]) -> tuple[str, ...]:
    names = tuple(request.outputs or (f"y{index}" for index in range(len(outputs))))
    if len(names) != len(outputs):
        shapes = [tuple(t.shape) for t in outputs]
        raise UsageError(f"outputs names {len(names)} tensors {names}; forward returns {len(outputs)}, of shapes {shapes}")
    taken = sorted(set(names) & set(request.inputs))
    if taken:
        raise UsageError(f"outputs {taken} are called like inputs; name the outputs with outputs=(...)")
    return names


def _runnable_sizes(
    request: ExportRequest,
    model: nn.Module,
    kinds: Mapping[str, InputKind],
    sorted_lengths: bool,
    dtypes: Mapping[str, torch.dtype],
    calls: Counter[str],
) -> tuple[dict[str, int], int]:
    """Sizes to trace at, and the shortest sequence that the module takes there: one, unless it shortens sequences itself."""
    refusal: UnsupportedModule | None = None
    for shortest in (1, 2, 4, 8) if any(kind.counts for kind in kinds.values()) else (1,):
        draws = Draws(kinds, sorted_lengths=sorted_lengths, shortest=shortest)
        try:
            sizes = _trace_sizes(request, model, draws, dtypes, calls)
            for _ in range(8):
                evaluate(model, draws(sizes), dtypes)
        except UnsupportedModule as error:
            refusal = refusal or error
        # The user's forward can raise anything on sequences as short as these.
        except Exception as error:
            refusal = refusal or UnsupportedModule(f"{type(model).__name__}.forward fails on short sequences: {error}")
        else:
            return sizes, shortest
    assert refusal is not None
    raise refusal


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
    taken |= _numbers_of(model)
    axes = sorted(request.sizes(), key=lambda axis: axis != BATCH)
    primes = (p for p in sympy.primerange(11, 10_000) if p not in taken and p not in avoid)
    wanted = dict(zip(axes, primes, strict=False))
    error: Exception | None = None
    for sizes in sizes_near(request, wanted):
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


def _numbers_of(model: nn.Module) -> set[int]:
    """The whole numbers that the modules hold: kernel sizes, strides, windows."""
    values = (value for module in model.modules() for value in vars(module).values())
    return {n for value in values for n in (value if isinstance(value, (tuple, list)) else (value,)) if type(n) is int}


def sizes_near(request: ExportRequest, wanted: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """The sizes wanted, and others to try until the module runs; the batch stays.

    A module may ask for an even size, or for more samples than one window holds: so each time axis becomes a few steps longer, then
    longer by a growing share of the example's size. Or it cuts the axis into frames: then it is multiplied by what the example's
    size can be divided by.
    """
    times = {axis: size for axis, size in request.sizes().items() if axis != BATCH}
    for share in (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1):
        base = {axis: int(share * size) for axis, size in times.items()}
        if share and max(base.values(), default=0) < STEPS:
            continue
        for step in range(STEPS):
            yield {axis: size + base[axis] + step if axis in times else size for axis, size in wanted.items()}
    frames = {n for size in times.values() for n in sympy.divisors(size) if n > STEPS}
    for frame in sorted(frames):
        yield {axis: size * frame if times.get(axis, 1) % frame == 0 else size for axis, size in wanted.items()}


def _require_same_calls(
    model: nn.Module, sizes: Mapping[str, int], calls: Counter[str], other: Mapping[str, int], found: Counter[str]
) -> None:
    # Containers are called no more often than what loops inside them: the innermost name says most.
    for name in sorted(calls | found, key=lambda n: -n.count(".")):
        if calls[name] != found[name]:
            raise UnsupportedModule(
                loop_message(name, f"is called {calls[name]} times at sizes {dict(sizes)} and {found[name]} times at {dict(other)}")
            )
