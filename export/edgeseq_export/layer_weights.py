"""Every recurrent layer's weights laid out as ONNX takes them, attached to the layer as buffers that a trace can refer to."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgeseq import Recurrent
from edgeseq_export.gates import onnx_biases, onnx_weights
from edgeseq_export.native_cells import native_directions, native_node


def attach_weights(model: nn.Module) -> None:
    """Register `onnx_W`, `onnx_R`, `onnx_b` (and `onnx_P`) on every layer and cell that becomes a native node.

    The names end in the number of the layer in a stack, and of the node in `edgeseq.Recurrent`. The buffers hold the values the
    weights have now: a parametrised weight is a constant of the graph. Layers that share weights share one initializer in the
    end, which is made by content.
    """
    for module in model.modules():
        if isinstance(module, nn.RNNBase) and not getattr(module, "proj_size", 0):
            for layer in range(module.num_layers):
                _attach(module, [f"_l{layer}", f"_l{layer}_reverse"][: directions(module)], str(layer))
        elif isinstance(module, nn.RNNCellBase):
            _attach(module, [""], "")
        elif isinstance(module, Recurrent):
            _attach_cells(module)


def operator_of(module: nn.Module) -> str:
    """The ONNX operator of a PyTorch recurrent layer or cell."""
    if isinstance(module, (nn.LSTM, nn.LSTMCell)):
        return "LSTM"
    return "GRU" if isinstance(module, (nn.GRU, nn.GRUCell)) else "RNN"


def directions(module: nn.RNNBase) -> int:
    """Directions a layer runs in: 1 or 2."""
    return 2 if module.bidirectional else 1


def _attach(module: nn.RNNBase | nn.RNNCellBase, suffixes: Sequence[str], number: str) -> None:
    operator = operator_of(module)

    def of(kind: str) -> list[Tensor]:
        return [getattr(module, kind + suffix).detach() for suffix in suffixes]

    def register(name: str, value: Tensor) -> None:
        module.register_buffer(name + number, value.contiguous(), persistent=False)

    register("onnx_W", onnx_weights(operator, of("weight_ih")))
    register("onnx_R", onnx_weights(operator, of("weight_hh")))
    if module.bias:
        register("onnx_b", onnx_biases(operator, of("bias_ih"), of("bias_hh")))


def _attach_cells(module: Recurrent) -> None:
    for number, cells in enumerate(native_directions(module)):
        if cells is None:
            continue
        node = native_node(cells, reverse=module.directions[number][1])
        for name in ("W", "R", "b", "P"):
            module.register_buffer(f"onnx_{name}{number}", getattr(node, name), persistent=False)
