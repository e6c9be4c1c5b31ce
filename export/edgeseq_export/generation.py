"""What is exported so that sequences of tokens can be written: a search and its model as one graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgeseq.generation import BeamSearch, Greedy, Sampling
from edgeseq_export.request import BATCH, AxisNames, ExportRequest
from edgeseq_runtime.bundle import Generation, TextInput
from edgeseq_runtime.errors import UsageError

OUTPUTS = ("tokens", "counts", "scores")
Search = Greedy | Sampling | BeamSearch

_KINDS: dict[type, str] = {Greedy: "greedy", Sampling: "sampling", BeamSearch: "beam"}


def generation_request(
    search: Search,
    inputs: Mapping[str, Tensor],
    *,
    axes: Mapping[str, AxisNames],
    longest: int = 20,
    name: str | None = None,
    text: TextInput | None = None,
    symbols: Sequence[str] = (),
    joiner: str = " ",
) -> ExportRequest:
    """A request for a graph that writes whole sequences in one run, its loop one ONNX Loop.

    Args:
        search: `edgeseq.generation.Greedy`, `Sampling` or `BeamSearch` around a token writer.
        inputs: examples of the writer's own inputs, by the names that its `begin` reads.
        axes: as `export`'s, of these inputs.
        longest: tokens that the export is proved with; the graph takes any number as an input.
        name: the model's name.
        text: which input takes text.
        symbols: how each token is written; empty where it is no text.
        joiner: stands between two symbols.

    Raises:
        UsageError: as `export`; or the search is none.
    """
    kind = next((kind for owner, kind in _KINDS.items() if isinstance(search, owner)), None)
    if kind is None:
        raise UsageError(f"search is a {type(search).__name__}; give Greedy, Sampling or BeamSearch of edgeseq.generation")
    sizes = {axis: size for name, names in axes.items() for axis, size in zip(names, inputs[name].shape, strict=True) if axis}
    controls, control_axes = _controls(search, longest, sizes.get(BATCH, 1))
    return ExportRequest(
        search,
        {**inputs, **controls},
        {**axes, **control_axes},
        outputs=OUTPUTS,
        name=name,
        text=text,
        generation=Generation(
            form="loop",
            search=kind,
            tokens=OUTPUTS[0],
            counts=OUTPUTS[1],
            scores=OUTPUTS[2],
            end=search.loop.writer.end,
            symbols=tuple(symbols),
            joiner=joiner,
        ),
    )


def _controls(search: Search, longest: int, batch: int) -> tuple[dict[str, Tensor], dict[str, AxisNames]]:
    """Examples of what a search takes besides its writer's inputs."""
    if not isinstance(search, Sampling):
        return {"longest": torch.tensor(longest)}, {}
    generator = torch.Generator().manual_seed(0)
    controls = {
        "uniforms": torch.rand(longest, batch, generator=generator),
        "temperature": torch.tensor(0.9),
        "top_k": torch.tensor(max(1, search.loop.writer.vocabulary - 1)),
        "top_p": torch.tensor(0.95),
    }
    return controls, {"uniforms": ("longest", BATCH)}
