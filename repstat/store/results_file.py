"""The results file: what an analysis found, as HDF5 columns (docs/store-format.md, 9).

Written whole to a temporary name, synced and renamed, like a store. Strings are fixed-length, a missing
number is NaN, and nothing but this module knows the paths inside.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from repstat.errors import StoreDamagedError, UsageError
from repstat.results import ROW_FIELDS, Histogram, Results, Row, Status
from repstat.version import __version__

SCHEMA = "repstat/results"
SCHEMA_VERSION = (1, 0)
_TEXT = (
    "layer",
    "layer_name",
    "quantity",
    "estimator",
    "status",
    "units",
    "noise_model",
    "params",
    "reason",
)
_INTEGERS = ("checkpoint", "step", "n_samples", "n_units")
_NUMBERS = tuple(name for name in ROW_FIELDS if name not in (*_TEXT, *_INTEGERS))


def save_results(results: Results, path: Path, *, overwrite: bool = False) -> Path:
    """Write `results` to `path` and return it.

    Raises
    ------
    UsageError
        `path` exists and `overwrite` is False, or is no results file and would be overwritten, or its
        folder cannot be written.
    """
    check_output(path, overwrite=overwrite)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with h5py.File(temporary, "x", libver=("v110", "v110")) as file:
            _write(results, file)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return path


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse a results path before the work that would be lost."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UsageError(
            what="will not write the results", path=path, why="it is a link or not a regular file",
            fix="Name another file with -o",
        )  # fmt: skip
    if path.exists() and not overwrite:
        raise UsageError(
            what="results exist already",
            path=path,
            why="nothing is overwritten unasked",
            fix="Pass --overwrite, or name another file with -o",
        )
    if path.exists() and not _is_results(path):
        raise UsageError(
            what="will not overwrite a file that is not a results file",
            path=path,
            why=f"it does not say {SCHEMA!r}",
            fix="Name another file with -o",
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        why = "the folder cannot be written" if path.parent.is_dir() else "the folder does not exist"
        raise UsageError(what="cannot write the results", path=path, why=why, fix="Name another with -o")


def _is_results(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return bool(_attribute(file, "schema") == SCHEMA)
    except OSError:
        return False


def _attribute(item: Any, name: str) -> Any:
    value = item.attrs.get(name)
    return value.decode() if isinstance(value, bytes) else value


def _put_text(group: h5py.Group, name: str, values: Sequence[str]) -> None:
    encoded = [value.encode() for value in values]
    kind = h5py.string_dtype("utf-8", max([1, *map(len, encoded)]))
    group.create_dataset(name, data=np.array(encoded, dtype=kind))


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, sort_keys=True, ensure_ascii=False)


def _write(results: Results, file: h5py.File) -> None:
    file.attrs["schema"] = np.bytes_(SCHEMA)
    file.attrs["schema_version"] = np.array(SCHEMA_VERSION)
    file.attrs["created_at"] = np.bytes_(datetime.now(UTC).isoformat(timespec="seconds"))
    file.attrs["creator"] = np.bytes_(f"repstat {__version__}")
    file.attrs["synthetic"] = results.synthetic
    file.attrs["n_samples"] = results.n_samples
    file.attrs["n_classes"] = results.n_classes
    _put_text(file, "provenance", [_json(dict(results.provenance))])
    rows = file.create_group("rows")
    for name in _INTEGERS:
        rows[name] = np.array([getattr(row, name) for row in results.rows], dtype=np.int64)
    for name in _NUMBERS:
        values = [getattr(row, name) for row in results.rows]
        rows[name] = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    for name in _TEXT:
        column = [getattr(row, name) for row in results.rows]
        _put_text(rows, name, [_json(dict(v)) if name == "params" else str(v) for v in column])
    checkpoints = file.create_group("checkpoints")
    checkpoints["step"] = np.array(results.steps, dtype=np.int64)
    checkpoints["epoch"] = np.array([np.nan if e is None else e for e in results.epochs])
    metrics = checkpoints.create_group("metrics")
    _put_text(metrics, "name", list(results.metrics))
    metrics["value"] = np.array(list(results.metrics.values()), np.float64).reshape(
        len(results.metrics), len(results.steps)
    )
    layers = file.create_group("layers")
    _put_text(layers, "key", list(results.layers))
    _put_text(layers, "name", list(results.layers.values()))
    histograms = file.create_group("histograms")
    for number, histogram in enumerate(results.histograms):
        group = histograms.create_group(f"{number:04d}")
        for name in ("layer", "quantity", "relation"):
            group.attrs[name] = np.bytes_(getattr(histogram, name))
        group["edges"], group["counts"] = histogram.edges, histogram.counts


def open_results(path: str | os.PathLike[str]) -> Results:
    """Read a results file.

    Raises
    ------
    UsageError
        There is no such file.
    StoreDamagedError
        The file is not a results file, or not a sound one.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(
            what="results not found",
            path=path,
            why="there is no such file",
            fix="Check the spelling",
        )
    try:
        with h5py.File(path, "r") as file:
            found = _attribute(file, "schema")
            if found != SCHEMA:
                raise StoreDamagedError(
                    what="not a results file",
                    path=path,
                    why=f"found schema {found!r}, expected {SCHEMA!r}",
                    fix="Make one with repstat analyze",
                )
            return _read(file)
    except (OSError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, StoreDamagedError):
            raise
        raise StoreDamagedError(
            what="cannot read the results", path=path, why=" ".join(str(error).split()),
            fix="Run repstat analyze again",
        ) from None  # fmt: skip


def _get_text(group: h5py.Group, name: str) -> list[str]:
    return [value.decode() for value in group[name][...]]


def _optional(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _read(file: h5py.File) -> Results:
    rows = file["rows"]
    columns: dict[str, Sequence[Any]] = {name: rows[name][...].tolist() for name in _INTEGERS}
    columns |= {name: [_optional(v) for v in rows[name][...]] for name in _NUMBERS}
    columns |= {name: _get_text(rows, name) for name in _TEXT}
    columns["status"] = [Status(text) for text in columns["status"]]
    columns["params"] = [json.loads(text) for text in columns["params"]]
    checkpoints, layers = file["checkpoints"], file["layers"]
    names = _get_text(checkpoints["metrics"], "name")
    metrics: Mapping[str, tuple[float, ...]] = {
        name: tuple(values.tolist())
        for name, values in zip(names, checkpoints["metrics/value"][...], strict=True)
    }
    return Results(
        rows=tuple(
            Row(**dict(zip(columns, cells, strict=True))) for cells in zip(*columns.values(), strict=True)
        ),
        histograms=tuple(
            Histogram(
                layer=_attribute(group, "layer"),
                quantity=_attribute(group, "quantity"),
                relation=_attribute(group, "relation"),
                edges=group["edges"][...],
                counts=group["counts"][...],
            )
            for group in file["histograms"].values()
        ),
        steps=tuple(checkpoints["step"][...].tolist()),
        epochs=tuple(_optional(e) for e in checkpoints["epoch"][...]),
        metrics=metrics,
        layers=dict(zip(_get_text(layers, "key"), _get_text(layers, "name"), strict=True)),
        n_samples=int(file.attrs["n_samples"]),
        n_classes=int(file.attrs["n_classes"]),
        synthetic=bool(file.attrs["synthetic"]),
        provenance=json.loads(_get_text(file, "provenance")[0]),
    )
