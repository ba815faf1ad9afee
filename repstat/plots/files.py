"""A figure as a file: the same bytes each time, under a temporary name until it is whole."""

from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from repstat.errors import UsageError
from repstat.outputs import check_output, write_output
from repstat.plots import SUFFIXES, Format, style
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
    check_output(path, _is_ours, "figure", overwrite=overwrite)
    form: Format = "pdf" if suffix == ".pdf" else "svg" if suffix == ".svg" else "png"
    return form


def _is_ours(path: Path) -> bool:
    """Whether a file begins as a figure does and says that repstat made it."""
    content = path.read_bytes()
    return content.startswith(_BEGINS[path.suffix.lower()]) and MARK.encode() in content


def save(figure: Figure, path: Path, *, overwrite: bool = False) -> Path:
    """Write a figure (`repstat.plots.save`)."""
    form = check_figure(path, overwrite=overwrite)
    write_output(path, encode(figure, form))
    return path
