"""Training: one loop, its schedule and history, and checkpoints from which it goes on bit for bit."""

from edgeseq.training.checkpoint import CheckpointError, save_weights
from edgeseq.training.fit import History, Loss, Schedule, Score, Watch, fit

__all__ = ["CheckpointError", "History", "Loss", "Schedule", "Score", "Watch", "fit", "save_weights"]
