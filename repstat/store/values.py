"""The activations themselves: read in blocks, hashed and counted as they pass."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 2**22


@dataclass(frozen=True, slots=True)
class ValueRecord:
    """What is known of one layer's values at one checkpoint: their hash, and how many are not finite."""

    sha256: str
    n_nan: int
    n_inf: int

    @property
    def n_nonfinite(self) -> int:
        """How many values are NaN or infinite."""
        return self.n_nan + self.n_inf


class ValueTally:
    """Hash and counts of one layer at one checkpoint, from rows in order (store-format.md, section 4).

    Parameters
    ----------
    n_streams
        Parts that are hashed apart and may take turns; within each, rows come in order. Each realization of
        all samples is one; all realizations of the repeated inputs are one together.
    """

    def __init__(self, n_streams: int) -> None:
        self.n_rows = [0] * n_streams
        self._hashes = [hashlib.sha256() for _ in range(n_streams)]
        self._n_nan = self._n_inf = 0

    def add(self, stream: int, rows: NDArray[Any], *, hashed: bool = True) -> None:
        """Count `rows`: shape (rows, units), C-contiguous, little-endian. Not `hashed`: how many, no more."""
        self.n_rows[stream] += len(rows)
        if not hashed:
            return
        self._hashes[stream].update(rows.data)
        if not np.isfinite(rows).all():
            self._n_nan += int(np.isnan(rows).sum())
            self._n_inf += int(np.isinf(rows).sum())

    def record(self) -> ValueRecord:
        """Sum up."""
        if len(self._hashes) == 1:
            digest = self._hashes[0].hexdigest()
        else:
            digest = hashlib.sha256(b"".join(h.digest() for h in self._hashes)).hexdigest()
        return ValueRecord(digest, self._n_nan, self._n_inf)


def blocks(dataset: h5py.Dataset, checkpoint: int, n_streams: int) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """Yield (stream, first row, rows) of some whole chunks at a time, a few MiB.

    `dataset` has the shape (checkpoints, outer, inner, units); its streams are equal parts of `outer`, the
    rows of a stream those of (outer, inner) in C order.
    """
    _, outer, inner, n_units = dataset.shape
    row = n_units * dataset.dtype.itemsize
    _, *chunks, _ = dataset.chunks or dataset.shape
    part = outer // n_streams
    wide = _whole(BLOCK_BYTES // (inner * row), chunks[0])
    deep = _whole(BLOCK_BYTES // row, chunks[1])
    for stream in range(n_streams):
        begin, end = stream * part, (stream + 1) * part
        if part > 1 and inner * row <= BLOCK_BYTES:
            for first in range(begin, end, wide):
                rows = dataset[checkpoint, first : min(first + wide, end)]
                yield stream, (first - begin) * inner, rows.reshape(-1, n_units)
            continue
        for position in range(begin, end):
            for start in range(0, inner, deep):
                rows = dataset[checkpoint, position, start : start + deep]
                yield stream, (position - begin) * inner + start, rows


def _whole(length: int, chunk: int) -> int:
    """Round `length` down to whole chunks, if it has any."""
    return length - length % chunk if length > chunk else max(1, length)


def put_rows(dataset: h5py.Dataset, checkpoint: int, first: int, rows: NDArray[Any]) -> None:
    """Write `rows`, shape (rows, units), from row `first` of (outer, inner) in C order."""
    inner = dataset.shape[2]
    outer, start = divmod(first, inner)
    if len(rows) and (start or len(rows) < inner):
        head = rows[: inner - start]
        dataset[checkpoint, outer, start : start + len(head)] = head
        outer, rows = outer + 1, rows[len(head) :]
    n_whole = len(rows) // inner
    if n_whole:
        whole = rows[: n_whole * inner].reshape(n_whole, inner, -1)
        dataset[checkpoint, outer : outer + n_whole] = whole
    tail = rows[n_whole * inner :]
    if len(tail):
        dataset[checkpoint, outer + n_whole, : len(tail)] = tail


def tally(dataset: h5py.Dataset, checkpoint: int, n_streams: int) -> ValueRecord:
    """Read all values of one checkpoint and sum them up."""
    counts = ValueTally(n_streams)
    for stream, _, rows in blocks(dataset, checkpoint, n_streams):
        counts.add(stream, rows)
    return counts.record()
