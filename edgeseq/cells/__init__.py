"""Recurrent cells as pure steps that read like their equations."""

from edgeseq.cells.cell import Cell, State
from edgeseq.cells.gru import GRUCell
from edgeseq.cells.lstm import LSTMCell
from edgeseq.cells.simple import RNNCell

__all__ = ["Cell", "GRUCell", "LSTMCell", "RNNCell", "State"]
