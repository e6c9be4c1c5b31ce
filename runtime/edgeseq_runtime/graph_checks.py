"""The graph itself, evaluated in float64 by the exporter's package, where that is installed.

An entry point of the group `edgeseq.graph_checks` names a function (ONNX bytes, output names) -> (named inputs -> named outputs in
float64). The runtime imports neither onnx nor the exporter, and a board has no need of them: what a graph computes before any
kernel rounds it is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.tensors.spec import Array

GROUP = "edgeseq.graph_checks"
NAME = "float64"
DRAWS = 4  # of each reference case, where nothing is rounded and one would do

Evaluate = Callable[[Mapping[str, Array]], dict[str, Array]]


def graph_in_float64(model: bytes, outputs: Sequence[str]) -> Evaluate:
    """A serialised ONNX model as a function in float64.

    Raises:
        UsageError: the exporter is not installed.
        EdgeseqError: the graph has an operator that is not evaluated in float64.
    """
    points = list(entry_points(group=GROUP, name=NAME))
    try:
        load: Callable[[bytes, Sequence[str]], Evaluate] = points[0].load()
    except (IndexError, ImportError) as error:
        raise UsageError(
            f"evaluating a graph in float64 needs the exporter, and loading it failed ({error}); "
            'install it: pip install "edgeseq[export]"'
        ) from error
    return load(model, outputs)
