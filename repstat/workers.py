"""Worker processes that die with their parent's interrupt and leave nothing behind."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process


def _obey() -> None:
    # Ctrl-C reaches the whole process group: a worker goes at once and without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End this process when its parent is gone, however it went."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def process_pool(workers: int) -> Iterator[Executor]:
    """Start `workers` fresh processes; whatever is still running when the block is left is ended.

    They are spawned, not forked: an open HDF5 file or a running BLAS thread does not survive a fork.
    """
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_obey)
    before = set(active_children())
    try:
        yield pool
    except BaseException:
        for child in set(active_children()) - before:
            child.terminate()
        raise
    finally:
        # The pool's own thread collects its children; joining them here too would race with it.
        pool.shutdown(cancel_futures=True)
