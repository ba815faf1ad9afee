"""Run a model in a process of its own and watch it from outside: nothing in a model's file can stop that.

A model's run may never end, take all memory, or crash, and while the C++ code of a runtime computes,
Python hears nothing. So the command forks before it loads a framework. The child goes on with the command;
its parent waits, hands signals on, and ends it where it exceeds a limit. Killing it is safe: whatever the
store's writer has finished survives that (docs/reliability.md).
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from repstat.cli import KEPT, OutOfTimeError, Terminated
from repstat.errors import InputRefusedError, RepstatError, ResourceError
from repstat.units import format_bytes

_TICK = 0.02
"""Seconds between two looks: memory fills at a few GB per second."""
_GRACE = 5.0
"""Seconds that a process which was told to stop has for tidying up."""
_PR_SET_PDEATHSIG = 1
_RUNS = "the model's run"
_watched = False


def enable() -> None:
    """Let `watched` fork: this process does nothing but this command, and has one thread."""
    global _watched
    _watched = hasattr(os, "fork")


def watched(timeout: float | None, max_memory: int, output: Path | None = None) -> None:
    """Return in a process that is watched; the one that watches it never returns.

    Where there is no fork, or another program runs the command inside itself, the process goes on unwatched,
    and is only told when time is up.

    Parameters
    ----------
    timeout
        Seconds from now.
    max_memory
        Bytes of its own that the process may hold, mapped files not counted.
    output
        The store that it writes.

    Raises
    ------
    click.exceptions.Exit
        In the watching process, with the exit code of the other one.
    ResourceError
        A limit was exceeded, or the system killed the process.
    InputRefusedError
        It crashed.
    """
    if _watched:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        alive, held = os.pipe()
        parent = os.getpid()
        if child := os.fork():
            os.close(held)
            _Watch(child, alive, timeout, max_memory, output).end()
        os.close(alive)
        _follow(parent)
    if timeout is not None:
        before = signal.signal(signal.SIGALRM, _out_of_time)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        # A program that runs the command inside itself goes on after it.
        click.get_current_context().call_on_close(lambda: _disarm(before))


def _disarm(before: Callable[[int, FrameType | None], Any] | int | None) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def _out_of_time(signum: int, frame: FrameType | None) -> NoReturn:
    raise OutOfTimeError


class _Watch:
    """What the parent does."""

    def __init__(
        self, child: int, alive: int, timeout: float | None, max_memory: int, output: Path | None
    ) -> None:
        self._child, self._alive, self._output = child, alive, output
        self._timeout, self._max_memory = timeout, max_memory
        self._kill_at = float("inf") if timeout is None else time.monotonic() + timeout + _GRACE
        self._forwarded = 0

    def end(self) -> NoReturn:
        """Wait for the child and end as it did."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._forward)
        killed_for: BaseException | None = None
        while (status := self._ended()) is None:
            # The pipe ends with the child, so that nobody waits for the next look in vain.
            select.select([self._alive], [], [], _TICK)
            if killed_for is None and (killed_for := self._exceeded()) is not None:
                os.kill(self._child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            raise click.exceptions.Exit(code)
        error = killed_for or self._ending(-code)
        error.add_note(self._tidy())
        raise error

    def _forward(self, signum: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._child, signum)
        if signum != signal.SIGCONT:
            self._forwarded = self._forwarded or signum
            self._kill_at = min(self._kill_at, time.monotonic() + _GRACE)

    def _ended(self) -> int | None:
        child, status = os.waitpid(self._child, os.WNOHANG)
        return status if child else None

    def _exceeded(self) -> BaseException | None:
        if (found := _own_memory(self._child)) > self._max_memory:
            return ResourceError(
                what=f"{_RUNS} took more memory than allowed",
                why=f"found {format_bytes(found)}, and --max-memory is {format_bytes(self._max_memory)}",
                fix="Use a smaller --batch-size, or allow more",
            )
        if time.monotonic() < self._kill_at:
            return None
        return self._stopped(self._forwarded) if self._forwarded else OutOfTimeError()

    def _stopped(self, number: int) -> BaseException:
        return KeyboardInterrupt() if number == signal.SIGINT else Terminated()

    def _ending(self, number: int) -> BaseException:
        """Return what the death of the child by a signal means, where nobody here killed it."""
        if number in (signal.SIGINT, signal.SIGTERM):
            return self._stopped(number)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        if number in (signal.SIGKILL, signal.SIGXCPU):
            return ResourceError(
                what=f"{_RUNS} was killed",
                why=f"its process ended by {name}, as systems do where memory or processor time runs out",
                fix="Use a smaller --batch-size, or a machine with more memory",
            )
        return InputRefusedError(
            what=f"{_RUNS} crashed",
            why=f"its process ended by {name}, inside the framework that runs the model",
            fix="The file may be damaged or made to do harm; check that the framework alone can run it",
        )

    def _tidy(self) -> str:
        """Remove what the child has left half-written, and say what is kept of it."""
        if self._output is None:
            return "Nothing was written."
        from repstat.store import tidy_up

        kept = 0
        with suppress(RepstatError, OSError):  # what cannot be tidied up, the next run does
            kept = tidy_up(self._output)
        return f"{kept} finished checkpoints are kept; the same command goes on." if kept else KEPT


def _own_memory(process: int) -> int:
    """Return the bytes that a process holds, without mapped files; 0 where the system does not say."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{process}/statm").read_text("ascii").split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _follow(parent: int) -> None:
    """Let this process, the child, stop and end with its parent.

    It leaves the parent's process group: Ctrl-C reaches the parent, which hands it on, and not both.
    """
    with suppress(OSError):
        os.setpgid(0, 0)
    # It may write to the terminal as before, although the terminal is its parent's.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # Linux, even while a runtime computes
    threading.Thread(target=_mind, args=(parent,), daemon=True).start()


def _mind(parent: int) -> None:
    while True:
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        if _is_stopped(parent):
            os.kill(os.getpid(), signal.SIGSTOP)  # the parent's SIGCONT is handed on
        time.sleep(_TICK)


def _is_stopped(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state == b"T"
