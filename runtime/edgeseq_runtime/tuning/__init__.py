"""The plan that is fastest for one model on this machine: found by measuring, kept in the user's cache, an ordinary plan again."""

from edgeseq_runtime.tuning.record import Gain, Tried, Tuning, TuningNotice, TuningRecord
from edgeseq_runtime.tuning.tune import find_tuning, tune_plan, tuned_plan
from edgeseq_runtime.tuning.workload import Workload

__all__ = ["Gain", "Tried", "Tuning", "TuningNotice", "TuningRecord", "Workload", "find_tuning", "tune_plan", "tuned_plan"]
