"""The systems of the recurrent-networks lecture (*Deep Learning*, chapter 10), one module a system."""

from edgeseq.models.bidirectional import BidirectionalRNN
from edgeseq.models.deep import DeepTransitionRNN, HierarchicalRNN
from edgeseq.models.grid import GridClassifier, GridRNN

__all__ = [
    "BidirectionalRNN",
    "DeepTransitionRNN",
    "GridClassifier",
    "GridRNN",
    "HierarchicalRNN",
]
