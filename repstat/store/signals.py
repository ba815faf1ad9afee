"""Let no signal interrupt what cannot be interrupted."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back SIGINT, SIGTERM and SIGALRM (a time limit) for a moment; they arrive when the block ends.

    HDF5 writes by calling back into Python, where a handler may raise at any instruction. An exception that
    unwinds through HDF5 leaves a file that can be neither closed nor dropped in order. Other threads are
    never interrupted, and a signal without a Python handler ends the process at once, which is harmless.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _held(signal.SIGINT), _held(signal.SIGTERM), _held(signal.SIGALRM):
        yield


@contextmanager
def _held(number: signal.Signals) -> Iterator[None]:
    handler = signal.getsignal(number)
    if not callable(handler):
        yield
        return
    arrived: list[int] = []
    try:
        signal.signal(number, lambda found, _: arrived.append(found))
        yield
    finally:
        signal.signal(number, handler)
        if arrived:
            signal.raise_signal(number)
