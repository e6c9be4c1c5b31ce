"""An exported graph evaluated in float64, its float32 weights and constants taken as the numbers they are.

A runtime's kernels round, and some of them more than PyTorch's: what is computed in float32 can't tell a graph that is off by a few
units in the last place from one that is not. In float64 nothing is left but a difference of the functions themselves. The equations
are those of the pages of ONNX's operators, in NumPy; no kernel of any runtime takes part.
"""

from edgeseq_export.graph64.evaluator import Graph64, evaluate_graph64
from edgeseq_export.graph64.node import FailedNode, UnknownOperator

__all__ = ["FailedNode", "Graph64", "UnknownOperator", "evaluate_graph64"]
