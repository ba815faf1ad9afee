"""Lazy views of the activations in an open store."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from repstat.adapter import Layer, LayerKind
from repstat.errors import ResourceError, UsageError
from repstat.store.header import Table
from repstat.store.slicing import read_selection
from repstat.store.storefile import StoreFile, wrong_hash
from repstat.store.structure import broken, describe
from repstat.store.values import ValueRecord, ValueTally, blocks
from repstat.units import format_bytes

Opened = Callable[[StoreFile], AbstractContextManager[h5py.File]]
"""Lends the handle of a file while it is read."""


class ActivationView:
    """Activations of one layer at one checkpoint, read when asked for.

    Shape (samples, units); (realization, samples, units) for several noisy passes; for `conditional`
    (repeated inputs, realizations of each, units). A slice reads what it selects, unchecked; `read` and
    ``numpy.asarray`` read all of it and check its SHA-256.
    """

    def __init__(self, file: StoreFile, index: int, table: Table, opened: Opened) -> None:
        self._file, self._index, self._table, self._opened = file, index, table, opened
        shape = (*table.shape, table.layer.n_units)
        single_pass = not table.conditional and table.shape[0] == 1
        self.shape: tuple[int, ...] = shape[1:] if single_pass else shape
        self.dtype: np.dtype[Any] = table.layer.dtype
        self.step: int = file.header.steps[index]

    @property
    def ndim(self) -> int:
        """Number of dimensions: 2, or 3 with realizations."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes that `read` returns."""
        return self.size * self.dtype.itemsize

    @property
    def n_nonfinite(self) -> int:
        """How many values are NaN or infinite, as counted when they were written."""
        return self._record.n_nonfinite

    @property
    def sha256(self) -> str:
        """Hash of the values, as taken when they were written: equal activations have equal hashes."""
        return self._record.sha256

    @property
    def conditional(self) -> "ActivationView | None":
        """The realizations of the repeated inputs, shape (inputs, realizations, units), if the layer has any.

        Input i of them is the sample at ``store.conditional.samples[i]``.
        """
        table = self._file.header.conditional_of(self._table.layer)
        return None if table is None else ActivationView(self._file, self._index, table, self._opened)

    @property
    def _record(self) -> ValueRecord:
        return self._file.records[self._table.key][self._index]

    def __eq__(self, other: object) -> bool:
        """Whether both are views of the same activations."""
        return isinstance(other, ActivationView) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    @property
    def _place(self) -> tuple[object, ...]:
        return self._file.path, self._file.stamp, self._table.key, self._index

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<ActivationView {self._table.key} step {self.step} {self.shape} {self.dtype}>"

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read a selection, as NumPy would: integers, slices, and one array of integers or booleans."""
        with self._dataset() as dataset:
            fixed = (self._index,) if self.ndim == 3 else (self._index, 0)
            return read_selection(dataset, fixed, self.shape, key)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            msg = "activations are on disk: an array of them is always a copy"
            raise ValueError(msg)
        values = self.read()
        return values if dtype is None else values.astype(dtype, copy=False)

    def read(self) -> NDArray[Any]:
        """Read all values and check them.

        Raises
        ------
        StoreDamagedError
            If their SHA-256 is not the recorded one.
        ResourceError
            If they do not fit into memory.
        """
        try:
            values = np.empty(self.shape, self.dtype)
        except MemoryError as error:
            raise ResourceError(
                what="the activations do not fit into memory",
                path=self._file.path,
                place=f"step {self.step}, layer {self._table.key}",
                why=f"need {format_bytes(self.nbytes)}",
                fix="Use a machine with more memory, or fewer samples; in Python, read slices of them.",
            ) from error
        streams = values.reshape(self._table.n_streams, -1, self.shape[-1])
        for stream, start, rows in self.blocks():
            streams[stream, start : start + len(rows)] = rows
        return values

    def blocks(self) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Yield (realization, first sample, rows) of a few MiB each, and check them at the end.

        For `conditional` (0, first row, rows), rows in the order of (repeated input, realization). Nothing
        can be said of the values before the iterator is exhausted.

        Raises
        ------
        StoreDamagedError
            After the last block, if the SHA-256 of all is not the recorded one.
        """
        counts = ValueTally(self._table.n_streams)
        with self._dataset() as dataset:
            for stream, start, rows in blocks(dataset, self._index, self._table.n_streams):
                counts.add(stream, rows)
                yield stream, start, rows
        found, recorded = counts.record().sha256, self._record.sha256
        if found != recorded:
            raise wrong_hash(self._file.path, self.step, self._table.key, found, recorded)

    @contextmanager
    def _dataset(self) -> Iterator[h5py.Dataset]:
        place = f"step {self.step}, layer {self._table.key}"
        with self._opened(self._file) as handle:
            try:
                yield handle["layers"][self._table.key]["value"]
            except (OSError, RuntimeError, KeyError) as error:
                raise broken(self._file.path, place, f"HDF5 cannot read it ({describe(error)})") from error


