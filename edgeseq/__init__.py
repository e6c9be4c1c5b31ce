"""Recurrent networks as PyTorch definitions: cells that read like their equations, and what runs them over time."""

from edgeseq.cells import Cell, LSTMCell
from edgeseq.layers import Recurrent
from edgeseq.weights import WeightsError, load_weights, read_weights

__all__ = ["Cell", "LSTMCell", "Recurrent", "WeightsError", "load_weights", "read_weights"]
