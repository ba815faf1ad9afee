"""The results file: what an analysis found, as HDF5 columns (docs/store-format.md, section 9).

It is written and judged as a store is: by the same staging, the same gate with rules of its own, and one
hash. Nothing but this module knows the paths inside.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from repstat.errors import UsageError
from repstat.results import ROW_FIELDS, Histogram, Results, Row, Scatter, Status
from repstat.store import disk
from repstat.store.encode import put_texts, texts
from repstat.store.gate import judge, schema_of
from repstat.store.header import CREATOR, DIGEST, metadata_digest, raw_attribute
from repstat.store.lock import OutputLock
from repstat.store.output import disk_errors, why_unusable
from repstat.store.rules import Attribute, Data, Form, Group
from repstat.store.schema import RESULTS_SCHEMA, RESULTS_VERSION, from_json, to_json
from repstat.store.signals import uninterrupted
from repstat.store.staging import StagedFile, stale_files
from repstat.store.storefile import reading, unchanged
from repstat.store.structure import broken, check_structure, open_for_reading

_TEXT = (
    "layer", "layer_name", "quantity", "estimator", "status", "units", "noise_model", "params", "reason",
)  # fmt: skip
_INTEGERS = ("checkpoint", "step", "n_samples", "n_units")
_NUMBERS = tuple(name for name in ROW_FIELDS if name not in (*_TEXT, *_INTEGERS))
_NOISE_MODELS = ("", "measurement", "network")
_ROOT_INTEGERS = ("synthetic", "n_samples", "n_classes")
_HISTOGRAM_TEXT = ("layer", "quantity", "relation")
_POINTS, _PLACES = ("samples", "labels"), ("coordinates", "shown")
"""Of a scatter: whole numbers, and floating ones, kept in their precision."""

Columns = Mapping[str, NDArray[Any]]


def _columns(kinds: Mapping[str, str], dims: tuple[str, ...]) -> dict[str, Data]:
    """Rules of a table, which has no columns at all if it has no rows."""
    return {name: Data((kind,), dims, required=False) for name, kind in kinds.items()}


_HISTOGRAM = Group(
    own=("e", "b"),
    required=False,
    attributes=dict.fromkeys(_HISTOGRAM_TEXT, Attribute()),
    children={"edges": Data(("f8",), ("e",)), "counts": Data(("i8",), ("n", "b"))},
)
_SCATTER = Group(
    own=("p", "a"),
    required=False,
    attributes={"layer": Attribute()},
    children={
        "axes": Data(("S",), ("a",)),
        "coordinates": Data(("f4", "f8"), ("n", "p", "a")),
        "samples": Data(("i8",), ("p",)),
        "labels": Data(("i8",), ("p",)),
        "shown": Data(("f8",), ("n",)),
    },
)
_ROOT = Group(
    attributes={
        **dict.fromkeys(("schema", "created_at", "creator", DIGEST), Attribute()),
        **dict.fromkeys(_ROOT_INTEGERS, Attribute("i8")),
        "schema_version": Attribute("i8", (2,)),
    },
    children={
        "provenance": Data(("S",), ("1",)),
        "rows": Group(
            children=_columns(
                dict.fromkeys(_TEXT, "S") | dict.fromkeys(_INTEGERS, "i8") | dict.fromkeys(_NUMBERS, "f8"),
                ("r",),
            )
        ),
        "checkpoints": Group(
            children={
                **_columns({"step": "i8", "epoch": "f8"}, ("n",)),
                "metrics": Group(
                    children=_columns({"name": "S"}, ("k",)) | _columns({"value": "f8"}, ("k", "n"))
                ),
            }
        ),
        "layers": Group(children=_columns({"key": "S", "name": "S"}, ("l",))),
        "histograms": Group(children={"[0-9]{4,9}": _HISTOGRAM}),
        "scatters": Group(children={"[0-9]{4,9}": _SCATTER}, required=False, since=1),
    },
)
RESULTS = Form(
    RESULTS_SCHEMA, RESULTS_VERSION, _ROOT, "results file", "repstat analyze", "run repstat analyze again"
)


def save_results(results: Results, path: Path, *, overwrite: bool = False) -> Path:
    """Write `results` to `path` and return it.

    Raises
    ------
    UsageError
        `path` exists and `overwrite` is False, or is no results file and would be overwritten, or its
        folder cannot be written.
    ResourceError, LockedError
        The disk is full or failed, or another process writes `path`.
    InputRefusedError
        The parameters of a row or the provenance have no form in JSON.
    """
    check_output(path, overwrite=overwrite)
    columns = _encoded(results)
    with disk_errors(path, lambda: "The results were not saved."), OutputLock(path):
        check_output(path, overwrite=overwrite, probe=False)
        for stale in stale_files(path.parent, path.name):
            disk.remove(stale)
        staged = StagedFile(path)
        try:
            with uninterrupted():
                _write(results, columns, staged.h5)
                staged.close()
            staged.sync()
            _read_back(staged.path, columns)
            staged.commit()
        except BaseException as error:
            cause = staged.failure
            staged.discard()
            raise error if cause is None else cause from None
    return path


def check_output(path: Path, *, overwrite: bool, probe: bool = True) -> None:
    """Refuse a results path before the work that would be lost.

    `probe` tries the lock as well, so that a folder which turns out to be unusable does so now.

    Raises
    ------
    UsageError, ResourceError, LockedError
        As in `save_results`.
    """
    exists = os.path.lexists(path)
    if why := why_unusable(path):
        raise UsageError(what="cannot write the results", path=path, why=why, fix="Name another file with -o")
    if exists and not overwrite:
        raise UsageError(
            what="results exist already",
            path=path,
            why="nothing is overwritten unasked",
            fix="Pass --overwrite (overwrite=True), or name another file with -o",
        )
    if exists and not is_results(path):
        raise UsageError(
            what="will not overwrite a file that is not a results file",
            path=path,
            why=f"it does not say {RESULTS_SCHEMA!r}",
            fix="Name another file with -o",
        )
    if probe:
        with disk_errors(path), OutputLock(path):
            pass


def is_results(path: Path) -> bool:
    """Whether the file calls itself one, of whatever version and however damaged."""
    return schema_of(path) == RESULTS_SCHEMA


def _encoded(results: Results) -> Columns:
    """Return every dataset by its path, as it is stored; a table without rows has none."""
    rows, metrics = results.rows, results.metrics
    columns: dict[str, NDArray[Any]] = {
        "provenance": texts([to_json(results.provenance, what="the provenance of the results")])
    }
    if rows:
        cells = {name: [getattr(row, name) for row in rows] for name in ROW_FIELDS}
        cells["params"] = [to_json(params, what="the parameters of a row") for params in cells["params"]]
        columns |= {f"rows/{name}": texts([str(text) for text in cells[name]]) for name in _TEXT}
        columns |= {f"rows/{name}": np.array(cells[name], "<i8") for name in _INTEGERS}
        columns |= {f"rows/{name}": _floats(cells[name]) for name in _NUMBERS}
    if results.steps:
        columns["checkpoints/step"] = np.array(results.steps, "<i8")
        columns["checkpoints/epoch"] = _floats(results.epochs)
    if metrics and results.steps:
        columns["checkpoints/metrics/name"] = texts(list(metrics))
        columns["checkpoints/metrics/value"] = np.stack([_floats(values) for values in metrics.values()])
    if results.layers:
        columns["layers/key"] = texts(list(results.layers))
        columns["layers/name"] = texts(list(results.layers.values()))
    for number, histogram in enumerate(results.histograms):
        columns[f"histograms/{number:04d}/edges"] = np.asarray(histogram.edges, "<f8")
        columns[f"histograms/{number:04d}/counts"] = np.asarray(histogram.counts, "<i8")
    for number, scatter in enumerate(results.scatters):
        place = f"scatters/{number:04d}"
        columns[f"{place}/axes"] = texts(list(scatter.axes))
        columns |= {f"{place}/{name}": np.asarray(getattr(scatter, name), "<i8") for name in _POINTS}
        columns |= {f"{place}/{name}": np.asarray(getattr(scatter, name)) for name in _PLACES}
    return columns


def _floats(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], "<f8")


def _write(results: Results, columns: Columns, file: h5py.File) -> None:
    put_texts(
        file,
        schema=RESULTS_SCHEMA,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        creator=CREATOR,
    )
    version = RESULTS_VERSION if results.scatters else (RESULTS_VERSION[0], 0)
    file.attrs["schema_version"] = np.array(version, dtype="<i8")
    for name in _ROOT_INTEGERS:
        file.attrs[name] = np.array(int(getattr(results, name)), dtype="<i8")
    for group in ("rows", "checkpoints/metrics", "layers", "histograms"):
        file.create_group(group)
    for path, values in columns.items():
        file.create_dataset(path, data=values)
    for number, histogram in enumerate(results.histograms):
        group = file[f"histograms/{number:04d}"]
        put_texts(group, **{name: getattr(histogram, name) for name in _HISTOGRAM_TEXT})
    for number, scatter in enumerate(results.scatters):
        put_texts(file[f"scatters/{number:04d}"], layer=scatter.layer)
    put_texts(file, **{DIGEST: metadata_digest(file)})


def _read_back(path: Path, columns: Columns) -> None:
    """Refuse a file that does not say what was to be written."""
    check_structure(path, RESULTS)
    decode(path)
    with reading(path, form=RESULTS), open_for_reading(path) as file:
        for name, values in columns.items():
            if file[name][...].tobytes() != values.tobytes():
                raise broken(path, name, "it reads differently from what was written", RESULTS)


def open_results(path: str | os.PathLike[str]) -> Results:
    """Read a results file.

    Raises
    ------
    UsageError
        There is no such file.
    StoreDamagedError
        The file is not a results file, or not a sound one, or of another version.
    """
    path = Path(path)
    with unchanged(path):
        judge(path, RESULTS)
        return decode(path)


def decode(path: Path) -> Results:
    """Read a results file whose structure has been checked.

    Raises
    ------
    StoreDamagedError
        If it differs from its hash, or contradicts itself.
    """
    with reading(path, form=RESULTS), open_for_reading(path) as file:
        return _Decoder(path, file).results()


class _Decoder:
    """Reads one file whose structure has been checked; every complaint names the place."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self._path = path
        self._file = file

    def results(self) -> Results:
        found, recorded = metadata_digest(self._file), self._attribute(self._file, DIGEST)
        if found != recorded:
            self._refuse("", f"its SHA-256 is {found[:12]}…, recorded is {recorded[:12]!a}…")
        synthetic, n_samples, n_classes = (int(self._file.attrs[name]) for name in _ROOT_INTEGERS)
        if synthetic not in (0, 1) or n_samples < 0 or n_classes < 0:
            self._refuse("@synthetic @n_samples @n_classes", f"found {synthetic}, {n_samples}, {n_classes}")
        steps = self._table("checkpoints", ("step", "epoch"))
        metrics = self._table("checkpoints/metrics", ("name", "value"))
        table = self._table("layers", ("key", "name"))
        layers = self._distinct("layers/key", table["key"], table["name"])
        return Results(
            rows=self._rows(layers, steps["step"]),
            histograms=self._histograms(layers, len(steps["step"])),
            scatters=tuple(self._scatters(layers)),
            steps=tuple(steps["step"]),
            epochs=tuple(_optional(epoch) for epoch in steps["epoch"]),
            metrics=self._distinct("checkpoints/metrics/name", metrics["name"], map(tuple, metrics["value"])),
            layers=layers,
            n_samples=n_samples,
            n_classes=n_classes,
            synthetic=bool(synthetic),
            provenance=self._object("provenance", self._column("provenance")[0]),
        )

    def _refuse(self, place: str, why: str) -> NoReturn:
        raise broken(self._path, place, why, RESULTS)

    def _attribute(self, item: Any, name: str) -> str:
        return self._decoded(raw_attribute(item, name).tobytes(), f"{item.name} @{name}")

    def _decoded(self, raw: bytes, place: str) -> str:
        try:
            return raw.rstrip(b"\0").decode()
        except UnicodeDecodeError:
            self._refuse(place.lstrip("/"), "it is not UTF-8")

    def _object(self, place: str, text: str) -> dict[str, Any]:
        try:
            value = from_json(text)
        except ValueError as error:
            self._refuse(place, f"it is not JSON: {error}")
        if not isinstance(value, dict):
            self._refuse(place, "expected a JSON object")
        return value

    def _column(self, path: str) -> list[Any]:
        values: list[Any] = self._file[path][...].tolist()
        if self._file[path].dtype.kind == "S":
            return [self._decoded(raw, path) for raw in values]
        return values

    def _table(self, group: str, names: Sequence[str]) -> dict[str, list[Any]]:
        """Read all columns or, of a table without rows, none."""
        missing = [name for name in names if name not in self._file[group]]
        if 0 < len(missing) < len(names):
            self._refuse(group, f"{missing[0]} is missing")
        return {name: [] if missing else self._column(f"{group}/{name}") for name in names}

    def _distinct(self, place: str, names: Sequence[str], values: Any) -> dict[str, Any]:
        if len(set(names)) < len(names):
            self._refuse(place, "a name occurs twice")
        return dict(zip(names, values, strict=True))

    def _rows(self, layers: Mapping[str, str], steps: Sequence[int]) -> tuple[Row, ...]:
        columns = self._table("rows", ROW_FIELDS)
        self._among("layer", columns["layer"], layers)
        self._among("checkpoint", columns["checkpoint"], range(len(steps)))
        self._among("status", columns["status"], tuple(map(str, Status)))
        self._among("noise_model", columns["noise_model"], _NOISE_MODELS)
        columns["status"] = list(map(Status, columns["status"]))
        columns["params"] = [self._object("rows/params", text) for text in columns["params"]]
        for name in _NUMBERS:
            columns[name] = list(map(_optional, columns[name]))
        return tuple(
            Row(**dict(zip(columns, cells, strict=True))) for cells in zip(*columns.values(), strict=True)
        )

    def _among(self, name: str, values: Sequence[Any], known: Any) -> None:
        for value in values:
            if value not in known:
                self._refuse(f"rows/{name}", f"found {str(value)[:60]!a}, expected one of {len(known)} known")

    def _histograms(self, layers: Mapping[str, str], n_checkpoints: int) -> tuple[Histogram, ...]:
        found = []
        for name, group in self._file["histograms"].items():
            edges, counts = group["edges"][...], group["counts"][...]
            place = f"histograms/{name}"
            if counts.shape != (n_checkpoints, len(edges) - 1):
                self._refuse(place, f"found {len(edges)} edges for counts of shape {counts.shape}")
            layer, quantity, relation = (self._attribute(group, text) for text in _HISTOGRAM_TEXT)
            if layer not in layers:
                self._refuse(f"{place} @layer", f"there is no layer {layer[:60]!a}")
            found.append(Histogram(layer, quantity, relation, edges, counts))
        return tuple(found)

    def _scatters(self, layers: Mapping[str, str]) -> Iterator[Scatter]:
        for name, group in self._file["scatters"].items() if "scatters" in self._file else ():
            place, layer = f"scatters/{name}", self._attribute(group, "layer")
            if layer not in layers:
                self._refuse(f"{place} @layer", f"there is no layer {layer[:60]!a}")
            yield Scatter(
                layer,
                tuple(self._column(f"{place}/axes")),
                **{column: group[column][...] for column in (*_POINTS, *_PLACES)},
            )


def _optional(value: float) -> float | None:
    return None if np.isnan(value) else value
