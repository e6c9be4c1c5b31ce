"""Recurrent networks as PyTorch definitions: cells that read like their equations, and what runs them over time."""

from edgeseq.cells import Cell, GRUCell, LSTMCell, RNNCell
from edgeseq.layers import Recurrent, RecurrentStack
from edgeseq.weights import WeightsError, load_weights, read_weights

__all__ = [
    "Cell",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "Recurrent",
    "RecurrentStack",
    "WeightsError",
    "load_weights",
    "read_weights",
]
