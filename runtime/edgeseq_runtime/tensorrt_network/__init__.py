"""What TensorRT's ONNX importer made of a graph, as plain data, and its evaluation in NumPy.

TensorRT's parsed network can be read where no engine can run. Evaluating it shows whether the importer understood the graph
as it was meant; it says nothing of the engine's own arithmetic. Nothing here imports TensorRT.
"""

from edgeseq_runtime.tensorrt_network.interpreter import Interpreter
from edgeseq_runtime.tensorrt_network.network import Layer, Network, Tensor
from edgeseq_runtime.tensorrt_network.reader import read_network

__all__ = ["Interpreter", "Layer", "Network", "Tensor", "read_network"]
