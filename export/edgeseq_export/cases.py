"""Reference values: random inputs at several sizes, and what PyTorch makes of them in float32 and float64."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edgeseq_export.reference import evaluate, evaluate64, float64_copy
from edgeseq_export.request import BATCH
from edgeseq_export.subject import Subject, sizes_near
from edgeseq_runtime.bundle import CaseArrays, ReferenceCase
from edgeseq_runtime.errors import UnsupportedModule
from edgeseq_runtime.tensors import relative_error_by_step
from edgeseq_runtime.tensors.spec import Array

DRAWS = 32
# Where a recurrence amplifies rounding, one unlucky draw can outweigh the other 31: before a graph is called wrong, it is judged
# on this many. A fault shows in them all the same.
MORE_DRAWS = 128
# Time and batch of each case. One step, one sequence and a long sequence are where exports break.
SIZES = ((1, 1), (2, 3), (7, 2), (18, 1), (47, 4))
MIN_CASES = 4
# Reference values of one case, all draws together; an eighth of the model's weights where that is more.
CASE_BYTES = 2**21
SMALLEST = 6  # time steps times batch
SPARE = 4  # one candidate more for every so many draws
# Relative change of an output, from one unit in the last place of the input, beyond which it is called chaotic.
CHAOS = 1e-2


class Oracle:
    """PyTorch's answers for a subject."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._model64: nn.Module = float64_copy(subject.model)

    def float32(self, inputs: Mapping[str, Tensor]) -> list[Array]:
        return [t.numpy() for t in evaluate(self._subject.model, inputs, self._subject.dtypes)]

    def float64(self, inputs: Mapping[str, Tensor]) -> list[Array]:
        """The truth.

        Raises:
            UnsupportedModule: the module runs in float32 and not in float64.
        """
        try:
            return [t.numpy() for t in evaluate64(self._model64, inputs, self._subject.dtypes)]
        # The user's forward can raise anything in a precision that it was not written for.
        except Exception as error:
            raise UnsupportedModule(
                f"{type(self._subject.model).__name__} can't be evaluated in float64, which its export is measured against: "
                f"{type(error).__name__}: {error}. Don't fix dtypes in forward; make tensors with x.new_zeros(...) or like x"
            ) from error


def reference_cases(subject: Subject, oracle: Oracle, draws: int = DRAWS) -> tuple[CaseArrays, ...]:
    """Cases at the sizes the module can run at, ragged lengths among them, the longest sequence shorter than T in some.

    Raises:
        UnsupportedModule: PyTorch itself runs at too few sizes, or gives NaN or infinity.
    """
    cases: list[CaseArrays] = []
    failures: list[str] = []
    seen: set[tuple[tuple[str, int], ...]] = set()
    for index, (T, B) in enumerate(SIZES):
        T, B = _affordable(subject, oracle, T, B)
        case = _runnable_case(subject, oracle, index, T, B, draws, failures)
        key = tuple(sorted(case.case.sizes.items())) if case else ()
        if case is not None and key not in seen:
            seen.add(key)
            cases.append(case)
    if len(cases) < MIN_CASES:
        raise UnsupportedModule(
            f"{type(subject.model).__name__} runs in PyTorch at {[c.case.sizes for c in cases]} only, of the sizes tried around "
            f"{list(SIZES)} (T, B): fewer than {MIN_CASES} prove nothing. Leave axes that can't vary out of axes (None)"
            + (f". At another size PyTorch raised {failures[0]}" if failures else "")
        )
    return tuple(cases)


