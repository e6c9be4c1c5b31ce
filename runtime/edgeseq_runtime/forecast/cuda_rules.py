"""Which nodes ONNX Runtime's CUDA provider leaves to the CPU. Each costs a copy to the host and one back, at every run.

Read in `RNNNeedFallbackToCPU` of onnxruntime/core/providers/cuda/cuda_execution_provider.cc: cuDNN, which computes recurrent nodes
there, has neither peepholes nor clipping nor other activations, and one of the two forms of GRU.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeseq_runtime.forecast.findings import READ, Finding, Found, nodes_of
from edgeseq_runtime.onnx_wire import Graph

SOURCE = (
    "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/cuda/cuda_execution_provider.cc "
    "(RNNNeedFallbackToCPU)"
)
PER_NODE = "cuda-falls-back-per-node"  # the hazard of the profile that says this of any graph
NEWEST_OPSET = 21  # of recurrent nodes with CUDA kernels
_DEFAULTS = {  # activations a direction
    "LSTM": ("sigmoid", "tanh", "tanh"),
    "GRU": ("sigmoid", "tanh"),
    "RNN": ("tanh",),
}
_PEEPHOLES = 7  # position of LSTM's input P
_REMEDIES = {
    "clip": "export without clip: edgeseq never writes it",
    "activations": "use the cell's usual activations, or run it on the CPU or through TensorRT",
    "input_forget": "export input and forget gate apart: edgeseq never couples them by this attribute",
    "linear_before_reset": "use PyTorch's form of the GRU (linear_before_reset=1)",
    "peepholes": "leave peepholes out, or run it on the CPU or through TensorRT",
    "opset": f"export with opset {NEWEST_OPSET} or older: edgeseq writes opset 20",
    "domain": "use the model's fp32 or fp16 graph on this provider",
}


def cuda_fallbacks(graph: Graph, opset: int) -> Iterator[Finding]:
    """A finding for each node that would run on the CPU, and why."""
    for found in nodes_of(graph):
        for cause, text in _causes(found, opset):
            yield Finding(
                rule=f"on the CPU: {cause}",
                subject=found.subject,
                text=f"is left to the CPU: {text}",
                remedy=_REMEDIES[cause],
                kind=READ,
                source=SOURCE,
            )


def _causes(found: Found, opset: int) -> Iterator[tuple[str, str]]:
    node = found.node
    if node.op == "DynamicQuantizeLSTM":
        yield "domain", "the CUDA provider has no kernel for it"
    if node.op not in _DEFAULTS:
        return
    if opset > NEWEST_OPSET:
        yield "opset", f"recurrent nodes of opset {opset} may have no CUDA kernels"
    for name in ("clip", "activation_alpha", "activation_beta"):
        if name in node.floats:
            yield "clip" if name == "clip" else "activations", f"it has the attribute {name}"
    usual = _DEFAULTS[node.op]
    given = [name.lower() for name in node.lists.get("activations", ())]
    if any(name != usual[position % len(usual)] for position, name in enumerate(given)):
        yield "activations", f"its activations are {', '.join(node.lists['activations'])}"
    if node.op == "LSTM" and node.integers.get("input_forget", (0,))[0]:
        yield "input_forget", "it couples input and forget gate"
    if node.op == "GRU" and node.integers.get("linear_before_reset", (0,))[0] != 1:
        yield "linear_before_reset", "it resets the state before the product (linear_before_reset=0)"
    if node.op == "LSTM" and len(node.inputs) > _PEEPHOLES and node.inputs[_PEEPHOLES]:
        yield "peepholes", "it has peepholes (P)"
