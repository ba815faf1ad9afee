"""The kernel: histograms of all pairwise distances and cosines, in tiles of bounded size.

Pure mathematics on checked arrays. Distances come from a float64 Gram product of centred rows, and where that
would cancel from differences: identical rows are at distance zero exactly, every other distance is right to
about 1e-7 of itself, far less than a fine bin. No n x n array is formed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from repstat.arrays import Floats, Integers

FINE_BINS = 2**16
"""Resolution of quantiles and of the AUC: the largest distance divided by this."""

GRAM_DISTANCE = 1e-4
"""Of the largest norm r: a smaller distance d comes from differences; the Gram form errs by eps (r/d)^2."""

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
        Pairs of identical rows, which are in the counts as well.
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

    def add(self, values: Floats, *, same: bool, n_zero: int = 0) -> None:
        """Count values of pairs of the same class or of different ones; `n_zero` are of identical rows."""
        counts = self.same if same else self.other
        counts.coarse += np.bincount(self.coarse.index(values), minlength=len(counts.coarse))
        counts.fine += np.bincount(self.fine.index(values), minlength=len(counts.fine))
        counts.n_zero += n_zero
        counts.total += float(values.sum())


def count_pairs(
    points: Floats,
    groups: Integers,
    classes: Integers,
    distance: Measure,
    cosine: Measure,
    rounding: float = 0.0,
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
    rounding
        Norm up to which a row may be the mean, but for the rounding of the activations.
    """
    square = np.einsum("ij,ij->i", points, points)
    norm = np.sqrt(square)
    largest = norm.max(initial=0.0)
    # A row that equals the mean is left with rounding errors; their direction means nothing.
    directed = norm > max(rounding, 1e-12 * largest)
    reciprocal = np.divide(1.0, norm, out=np.zeros_like(norm), where=directed)
    for rows, columns, same in _rectangles(classes):
        gram = points[rows] @ points[columns].T
        squared = square[rows, None] + square[columns]
        squared -= 2.0 * gram
        identical = groups[rows, None] == groups[columns]
        squared[identical] = 0.0
        close = ((squared < (GRAM_DISTANCE * largest) ** 2) & ~identical).any(axis=1)
        if close.any():
            squared[close] = cdist(points[rows][close], points[columns], "sqeuclidean")
        lengths = np.sqrt(np.maximum(squared, 0.0, out=squared), out=squared)
        angles = gram * reciprocal[rows, None] * reciprocal[columns]
        np.clip(angles, -1.0, 1.0, out=angles)
        # The square on the diagonal holds every pair twice.
        once = np.triu_indices(len(gram), k=1) if rows == columns else (...,)
        n_zero = int(np.count_nonzero(identical[once]))
        distance.add(lengths[once].ravel(), same=same, n_zero=n_zero)
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