def _runnable_case(
    subject: Subject, oracle: Oracle, index: int, T: int, B: int, draws: int, failures: list[str]
) -> CaseArrays | None:
    """The case at T, or at the next larger T that the module runs at; None where it runs at none. Adds to `failures`."""
    for sizes in sizes_near(subject.request, _sizes(subject, T, B)):
        # Where lengths are given, every other case leaves the end of the time axis to padding alone.
        shorter = {axis: max(1, size - 1 - size // 8) for axis, size in sizes.items()} if index % 2 and subject.lengths else {}
        for longest in [shorter, {}] if shorter else [{}]:
            try:
                return case_at(subject, oracle, index, sizes, longest, draws)
            except UnsupportedModule:
                raise
            # The user's forward can raise anything at a size, or at max(lengths) < T, that it was not written for.
            except Exception as error:
                failures.append(f"{type(error).__name__}: {error}")
    return None


def case_at(
    subject: Subject, oracle: Oracle, index: int, sizes: Mapping[str, int], longest: Mapping[str, int], draws: int
) -> CaseArrays:
    """The case of these sizes; `longest` gives the longest sequence by time axis, `index` the seed."""
    draw = subject.draws(seed=1000 + index)
    candidates = [draw(sizes, longest) for _ in range(draws + draws // SPARE)]
    own = [oracle.float32(x) for x in candidates]  # raises where the module does not run at these sizes
    _require_repeatable(subject, own[0], oracle.float32(candidates[0]))
    exact = [oracle.float64(x) for x in candidates]
    random = np.random.default_rng(index)
    continuous = any(t.is_floating_point() for t in candidates[0].values())
    nudged = [oracle.float64(nudged_inputs(x, random)) for x in candidates] if continuous else exact
    kept = _steadiest(exact, nudged, draws)
    inputs = [candidates[k] for k in kept]
    names = subject.output_names
    arrays = CaseArrays(
        ReferenceCase(dict(sizes), draws),
        {name: np.stack([x[name].numpy() for x in inputs]) for name in subject.kinds},
        _stacked(names, [own[k] for k in kept]),
        _stacked(names, [exact[k] for k in kept]),
    )
    _require_finite(subject, arrays)
    horizon = _horizon(arrays, _stacked(names, [nudged[k] for k in kept]))
    return arrays._replace(case=ReferenceCase(dict(sizes), draws, horizon))


def _steadiest(exact: Sequence[Sequence[Array]], nudged: Sequence[Sequence[Array]], draws: int) -> list[int]:
    """The draws on which one unit in the last place of the input moves the outputs least, in their order.

    A recurrence can amplify rounding a hundredfold on one draw and not at all on the others. On such a draw two correct programs
    are as far apart as a correct and a faulty one, and it would outweigh all others in a pooled error.
    """
    moved = np.zeros(len(exact))
    for output in range(len(exact[0])):
        if np.issubdtype(exact[0][output].dtype, np.floating):
            pairs = zip(exact, nudged, strict=True)
            change = np.asarray([np.linalg.norm((b[output].astype(float) - a[output].astype(float)).ravel()) for a, b in pairs])
            moved = np.maximum(moved, change / max(np.median(change), np.finfo(float).tiny))
    return sorted(np.argsort(moved, kind="stable")[:draws].tolist())


def _stacked(names: Sequence[str], draws: Sequence[Sequence[Array]]) -> dict[str, Array]:
    return {name: np.stack([outputs[position] for outputs in draws]) for position, name in enumerate(names)}


def _require_repeatable(subject: Subject, first: Sequence[Array], again: Sequence[Array]) -> None:
    if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=True)):
        raise UnsupportedModule(
            f"{type(subject.model).__name__} gives different outputs on the same inputs in eval mode: it draws random numbers "
            "(F.dropout needs training=self.training) or keeps a state inside itself between calls. Take the noise as an input; "
            "take the state as an input, return it, and name the pair in state={...}"
        )


def _require_finite(subject: Subject, arrays: CaseArrays) -> None:
    for name, values in {**arrays.float32, **arrays.float64}.items():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise UnsupportedModule(
                f"{type(subject.model).__name__} gives NaN or infinity in output '{name}' in PyTorch itself, on random inputs "
                f"like the example, at sizes {arrays.case.sizes}: nothing can be proved. Give an example in its range"
            )


def _horizon(arrays: CaseArrays, nudged: Mapping[str, Array]) -> dict[str, int]:
    """For each chaotic output, the steps before one unit in the last place of the input has grown beyond `CHAOS`."""
    horizon = {}
    for name, values in arrays.float64.items():
        axis = time_axis(values[0].shape, arrays.case.sizes)
        if axis is None or not np.issubdtype(values.dtype, np.floating):
            continue
        grown = relative_error_by_step(nudged[name], values, axis + 1) > CHAOS
        if grown.any():
            horizon[name] = max(1, int(np.argmax(grown)))
    return horizon


def time_axis(shape: Sequence[int], sizes: Mapping[str, int]) -> int | None:
    """Position of the time axis in an output of one draw, None where it has none."""
    times = [size for axis, size in sizes.items() if axis != BATCH]
    return next((position for position, size in enumerate(shape) if times and size == times[0] and size > 1), None)


def nudged_inputs(inputs: Mapping[str, Tensor], random: np.random.Generator) -> dict[str, Tensor]:
    """Every float moved to one of its two neighbours."""

    def neighbour(t: Tensor) -> Tensor:
        return torch.nextafter(t, torch.from_numpy(random.choice(np.array([-np.inf, np.inf], np.float32), tuple(t.shape))))

    return {name: neighbour(t) if t.is_floating_point() else t for name, t in inputs.items()}


def _sizes(subject: Subject, T: int, B: int) -> dict[str, int]:
    """T for the first time axis, its own size for every further one, B for the batch.

    The further ones are larger for odd T and smaller for even: neither order of two time axes goes untried.
    """
    axes = list(subject.request.sizes())
    times = [axis for axis in axes if axis != BATCH]
    step = 2 if T % 2 else -1
    return {axis: B if axis == BATCH else max(1, T + step * times.index(axis)) for axis in axes}


def _affordable(subject: Subject, oracle: Oracle, T: int, B: int) -> tuple[int, int]:
    """The sizes, the batch halved first and then the time, until the case's reference values fit the budget.

    Not below `SMALLEST` cells: a wide model needs its cases too.
    """
    inputs = subject.draws()(subject.trace_sizes)
    sized = [(tuple(t.shape), t.element_size()) for t in inputs.values()]
    sized += [(o.shape, 3 * o.itemsize) for o in oracle.float32(inputs)]  # float32 and float64
    weights = sum(p.numel() * p.element_size() for p in subject.model.parameters())
    budget = max(CASE_BYTES, weights // 8)

    def cost(T: int, B: int) -> int:
        at = {subject.trace_sizes[axis]: size for axis, size in _sizes(subject, T, B).items()}
        return DRAWS * sum(width * math.prod(at.get(size, size) for size in shape) for shape, width in sized)

    while cost(T, B) > budget and T * B > SMALLEST:
        T, B = (T, B // 2) if B > 1 else (T // 2, B)
    return T, B
