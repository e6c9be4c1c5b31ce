"""Windows of recordings to train on, each as if walked by another: faster or slower, in another rhythm, with another swing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import uniform_filter1d
from torch import Tensor

from edgeseq_recipes.experiments.gait_data import RATE, Array, Recording

WIDE = 0.6  # rad off the middle of the swing, by which bending has become an offset


@dataclass(frozen=True)
class Variation:
    """How far a window is from what was recorded; each is drawn uniformly."""

    turns: float = 0.4  # share of windows with a stop or a start in them; the others are drawn from all rows
    pace: float = 0.2  # logarithm of the speed, plus or minus
    rhythm: float = 0.25  # how much of a cycle is hurried and made up for, in its speed, plus or minus
    bend: float = 0.5  # how much wider it swings to one side of its middle than to the other, plus or minus
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
        middle = [uniform_filter1d(recording.signal[:, 0], 3 * RATE, mode="nearest") for recording in recordings]
        self._off_middle = self._signal[:, 0] - torch.tensor(np.concatenate(middle), dtype=torch.float32)
        angles, slopes = zip(*map(_angle_and_slope, recordings), strict=True)
        self._angle = torch.tensor(np.concatenate(angles), dtype=torch.float32)
        self._slope = torch.tensor(np.concatenate(slopes), dtype=torch.float32)
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
        phase = self._phase[at.round().long()]  # (T + lead, B, 2); where the hip stops it jumps: never between two rows
        at, speed = self._in_another_rhythm(generator, at[:steps])  # (T, B) each
        x, off_middle = _between(self._signal, at), _between(self._off_middle, at)  # (T, B, 2), (T, B)
        angle, velocity = x[..., 0], x[..., 1] * pace * speed
        bend = vary.bend * _plus_minus(generator, batch)
        bent = torch.tanh(off_middle / WIDE)
        angle = angle + bend * WIDE * bent**2
        velocity = velocity * (1 + bend * 2 * bent * (1 - bent**2))
        gain = torch.exp(vary.gain * _plus_minus(generator, batch))
        tilt = vary.tilt * _plus_minus(generator, batch)
        x = torch.stack([gain * angle + tilt, gain * velocity], dim=-1)
        x = x + vary.noise * torch.randn(x.shape, generator=generator)
        return x, phase[:steps], phase[self.lead :]

    def _in_another_rhythm(self, generator: torch.Generator, at: Tensor) -> tuple[Tensor, Tensor]:
        """Other places in the same cycles, hurried through in part; each cycle begins and ends where it did.

        Returns:
            The places between rows, and the speed that they are passed with: (T, B) each.
        """
        _, B = at.shape
        once = self.variation.rhythm * _plus_minus(generator, B)
        twice = self.variation.rhythm / 2 * _plus_minus(generator, B)
        row = at.long()
        slope = self._slope[row]
        angle = self._angle[row] + (at - row).float() * slope  # -pi to pi, where the slope is not 0
        moved = once * torch.sin(angle) + twice * torch.sin(2 * angle)
        speed = 1 + once * torch.cos(angle) + 2 * twice * torch.cos(2 * angle)
        moving = slope > 0
        return at + torch.where(moving, moved / slope, 0.0).double(), torch.where(moving, speed, 1.0)

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


def _angle_and_slope(recording: Recording) -> tuple[Array, Array]:
    """Phase in rad, and by how much it grows to the next row; 0 where that is not the even growth within a cycle: (N,) each."""
    angle = np.arctan2(recording.phase[:, 0], recording.phase[:, 1])
    slope = np.diff(angle, append=angle[-1]) % (2 * np.pi)
    even = recording.clear & (slope > 0.02) & (slope < 0.3)  # a cycle of 0.2 to 3 seconds
    return angle, np.where(even, slope, 0.0)


def _between(values: Tensor, at: Tensor) -> Tensor:
    """Values (N, ...) at places between rows (T, B), in a straight line from row to row: (T, B, ...)."""
    row = at.long()
    part = (at - row).float().reshape(*at.shape, *[1] * (values.dim() - 1))
    return torch.lerp(values[row], values[row + 1], part)


def _plus_minus(generator: torch.Generator, batch: int) -> Tensor:
    return 2 * torch.rand(batch, generator=generator) - 1
