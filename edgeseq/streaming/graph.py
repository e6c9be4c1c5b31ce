"""A layer as a module that can be exported: its states are inputs and outputs with names."""

from __future__ import annotations

from torch import Tensor, nn

from edgeseq.layers import SequenceLayer


class StreamGraph(nn.Module):
    """A layer's forward with a name for each state: `state0` goes in and `state0_out` comes out, and so on.

    With `inputs = graph.inputs(x)`, `edgeseq_export.export(graph, inputs, path, axes=graph.axes(inputs), state=graph.state,
    outputs=graph.outputs)` exports it.

    Args:
        layer: a layer, or a stack of them.
    """

    def __init__(self, layer: SequenceLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, lengths: Tensor | None = None, **states: Tensor) -> tuple[Tensor, ...]:
        """From x (T, B, I), lengths (B,) and the states (B, ...) by name to y (T, B, O) and the next states."""
        y, end = self.layer(x, [states[name] for name in self.state] or None, lengths)
        return y, *end

    @property
    def state(self) -> dict[str, str]:
        """Input that carries state -> output that continues it."""
        return {f"state{n}": f"state{n}_out" for n in range(len(self.layer.state_shapes))}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, `y` first."""
        return ("y", *self.state.values())

    def inputs(self, x: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Example inputs: x (T, B, I), lengths (B,) where the graph is to take them, and the initial states."""
        given = {"x": x} if lengths is None else {"x": x, "lengths": lengths}
        return given | dict(zip(self.state, self.layer.initial_state(x), strict=True))

    def axes(self, inputs: dict[str, Tensor]) -> dict[str, tuple[str | None, ...]]:
        """A name for each dynamic axis of example inputs: T and B."""
        names: dict[str, tuple[str | None, ...]] = {name: ("B", *[None] * (t.dim() - 1)) for name, t in inputs.items()}
        return names | {"x": ("T", "B", *[None] * (inputs["x"].dim() - 2))}
