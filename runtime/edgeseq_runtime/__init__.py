"""The runtime of edgeseq: a bundle and a device become a session, a proof, and a measurement. No PyTorch anywhere in it.

session = load("model.edgeseq")
outputs = session.run({"x": x})             # whole sequences
stream = session.stream()
for piece in pieces:
    outputs = stream.step({"x": piece})     # piece by piece, state kept
with session.pool() as pool: ...            # many streams, their steps in batches
writer = load_writer("g2p.edgeseq")         # sequences of tokens: writer.write_text(["recurrent"])

Each name is imported when it is first used: pytest loads the plugin of this package in every project beside which it is
installed, and that must not import NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeseq_runtime import errors
    from edgeseq_runtime.bench import BenchReport, measure_bench
    from edgeseq_runtime.bisect import Divergence, find_divergence
    from edgeseq_runtime.bundle import Bundle, open_bundle
    from edgeseq_runtime.detect import Machine, detect_machine
    from edgeseq_runtime.device import Device, list_devices, load_device
    from edgeseq_runtime.forecast import Forecast, make_forecast
    from edgeseq_runtime.generation import Writer, load_writer
    from edgeseq_runtime.parity import ParityReport, measure_graph, measure_parity
    from edgeseq_runtime.plan import Plan, make_plan
    from edgeseq_runtime.pool import PooledStream, PoolStats, StreamPool
    from edgeseq_runtime.session import Session, load, open_session
    from edgeseq_runtime.stream import Stream
    from edgeseq_runtime.tensors import TensorSpec
    from edgeseq_runtime.tuning import Tuning, find_tuning, tune_plan

__all__ = [
    "BenchReport",
    "Bundle",
    "Device",
    "Divergence",
    "Forecast",
    "Machine",
    "ParityReport",
    "Plan",
    "PoolStats",
    "PooledStream",
    "Session",
    "Stream",
    "StreamPool",
    "TensorSpec",
    "Tuning",
    "Writer",
    "detect_machine",
    "errors",
    "find_divergence",
    "find_tuning",
    "list_devices",
    "load",
    "load_device",
    "load_writer",
    "make_forecast",
    "make_plan",
    "measure_bench",
    "measure_graph",
    "measure_parity",
    "open_bundle",
    "open_session",
    "tune_plan",
]

_MODULES = {  # name -> the module of this package that has it
    **dict.fromkeys(("BenchReport", "measure_bench"), "bench"),
    **dict.fromkeys(("Divergence", "find_divergence"), "bisect"),
    **dict.fromkeys(("Bundle", "open_bundle"), "bundle"),
    **dict.fromkeys(("Machine", "detect_machine"), "detect"),
    **dict.fromkeys(("Device", "list_devices", "load_device"), "device"),
    **dict.fromkeys(("Forecast", "make_forecast"), "forecast"),
    **dict.fromkeys(("Writer", "load_writer"), "generation"),
    **dict.fromkeys(("ParityReport", "measure_graph", "measure_parity"), "parity"),
    **dict.fromkeys(("Plan", "make_plan"), "plan"),
    **dict.fromkeys(("PoolStats", "PooledStream", "StreamPool"), "pool"),
    **dict.fromkeys(("Session", "load", "open_session"), "session"),
    **dict.fromkeys(("Tuning", "find_tuning", "tune_plan"), "tuning"),
    "Stream": "stream",
    "TensorSpec": "tensors",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("edgeseq_runtime.errors")
    if name not in _MODULES:
        raise AttributeError(f"module 'edgeseq_runtime' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(f"edgeseq_runtime.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
