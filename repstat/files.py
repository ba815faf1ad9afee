"""Read arrays from files users have: ``.npy``, ``.npz``, ``FILE.h5:DATASET``, ``.csv``; never a pickle."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from repstat.adapter import Array
from repstat.errors import InputRefusedError, UsageError
from repstat.numbers import metrics_by_step
from repstat.tensors import read_hdf5, read_npz

_LABEL_HEADINGS = ("label", "labels", "class", "classes", "y", "target", "targets")
_FORMATS = ".npy, .npz, FILE.h5:DATASET or .csv"


def read_arrays(text: str) -> dict[str, Array]:
    """Read the arrays in one file, by name; an unnamed array is called ``inputs``.

    Raises
    ------
    UsageError
        There is no such file, or its kind is not known.
    InputRefusedError
        The file is damaged, or holds objects instead of numbers.
    """
    path, dataset = _split(text)
    _must_exist(path)
    try:
        if dataset or path.suffix.lower() in {".h5", ".hdf5"}:
            return {"inputs": read_hdf5(path, dataset)}
        if path.suffix.lower() == ".npy":
            return {"inputs": np.load(path, mmap_mode="r", allow_pickle=False)}
        if path.suffix.lower() == ".npz":
            return _read_npz(path)
        if path.suffix.lower() == ".csv":
            return {"inputs": _read_csv(path)}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputRefusedError | UsageError):
            raise
        raise _unreadable(path, error) from None
    raise UsageError(
        what="cannot tell the format of the array file",
        path=path,
        why=f"its suffix is {path.suffix or 'missing'!r}, expected {_FORMATS}",
        fix="Save the arrays with numpy.save or numpy.savez",
    )


@dataclass(frozen=True, slots=True)
class Data:
    """Samples, their labels, what messages and provenance call each, and metrics by step."""

    inputs: Mapping[str, Array] | Array | None
    labels: Array | Sequence[Any] | None
    metrics: Mapping[int, Mapping[str, float]]
    inputs_source: str
    labels_source: str


def read_data(
    inputs: str | PathLike[str] | Mapping[str, Array] | Array | None,
    labels: str | PathLike[str] | Array | Sequence[Any] | None,
    metrics: str | PathLike[str] | Mapping[int, Mapping[str, float]] | None,
) -> Data:
    """Read what is named by a file; an ``.npz`` of inputs may carry the labels.

    Raises
    ------
    UsageError, InputRefusedError
        As `read_arrays` and `read_metrics`.
    """
    if isinstance(metrics, str | PathLike):
        metrics = read_metrics(Path(metrics))
    inputs_source = labels_source = ""
    inner: Array | None = None
    if isinstance(inputs, str | PathLike):
        inputs_source = labels_source = Path(inputs).name
        arrays = read_arrays(fspath(inputs))
        inner = arrays.pop("labels", None) if len(arrays) > 1 else None
        # An .npz in repstat's own form may hold more than it needs: a train/test mask, class names.
        inputs = {"inputs": arrays["inputs"]} if "inputs" in arrays else arrays
    if isinstance(labels, str | PathLike):
        labels_source = Path(labels).name
        labels = read_labels(fspath(labels))
    elif labels is None:
        labels = inner
    else:
        labels_source = ""
    table = {} if metrics is None else metrics_by_step(metrics)
    return Data(inputs, labels, table, inputs_source or "arrays", labels_source or "labels")


def read_labels(text: str) -> Array:
    """Read one array of labels from a file; in an ``.npz`` it is called ``labels`` or is the only one."""
    path, _ = _split(text)
    arrays = read_arrays(text)
    if "labels" in arrays:
        return arrays["labels"]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    raise InputRefusedError(
        what="no labels",
        path=path,
        why=f"found the arrays {', '.join(map(repr, arrays))}, expected one called 'labels'",
        fix="Save the labels under the name 'labels'",
    )


def _split(text: str) -> tuple[Path, str]:
    head, colon, tail = text.rpartition(":")
    if colon and head and Path(head).suffix.lower() in {".h5", ".hdf5"}:
        return Path(head), tail
    return Path(text), ""


def _must_exist(path: Path) -> None:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UsageError(
            what="array file not found",
            path=path,
            why=f"there is {found}",
            fix="Check the spelling and the working directory",
        )


def _unreadable(path: Path, error: Exception) -> InputRefusedError | UsageError:
    if isinstance(error, PermissionError):
        return UsageError(
            what="cannot open the file", path=path, why="permission denied", fix="Check who may read it"
        )
    if path.stat().st_size == 0:
        return InputRefusedError(
            what="cannot read the arrays", path=path, why="the file is empty", fix="Save it again"
        )
    with path.open("rb") as file:
        known = file.read(6) in {b"\x93NUMPY", b"PK\x03\x04\x14\x00", b"PK\x03\x04-\x00"}
    if known and ("pickle" in str(error).lower() or "object" in str(error).lower()):
        return InputRefusedError(
            what="cannot read the arrays",
            path=path,
            why="it holds Python objects (a pickle), which may run code; numbers were expected",
            fix="Save plain numeric arrays",
        )
    why = " ".join(str(error).split()) or type(error).__name__
    if "pickle" in why:
        why = f"it is not what its suffix {path.suffix} says"
    return InputRefusedError(
        what="cannot read the arrays", path=path, why=why, fix="Save it again; it may be truncated"
    )


def _read_npz(path: Path) -> dict[str, Array]:
    return {tensor.name: tensor.read() for tensor in read_npz(path)}


def _read_csv(path: Path) -> Array:
    """Read a table of numbers, with or without a header, or one column of words."""
    import csv

    with path.open(encoding="utf-8-sig", newline="") as lines:
        cells = [[cell.strip() for cell in row] for row in csv.reader(lines) if row]
    if not cells:
        raise InputRefusedError(
            what="cannot read the arrays", path=path, why="it has no lines", fix="Save it again"
        )
    header = not any(_is_number(cell) for cell in cells[0])
    body = cells[1:] if header and any(_is_number(cell) for row in cells[1:2] for cell in row) else cells
    if {len(row) for row in cells} == {1} and not all(_is_number(row[0]) for row in body):
        words = [row[0] for row in cells]
        return np.array(words[1:] if words[0].lower() in _LABEL_HEADINGS else words)
    for number, row in enumerate(body, start=1 + len(cells) - len(body)):
        if len(row) != len(cells[0]) or not all(_is_number(cell) for cell in row):
            raise InputRefusedError(
                what="cannot read the arrays",
                path=path,
                place=f"line {number}",
                why=f"found {','.join(row)[:60]!r}, expected {len(cells[0])} numbers separated by commas",
                fix="Correct the line",
            )
    table = np.array(body, dtype=np.float64)
    return table[:, 0] if table.shape[1] == 1 else table


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_metrics(path: Path) -> Mapping[int, Mapping[str, float]]:
    """Read metrics by step from a ``.csv`` file with a header that has a column ``step``.

    Raises
    ------
    UsageError
        No such file.
    InputRefusedError
        No header, no column ``step``, a cell that is not a number, or a step that comes twice.
    """
    _must_exist(path)
    import csv
    from io import StringIO

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, PermissionError) as error:
        raise _unreadable(path, error) from None
    with StringIO(text, newline="") as lines:
        reader = csv.DictReader(lines)
        columns = reader.fieldnames or []
        if "step" not in columns:
            raise _no_steps(path, columns)
        table: dict[int, dict[str, float]] = {}
        for number, row in enumerate(reader, start=2):
            try:
                step = int(row["step"])
                values = {name: float(cell) for name, cell in row.items() if name != "step" and cell}
            except (TypeError, ValueError):
                raise InputRefusedError(
                    what="a cell is not a number", path=path, place=f"line {number}",
                    why=f"found {row}", fix="Correct the line",
                ) from None  # fmt: skip
            if step in table:
                raise InputRefusedError(
                    what=f"step {step} comes twice", path=path, place=f"line {number}",
                    why="each step has one row", fix="Remove one of the rows",
                )  # fmt: skip
            table[step] = values
    return table


def _no_steps(path: Path, columns: Sequence[str]) -> InputRefusedError:
    """Return the error for metrics without steps; epochs are none, which Keras alone counts in two ways."""
    why = f"found the columns {', '.join(map(repr, columns)) or 'none'}"
    fix = "Give a header with step and one column per metric"
    if "epoch" in columns:
        why += ", and epochs are not taken for steps: one logger counts them from 0, another from 1"
        fix = (
            "Add a column step with the steps of the checkpoints; of Keras' CSVLogger, whose epochs begin at "
            "0, it is epoch + 1 for files that ModelCheckpoint named by {epoch}, which begins at 1"
        )
    return InputRefusedError(what="no column 'step'", path=path, why=why, fix=fix)
