"""Worker processes that die with their parent's interrupt and leave nothing behind."""

import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context

GRACE_SECONDS = 5.0
"""How long an ended worker may take to go."""


def _obey() -> None:
    # Ctrl-C reaches the whole process group: a worker goes at once and without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def process_pool(workers: int) -> Iterator[Executor]:
    """Start `workers` fresh processes; whatever is still running when the block is left is ended.

    They are spawned, not forked: an open HDF5 file or a running BLAS thread does not survive a fork.
    """
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_obey)
    before = set(active_children())
    try:
        yield pool
        pool.shutdown()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(active_children()) - before:
            child.terminate()
            child.join(GRACE_SECONDS)
