"""Copies TensorRT's network definition into plain data, through its Python bindings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.tensorrt_network.network import Layer, Network, Tensor
from edgeseq_runtime.tensors import TensorSpec

# TensorRT's Python names follow no one rule. Those not here are the words of the type, each with a capital.
_CLASSES = {
    "CONDITIONAL_INPUT": "IIfConditionalInputLayer",
    "CONDITIONAL_OUTPUT": "IIfConditionalOutputLayer",
    "ELEMENTWISE": "IElementWiseLayer",
    "NON_ZERO": "INonZeroLayer",
    "PARAMETRIC_RELU": "IParametricReLULayer",
    "SOFTMAX": "ISoftMaxLayer",
    "TOPK": "ITopKLayer",
}

DTYPES = {  # TensorRT's names -> NumPy's
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


def read_network(network: Any, trt: Any) -> Network:
    """Everything that an `INetworkDefinition` holds.

    Args:
        network: the definition; it may be let go afterwards.
        trt: the bindings that made it, `tensorrt_rtx` or `tensorrt`.

    Raises:
        UsageError: a tensor's dtype is one that NumPy has not.
    """
    return Network(
        inputs=tuple(_spec(network.get_input(i)) for i in range(network.num_inputs)),
        outputs=tuple(_spec(network.get_output(i)) for i in range(network.num_outputs)),
        layers=tuple(_layer(network.get_layer(i), trt) for i in range(network.num_layers)),
    )


def _spec(tensor: Any) -> TensorSpec:
    plain = _tensor(tensor)
    shape = tuple(
        size if size >= 0 else tensor.get_dimension_name(at) or f"{plain.name}_{at}" for at, size in enumerate(plain.shape)
    )
    return TensorSpec(plain.name, plain.dtype, shape)


def _tensor(tensor: Any) -> Tensor:
    kind = tensor.dtype.name
    if kind not in DTYPES:
        raise UsageError(f"TensorRT's tensor '{tensor.name}' is {kind}; NumPy computes with {sorted(DTYPES)}")
    return Tensor(tensor.name, DTYPES[kind], tuple(tensor.shape))


def _layer(layer: Any, trt: Any) -> Layer:
    kind = layer.type.name
    inputs = tuple(layer.get_input(i) for i in range(layer.num_inputs))
    outputs = tuple(_tensor(layer.get_output(i)) for i in range(layer.num_outputs))
    interface = getattr(trt, _CLASSES.get(kind, f"I{kind.title().replace('_', '')}Layer"))
    # A network gives its layers as the base class; their attributes are seen through the class of their own type.
    layer.__class__ = interface
    settings = dict(_settings(layer, interface, trt))
    group = settings.pop("loop", settings.pop("conditional", None))
    return Layer(
        name=layer.name,
        kind=kind,
        inputs=tuple(None if tensor is None else _tensor(tensor) for tensor in inputs),
        outputs=outputs,
        settings=settings,
        group="" if group is None else group.name,
    )


def _settings(layer: Any, interface: Any, trt: Any) -> Iterator[tuple[str, Any]]:
    for base in interface.__mro__[: interface.__mro__.index(trt.ILayer)]:
        for name, member in vars(base).items():
            if isinstance(member, property):
                yield name, _plain(getattr(layer, name), trt)


def _plain(value: Any, trt: Any) -> Any:
    if isinstance(value, (trt.Dims, trt.Permutation)):
        return tuple(value)
    if isinstance(value, trt.Weights):
        return np.array(value.numpy())
    if isinstance(value, np.ndarray):
        return value.copy()  # its memory is the network's
    return value.name if hasattr(type(value), "__members__") else value
