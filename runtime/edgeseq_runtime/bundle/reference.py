"""`reference.safetensors`: inputs, PyTorch's float32 outputs and its float64 outputs, at several sizes.

A tensor's key is `{case}/{kind}/{name}` with kind `input`, `float32` or `float64`; its first axis runs over the draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edgeseq_runtime.bundle.manifest import Manifest, ReferenceCase
from edgeseq_runtime.errors import BadReference
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array


class CaseArrays(NamedTuple):
    """The arrays of one reference case, each with the draws as its first axis."""

    case: ReferenceCase
    inputs: dict[str, Array]
    float32: dict[str, Array]  # output -> what PyTorch gives in float32
    float64: dict[str, Array]  # output -> what PyTorch gives in float64

    def draw_inputs(self, draw: int) -> dict[str, Array]:
        """The inputs of one draw."""
        return {name: np.asarray(array[draw]) for name, array in self.inputs.items()}


def pack_reference(cases: Sequence[CaseArrays]) -> bytes:
    """The arrays of all cases as safetensors bytes."""
    tensors = {
        f"{index}/{kind}/{name}": np.ascontiguousarray(array)
        for index, case in enumerate(cases)
        for kind, arrays in (("input", case.inputs), ("float32", case.float32), ("float64", case.float64))
        for name, array in arrays.items()
    }
    return save(tensors)


def unpack_reference(data: bytes, manifest: Manifest) -> tuple[CaseArrays, ...]:
    """The arrays of all cases, checked against the manifest.

    Raises:
        BadReference: unreadable, a tensor missing, unknown, misshapen or of the wrong dtype, NaN or infinity.
    """
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadReference(f"reference.safetensors can't be read ({error}); export the model again") from error
    expected = set(_expected_keys(manifest))
    if set(tensors) != expected:
        odd = sorted(set(tensors) ^ expected)[:4]
        raise BadReference(f"reference.safetensors does not hold what the manifest says; missing or unknown: {odd}")
    cases = []
    for index, case in enumerate(manifest.reference):
        by_kind: dict[str, dict[str, Array]] = {"input": {}, "float32": {}, "float64": {}}
        for kind, spec in _tensors_of_case(manifest):
            key = f"{index}/{kind}/{spec.name}"
            _require_sound(key, tensors[key], spec, case, kind)
            by_kind[kind][spec.name] = tensors[key]
        cases.append(CaseArrays(case, by_kind["input"], by_kind["float32"], by_kind["float64"]))
    return tuple(cases)


def _tensors_of_case(manifest: Manifest) -> Iterator[tuple[str, TensorSpec]]:
    for spec in manifest.inputs:
        yield "input", spec
    for kind in ("float32", "float64"):
        for spec in manifest.outputs:
            yield kind, spec


def _expected_keys(manifest: Manifest) -> Iterator[str]:
    for index in range(len(manifest.reference)):
        for kind, spec in _tensors_of_case(manifest):
            yield f"{index}/{kind}/{spec.name}"


def _require_sound(key: str, array: Array, spec: TensorSpec, case: ReferenceCase, kind: str) -> None:
    floating = np.issubdtype(np.dtype(spec.dtype), np.floating)
    dtype = "float64" if kind == "float64" and floating else spec.dtype
    if array.dtype != dtype:
        raise BadReference(f"reference tensor '{key}' has dtype {array.dtype}; the manifest calls for {dtype}")
    shape = _shape_at(spec, case.sizes)
    fits = len(array.shape) == len(shape) + 1 and array.shape[0] == case.draws
    if not fits or any(want is not None and want != got for want, got in zip(shape, array.shape[1:], strict=True)):
        raise BadReference(f"reference tensor '{key}' has shape {array.shape}; the manifest calls for {case.draws} x {spec}")
    if floating and not np.isfinite(array).all():
        raise BadReference(f"reference tensor '{key}' holds NaN or infinity: nothing can be proved with it; export again")


def _shape_at(spec: TensorSpec, sizes: Mapping[str, int]) -> list[int | None]:
    """Sizes of one draw; None where the size is computed by the model."""
    return [size if isinstance(size, int) else sizes.get(size) for size in spec.shape]
