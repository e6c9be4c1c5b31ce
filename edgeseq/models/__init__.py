"""The systems of the recurrent-networks lecture (*Deep Learning*, chapter 10), one module a system."""

from edgeseq.models.bidirectional import BidirectionalRNN
from edgeseq.models.conditional import IndependentOutputsRNN, SequenceConditionedRNN, VectorConditionedRNN
from edgeseq.models.deep import DeepTransitionRNN, HierarchicalRNN
from edgeseq.models.encoder_decoder import (
    AttentionDecoder,
    AttentionGraph,
    Decoder,
    Encoder,
    EncoderDecoder,
    EncoderGraph,
    FixedContextDecoder,
    FixedContextGraph,
)
from edgeseq.models.graphical import AutoregressiveRNN, FixedWindowModel
from edgeseq.models.grid import GridClassifier, GridRNN
from edgeseq.models.memory import NeuralTuringMachine, StreamingMachine
from edgeseq.models.recursive import Tree, TreeBatch, TreeClassifier

__all__ = [
    "AttentionDecoder",
    "AttentionGraph",
    "AutoregressiveRNN",
    "BidirectionalRNN",
    "Decoder",
    "DeepTransitionRNN",
    "Encoder",
    "EncoderDecoder",
    "EncoderGraph",
    "FixedContextDecoder",
    "FixedContextGraph",
    "FixedWindowModel",
    "GridClassifier",
    "GridRNN",
    "HierarchicalRNN",
    "IndependentOutputsRNN",
    "NeuralTuringMachine",
    "SequenceConditionedRNN",
    "StreamingMachine",
    "Tree",
    "TreeBatch",
    "TreeClassifier",
    "VectorConditionedRNN",
]
