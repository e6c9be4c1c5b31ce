"""What can be said of a model on a device before it runs there: work, memory, the least time, and what goes wrong."""

from edgeseq_runtime.forecast.axes import AxisRange
from edgeseq_runtime.forecast.findings import Finding
from edgeseq_runtime.forecast.forecast import Forecast, MemoryNeed, make_forecast
from edgeseq_runtime.forecast.roofline import Bound
from edgeseq_runtime.forecast.software import Software

__all__ = ["AxisRange", "Bound", "Finding", "Forecast", "MemoryNeed", "Software", "make_forecast"]
