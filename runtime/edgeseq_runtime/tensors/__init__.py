"""What a tensor of a model is, and how far two of them are apart."""

from edgeseq_runtime.tensors.distance import Distance, distance, relative_error_by_step
from edgeseq_runtime.tensors.known import KnownInputs
from edgeseq_runtime.tensors.spec import TensorSpec, bind_sizes, check_inputs

__all__ = ["Distance", "KnownInputs", "TensorSpec", "bind_sizes", "check_inputs", "distance", "relative_error_by_step"]
