"""Files for people, pages and figures and tables: never over what is not ours, and never half of one."""

import os
from collections.abc import Callable
from pathlib import Path

from repstat.errors import UsageError
from repstat.store import disk
from repstat.store.output import disk_errors, why_unusable
from repstat.store.signals import uninterrupted


def check_output(
    path: Path, is_ours: Callable[[Path], bool], kind: str, *, overwrite: bool, option: str = "-o"
) -> None:
    """Refuse a path before the work that would be lost.

    Parameters
    ----------
    path
        Where a file is to be written.
    is_ours
        Whether a file is one of ours: nothing else is overwritten.
    kind
        What it is called: ``report``, ``figure``.
    overwrite
        Whether one of ours may be replaced.
    option
        How another name is given.

    Raises
    ------
    UsageError
        `path` is a link or no regular file, exists, is none of ours, or its folder cannot be written.
    """
    elsewhere = f"Name another file with {option}"
    if why := why_unusable(path):
        raise UsageError(what=f"cannot write the {kind}", path=path, why=why, fix=elsewhere)
    if not path.exists():
        return
    if not overwrite:
        raise UsageError(
            what=f"{path} exists already",
            why="nothing is overwritten unasked",
            fix=f"Pass --overwrite. {elsewhere}",
        )
    if not is_ours(path):
        raise UsageError(
            what="will not overwrite it", path=path, why=f"it is no {kind} that repstat wrote", fix=elsewhere
        )


def write_output(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, sync it and rename it; of an interrupted one nothing is left.

    Raises
    ------
    ResourceError
        The disk is full or failed.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with disk_errors(path, lambda: "Nothing was written."):
        descriptor = -1
        try:
            with uninterrupted():
                temporary.unlink(missing_ok=True)
                descriptor = disk.create(temporary)
            view, position = memoryview(data), 0
            while position < len(data):
                position += disk.write(descriptor, view[position:], position)
            disk.sync(descriptor)
            disk.rename(temporary, path)
            disk.sync_folder(path.parent)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
            temporary.unlink(missing_ok=True)
