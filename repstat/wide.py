"""Layers with more bytes than should be in memory at once, and more units than samples.

Noise and distances see such a layer only through the distances between its samples, and those fit into as
many coordinates as there are samples: `WideLayer.points` has them, made in slabs of units. Binned activations
are made row by row. The layer is read several times from the disk, and never held.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpstrf

from repstat.arrays import ConstantUnits, Floats, Integers, binary_scale, centred_blocks
from repstat.errors import StoreDamagedError
from repstat.estimators import Binning
from repstat.store import ActivationView

WIDE_BYTES = 2**29
"""Of one layer at one checkpoint, in the type it is stored in."""
MAX_SAMPLES = 8192
"""The coordinates are a square table of them, in float64."""
_SLAB_BYTES = 2**26


def is_wide(view: ActivationView) -> bool:
    """Whether a layer at a checkpoint is to be read in slabs. Depends on its shape alone."""
    n_samples, n_units = view.shape[-2:]
    fits = n_samples <= MAX_SAMPLES and n_units > 2 * n_samples
    return view.ndim == 2 and fits and view.nbytes >= WIDE_BYTES


@dataclass(frozen=True, slots=True)
class WideLayer:
    """What is kept of a wide layer at one checkpoint.

    Parameters
    ----------
    points
        Shape (n_samples, n_samples): the samples in coordinates with their mean at zero, at the distances
        that they have in the layer. A distance d errs by about 1e-15 r^2/d, where r is the largest distance
        from the mean; equal samples have equal coordinates. NaN if the layer has non-finite values.
    n_units
        Of the layer.
    reason
        Why statistics are undefined, or empty.
    n_constant
        Units with one value for every sample.
    """

    points: Floats
    n_units: int
    reason: str
    n_constant: int


@lru_cache(maxsize=2)
def fold(view: ActivationView) -> WideLayer:
    """Return the coordinates of a layer at a checkpoint.

    Raises
    ------
    StoreDamagedError
        If the activations are not those once written, or change while they are read.
    """
    n_samples, n_units = view.shape
    first, sums, largest, n_constant, reason = _first_pass(view)
    if reason:
        return WideLayer(np.full((n_samples, 1), np.nan), n_units, reason, n_constant)
    if largest == 0:
        return WideLayer(np.zeros((n_samples, n_samples)), n_units, "", n_constant)
    scale = binary_scale(np.array([[largest]]))
    gram = np.zeros((n_samples, n_samples), order="F")
    width = max(1, _SLAB_BYTES // (8 * n_samples))
    again = np.zeros(n_samples, np.uint64)
    for start in range(0, n_units, width):
        slab = view[:, start : start + width]
        again += _row_sums(slab)
        for block in centred_blocks(slab, scale, width):
            if block.shape[1]:
                gram = dsyrk(1.0, np.asfortranarray(block), beta=1.0, c=gram, lower=1, overwrite_c=1)
    if not np.array_equal(sums, again):
        raise StoreDamagedError(
            what="the activations changed while they were read",
            place=f"step {view.step}",
            fix="Check the disk, and analyse again.",
        )
    return WideLayer(_coordinates(gram)[first] * scale, n_units, "", n_constant)


def _first_pass(view: ActivationView) -> tuple[Integers, NDArray[np.uint64], float, int, str]:
    """Read all rows, which checks their hash.

    Returns
    -------
    first, sums, largest, n_constant, reason
        Of each sample, the first that equals it, and a sum of its bits; the largest magnitude; units with one
        value for every sample; why statistics are undefined.
    """
    constant = ConstantUnits()
    seen: dict[bytes, int] = {}
    first: list[int] = []
    sums: list[NDArray[np.uint64]] = []
    largest, n_nan, n_inf, n_rows = 0.0, 0, 0, 0
    for _, start, rows in view.blocks():
        sums.append(_row_sums(rows))
        constant.add(rows)
        plain = rows + rows.dtype.type(0)  # -0.0 equals +0.0
        for i, row in enumerate(plain):
            first.append(seen.setdefault(blake2b(row.tobytes(), digest_size=16).digest(), start + i))
        finite = np.isfinite(rows)
        if finite.all():
            largest = max(largest, abs(float(rows.max())), abs(float(rows.min())))
        else:
            n_nan += int(np.isnan(rows).sum())
            n_inf += int(np.isinf(rows).sum())
            n_rows += int((~finite.all(axis=1)).sum())
    reason = f"{n_nan} NaN and {n_inf} infinite values in {n_rows} of {len(first)} samples" if n_rows else ""
    return np.array(first), np.concatenate(sums), largest, constant.count, reason


def _row_sums(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Add up the bits of each row, modulo 2^64: the same however the row is cut."""
    words = np.ascontiguousarray(rows).view(f"u{rows.dtype.itemsize}")
    sums: NDArray[np.uint64] = words.sum(axis=1, dtype=np.uint64)
    return sums


def _coordinates(gram: Floats) -> Floats:
    """Return points (n, n) whose products are `gram` (lower triangle; it is overwritten)."""
    factor, order, rank, _ = dpstrf(gram, lower=1, overwrite_a=1)
    points = np.zeros(gram.shape)
    for i, place in enumerate(order - 1):
        points[place, : min(i + 1, rank)] = factor[i, : min(i + 1, rank)]
    return points


def matrix_of(view: ActivationView) -> NDArray[Any]:
    """Return a layer at a checkpoint as `ActivationView.read` does, or the coordinates of a wide one."""
    return fold(view).points if is_wide(view) else view.read()


def row_blocks(view: ActivationView) -> Iterator[NDArray[Any]]:
    """Yield a layer at a checkpoint, a wide one some rows at a time; the hash is checked at the end."""
    if is_wide(view):
        yield from (rows for _, _, rows in view.blocks())
    else:
        yield view.read()


def cell_numbers(view: ActivationView, binning: Binning, edges: Floats | None) -> Floats:
    """Return the number of each sample's cell, shape (n_samples, 1); equal rows of bins have the same."""
    numbers: dict[bytes, int] = {}
    found = []
    for rows in row_blocks(view):
        bins: NDArray[Any]
        if edges is None:
            # `Binning.cells` counts from the lowest cell of what it is given, which differs between blocks.
            assert binning.bin_width is not None
            bins = np.floor(rows.astype(np.float64) / binning.bin_width) + 0.0
        else:
            bins = binning.cells(rows, edges)
        for row in bins:
            key = blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16).digest()
            found.append(numbers.setdefault(key, len(numbers)))
    return np.array(found, np.float64)[:, None]
