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


class ValueTally:
    """Hash and counts of one layer at one checkpoint, from rows in order (store-format.md, section 4).

    Parameters
    ----------
    n_realizations
        Realizations may take turns; within each, rows come in the order of the samples.
    """

    def __init__(self, n_realizations: int) -> None:
        self.n_rows = [0] * n_realizations
        self._hashes = [hashlib.sha256() for _ in range(n_realizations)]
        self._n_nan = self._n_inf = 0

    def add(self, realization: int, rows: NDArray[Any]) -> None:
        """Count `rows`: shape (rows, units), C-contiguous, little-endian."""
        self._hashes[realization].update(rows.data)
        self.n_rows[realization] += len(rows)
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


def blocks(dataset: h5py.Dataset, checkpoint: int, realization: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first row, rows) of some whole chunks at a time, a few MiB."""
    _, _, n_samples, n_units = dataset.shape
    step = max(1, BLOCK_BYTES // (n_units * dataset.dtype.itemsize))
    if dataset.chunks is not None and dataset.chunks[2] < step:
        step -= step % dataset.chunks[2]
    for start in range(0, n_samples, step):
        yield start, dataset[checkpoint, realization, start : start + step]


def tally(dataset: h5py.Dataset, checkpoint: int) -> ValueRecord:
    """Read all values of one checkpoint and sum them up."""
    counts = ValueTally(dataset.shape[1])
    for realization in range(dataset.shape[1]):
        for _, rows in blocks(dataset, checkpoint, realization):
            counts.add(realization, rows)
    return counts.record()
