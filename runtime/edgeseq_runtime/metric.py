"""A user's own measure of a task: how much worse is a precision or a device at what the model is for?

A metric takes a `Session`, calls its `run`, or its `stream` where the task is a stream, on the user's labelled data, and returns
one number: higher is better. It is taken of the fp32 model on the local CPU and of what is measured; the first less the second is
the loss.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeseq_runtime.bundle import Bundle
from edgeseq_runtime.errors import EdgeseqError, UsageError
from edgeseq_runtime.plan import make_plan
from edgeseq_runtime.session import Session, open_session

Metric = Callable[[Session], float]

MAX_LOSS = 0.005


class MetricRow(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a user's metric."""

    name: str
    verdict: str  # "pass" or "fail"
    reason: str = ""
    fp32: float  # of the fp32 model on the local CPU
    measured: float = math.nan  # of what is measured; not a number where it gave none
    max_loss: float  # the largest loss allowed
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """How much lower than the fp32 model's; negative where it is higher."""
        return self.fp32 - self.measured


def load_metric(text: str) -> Metric:
    """The function that `FILE.py:FUNCTION` names. The file's folder can be imported from, after all that is installed.

    Raises:
        UsageError: no such form, file or function, or the file can't be imported.
    """
    file, _, name = text.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise UsageError(f"'{text}' names no metric; write FILE.py:FUNCTION, such as metric.py:accuracy")
    path = Path(file).resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {file} to take the metric '{name}' from; name another one")
    module = _imported(path, file)
    metric = getattr(module, name, None)
    if not callable(metric):
        functions = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
        raise UsageError(f"{file} has no function '{name}'; it has: {', '.join(functions) or 'none'}")
    found: Metric = metric
    return found


def _imported(path: Path, file: str) -> Any:
    identity = f"edgeseq_metric_{path.stem}"
    spec = importlib.util.spec_from_file_location(identity, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} is no Python file; name another one")
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[identity] = module  # dataclasses, for one, look their module up
    try:
        spec.loader.exec_module(module)
    # The user's file can raise anything, and a script may end the program: neither is a verdict.
    except (Exception, SystemExit) as error:
        raise UsageError(f"{file} can't be imported for its metric: {type(error).__name__}: {error}") from error
    return module


def metric_name(metric: Metric) -> str:
    """What a metric is called in a report."""
    return str(getattr(metric, "__name__", type(metric).__name__))


def measure_metric(bundle: Bundle, session: Session, metric: Metric, max_loss: float = MAX_LOSS) -> MetricRow:
    """Take a metric of the fp32 model on the local CPU and of a session, and judge the loss.

    A session that can't do what the fp32 model can, or gives no finite number where that gives one, fails.

    Raises:
        UsageError: the bound makes no sense; the metric raises, or gives no finite number of the fp32 model.
    """
    require_bound(max_loss)
    start = time.perf_counter()
    name = metric_name(metric)
    baseline = open_session(bundle, make_plan(bundle, "cpu", threads=session.plan.threads))
    try:
        fp32 = _number(metric, baseline)
    except UsageError:
        raise
    except EdgeseqError as error:
        raise UsageError(f"metric '{name}' can't be taken of the fp32 model: {error}") from error
    row = MetricRow(name=name, verdict="fail", fp32=fp32, max_loss=max_loss)
    try:
        measured = _number(metric, session)
    except UsageError:
        raise
    except EdgeseqError as error:
        row = msgspec.structs.replace(row, reason=str(error))
    else:
        row = _judged(msgspec.structs.replace(row, measured=measured))
    return msgspec.structs.replace(row, seconds=time.perf_counter() - start)


def require_bound(max_loss: float) -> None:
    """Raises UsageError unless it is a finite number from 0 up."""
    if not 0 <= max_loss < math.inf:
        raise UsageError(f"the largest loss allowed of a metric is {max_loss}; give a number from 0 up, in the metric's own unit")


def _judged(row: MetricRow) -> MetricRow:
    if row.loss <= row.max_loss:
        return msgspec.structs.replace(row, verdict="pass")
    return msgspec.structs.replace(row, reason=f"loss {row.loss:.3g} exceeds {row.max_loss:g}")


class _NoNumber(EdgeseqError):
    """The metric returned something that can't be compared."""


def _number(metric: Metric, session: Session) -> float:
    """What the metric gives.

    Raises:
        EdgeseqError: what the session raised, or no finite number.
        UsageError: the metric raised something else.
    """
    try:
        value = metric(session)
    except EdgeseqError:
        raise
    # The user's function can raise anything, or end the program, which would end it without a verdict.
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"metric '{metric_name(metric)}' raised {type(error).__name__}: {error}; it is called with a Session, which has "
            "run and stream, and returns a number"
        ) from error
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, Real) or not math.isfinite(value):
        raise _NoNumber(f"metric '{metric_name(metric)}' gives {value!r:.80}, which is no finite number")
    return float(value)
