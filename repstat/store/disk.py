"""Every change that a store makes to the disk, in one place.

All writing goes through these few functions, so that tests can record it, interrupt it at any point, lose
what was not synced, and make any single step fail. Callers name the module (``disk.sync(...)``).
"""

import os
from pathlib import Path


def create(path: Path) -> int:
    """Create a file that must not exist yet; return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def write(descriptor: int, data: memoryview, position: int) -> int:
    """Write bytes at `position`; return how many were written, which may be fewer."""
    return os.pwrite(descriptor, data, position)


def truncate(descriptor: int, size: int) -> None:
    """Set the size of a file."""
    os.ftruncate(descriptor, size)


def sync(descriptor: int) -> None:
    """See the content of a file on the disk."""
    os.fsync(descriptor)


def rename(path: Path, target: Path) -> None:
    """Give a file or folder the name `target`, replacing a file (or empty folder) of that name."""
    path.replace(target)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder that must not exist yet."""
    path.mkdir()


def remove_folder(path: Path) -> None:
    """Remove an empty folder."""
    path.rmdir()


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed and removed in `folder` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
