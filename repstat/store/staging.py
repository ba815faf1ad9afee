"""Write a file under a temporary name and let a rename be the commit (docs/store-format.md, section 6)."""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from repstat.store import disk
from repstat.store.schema import LIBVER
from repstat.store.signals import uninterrupted


class _Outlet(io.RawIOBase):
    """The file beneath HDF5, which remembers the first failure instead of reporting it.

    HDF5 cannot be closed in order once a write has failed: it loses data in silence and may crash the
    process at exit. Here it sees a disk that never fails, and who drives it looks at `failure`.
    """

    def __init__(self, descriptor: int) -> None:
        self.failure: BaseException | None = None
        self._descriptor = descriptor
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET:
            self._position = offset
        elif whence == os.SEEK_CUR:
            self._position += offset
        else:
            self._position = os.fstat(self._descriptor).st_size + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        read = os.preadv(self._descriptor, [buffer], self._position)
        self._position += read
        return read

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self.failure is None:
            try:
                self._write_all(memoryview(data).cast("B"))
            except BaseException as error:  # an interrupt must not unwind through HDF5 either
                self.failure = error
        self._position += size
        return size

    def _write_all(self, data: memoryview) -> None:
        position = self._position
        while data:
            written = disk.write(self._descriptor, data, position)
            data, position = data[written:], position + written

    def truncate(self, size: int | None = None) -> int:
        length = self._position if size is None else size
        if self.failure is None:
            try:
                disk.truncate(self._descriptor, length)
            except BaseException as error:
                self.failure = error
        return length

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class StagedFile:
    """A new HDF5 file that has no name of its own before `commit`.

    Parameters
    ----------
    final
        The name it will have. A file of that name is left alone until `commit` replaces it.

    Attributes
    ----------
    h5
        The open file.
    path
        Where it is until then.

    Raises
    ------
    OSError
        From every method but `discard`, if the disk failed.
    """

    def __init__(self, final: Path) -> None:
        self._final = final
        self.path = final.with_name(f"{final.name}.tmp-{os.getpid()}")
        self._descriptor = -1
        try:
            with uninterrupted():
                self._descriptor = disk.create(self.path)
                self._outlet = _Outlet(self._descriptor)
                # Without a chunk cache rows go straight to the disk, and many layers need no memory.
                self.h5 = h5py.File(self._outlet, "w", libver=LIBVER, rdcc_nbytes=0)
        except BaseException:
            self.discard()
            raise

    @property
    def failure(self) -> BaseException | None:
        """What went wrong on the disk, if anything did."""
        return self._outlet.failure

    def check(self) -> None:
        """Raise what went wrong on the disk."""
        if self._outlet.failure is not None:
            raise self._outlet.failure

    def close(self) -> None:
        """Let HDF5 write the rest."""
        self.h5.close()
        self.check()

    def sync(self) -> None:
        """See the closed file on the disk."""
        disk.sync(self._descriptor)

    def commit(self) -> None:
        """Give the file its name."""
        disk.rename(self.path, self._final)
        disk.sync_folder(self._final.parent)
        self._release()

    def discard(self) -> None:
        """Remove the file, whatever state it is in."""
        if self._descriptor < 0:
            return
        if self._outlet.failure is None:
            # HDF5 is about to flush what nobody wants: spare the disk.
            self._outlet.failure = InterruptedError()
        with uninterrupted():
            with contextlib.suppress(Exception):
                self.h5.close()
            # A disk that cannot even do this keeps a stale file, which the next writer removes.
            with contextlib.suppress(OSError):
                self._release()
                disk.remove(self.path)

    def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


def stale_files(folder: Path, name: str = "") -> Iterator[Path]:
    """Temporary files of `name` (or of any store file) in `folder`. Under its lock, all of them are stale."""
    stem = re.escape(name) if name else r"step-[0-9]+\.h5"
    for entry in folder.iterdir():
        if re.fullmatch(rf"{stem}\.tmp-[0-9]+", entry.name):
            yield entry
