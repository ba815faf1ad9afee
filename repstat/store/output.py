"""What is settled before anything is written: where, whether it may be, and whether it fits."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path

from repstat.errors import RepstatError, ResourceError, StoreDamagedError, UsageError
from repstat.store.gate import judge
from repstat.units import format_bytes

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def located(path: str | PathLike[str]) -> Path:
    """Return an absolute path with a name, so that neighbours of it can be named.

    Raises
    ------
    UsageError
        If it has none.
    """
    text = fspath(path)
    if "\0" in text or not (found := Path(os.path.abspath(text))).name:  # noqa: PTH100
        raise UsageError(what=f"cannot write a store to {text!r}", fix="Name a file (-o, store=).")
    return found


def why_unusable(path: Path) -> str:
    """Return why no file can be written under a name, whatever is there; empty if one can."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        return "it is a link or not a regular file"
    if not path.parent.is_dir():
        return "the folder does not exist"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return "the folder cannot be written"
    try:
        path.with_name(f"{path.name}.tmp-{2**31}").lstat()  # the longest name that will be made of it
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)
    return ""


def check_parent(output: Path) -> None:
    """Refuse an output whose folder is missing or read-only, before any work is done.

    Raises
    ------
    UsageError
        Saying which.
    """
    folder = output.parent
    if not folder.is_dir():
        raise UsageError(
            what=f"the folder {folder} does not exist", fix="Create it, or give another output (-o, store=)."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(what=f"the folder {folder} is not writable", fix="Give another output (-o, store=).")


def check_replaceable(output: Path, *, overwrite: bool) -> None:
    """Refuse an output that exists, unless it is a store and may be overwritten.

    Raises
    ------
    UsageError
        If it exists and `overwrite` is False, or it is anything but an activation store.
    """
    if output.is_symlink():
        raise UsageError(what=f"{output} is a link", fix="Name a file (-o, store=) that is not a link.")
    if output.is_dir():
        raise UsageError(what=f"{output} is a folder", fix="Name a file (-o, store=).")
    if not output.exists():
        return
    if not overwrite:
        raise exists_already(output)
    if not _is_or_was_a_store(output):
        raise UsageError(
            what=f"will not overwrite {output}",
            why="it is not an activation store",
            fix="Give another output (-o, store=), or remove it yourself.",
        )


def exists_already(output: Path) -> UsageError:
    """Return the error for an output that nobody allowed to replace."""
    return UsageError(
        what=f"{output} already exists",
        fix="Pass --overwrite (overwrite=True), or give another output (-o, store=); `extract`, `import` and "
        "recorders complete a store with --resume (resume=True).",
    )


def _is_or_was_a_store(path: Path) -> bool:
    """Whether it is a store, perhaps a damaged one."""
    try:
        judge(path)
    except StoreDamagedError as error:
        return "is not an activation store" not in error.what
    return True


def check_space(output: Path, required: int) -> None:
    """Refuse to begin what will not fit.

    Raises
    ------
    ResourceError
        With both sizes.
    """
    free = shutil.disk_usage(output.parent).free
    if required > free:
        raise ResourceError(
            what=f"not enough space for {output}",
            why=f"need {format_bytes(required)}, {format_bytes(free)} free",
            fix="Free some space, give another output (-o, store=), or select fewer layers, samples or "
            "checkpoints.",
        )


@contextmanager
def disk_errors(output: Path, kept: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn failures of the disk into a ResourceError; `kept` says what is not lost."""
    try:
        yield
    except RepstatError:
        raise
    except PermissionError as error:
        raise UsageError(
            what=f"cannot write {output}",
            why=error.strerror or str(error),
            fix="Give another output (-o, store=).",
        ) from error
    except OSError as error:
        if error.errno == errno.EROFS:
            raise UsageError(
                what=f"cannot write {output}",
                why="the disk is read-only",
                fix="Give another output (-o, store=).",
            ) from error
        full = error.errno in _FULL
        raise ResourceError(
            what="the disk is full" if full else "the disk failed",
            path=output,
            why=error.strerror or str(error),
            fix=f"{kept()} {'Free some space and run' if full else 'Run'} the same command again.".strip(),
        ) from error
