"""Where and when two computations of a model part: the node, the time step, the row; and a reproduction of the node alone."""

from edgeseq_runtime.bisect.divergence import Divergence
from edgeseq_runtime.bisect.find import find_divergence
from edgeseq_runtime.bisect.reproduction import write_reproduction

__all__ = ["Divergence", "find_divergence", "write_reproduction"]
