"""From a bundle that fails to the node that is wrong: which computations are compared, and on which inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgeseq_runtime.bisect.computation import Computation, same_way
from edgeseq_runtime.bisect.divergence import Divergence
from edgeseq_runtime.bisect.failing import failure, locate_failing
from edgeseq_runtime.bisect.locate import Located, locate
from edgeseq_runtime.bisect.optimised import locate_optimised
from edgeseq_runtime.bisect.place import Sizes, batch_axis, first_place, growth, time_axis
from edgeseq_runtime.bisect.reproduction import write_reproduction
from edgeseq_runtime.bisect.rule import Difference, eps_of, relative
from edgeseq_runtime.bisect.words import relative_scale
from edgeseq_runtime.bundle import Bundle, CaseArrays, open_bundle
from edgeseq_runtime.device import Device
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.interface import BATCH, Interface, interface_of
from edgeseq_runtime.plan import Plan, make_plan, plan_for_device
from edgeseq_runtime.tensors.spec import Array

DRAWS = 8  # of each reference case that are tried
ENOUGH_STEPS = 4  # for a case to show when an error begins
CPU = "cpu"
OPTIMISING = "onnxruntime"  # the backend that rewrites a graph before it runs it


class _Given(NamedTuple):
    """One set of inputs."""

    inputs: Mapping[str, Array]
    sizes: Sizes
    draw: int


def find_divergence(
    path: str | PathLike[str],
    *,
    against: str | PathLike[str] | None = None,
    device: Device | str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    inputs: Mapping[str, Array] | None = None,
    reproduction: str | PathLike[str] | None = None,
    rounding: bool = False,
) -> Divergence | None:
    """The first node whose output leaves its reference, the first step, the worst row, and the growth of the error.

    The reference is the model given as `against`, on the CPU; else the same graph on the CPU, not optimised; where that is
    no other computation, or shows nothing, PyTorch's values in the bundle, which show the step and the row but no node.

    Args:
        path: the suspect, a `.edgeseq` bundle or a plain `.onnx`.
        against: what the suspect was made from, a bundle or a plain `.onnx` with the same inputs.
        device: a profile or its name, on which the suspect is run.
        precision: of the suspect, one that its bundle holds.
        threads: how many share one operator.
        inputs: to run both on; the reference cases of the bundle unless said.
        rounding: with `against`, where nothing leaves by more than rounding explains, name the first node whose bits differ.
        reproduction: a folder to write a reproduction to that runs with ONNX Runtime alone; it must be new or empty.

    Returns:
        What was found; None where nothing leaves its reference by more than rounding explains.

    Raises:
        UsageError: no such file, models of different inputs, no inputs to run them on, or a folder that is not empty.
        BundleError: a bundle can't be trusted or read.
        ProviderError: the device's backend or provider is not there.
    """
    suspect = _Opened.read(path, device, precision, threads)
    reference = None if against is None else _Opened.read(against, CPU, "fp32", threads)
    givens = list(_givens(suspect, reference, inputs))
    located = _search(suspect, reference, givens, rounding=rounding)
    if located is None:
        return _from_pytorch(suspect) if inputs is None and precision == "fp32" else None
    if reproduction is not None:
        write_reproduction(reproduction, located)
    return located.divergence


class _Opened(NamedTuple):
    """A model and how it is run."""

    path: Path
    model: bytes
    plan: Plan
    bundle: Bundle | None

    @classmethod
    def read(cls, path: str | PathLike[str], device: Device | str, precision: str, threads: int | None) -> _Opened:
        """A bundle or a plain model from its file."""
        path = Path(path)
        if path.suffix == ".onnx":
            try:
                return cls(path, path.read_bytes(), plan_for_device(device, threads=threads), None)
            except OSError as error:
                raise UsageError(f"can't read the model {path}: {error.strerror or error}") from error
        bundle = open_bundle(path)
        return cls(path, bundle.model(precision), make_plan(bundle, device, precision=precision, threads=threads), bundle)

    def computation(self, *, optimise: bool) -> Computation:
        """The model as the plan runs it."""
        return Computation(self.model, self.plan, optimise=optimise)


def _givens(suspect: _Opened, reference: _Opened | None, inputs: Mapping[str, Array] | None) -> Iterator[_Given]:
    if inputs is not None:
        yield _Given(inputs, _sizes_of(suspect, inputs), 0)
        return
    source = suspect.bundle or (reference.bundle if reference is not None else None)
    if source is None:
        raise UsageError(
            f"{suspect.path} is a plain ONNX model and holds no inputs to compare on; give inputs, or a bundle as --against"
        )
    interface = interface_of(source.manifest)
    for case in by_use(source.reference(), interface):
        for draw in range(min(case.case.draws, DRAWS)):
            arrays = case.draw_inputs(draw)
            yield _Given(arrays, _sizes(interface, case.case.sizes, arrays), draw)


def by_use(cases: Sequence[CaseArrays], interface: Interface) -> list[CaseArrays]:
    """Cases in the order of what they show: several steps and rows first, the smallest of them; then those of one step or row."""

    def order(case: CaseArrays) -> tuple[bool, bool, int]:
        sizes = case.case.sizes
        steps = sizes.get(interface.time_axis, ENOUGH_STEPS)
        return steps < ENOUGH_STEPS, min(sizes.values(), default=1) == 1, int(np.prod(list(sizes.values()) or [1]))

    return sorted(cases, key=order)


def _sizes(interface: Interface, sizes: Mapping[str, int], inputs: Mapping[str, Array]) -> Sizes:
    longest = tuple(int(inputs[name].max()) for name in interface.step_lengths if name in inputs)
    return Sizes(dict(sizes), interface.time_axis, BATCH, longest)


def _sizes_of(suspect: _Opened, inputs: Mapping[str, Array]) -> Sizes:
    """Sizes of axes by the names that the model declares for them."""
    if suspect.bundle is None:
        return Sizes({}, "T", BATCH)
    interface = interface_of(suspect.bundle.manifest)
    named = {
        axis: size
        for spec in interface.inputs
        if spec.name in inputs
        for axis, size in zip(spec.shape, inputs[spec.name].shape, strict=False)
        if isinstance(axis, str)
    }
    return _sizes(interface, named, inputs)


def _search(suspect: _Opened, reference: _Opened | None, givens: Sequence[_Given], *, rounding: bool) -> Located | None:
    """With graph optimisation off, against the other graph or the other device; then what optimisation changes."""
    plain = suspect.computation(optimise=False)
    if reference is not None:
        _require_same_inputs(plain, reference)
        found = _first(plain, reference.computation(optimise=False), givens, "graph")
        if found is not None:
            return found
    local = Computation(suspect.model, plan_for_device(CPU, threads=suspect.plan.threads), optimise=False)
    if not same_way(plain, local):
        found = _first(plain, local, givens, "device")
        if found is not None:
            return found
    if suspect.plan.backend == OPTIMISING:
        as_run = suspect.computation(optimise=True)
        tried = (locate_optimised(as_run, plain, given.inputs, given.sizes, draw=given.draw) for given in givens)
        found = next((one for one in tried if one is not None), None)
        if found is not None:
            return found
    if reference is None or not rounding:
        return None
    return _first(plain, reference.computation(optimise=False), givens, "graph", rounding=True)


def _first(
    suspect: Computation, reference: Computation, givens: Sequence[_Given], cause: str, *, rounding: bool = False
) -> Located | None:
    for given in givens:
        if failure(suspect, given.inputs) is not None:
            return locate_failing(suspect, reference, given.inputs, given.sizes, cause=cause, draw=given.draw)
        outputs, expected = suspect.outputs(given.inputs), reference.outputs(given.inputs)
        if all(not Difference(array, expected[name]).kind for name, array in outputs.items() if name in expected):
            continue
        found = locate(suspect, reference, given.inputs, given.sizes, cause=cause, draw=given.draw, rounding=rounding)
        if found is not None:
            return found
    return None


def _require_same_inputs(suspect: Computation, reference: _Opened) -> None:
    found, expected = sorted(suspect.graph.inputs), sorted(reference.computation(optimise=False).graph.inputs)
    if found != expected:
        raise UsageError(
            f"the two models take different inputs, {found} and {expected} ({reference.path}); give as --against the model that "
            "this one was made from"
        )


def _from_pytorch(suspect: _Opened) -> Divergence | None:
    """Where the outputs leave PyTorch's, node unknown: from the bundle's own reference values, pooled over the draws of a case."""
    bundle = suspect.bundle
    if bundle is None:
        return None
    interface = interface_of(bundle.manifest)
    as_run = suspect.computation(optimise=True)
    for case in by_use(bundle.reference(), interface):
        runs = [as_run.outputs(case.draw_inputs(draw)) for draw in range(case.case.draws)]
        found = [
            divergence
            for spec in interface.outputs
            if (divergence := _output_divergence(spec.name, spec.shape, [run[spec.name] for run in runs], case, interface))
        ]
        if found:
            return min(found, key=lambda one: (one.step is None, one.step or 0))
    return None


def _output_divergence(
    name: str, axes: tuple[int | str, ...], runs: Sequence[Array], case: CaseArrays, interface: Interface
) -> Divergence | None:
    expected = case.float64[name].shape[1:]
    misshapen = next((run.shape for run in runs if run.shape != expected), None)
    if misshapen is not None:
        return _unknown_node(name, case, kind="shape", found=f"shape {misshapen}; PyTorch's is {expected}")
    stacked, torch32, float64 = _within_horizon(np.stack(runs), name, axes, case, interface)
    wide = np.float64 if eps_of(stacked) else stacked.dtype
    difference = Difference(stacked.astype(wide), float64.astype(wide), [torch32.astype(wide)], eps_of(stacked))
    if not difference.left:
        return None
    sizes = Sizes(dict(case.case.sizes), interface.time_axis, BATCH)
    shape, known = stacked.shape, (stacked.shape[0], *axes)
    time = time_axis(known, shape, sizes)
    batch = batch_axis(known, shape, sizes, () if time is None else (time,))
    return _unknown_node(
        name,
        case,
        kind=difference.kind,
        found=f"pooled over {len(runs)} draws, against PyTorch's float64",
        error=relative(difference) if difference.kind == "value" else math.inf,
        allowed=relative_scale(difference),
        step=None if time is None else first_place(difference, time, exact=False),
        steps=None if time is None else shape[time],
        row=None if batch is None else int(np.argmax(difference.along(batch)[0])),
        growth=() if time is None else growth(difference, time),
    )


def _unknown_node(name: str, case: CaseArrays, **found: Any) -> Divergence:
    advice = "to name the node, give --against: the model that this one was made from"
    return Divergence(
        cause="model", node="", op="", path="", value=name, sizes=dict(case.case.sizes), differences=(advice,), **found
    )


def _within_horizon(
    stacked: Array, name: str, axes: tuple[int | str, ...], case: CaseArrays, interface: Interface
) -> tuple[Array, Array, Array]:
    """What was computed, PyTorch's float32 and its float64, up to where the recurrence is chaotic."""
    arrays = stacked, case.float32[name], case.float64[name]
    horizon = case.case.horizon.get(name)
    if horizon is None or interface.time_axis not in axes:
        return arrays
    window = (slice(None),) * (1 + axes.index(interface.time_axis)) + (slice(horizon),)
    return arrays[0][window], arrays[1][window], arrays[2][window]
