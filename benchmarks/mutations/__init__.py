"""Faults to plant in exported graphs, from one weight a millionth off to a loop that forgets its state: `KINDS`, by name."""

from . import lengths, loops, operators, precision, recurrent, weights, wiring
from .kinds import KINDS, Kind

__all__ = ["KINDS", "Kind", "lengths", "loops", "operators", "precision", "recurrent", "weights", "wiring"]
