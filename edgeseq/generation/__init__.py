"""Sequences of tokens written one after the other: greedily, at random, or by beam search.

A `TokenWriter` is a model as a search sees it; `Greedy`, `Sampling` and `BeamSearch` are modules around one, which run in PyTorch
as plain loops and in an exported graph as one ONNX Loop that stops when every sequence has ended.
"""

from edgeseq.generation.beam import BeamSearch
from edgeseq.generation.greedy import Greedy
from edgeseq.generation.sampling import Sampling
from edgeseq.generation.writer import TokenWriter
from edgeseq.generation.writers import AutoregressiveWriter, EncoderDecoderWriter, SequenceWriter, VectorWriter

__all__ = [
    "AutoregressiveWriter",
    "BeamSearch",
    "EncoderDecoderWriter",
    "Greedy",
    "Sampling",
    "SequenceWriter",
    "TokenWriter",
    "VectorWriter",
]
