"""What this machine is: CPU, memory, Jetson module and JetPack, NVIDIA GPUs, and the packages that can run models."""

from edgeseq_runtime.detect.jetson import Jetson
from edgeseq_runtime.detect.machine import Machine, detect_machine
from edgeseq_runtime.detect.nvml import Driver, Gpu
from edgeseq_runtime.detect.processor import Processor, Ram

__all__ = ["Driver", "Gpu", "Jetson", "Machine", "Processor", "Ram", "detect_machine"]
