"""Keep two writers of one output apart, whatever HDF5's own locking is set to."""

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from repstat.errors import LockedError, ResourceError


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
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
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
            # Removed while still held: whoever waits on the old file finds out in _is_current.
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                what="another process is writing",
                path=self._output,
                why=f"it holds {self._path.name}",
                fix="Wait for it, or give another -o.",
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
