"""The original PyTorch module as a peer of `edgeseq bench`."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from edgeseq_export.command import load_request
from edgeseq_export.reference import evaluate
from edgeseq_export.subject import Subject, examine
from edgeseq_runtime.tensors.spec import Array

TRIALS = 5


def load_pytorch(source: str) -> Callable[[dict[str, Array]], dict[str, Array]]:
    """The module that a factory makes (`module.path:factory`), as a function of named arrays, at PyTorch's best.

    It runs in eval mode, in float32, on one thread, as the runtime does by default, and with or without oneDNN, whichever is
    faster at the inputs' shapes: oneDNN lays the weights of an LSTM out anew at every call, which small steps feel.
    """
    torch.set_num_threads(1)
    subject = examine(load_request(source))
    with_onednn: dict[tuple[tuple[int, ...], ...], bool] = {}

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        shapes = tuple(array.shape for array in inputs.values())
        if shapes not in with_onednn:
            with_onednn[shapes] = _seconds(subject, inputs, True) < _seconds(subject, inputs, False)
        return _run(subject, inputs, with_onednn[shapes])

    return run


def _run(subject: Subject, inputs: dict[str, Array], onednn: bool) -> dict[str, Array]:
    before = torch.backends.mkldnn.enabled
    # Its context manager sets TF32 too, and warns about that on a CPU.
    torch.backends.mkldnn.enabled = onednn  # type: ignore[assignment]
    try:
        outputs = evaluate(subject.model, {name: torch.from_numpy(a) for name, a in inputs.items()}, subject.dtypes)
    finally:
        torch.backends.mkldnn.enabled = before
    return {name: t.numpy() for name, t in zip(subject.output_names, outputs, strict=True)}


def _seconds(subject: Subject, inputs: dict[str, Array], onednn: bool) -> float:
    """The best of a few calls, after one that is not counted."""
    times = []
    for _ in range(TRIALS + 1):
        start = time.perf_counter()
        _run(subject, inputs, onednn)
        times.append(time.perf_counter() - start)
    return min(times[1:])
