"""The original PyTorch module as a peer of `edgeseq bench`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgeseq_export.command import load_request
from edgeseq_export.reference import evaluate
from edgeseq_export.subject import examine
from edgeseq_runtime.tensors.spec import Array


def load_pytorch(source: str) -> Callable[[dict[str, Array]], dict[str, Array]]:
    """The module that a factory makes (`module.path:factory`), as a function of named arrays, in eval mode and float32."""
    subject = examine(load_request(source))

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        outputs = evaluate(subject.model, {name: torch.from_numpy(a) for name, a in inputs.items()}, subject.dtypes)
        return {name: t.numpy() for name, t in zip(subject.output_names, outputs, strict=True)}

    return run
