"""Layers over neighbouring frames with their state in the open, so that chunks of any size give what the whole sequence gives."""

from edgeseq.streaming.conv import CausalConv1d
from edgeseq.streaming.delay import Delay
from edgeseq.streaming.frame_stack import FrameStack
from edgeseq.streaming.framewise import Framewise
from edgeseq.streaming.graph import StreamGraph
from edgeseq.streaming.norm import WindowNorm
from edgeseq.streaming.pool import CausalPool1d
from edgeseq.streaming.residual import Residual
from edgeseq.streaming.start_after import StartAfter
from edgeseq.streaming.window import CountingWindowLayer, WindowLayer

__all__ = [
    "CausalConv1d",
    "CausalPool1d",
    "CountingWindowLayer",
    "Delay",
    "FrameStack",
    "Framewise",
    "Residual",
    "StartAfter",
    "StreamGraph",
    "WindowLayer",
    "WindowNorm",
]
