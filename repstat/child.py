"""A helper process that answers one question at a time, within limits: for work that may crash or hang.

It starts as a fresh interpreter (never a fork: neither an open HDF5 file nor a BLAS thread survives one),
sees no environment of Python's, and ends by itself when it is idle or its parent is gone. This module imports
nothing heavy, so that a command can start the process before its own imports and let both run at once.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from repstat.errors import ResourceError

IDLE_SECONDS = 10.0
_MAX_REPLY_BYTES = 2**20
_TOO_LONG = "it took longer than {:g} seconds"
_TOO_MUCH = "it answered more than {} bytes"
_NO_ANSWER = "it answered what is no answer"
_START = (
    "import sys; sys.path[:0] = sys.argv[2:]; import importlib; importlib.import_module(sys.argv[1]).main()"
)


class ChildDiedError(Exception):
    """The process ended, or had to be ended, before it answered; the text says how."""


class Child:
    """A process that runs ``MODULE.main()``: a loop of `serve`. Safe to share between threads.

    It is started when it is first needed, and again after a death or a fork of this process.

    Parameters
    ----------
    module
        What it runs.
    seconds
        How long an answer may take.
    """

    def __init__(self, module: str, seconds: float) -> None:
        self._module = module
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        atexit.register(self.close)

    def start(self) -> None:
        """Start the process if it does not run, and do not wait for it.

        Raises
        ------
        ResourceError
            If the system starts no process.
        """
        with self._lock:
            self._running()

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to `question`, both JSON objects.

        Raises
        ------
        ChildDiedError
            If it ended or took too long. The next question goes to a new process.
        ResourceError
            If the system starts no process.
        """
        line = json.dumps(dict(question)).encode() + b"\n"
        with self._lock:
            for last in (False, True):
                process = self._running()
                try:
                    answer = self._exchange(process, line)
                except BaseException:
                    self._end()
                    raise
                if answer is not None:
                    return answer
                code = self._end()
                # One that went idle and left between two questions has not been asked this one.
                if code or last:
                    raise ChildDiedError(_ending(code))
        raise AssertionError

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():
            self._process = None  # it is the child of the process that this one was forked from
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process, self._owner = _launch(self._module), os.getpid()
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes) -> dict[str, Any] | None:
        """Send a line and read one; None if the process ended instead."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:
            return None
        until = time.monotonic() + self._seconds
        reply = b""
        while not reply.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0:
                raise ChildDiedError(_TOO_LONG.format(self._seconds))
            if len(reply) > _MAX_REPLY_BYTES:
                raise ChildDiedError(_TOO_MUCH.format(_MAX_REPLY_BYTES))
            if select.select([process.stdout], [], [], left)[0]:
                part = os.read(process.stdout.fileno(), 2**16)
                if not part:
                    return None
                reply += part
        try:
            return dict(json.loads(reply))
        except ValueError as error:
            raise ChildDiedError(_NO_ANSWER) from error

    def _end(self) -> int:
        """End the process, if there is one, and return how it ended."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return 0
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        try:
            # A process that died is collected with its own code; one that still runs has nothing to lose.
            return process.wait(0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return -signal.SIGKILL


STORE_GATE = Child("repstat.store.gate_child", 45.0)
"""Judges files for `repstat.store.gate`: milliseconds each, but a slow disk counts. It is here so that a
command can start it without importing the store."""


def _launch(module: str) -> subprocess.Popen[bytes]:
    here = str(Path(__file__).resolve().parents[1])
    # The folder that this process was started in is not searched: files of a stranger may lie there.
    paths = [here, *(path for path in sys.path if path and path != here)]
    quiet = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START, module, *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what a dying C library says is not for the user
            env=os.environ | quiet | {"HDF5_PLUGIN_PRELOAD": "::"},
            start_new_session=True,  # Ctrl-C is for the parent
        )
    except (OSError, ValueError) as error:
        raise ResourceError(
            what="cannot start the process that checks files",
            why=f"{sys.executable or 'no Python interpreter'}: {error}",
            fix="Free some memory or processes, or run repstat by an ordinary Python interpreter",
        ) from error


def _ending(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return "it used too much processor time" if name == "SIGXCPU" else f"it ended by {name}"
