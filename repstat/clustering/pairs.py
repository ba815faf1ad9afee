"""The kernel: histograms of all pairwise distances and cosines, in tiles of bounded size.

Pure mathematics on checked arrays. Distances come from a float64 Gram product of centred rows; identical rows
are at distance zero exactly, all others right to about 1e-8 of the largest norm. No n x n array is formed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from repstat.arrays import Floats, Integers

FINE_BINS = 2**16
"""Resolution of quantiles and of the AUC: the largest distance divided by this."""

TILE_ELEMENTS = 2**17
"""Pairs per tile: the passes over a tile then stay in cache."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Equal bins from `low` to `high`, with one bin more for values above.

    Parameters
    ----------
    low, high
        First and last edge.
    n_bins
        Bins between them.
    """

    low: float
    high: float
    n_bins: int

    def index(self, values: Floats) -> Integers:
        """Return the bin of each value; the last edge belongs to the last bin."""
        scaled = (values - self.low) * (self.n_bins / (self.high - self.low))
        found = np.minimum(scaled, self.n_bins, out=scaled).astype(np.int64)
        found[values == self.high] = self.n_bins - 1
        return found


@dataclass(slots=True)
class PairCounts:
    """Counts over a coarse and a fine grid, for one relation of pairs (within, between) and one measure.

    Parameters
    ----------
    coarse, fine
        Shapes (n_bins + 1,) and (FINE_BINS + 1,); the last bin is above the grid.
    n_zero
        Pairs at exactly zero, which are in the counts as well.
    total
        Sum of the values.
    """

    coarse: Integers
    fine: Integers
    n_zero: int = 0
    total: float = 0.0

    @property
    def n_pairs(self) -> int:
        """Pairs counted."""
        return int(self.coarse.sum())


class Measure:
    """One measure of pairs (distance or cosine): its grids and its counts of both relations.

    Parameters
    ----------
    coarse, fine
        Grids for the histogram and for quantiles.
    """

    def __init__(self, coarse: Grid, fine: Grid) -> None:
        self.coarse, self.fine = coarse, fine
        self.same, self.other = (
            PairCounts(np.zeros(coarse.n_bins + 1, np.int64), np.zeros(fine.n_bins + 1, np.int64))
            for _ in range(2)
        )

    def add(self, values: Floats, *, same: bool) -> None:
        """Count the values of pairs of the same class, or of different classes."""
        counts = self.same if same else self.other
        counts.coarse += np.bincount(self.coarse.index(values), minlength=len(counts.coarse))
        counts.fine += np.bincount(self.fine.index(values), minlength=len(counts.fine))
        counts.n_zero += int(values.size - np.count_nonzero(values))
        counts.total += float(values.sum())


def count_pairs(
    points: Floats, groups: Integers, classes: Integers, distance: Measure, cosine: Measure
) -> int:
    """Count every pair of rows once, and return how many rows have no direction.

    Parameters
    ----------
    points
        Shape (n_samples, n_units), centred, in the order of the classes.
    groups
        Shape (n_samples,): equal for identical rows.
    classes
        Shape (n_samples,): class of each row, sorted.
    distance, cosine
        Where to count.
    """
    square = np.einsum("ij,ij->i", points, points)
    norm = np.sqrt(square)
    # Centring leaves rounding errors where a row equals the mean; their direction means nothing.
    directed = norm > 1e-12 * norm.max(initial=0.0)
    reciprocal = np.divide(1.0, norm, out=np.zeros_like(norm), where=directed)
    for rows, columns, same in _rectangles(classes):
        gram = points[rows] @ points[columns].T
        squared = square[rows, None] + square[columns]
        squared -= 2.0 * gram
        squared[groups[rows, None] == groups[columns]] = 0.0
        lengths = np.sqrt(np.maximum(squared, 0.0, out=squared), out=squared)
        angles = gram * reciprocal[rows, None] * reciprocal[columns]
        np.clip(angles, -1.0, 1.0, out=angles)
        # The square on the diagonal holds every pair twice.
        once = np.triu_indices(len(gram), k=1) if rows == columns else (...,)
        distance.add(lengths[once].ravel(), same=same)
        if not (directed[rows].all() and directed[columns].all()):
            angled = (directed[rows, None] & directed[columns])[once]
            cosine.add(angles[once][angled], same=same)
        else:
            cosine.add(angles[once].ravel(), same=same)
    return len(points) - int(np.count_nonzero(directed))


def _rectangles(classes: Integers) -> Iterator[tuple[slice, slice, bool]]:
    """Yield (rows, columns, whether of one class) that cover the pairs above the diagonal once."""
    n = len(classes)
    n_rows = max(1, TILE_ELEMENTS // n)
    starts = np.flatnonzero(np.diff(classes, prepend=-1)).tolist()
    for low, high in zip(starts, [*starts[1:], n], strict=True):
        for start in range(low, high, n_rows):
            stop = min(start + n_rows, high)
            rows = slice(start, stop)
            yield rows, rows, True
            yield rows, slice(stop, high), True
            yield rows, slice(high, n), False
