"""``repstat analyze --csv``: every number as a table for spreadsheets and scripts."""

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repstat.naming import printable
from repstat.units import Units

if TYPE_CHECKING:
    from repstat.results import Results

_BEGIN = b"checkpoint,step,"
_FORMULA = tuple("=+-@＝＋－＠")  # noqa: RUF001
"""What makes a spreadsheet run a cell; the wide forms do where its language is Japanese or Chinese."""


def check_csv(path: Path, results: Path, store: Path, *, overwrite: bool) -> None:
    """Refuse a path before the work that would be lost, and one that is anything but a CSV of ours.

    Raises
    ------
    click.UsageError
        Saying why.
    """
    if path.resolve() in {results.resolve(), store.resolve()}:
        msg = f"--csv {path} is the store or the results file; name another file"
        raise click.UsageError(msg)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        msg = f"cannot write {path}: it is a link or no regular file; name another file with --csv"
        raise click.UsageError(msg)
    if path.exists() and not overwrite:
        msg = f"{path} exists already; pass --overwrite, or name another file with --csv"
        raise click.UsageError(msg)
    if path.exists() and not _is_ours(path):
        msg = f"will not overwrite {path}: it is not a CSV of repstat; name another file"
        raise click.UsageError(msg)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        msg = f"cannot write {path}: its folder cannot be written; name another file with --csv"
        raise click.UsageError(msg)


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_BEGIN)) == _BEGIN


def write_csv(results: "Results", path: Path, units: Units) -> None:
    """Write all rows to a temporary name and rename it."""
    from repstat.results import ROW_FIELDS

    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(ROW_FIELDS)
            writer.writerows(_cells(row.values()) for row in results.to_rows(units))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _cells(values: Iterable[Any]) -> list[Any]:
    """Return the cells of one line; a text that a spreadsheet would run as a formula gets an apostrophe.

    Control characters, for which CSV has no form, are replaced. A number is never changed.
    """
    cells = []
    for value in values:
        if value is None:
            cells.append("")
        elif isinstance(value, dict):
            cells.append(json.dumps(value, allow_nan=False))
        elif isinstance(value, str):
            text = printable(value)
            cells.append(f"'{text}" if text.lstrip().startswith(_FORMULA) else text)
        else:
            cells.append(value)
    return cells
