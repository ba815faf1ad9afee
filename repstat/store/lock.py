"""Keep two writers of one output apart, whatever HDF5's own locking is set to."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

from repstat.errors import LockedError, ResourceError, UsageError
from repstat.store import disk
from repstat.store.output import check_parent, disk_errors, located


class OutputLock:
    """An exclusive advisory lock on `OUTPUT.lock`, held until exit or the death of the process.

    Parameters
    ----------
    output
        The file or folder that is going to be written; it need not exist.

    Raises
    ------
    LockedError
        On entry, if another writer holds it.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._path = output.with_name(f"{output.name}.lock")
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        while self._descriptor is None:
            descriptor = self._open()
            try:
                self._lock(descriptor)
                if self._is_current(descriptor):
                    self._descriptor = descriptor
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            # Removed while still held: whoever waits on the old file finds out in _is_current. A lock file
            # of ours is empty; one that cannot be removed does no harm.
            try:
                with contextlib.suppress(OSError):
                    if os.fstat(descriptor).st_size == 0:
                        disk.remove(self._path)
            finally:
                # A child process forked meanwhile has the descriptor too: closing would not be enough.
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)

    def _open(self) -> int:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            return os.open(self._path, flags, 0o666)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise
            raise UsageError(
                what="cannot lock the output",
                path=self._output,
                why=f"{self._path.name} is in the way: it is not a plain file",
                fix="Remove it, or give another output (-o, store=).",
            ) from error

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                what="another process is writing",
                path=self._output,
                why=f"it holds {self._path.name}",
                fix="Wait for it, or give another output (-o, store=).",
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            raise ResourceError(
                what="the file system has no locks",
                path=self._path,
                why=error.strerror or "",
                fix="Write to a local disk, then move the store.",
            ) from error

    def _is_current(self, descriptor: int) -> bool:
        """Whether the path still names the locked file, not one made after a removal."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False


@contextmanager
def output_lock(path: str | PathLike[str]) -> Iterator[OutputLock]:
    """Lock an output before anything else is done for it, so that a second writer is told at once.

    Raises
    ------
    LockedError
        If another writer holds it.
    UsageError, ResourceError
        If nothing can be written there.
    """
    output = located(path)
    check_parent(output)
    lock = OutputLock(output)
    with disk_errors(output):
        lock.__enter__()
    try:
        yield lock
    finally:
        lock.__exit__(None, None, None)
