"""Many streams of one session, their steps run in batches.

pool = session.pool(capacity=256)
stream = pool.join()
outputs = stream.step({"x": piece})  # like a stream of its own, while the pool batches it with whoever else is ready

Which part does what: `kinds` checks inputs on the client's thread; `scheduler` knows who waits, in which order, and who is too
late; `worker` runs a batch and tells the clients; `batches` and `slabs` hold the memory; `independence` says what can't be pooled.
"""

from edgeseq_runtime.pool.pool import PooledStream, PoolSizes, StreamPool, default_workers
from edgeseq_runtime.pool.stats import PoolStats

__all__ = ["PoolSizes", "PoolStats", "PooledStream", "StreamPool", "default_workers"]
