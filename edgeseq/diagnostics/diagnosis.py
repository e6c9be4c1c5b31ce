"""The diagnosis of a trained network in one call: how far its gradients reach, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgeseq.diagnostics.capture import Call, recorded_calls
from edgeseq.diagnostics.jacobians import sweep
from edgeseq.diagnostics.linear import spectral_radius
from edgeseq.diagnostics.lyapunov import lyapunov_exponents
from edgeseq.diagnostics.recurrence import DiagnosticsError, Layer, Recurrence, single_layer
from edgeseq.diagnostics.saturation import Saturation, saturation
from edgeseq.layers import Recurrent

# The gradient that is left of one at the other end of the sequence: below, it vanishes; above the inverse, it explodes.
FAINT = 0.01


@dataclass(frozen=True)
class Diagnosis:
    """One layer in one direction, on the inputs that it was given.

    Attributes:
        name: the module's name, followed by layer and direction where it has several.
        kind: "LSTM", "Recurrent(LSTMCell)"...
        state_size: features n of the state; of an LSTM, those of h and of the cell.
        steps: time steps T looked at.
        sequences: sequences B looked at.
        weight_radii: spectral radius of each square block of the recurrent weight (one a gate, in the order in which the layer
            stacks them); empty where the layer has no `weight_hh` of such blocks.
        jacobian_radius: spectral radius of ∂s_t/∂s_{t-1}, averaged over steps and sequences.
        lyapunov: the largest Lyapunov exponents, natural logarithms a step, mean over sequences.
        gradient_norms: ‖∂s_T/∂s_{T-k}‖₂ for k = 0..T, mean over sequences.
        state_growth: rate of the state's own norm over the second half, natural logarithm a step, mean over sequences.
        saturation: shares of gates and units where the slope is nearly flat.
    """

    name: str
    kind: str
    state_size: int
    steps: int
    sequences: int
    weight_radii: tuple[float, ...]
    jacobian_radius: float
    lyapunov: tuple[float, ...]
    gradient_norms: tuple[float, ...]
    state_growth: float
    saturation: Saturation

    def horizon(self, level: float = FAINT) -> int:
        """Effective memory: the largest distance at which the gradient norm is at least `level`, 1 being that at distance 0.

        It is `steps` where the gradient never falls below: the horizon is then at least that.
        """
        return max(k for k, norm in enumerate(self.gradient_norms) if norm >= level or k == 0)

    @property
    def verdict(self) -> str:
        """vanishing, exploding, chaotic or balanced, over the `steps` looked at.

        vanishing: less than 1 % of the gradient reaches the first step. exploding or chaotic: more than 100 times the gradient
        does; the state itself grows with at least half that rate (exploding), or stays bounded while neighbouring states part
        (chaotic). balanced: neither.
        """
        reaching = self.gradient_norms[-1]
        if reaching < FAINT:
            return "vanishing"
        if reaching <= 1 / FAINT:
            return "balanced"
        return "exploding" if self.state_growth > math.log(reaching) / self.steps / 2 else "chaotic"

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.name} ({self.kind}, state of {self.state_size}): {self.verdict} over {self.steps} steps", *self._lines()]
        )

    def _lines(self) -> Iterator[str]:
        radii = f"recurrent weight {', '.join(f'{r:.3g}' for r in self.weight_radii)}; " if self.weight_radii else ""
        yield _line("spectral radius", f"{radii}mean Jacobian {self.jacobian_radius:.3g}")
        largest = self.lyapunov[0]
        yield _line(
            "Lyapunov", f"{', '.join(f'{e:+.3g}' for e in self.lyapunov)} a step: gradients change by {_factor(largest)} a step"
        )
        norms = (f"{self.gradient_norms[k]:.2g} at {k}" for k in _distances(self.steps))
        yield _line("gradient norm", f"{', '.join(norms)} steps back")
        yield _line("memory horizon", f"{self._reach(1 / math.e)} to 1/e, {self._reach(FAINT)} to 1 %")
        yield from (_line("saturation", shares) for shares in [_shares(self.saturation)] if shares)

    def _reach(self, level: float) -> str:
        horizon = self.horizon(level)
        return f"{'at least ' if horizon == self.steps else ''}{horizon} steps"


def diagnose(
    module: nn.Module, *args: Any, sequences: int = 4, steps: int = 200, exponents: int = 1, **kwargs: Any
) -> dict[str, Diagnosis]:
    """Diagnose every recurrent layer of a network on the inputs that it gets in module(*args, **kwargs).

    The network runs once, in eval mode, and stays as it is; the layers are then followed in float64 on the CPU. A layer that
    forward calls several times is diagnosed on its longest call, one that it does not call is left out.

    Args:
        module: any nn.Module that holds nn.RNN, nn.LSTM, nn.GRU or edgeseq.Recurrent, or is one.
        args: inputs of its forward.
        sequences: of the batch, the first so many.
        steps: of each sequence, the last so many.
        exponents: how many Lyapunov exponents.
        kwargs: further inputs of its forward.

    Returns:
        By module name. Layers of a stack and the two directions of a bidirectional layer are diagnosed each by itself: "lstm.l0",
        "lstm.l0_reverse", "lstm.l1"... as PyTorch names their parameters, "layer.cell" and "layer.backward" for edgeseq.Recurrent
        with two cells. For a reversed direction distance counts along its own way, from the first element to the last.

    Raises:
        DiagnosticsError: no recurrent layer, none that forward calls, fewer than two steps, or a state that overflows.
    """
    if sequences < 1 or steps < 2:
        raise DiagnosticsError(f"sequences={sequences}, steps={steps}; at least 1 and 2 are needed")
    found: dict[str, Diagnosis] = {}
    for name, call in recorded_calls(module, args, kwargs, sequences).items():
        for suffix, recurrence in call.recurrences().items():
            full = f"{name}.{suffix}" if suffix else name
            found[full] = _diagnosis(full, call, suffix, recurrence.last(steps), exponents)
    return found


def _diagnosis(name: str, call: Call, suffix: str, recurrence: Recurrence, exponents: int) -> Diagnosis:
    T, B = recurrence.inputs.shape[:2]
    n = recurrence.initial.shape[1]
    if T < 2:
        raise DiagnosticsError(f"layer {name} was given {T} time step; distance needs at least 2")
    norms, mean = sweep(recurrence, None)
    lyapunov = lyapunov_exponents(recurrence, min(exponents, n)).mean(0)
    return Diagnosis(
        name=name,
        kind=_kind(call.layer),
        state_size=n,
        steps=T,
        sequences=B,
        weight_radii=_weight_radii(call.layer, suffix),
        jacobian_radius=spectral_radius(mean),
        lyapunov=tuple(lyapunov.tolist()),
        gradient_norms=tuple(norms.nanmean(dim=1).tolist()),
        state_growth=_state_growth(recurrence.states()),
        saturation=saturation(recurrence),
    )


def _kind(layer: Layer) -> str:
    return f"Recurrent({type(layer.cell).__name__})" if isinstance(layer, Recurrent) else type(layer).__name__


def _state_growth(states: Tensor) -> float:
    """Rate at which the norm of the states (T+1, B, n) grows over the second half."""
    T = len(states) - 1
    half, end = (states[t].norm(dim=1).clamp(min=torch.finfo(states.dtype).tiny) for t in (T // 2, T))
    return float((end / half).log().mean() / (T - T // 2))


def _weight_radii(layer: Layer, suffix: str) -> tuple[float, ...]:
    """Spectral radius of each block (H, H) of the recurrent weight; with a projection, of block times projection."""
    if isinstance(layer, Recurrent):
        cell = getattr(layer, suffix or "cell")
        weight, projection = getattr(cell, "weight_hh", None), getattr(cell, "weight_hr", None)
    else:
        single = single_layer(layer, suffix or "l0")
        weight, projection = single.weight_hh_l0, getattr(single, "weight_hr_l0", None)
    if not isinstance(weight, Tensor) or weight.dim() > 2:
        return ()
    weight = torch.diag(weight) if weight.dim() == 1 else weight  # every unit sees its own past alone
    size = projection.shape[1] if isinstance(projection, Tensor) else weight.shape[1]
    if weight.shape[0] % size:
        return ()
    blocks = weight.reshape(-1, size, weight.shape[1])  # (gates, H, H)
    return tuple(spectral_radius(block if projection is None else block @ projection) for block in blocks)


def _line(what: str, text: str) -> str:
    return f"  {what:<17}{text}"


def _factor(exponent: float) -> str:
    return f"x {math.exp(min(exponent, 700.0)):.3g}"


def _distances(steps: int) -> list[int]:
    """A few distances to name, the last one among them."""
    return sorted({k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500) if k < steps} | {steps})


def _shares(found: Saturation) -> str:
    shares = {"gates closed": found.closed, "gates open": found.open, "tanh flat": found.units}
    return ", ".join(f"{share:.0%} of {what}" for what, share in shares.items() if share is not None)
