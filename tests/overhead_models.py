"""Models for what a call costs beside the computing: little to compute, and many tensors or lengths to look after."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import runtime_models
from onnx import compose

from edgeseq_runtime import TensorSpec


def stacked_lstm(K: int = 32, H: int = 32, layers: int = 3) -> runtime_models.Model:
    """LSTM layers in a row, each with an h and a c of its own: two state tensors a layer."""
    parts = [runtime_models.lstm(K if layer == 0 else H, H, seed=layer) for layer in range(layers)]
    protos = [compose.add_prefix(onnx.load_from_string(part.onnx), f"l{layer}_") for layer, part in enumerate(parts)]
    merged = protos[0]
    for layer, proto in enumerate(protos[1:], start=1):
        merged = compose.merge_models(merged, proto, io_map=[(f"l{layer - 1}_y", f"l{layer}_x")])
    last = f"l{layers - 1}_y"
    names = [f"l{layer}_{name}" for layer in range(layers) for name in "hc"]

    def equations(inputs: runtime_models.Arrays, dtype: np.dtype) -> runtime_models.Arrays:
        signal, outputs = inputs["l0_x"], {}
        for layer, part in enumerate(parts):
            own = part.equations({"x": signal, **{name: inputs[f"l{layer}_{name}"] for name in "hc"}}, dtype)
            signal = own["y"]
            outputs |= {f"l{layer}_{name}": array for name, array in own.items()}
        return {last: signal, **{f"{name}_out": outputs[f"{name}_out"] for name in names}}

    order = {info.name: info for info in merged.graph.output}
    del merged.graph.output[:]
    merged.graph.output.extend(order[name] for name in (last, *(f"{name}_out" for name in names)))
    return replace(
        parts[0],
        name="stacked",
        onnx=merged.SerializeToString(),
        equations=equations,
        inputs=(TensorSpec("l0_x", "float32", ("T", "B", K)), *(TensorSpec(name, "float32", (1, "B", H)) for name in names)),
        outputs=(
            TensorSpec(last, "float32", ("T", "B", H)),
            *(TensorSpec(f"{name}_out", "float32", (1, "B", H)) for name in names),
        ),
        state={name: f"{name}_out" for name in names},
        census={"LSTM": layers},
    )
