"""How much a mutation changes what a graph computes, in units of PyTorch's own rounding error: the truth that rules are held to.

It compares the harmed graph with the unharmed one, both run by ONNX Runtime itself on the bundle's reference inputs; nothing of
what judges parity is used. Whole sequences are compared, and, where there is state, sequences cut in two with the state carried
over, because some faults show in streams alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

from edgeseq_runtime.bundle import Bundle, CaseArrays
from edgeseq_runtime.interface import interface_of
from edgeseq_runtime.tensors.spec import Array

HALVED = 8  # draws of a case that are also run in two halves
EPS = float(np.finfo(np.float32).eps)


class Place(NamedTuple):
    """One output at one reference case, computed in one way."""

    case: int
    mode: str  # "whole" or "halves"
    output: str


Outputs = dict[Place, list[Array]]  # the draws


class Failed(NamedTuple):
    """A graph that could not be loaded, or not be run on some input."""

    loaded: bool
    reason: str


class Yardstick:
    """The unharmed graph of one bundle, what it gives, and the rounding error that each output is measured by."""

    def __init__(self, bundle: Bundle) -> None:
        self.interface = interface_of(bundle.manifest)
        self.cases = bundle.reference()
        correct = self.outputs(bundle.model())
        if isinstance(correct, Failed):
            raise ValueError(f"{bundle.path} can't be run: {correct.reason}")
        self.correct = correct

    def outputs(self, model: bytes) -> Outputs | Failed:
        """Everything a graph gives."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            return Failed(False, str(error))
        found: Outputs = {}
        try:
            for at, case in enumerate(self.cases):
                for draw in range(case.case.draws):
                    inputs = case.draw_inputs(draw)
                    computed = {"whole": _run(session, inputs)}
                    if draw < HALVED:
                        computed["halves"] = self._halves(session, case, inputs)
                    for mode, values in computed.items():
                        for name, value in values.items():
                            found.setdefault(Place(at, mode, name), []).append(value)
        except Exception as error:
            return Failed(True, str(error))
        return found

    def _halves(self, session: ort.InferenceSession, case: CaseArrays, inputs: dict[str, Array]) -> dict[str, Array]:
        """The outputs that go on from one half to the next; none where there is nothing to cut."""
        interface = self.interface
        steps = case.case.sizes.get(interface.time_axis, 0)
        half = steps // 2 // interface.chunk * interface.chunk
        timed = {spec.name: at for spec in interface.inputs if (at := interface.time_position(spec)) is not None}
        if not interface.state or not half or steps % interface.chunk or interface.step_lengths or not timed:
            return {}
        first, last = dict(inputs), dict(inputs)
        for name, axis in timed.items():
            first[name], last[name] = (np.ascontiguousarray(part) for part in np.split(inputs[name], [half], axis=axis))
        before = _run(session, first)
        after = _run(session, {**last, **{source: before[target] for source, target in interface.state.items()}})
        joined = {}
        for spec in interface.outputs:
            position = interface.time_position(spec)
            if spec.name in interface.state.values():
                joined[spec.name] = after[spec.name]
            elif position is not None:
                joined[spec.name] = np.concatenate([before[spec.name], after[spec.name]], axis=position)
        return joined

    def change(self, outputs: Outputs) -> float:
        """The largest change of an output, over PyTorch's own rounding error of it, pooled over the draws."""
        return max((self._change_at(place, outputs[place]) for place in self._compared()), default=0.0)

    def equal(self, outputs: Outputs) -> bool:
        """Whether a graph gives the same bits everywhere."""
        return all(
            _fits(one, other) and one.tobytes() == other.tobytes()
            for place, correct in self.correct.items()
            for one, other in zip(outputs[place], correct, strict=True)
        )

    def _compared(self) -> Iterator[Place]:
        """Outputs that are not chaotic: there the unharmed graph itself is nowhere near."""
        return (place for place in self.correct if place.output not in self.cases[place.case].case.horizon)

    def _change_at(self, place: Place, found: list[Array]) -> float:
        correct, case = self.correct[place], self.cases[place.case]
        if not all(_fits(one, other) for one, other in zip(found, correct, strict=True)):
            return math.inf
        exact = case.float64[place.output]
        if not np.issubdtype(exact.dtype, np.floating):
            return 0.0 if all(map(np.array_equal, found, correct)) else math.inf
        truth = exact.astype(np.float64)
        own = _rms(case.float32[place.output].astype(np.float64) - truth)
        moved = np.concatenate([(a.astype(np.float64) - b).ravel() for a, b in zip(found, correct, strict=True)])
        if not np.isfinite(moved).all():
            return math.inf
        scale = max(own, 2 * EPS * _rms(truth))
        size = _rms(moved)
        return size / scale if scale else (math.inf if size else 0.0)


def _run(session: ort.InferenceSession, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, dict(inputs)), strict=True))


def _fits(one: Array, other: Array) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0
