"""Recurrent networks as PyTorch definitions: cells that read like their equations, and what runs them over time."""

from edgeseq.cells import (
    Cell,
    CoupledLSTMCell,
    GRUCell,
    IndRNNCell,
    LayerNormLSTMCell,
    LSTMCell,
    MinimalGatedCell,
    ProjectedLSTMCell,
    RNNCell,
)
from edgeseq.layers import Recurrent, RecurrentStack, SequenceLayer
from edgeseq.weights import WeightsError, load_weights, read_weights

__all__ = [
    "Cell",
    "CoupledLSTMCell",
    "GRUCell",
    "IndRNNCell",
    "LSTMCell",
    "LayerNormLSTMCell",
    "MinimalGatedCell",
    "ProjectedLSTMCell",
    "RNNCell",
    "Recurrent",
    "RecurrentStack",
    "SequenceLayer",
    "WeightsError",
    "load_weights",
    "read_weights",
]
