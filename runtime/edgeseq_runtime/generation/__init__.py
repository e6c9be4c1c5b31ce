"""Sequences of tokens written on the device: step by step, the choice made here, or in one run of a graph that holds its loop.

writer = load_writer("g2p.edgeseq")                                   # or a step and its encoder
for text in writer.write_text(["recurrent"]):
    print(text.best)
"""

from edgeseq_runtime.generation.beam import BeamSearch
from edgeseq_runtime.generation.greedy import Greedy
from edgeseq_runtime.generation.sampling import Sampling
from edgeseq_runtime.generation.text import WrittenText
from edgeseq_runtime.generation.writer import Writer, load_writer
from edgeseq_runtime.generation.written import Written

__all__ = ["BeamSearch", "Greedy", "Sampling", "Writer", "Written", "WrittenText", "load_writer"]
