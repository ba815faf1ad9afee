"""A figure as a file: the same bytes each time, under a temporary name until it is whole."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from repstat.errors import UsageError
from repstat.plots import SUFFIXES, Format, style
from repstat.store import disk
from repstat.store.output import disk_errors
from repstat.store.signals import uninterrupted
from repstat.version import __version__

MARK = "repstat figure"
"""In the metadata of every figure: nothing else is overwritten."""

_BEGINS = {".pdf": b"%PDF-", ".svg": b"<?xml", ".png": b"\x89PNG\r\n"}
_CREATOR = f"{MARK}, repstat {__version__}"
_METADATA: dict[Format, dict[str, Any]] = {
    "pdf": {"Creator": _CREATOR, "CreationDate": None},
    "svg": {"Creator": _CREATOR, "Date": None},
    "png": {"Software": _CREATOR},
}


def encode(figure: Figure, form: Format) -> bytes:
    """Return a figure as a file's content: no dates, and names within it by a fixed salt."""
    content = BytesIO()
    with style.context():
        figure.savefig(content, format=form, metadata=_METADATA[form])
    return content.getvalue()


def check_figure(path: Path, *, overwrite: bool) -> Format:
    """Refuse a path before the work that would be lost; return the format that its suffix names.

    Raises
    ------
    UsageError
        Saying why.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        found = f"its suffix is {path.suffix!r}" if path.suffix else "it has no suffix"
        raise UsageError(
            what=f"cannot tell the format of the figure {path}",
            why=found,
            fix=f"Give -o a name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
        )
    if why := _why_unusable(path):
        raise UsageError(what="cannot write the figure", path=path, why=why, fix="Name another file with -o")
    if path.exists():
        if not overwrite:
            raise UsageError(
                what=f"{path} exists already",
                why="nothing is overwritten unasked",
                fix="Pass --overwrite, or name another file with -o",
            )
        if not _is_ours(path):
            raise UsageError(
                what=f"will not overwrite {path}",
                why="it is not a figure of repstat",
                fix="Name another file with -o, or remove it yourself",
            )
    form: Format = "pdf" if suffix == ".pdf" else "svg" if suffix == ".svg" else "png"
    return form


def _why_unusable(path: Path) -> str:
    try:
        path.with_name(f"{path.name}.tmp-{2**31}").lstat()  # the longest name that will be made of it
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return "it is a link or no regular file"
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return f"the folder {path.parent} cannot be written"
    return ""


def _is_ours(path: Path) -> bool:
    """Whether a file begins as a figure does and says that repstat made it."""
    content = path.read_bytes()
    return content.startswith(_BEGINS[path.suffix.lower()]) and MARK.encode() in content


def save(figure: Figure, path: Path, *, overwrite: bool = False) -> Path:
    """Write a figure (`repstat.plots.save`)."""
    form = check_figure(path, overwrite=overwrite)
    _write(path, encode(figure, form))
    return path


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with disk_errors(path, lambda: "The figure was not saved."):
        descriptor = -1
        try:
            with uninterrupted():
                disk.remove(temporary)  # of a process that died and had this number
                descriptor = disk.create(temporary)
            data, position = memoryview(content), 0
            while position < len(content):
                position += disk.write(descriptor, data[position:], position)
            disk.sync(descriptor)
            disk.rename(temporary, path)
            disk.sync_folder(path.parent)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
                disk.remove(temporary)
