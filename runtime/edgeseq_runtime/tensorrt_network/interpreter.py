"""Evaluates a network layer by layer. What TensorRT declares of each tensor, dtype and known sizes, is held to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgeseq_runtime.errors import EdgeseqError, InputError
from edgeseq_runtime.tensorrt_network.kernels import KERNELS
from edgeseq_runtime.tensorrt_network.network import Layer, Network, Tensor
from edgeseq_runtime.tensorrt_network.schedule import Call, Choice, Loop, Step, name_of, schedule
from edgeseq_runtime.tensors.spec import Array

Values = dict[str, Any]


class Interpreter:
    """A network that can be called. It holds no state: calls from several threads are safe."""

    def __init__(self, network: Network) -> None:
        """Plan the order of the layers, and compute those that depend on no input.

        Raises:
            UsageError: a layer is of a kind, or has a setting, that is not interpreted here; it is named.
        """
        self.network = network
        self._constants = _constants(network)
        self._steps = schedule(network, self._constants)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name.

        Raises:
            InputError: a layer can't be computed on these inputs, or gives another dtype or size than TensorRT declares.
        """
        values: Values = {**self._constants, **inputs}
        # As on a GPU: a sigmoid far from zero overflows to the right limit.
        with np.errstate(all="ignore"):
            _execute(self._steps, values)
        return {spec.name: np.array(values[spec.name], order="C") for spec in self.network.outputs}


def _execute(steps: Iterable[Step], values: Values) -> None:
    for step in steps:
        if isinstance(step, Call):
            _call(step, values)
        elif isinstance(step, Loop):
            _loop(step, values)
        else:
            _choose(step, values)


def _call(step: Call, values: Values) -> None:
    layer, kernel = step
    try:
        results = kernel([None if tensor is None else values[tensor.name] for tensor in layer.inputs])
    except (EdgeseqError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"the {layer} of TensorRT's network can't be computed on these inputs: {error}") from error
    for tensor, result in zip(layer.outputs, results, strict=True):
        _keep(layer, tensor, result, values)


def _keep(layer: Layer, tensor: Tensor, result: Any, values: Values) -> None:
    fits = len(tensor.shape) == result.ndim and all(d in (-1, s) for d, s in zip(tensor.shape, result.shape, strict=True))
    if not fits or result.dtype != tensor.dtype:
        raise InputError(
            f"the {layer} of TensorRT's network gives {result.dtype}{list(result.shape)}, and TensorRT declares "
            f"{tensor.dtype}{list(tensor.shape)} for it"
        )
    values[tensor.name] = result


def _choose(step: Choice, values: Values) -> None:
    chosen = 0 if values[step.condition].item() else 1
    _execute(step.branches[chosen], values)
    _keep(step.layer, step.layer.outputs[0], values[step.sources[chosen]], values)


def _loop(loop: Loop, values: Values) -> None:
    limit = None if loop.trips is None else int(values[loop.trips].item())
    carried = {layer.outputs[0].name: values[name_of(layer, 0)] for layer in loop.recurrences}
    rounds: dict[str, list[Any]] = {layer.outputs[0].name: [] for layer in loop.outputs}
    done = 0
    while limit is None or done < limit:
        values.update(carried)
        for layer in loop.iterators:
            values[layer.outputs[0].name] = _item(layer, values[name_of(layer, 0)], done)
        _execute(loop.before_condition, values)
        if loop.condition is not None and not values[loop.condition].item():
            break
        _execute(loop.body, values)
        for layer in loop.outputs:
            rounds[layer.outputs[0].name].append(values[name_of(layer, 0)])
        carried = {layer.outputs[0].name: values[name_of(layer, 1)] for layer in loop.recurrences}
        done += 1
    for layer in loop.outputs:
        result = _loop_output(layer, rounds[layer.outputs[0].name], carried, values)
        _keep(layer, layer.outputs[0], result, values)


def _item(layer: Layer, source: Any, number: int) -> Any:
    axis = layer.settings["axis"]
    size = source.shape[axis]
    if number >= size:
        raise InputError(f"the {layer} of TensorRT's network has {size} items, and its loop goes on after them")
    return source.take(size - 1 - number if layer.settings["reverse"] else number, axis)


def _loop_output(layer: Layer, rounds: Sequence[Any], carried: Mapping[str, Any], values: Values) -> Any:
    source = name_of(layer, 0)
    if layer.settings["kind"] == "LAST_VALUE":
        return carried[source] if source in carried else rounds[-1]
    axis = layer.settings["axis"]
    length = int(values[name_of(layer, 1)].item())
    known = layer.inputs[0]
    shape = rounds[0].shape if rounds else tuple(max(size, 0) for size in (() if known is None else known.shape))
    # An engine's output has the length asked for, whenever the loop ends. What no round gave is undefined; here it is zero.
    result = np.zeros((*shape[:axis], length, *shape[axis:]), layer.outputs[0].dtype)
    ordered = rounds if layer.settings["kind"] == "CONCATENATE" else rounds[::-1]
    for at, item in enumerate(ordered[:length]):
        result[(slice(None),) * axis + (at,)] = item
    return result


def _constants(network: Network) -> Values:
    """Every tensor that depends on constants alone, and can be computed."""
    values: Values = {}
    waiting = [layer for layer in network.layers if layer.kind in KERNELS]
    while waiting:
        later = []
        for layer in waiting:
            if all(tensor is not None and tensor.name in values for tensor in layer.inputs):
                try:
                    _call(Call(layer, KERNELS[layer.kind](layer)), values)
                except EdgeseqError:
                    continue  # it may be in a branch that is never chosen; where it is needed, it fails again
            else:
                later.append(layer)
        if len(later) == len(waiting):
            break
        waiting = later
    return values
