"""A model's input or output as declared, and arrays checked against the declaration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from edgeseq_runtime.errors import InputError

Array = npt.NDArray[np.generic]


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One declared input or output.

    `dtype` is NumPy's name for it. `shape` holds an int where a size is fixed and the axis' name where it varies; the same
    name is the same size throughout a model. A name that is no plain identifier (`T // 2`, `max(lengths)`) is a size
    computed from others and is not checked against them.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


def bind_sizes(specs: Sequence[TensorSpec], arrays: Mapping[str, Array]) -> dict[str, int]:
    """Sizes of the named axes as the arrays have them.

    Raises:
        InputError: an array's rank or a fixed size differs, an axis has two sizes, or a size is 0 (ONNX Runtime ends the
            process on an empty batch or sequence instead of raising).
    """
    sizes: dict[str, int] = {}
    owner: dict[str, str] = {}
    for spec in specs:
        shape = arrays[spec.name].shape
        if len(shape) != len(spec.shape):
            raise InputError(f"input '{spec.name}' has {len(shape)} dimensions {shape}; the model takes {spec}")
        for position, (declared, found) in enumerate(zip(spec.shape, shape, strict=True)):
            if isinstance(declared, int):
                if declared != found:
                    raise InputError(f"input '{spec.name}' has size {found} in dimension {position}; the model takes {spec}")
                continue
            if found == 0:
                raise InputError(f"input '{spec.name}' is empty: axis '{declared}' has size 0; give at least 1 ({spec})")
            if declared in sizes and sizes[declared] != found and declared.isidentifier():
                raise InputError(
                    f"axis '{declared}' has size {found} in input '{spec.name}' but {sizes[declared]} in "
                    f"'{owner[declared]}'; the same axis must have one size"
                )
            sizes.setdefault(declared, found)
            owner.setdefault(declared, spec.name)
    return sizes


def check_inputs(
    specs: Sequence[TensorSpec], arrays: Mapping[str, object], lengths: Mapping[str, str] | None = None
) -> tuple[dict[str, Array], dict[str, int]]:
    """The arrays as the model takes them, and the sizes of its named axes.

    `lengths` maps an input that holds sequence lengths to the time axis they count. Integer lengths of any width are
    converted, because 1..T is checked and so nothing can be lost; every other dtype must match exactly.

    Raises:
        InputError: a name is missing or unknown, a dtype, rank or size differs, or a length is outside 1..T.
    """
    lengths = lengths or {}
    if not isinstance(arrays, Mapping) or not all(isinstance(name, str) for name in arrays):
        raise InputError(f"inputs are a {type(arrays).__name__}; give a dict of numpy arrays by name: {[s.name for s in specs]}")
    names = [spec.name for spec in specs]
    if set(arrays) != set(names):
        missing = [name for name in names if name not in arrays]
        unknown = [name for name in arrays if name not in names]
        raise InputError(
            f"inputs given: {sorted(arrays)}; the model takes {names}"
            + (f"; missing: {missing}" if missing else "")
            + (f"; unknown: {unknown}" if unknown else "")
        )
    checked: dict[str, Array] = {}
    for spec in specs:
        given = arrays[spec.name]
        array = np.asarray(given) if isinstance(given, np.generic) else given  # a NumPy scalar is an array without dimensions
        if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
            raise InputError(f"input '{spec.name}' is a {type(array).__name__}; give a numpy array ({spec})")
        if spec.name not in lengths and array.dtype != spec.dtype:
            raise InputError(
                f"input '{spec.name}' has dtype {array.dtype}, the model takes {spec.dtype}; "
                f"convert it with .astype(np.{spec.dtype}) if that is what you mean"
            )
        checked[spec.name] = array
    sizes = bind_sizes(specs, checked)
    for spec in specs:
        if spec.name in lengths:
            checked[spec.name] = _checked_lengths(spec, checked[spec.name], lengths[spec.name], sizes)
    return checked, sizes


def _checked_lengths(spec: TensorSpec, array: Array, axis: str, sizes: Mapping[str, int]) -> Array:
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"input '{spec.name}' holds sequence lengths and has dtype {array.dtype}; give integers ({spec})")
    low, high = int(array.min()), int(array.max())
    if low < 1 or (axis in sizes and high > sizes[axis]):
        raise InputError(
            f"input '{spec.name}' holds lengths {low}..{high}; they must be in 1..{sizes.get(axis, axis)} (axis '{axis}')"
        )
    return array.astype(spec.dtype)
