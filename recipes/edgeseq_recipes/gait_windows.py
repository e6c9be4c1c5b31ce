"""Windows of recordings to train on, each walked a little faster or slower, and with the sensor strapped on otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeseq_recipes.gait_data import Recording


@dataclass(frozen=True)
class Variation:
    """How far a window is from what was recorded; each is drawn uniformly."""

    turns: float = 0.4  # share of windows with a stop or a start in them; the others are drawn from all rows
    pace: float = 0.2  # logarithm of the speed, plus or minus
    gain: float = 0.2  # logarithm of the amplitude, plus or minus
    tilt: float = 0.5  # offset of the angle in rad, plus or minus
    noise: float = 0.005  # standard deviation, rad and rad/s


class Windows:
    """Draws windows from recordings.

    Args:
        recordings: with their phase; where it is exactly 0 the hip stands still.
        lead: rows that the second target is ahead by.
    """

    def __init__(self, recordings: Sequence[Recording], lead: int, variation: Variation | None = None) -> None:
        self.lead = lead
        self.variation = variation or Variation()
        lengths = torch.tensor([len(recording) for recording in recordings])
        self._ends = lengths.cumsum(0)
        self._starts = self._ends - lengths
        self._signal = torch.tensor(np.concatenate([recording.signal for recording in recordings]), dtype=torch.float32)
        self._phase = torch.tensor(np.concatenate([recording.phase for recording in recordings]), dtype=torch.float32)
        still = self._phase[:, 0] == 0
        self._turns = (still[1:] != still[:-1]).nonzero()[:, 0]

    def draw(self, generator: torch.Generator, steps: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """A batch of windows.

        Returns:
            The signal, the phase now and the phase `lead` rows ahead: (T, B, 2) each.

        Raises:
            ValueError: a recording is shorter than a window at the fastest pace.
        """
        vary = self.variation
        pace = torch.exp(vary.pace * _plus_minus(generator, batch))
        at = self._places(generator, steps, pace)  # (T + lead, B), between rows
        row = at.long()
        part = (at - row).float()[..., None]
        x = torch.lerp(self._signal[row], self._signal[row + 1], part)[:steps]  # (T, B, 2)
        gain = torch.exp(vary.gain * _plus_minus(generator, batch))
        tilt = vary.tilt * _plus_minus(generator, batch)
        x = x * torch.stack([gain, gain * pace], dim=-1) + torch.stack([tilt, torch.zeros(batch)], dim=-1)
        x = x + vary.noise * torch.randn(x.shape, generator=generator)
        phase = self._phase[at.round().long()]  # (T + lead, B, 2); where the hip stops it jumps: never between two rows
        return x, phase[:steps], phase[self.lead :]

    def _places(self, generator: torch.Generator, steps: int, pace: Tensor) -> Tensor:
        (B,) = pace.shape
        anywhere = torch.randint(len(self._signal), (B,), generator=generator)
        if len(self._turns):
            turn = self._turns[torch.randint(len(self._turns), (B,), generator=generator)]
            anywhere = torch.where(torch.rand(B, generator=generator) < self.variation.turns, turn, anywhere)
        which = torch.searchsorted(self._ends, anywhere, right=True)
        span = (steps + self.lead - 1) * pace
        first, last = self._starts[which], self._ends[which] - 2 - span
        if (last < first).any():
            longest = math.ceil(float(span.max())) + 2
            raise ValueError(f"a window of {longest} rows was drawn from a recording of {int((self._ends - self._starts).min())}")
        start = (anywhere - span * torch.rand(B, generator=generator)).clamp(first, last).double()
        return start + torch.arange(steps + self.lead)[:, None] * pace.double()


def _plus_minus(generator: torch.Generator, batch: int) -> Tensor:
    return 2 * torch.rand(batch, generator=generator) - 1