class LayerView:
    """One layer over all checkpoints.

    Attributes
    ----------
    key, name, op, kind, unit_shape, n_units, dtype, source_dtype, signature
        As in `repstat.adapter.Layer`.
    index
        Position in forward order.
    """

    def __init__(
        self, layer: Layer, index: int, places: Mapping[int, tuple[StoreFile, int]], opened: Opened
    ) -> None:
        self.key: str = layer.key
        self.name: str = layer.name
        self.op: str = layer.op
        self.kind: LayerKind = layer.kind
        self.unit_shape: tuple[int, ...] = layer.unit_shape
        self.n_units: int = layer.n_units
        self.dtype: np.dtype[Any] = layer.dtype
        self.source_dtype: str = layer.source_dtype
        self.signature: str = layer.signature
        self.index = index
        self._layer, self._places, self._opened = layer, places, opened

    def __repr__(self) -> str:
        return f"<LayerView {self.key} {self.name!r} {self.unit_shape} {self.dtype}>"

    def at(self, *, step: int | None = None, index: int | None = None) -> ActivationView:
        """Return the activations at one checkpoint, named by its step or by its position.

        Raises
        ------
        UsageError
            If there is no such checkpoint, or not exactly one of the two is given.
        """
        if (step is None) == (index is None):
            raise UsageError(what="at() takes either step= or index=")
        steps = tuple(self._places)
        if index is not None:
            if not -len(steps) <= index < len(steps):
                raise UsageError(what=f"there is no checkpoint {index}", why=f"there are {len(steps)}")
            step = steps[index]
        assert step is not None
        if step not in self._places:
            close = sorted(sorted(steps, key=lambda other: abs(other - step))[:4])
            raise UsageError(
                what=f"there is no checkpoint of step {step}",
                why=f"the closest of {len(steps)} are {', '.join(map(str, close))}",
            )
        file, position = self._places[step]
        return ActivationView(file, position, file.header.values_of(self._layer), self._opened)


class Layers(Mapping[str, LayerView]):
    """The layers of a store by key, in forward order; an unknown key is a UsageError that helps."""

    def __init__(self, views: Mapping[str, LayerView]) -> None:
        self._views = dict(views)

    def __getitem__(self, key: str) -> LayerView:
        if key in self._views:
            return self._views[key]
        named = [view.key for view in self._views.values() if view.name == key]
        close = named or difflib.get_close_matches(str(key), self._views, n=4, cutoff=0.5)
        raise UsageError(
            what=f"there is no layer {str(key)[:80]!r}",
            why=f"the keys are {', '.join(list(self._views)[:12])}{' ...' * (len(self._views) > 12)}",
            fix=f"Did you mean {' or '.join(close)}?" if close else "",
        )

    def __contains__(self, key: object) -> bool:
        return key in self._views

    def get(self, key: str, default: Any = None) -> Any:
        """Return the layer, or `default` where there is none."""
        return self._views.get(key, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __repr__(self) -> str:
        return f"<Layers {', '.join(self._views)}>"
