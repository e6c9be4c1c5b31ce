"""Recurrent cells as pure steps that read like their equations."""

from edgeseq.cells.cell import Cell, State
from edgeseq.cells.coupled import CoupledLSTMCell
from edgeseq.cells.deep import DeepTransitionCell
from edgeseq.cells.gru import GRUCell
from edgeseq.cells.independent import IndRNNCell
from edgeseq.cells.layer_norm import LayerNormLSTMCell
from edgeseq.cells.lstm import LSTMCell
from edgeseq.cells.memory import NTMCell
from edgeseq.cells.minimal import MinimalGatedCell
from edgeseq.cells.projected import ProjectedLSTMCell
from edgeseq.cells.recursive import RecursiveCell, TreeCell, TreeLSTMCell
from edgeseq.cells.simple import RNNCell

__all__ = [
    "Cell",
    "CoupledLSTMCell",
    "DeepTransitionCell",
    "GRUCell",
    "IndRNNCell",
    "LSTMCell",
    "LayerNormLSTMCell",
    "MinimalGatedCell",
    "NTMCell",
    "ProjectedLSTMCell",
    "RNNCell",
    "RecursiveCell",
    "State",
    "TreeCell",
    "TreeLSTMCell",
]
