"""Pools at the end of a process, and in a process that was forked."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Sequence

from edgeseq_runtime.pool.scheduler import Scheduler

_open: weakref.WeakKeyDictionary[Scheduler, Sequence[threading.Thread]] = weakref.WeakKeyDictionary()


def register(scheduler: Scheduler, workers: Sequence[threading.Thread]) -> None:
    """Have a pool end with the process."""
    _open[scheduler] = workers


def join_workers(workers: Sequence[threading.Thread]) -> None:
    """Wait until workers have ended; a callback that one of them runs doesn't wait for itself."""
    for worker in workers:
        if worker is not threading.current_thread():
            worker.join()


def _close_all() -> None:
    # A worker still inside the backend while the interpreter tears it down can crash the process.
    for scheduler, workers in list(_open.items()):
        scheduler.close()
        join_workers(workers)


def _renounce_all() -> None:
    for scheduler in list(_open):
        scheduler.renounce()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renounce_all)
