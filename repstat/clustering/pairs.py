"""The kernel: histograms of all pairwise distances and cosines, in tiles of bounded size.

Pure mathematics on checked arrays. Distances come from a float64 Gram product of centred rows, and where that
would cancel from differences: identical rows are at distance zero exactly, every other distance is right to
about 1e-7 of itself, far less than a fine bin. No n x n array is formed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from repstat.arrays import Floats, Integers

FINE_BINS = 2**16
"""Resolution of quantiles and of the AUC: the largest distance divided by this, or finer."""

GRAM_DISTANCE = 1e-4
"""Of the largest norm r: a smaller distance d comes from differences; the Gram form errs by eps (r/d)^2."""

TILE_ELEMENTS = 2**18
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
        """Return the bin of each value, none below `low`; the last edge belongs to the last bin."""
        scaled = values - self.low if self.low else values.copy()
        scaled *= self.n_bins / (self.high - self.low)
        beyond = values.max(initial=self.low) >= self.high
        if beyond:
            np.minimum(scaled, self.n_bins, out=scaled)
        found = scaled.astype(np.int64)
        if beyond:
            found[values == self.high] = self.n_bins - 1
        return found

    def refined(self, reach: float) -> tuple["Grid", int]:
        """Return a grid from `low` to `reach`, and how many of its bins make one of these.

        It has FINE_BINS bins at least, and its last edge is at or above `reach`. Where this grid is too
        narrow, the bins are FINE_BINS up to `reach` and make none of these: the number is zero.
        """
        width = (self.high - self.low) / self.n_bins
        # Beyond 2^52 bin numbers are not exact.
        parts = max(1, ceil(min(width / (reach - self.low) * FINE_BINS, 2.0**52 / self.n_bins)))
        if reach == self.high:
            return Grid(self.low, reach, self.n_bins * parts), parts
        if (reach - self.low) / width * parts > 4 * FINE_BINS:
            return Grid(self.low, reach, FINE_BINS), 0
        n_bins = ceil((reach - self.low) / (width / parts))
        return Grid(self.low, self.low + n_bins * (width / parts), n_bins), parts


@dataclass(slots=True)
class PairCounts:
    """Counts over a coarse and a fine grid, for one relation of pairs (within, between) and one measure.

    Parameters
    ----------
    coarse, fine
        Shapes (n_bins + 1,) and (FINE_BINS + 1,); the last bin is above the grid.
    sums
        Shape (n_samples,): of each row, the sum of the values of its pairs.
    partners
        Shape (n_samples,): of each row, how many pairs it is in.
    n_zero
        Pairs of identical rows, which are in the counts as well.
    """

    coarse: Integers
    fine: Integers
    sums: Floats = field(default_factory=lambda: np.zeros(0))
    partners: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    n_zero: int = 0

    @property
    def total(self) -> float:
        """Sum of the values over the pairs."""
        return float(self.sums.sum()) / 2.0

    @property
    def n_pairs(self) -> int:
        """Pairs counted."""
        return int(self.coarse.sum())

    def spread(self, fine: Grid, reach: float) -> float:
        """Return the standard deviation of the values, from the grid they were counted on.

        It is at most what the mean and the range of values from the lowest edge to `reach` allow (Bhatia and
        Davis), which bounds it where a caller's edges make the grid coarse.
        """
        width = (fine.high - fine.low) / fine.n_bins
        mean = self.total / self.n_pairs
        bins = np.arange(len(self.fine)) + 0.5 - (mean - fine.low) / width
        spread = width * sqrt(float(self.fine @ np.square(bins)) / self.n_pairs)
        return min(spread, sqrt(max(0.0, reach - mean)) * sqrt(max(0.0, mean - fine.low)))


class Measure:
    """One measure of pairs (distance or cosine): its grids and its counts of both relations.

    Parameters
    ----------
    coarse
        Grid of the histogram.
    reach
        What no value exceeds; up to here goes the grid for quantiles, `fine`.
    """

    def __init__(self, coarse: Grid, reach: float) -> None:
        self.coarse, self.reach = coarse, reach
        self.fine, self.parts = coarse.refined(reach)
        self.same, self.other = (
            PairCounts(np.zeros(coarse.n_bins + 1, np.int64), np.zeros(self.fine.n_bins + 1, np.int64))
            for _ in range(2)
        )

    def finish(self) -> None:
        """Sum fine bins to coarse ones, if these were not counted."""
        if not self.parts:
            return
        whole = np.minimum(np.arange(self.fine.n_bins + 1) // self.parts, self.coarse.n_bins)
        if self.fine.high <= self.coarse.high:
            whole[-1] = whole[-2]
        for counts in (self.same, self.other):
            np.add.at(counts.coarse, whole, counts.fine)

    def begin(self, classes: Integers, counted: NDArray[np.bool_]) -> None:
        """Set the sums of rows to zero, and count the partners of each row that is `counted`."""
        size = np.bincount(classes[counted], minlength=int(classes[-1]) + 1)[classes]
        for counts, number in ((self.same, size - 1), (self.other, np.count_nonzero(counted) - size)):
            counts.sums = np.zeros(len(classes))
            counts.partners = np.where(counted, number, 0)

    def add(self, values: Floats, tile: "_Tile", counted: NDArray[np.bool_] | None = None) -> None:
        """Count the values of a tile, zero where they are no pair, or those of them that are `counted`."""
        found = tile.relation_bins(self.fine, values, counted)
        n = self.fine.n_bins + 1
        if self.parts and values.max() >= self.coarse.high:
            # The last edge of the histogram belongs to its last bin.
            last = self.parts * self.coarse.n_bins
            found[(values == self.coarse.high) & (found % n == last) & (found < 2 * n)] -= 1
        self._tally(found, n, self.same.fine, self.other.fine)
        if not self.parts:
            found = tile.relation_bins(self.coarse, values, counted)
            self._tally(found, self.coarse.n_bins + 1, self.same.coarse, self.other.coarse)
        head = values[:, : tile.same.shape[1]]
        if tile.same.all():
            tile.add_sums(self.same.sums, head)
        else:
            across = np.where(tile.same, 0.0, head)
            tile.add_sums(self.same.sums, head - across)
            tile.add_sums(self.other.sums, across)
        tile.add_sums(self.other.sums, values[:, head.shape[1] :], head.shape[1])

    @staticmethod
    def _tally(found: Integers, n: int, same: Integers, other: Integers) -> None:
        counts = np.bincount(found.ravel(), minlength=2 * n + 1)
        other += counts[:n]
        same += counts[n : 2 * n]


@dataclass(frozen=True, slots=True)
class _Tile:
    """Pairs of the rows `start` to `stop` with themselves and all later rows.

    Parameters
    ----------
    start, stop
        Rows of the tile; its columns begin at `start`.
    gram, lengths
        Shapes (n_rows, n_columns): inner products and distances; distances below the diagonal are zero.
    same
        Shape (n_rows, n_head): whether of one class; later columns are of other classes than all rows.
    repeated
        Shape (n_rows, n_rows): of the square on the diagonal, what is no pair or the second mention of one.
    n_zero
        Pairs of identical rows, of different classes and of the same.
    """

    start: int
    stop: int
    gram: Floats
    lengths: Floats
    same: NDArray[np.bool_]
    repeated: NDArray[np.bool_]
    n_zero: tuple[int, int]

    def relation_bins(self, grid: Grid, values: Floats, counted: NDArray[np.bool_] | None = None) -> Integers:
        """Return bins: those of the same class after those of others, and last what is not counted."""
        found = grid.index(values)
        found[:, : self.same.shape[1]] += (grid.n_bins + 1) * self.same
        found[:, : len(found)][self.repeated] = 2 * (grid.n_bins + 1)
        if counted is not None:
            found[~counted] = 2 * (grid.n_bins + 1)
        return found

    def add_sums(self, sums: Floats, values: Floats, skip: int = 0) -> None:
        """Add to both rows of each pair its value; `skip` columns of the tile come before the values."""
        sums[self.start : self.stop] += values.sum(axis=1)
        columns = self.start + skip
        sums[columns : columns + values.shape[1]] += values.sum(axis=0)


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
    norm = np.sqrt(np.einsum("ij,ij->i", points, points))
    # A row that equals the mean is left with rounding errors; their direction means nothing.
    directed = norm > max(rounding, 1e-12 * norm.max(initial=0.0))
    reciprocal = np.divide(1.0, norm, out=np.zeros_like(norm), where=directed)
    distance.begin(classes, np.ones_like(directed))
    cosine.begin(classes, directed)
    for tile in _tiles(points, groups, classes):
        rows, columns = slice(tile.start, tile.stop), slice(tile.start, None)
        distance.add(tile.lengths, tile)
        distance.other.n_zero += tile.n_zero[0]
        distance.same.n_zero += tile.n_zero[1]
        angles = tile.gram
        angles *= reciprocal[rows, None]
        angles *= reciprocal[columns]
        np.clip(angles, -1.0, 1.0, out=angles)
        angles[:, : len(angles)][tile.repeated] = 0.0
        all_directed = directed[columns].all()
        cosine.add(angles, tile, None if all_directed else directed[rows, None] & directed[columns])
    distance.finish()
    cosine.finish()
    return len(points) - int(np.count_nonzero(directed))


def sum_scores(
    points: Floats, groups: Integers, classes: Integers, fine: Grid, of_same: Floats, of_other: Floats
) -> Floats:
    """Return of each row the sum over its pairs of a score that depends on distance and relation.

    Parameters
    ----------
    points, groups, classes
        As of `count_pairs`.
    fine
        Grid of distances.
    of_same, of_other
        Shape (fine.n_bins + 1,): the score in each bin.

    Returns
    -------
    sums
        Shape (n_samples,).
    """
    scores = np.concatenate([of_other, of_same, [0.0]])
    sums = np.zeros(len(points))
    for tile in _tiles(points, groups, classes):
        tile.add_sums(sums, scores[tile.relation_bins(fine, tile.lengths)])
    return sums


def _tiles(points: Floats, groups: Integers, classes: Integers) -> Iterator[_Tile]:
    """Yield tiles that hold each pair once."""
    n = len(points)
    square = np.einsum("ij,ij->i", points, points)
    threshold = GRAM_DISTANCE**2 * square.max(initial=0.0)
    n_rows = max(1, TILE_ELEMENTS // n)
    for start in range(0, n, n_rows):
        stop = min(start + n_rows, n)
        gram = points[start:stop] @ points[start:].T
        squared = square[start:stop, None] + square[start:]
        squared -= gram
        squared -= gram
        repeated = np.tri(stop - start, dtype=np.bool_)
        squared[:, : stop - start][repeated] = np.inf
        n_head = int(np.searchsorted(classes, classes[stop - 1], side="right")) - start
        same = classes[start:stop, None] == classes[start : start + n_head]
        n_zero = 0, 0
        identical = _mend(squared, points, groups, slice(start, stop), slice(start, None), threshold)
        if identical is not None:
            identical[:, : stop - start][repeated] = False
            n_same = int(np.count_nonzero(identical[:, :n_head] & same))
            n_zero = int(np.count_nonzero(identical)) - n_same, n_same
        squared[:, : stop - start][repeated] = 0.0
        lengths = np.sqrt(np.maximum(squared, 0.0, out=squared), out=squared)
        yield _Tile(start, stop, gram, lengths, same, repeated, n_zero)


def distance_rows(points: Floats, groups: Integers, rows: Integers) -> Iterator[tuple[Integers, Floats]]:
    """Yield some of the rows and their squared distances to every row, infinite to itself.

    Parameters
    ----------
    points, groups
        As of `count_pairs`; classes play no part.
    rows
        Shape (n_rows,): whose distances are wanted.

    Yields
    ------
    some, squared
        Shapes (n_some,) and (n_some, n_samples).
    """
    square = np.einsum("ij,ij->i", points, points)
    threshold = GRAM_DISTANCE**2 * square.max(initial=0.0)
    n_rows = max(1, TILE_ELEMENTS // len(points))
    for start in range(0, len(rows), n_rows):
        some = rows[start : start + n_rows]
        squared = points[some] @ points.T
        squared *= -2.0
        squared += square[some, None]
        squared += square
        own = np.arange(len(some)), some
        squared[own] = np.inf
        _mend(squared, points, groups, some, slice(None), threshold)
        np.maximum(squared, 0.0, out=squared)
        squared[own] = np.inf
        yield some, squared


def _mend(
    squared: Floats,
    points: Floats,
    groups: Integers,
    rows: slice | Integers,
    columns: slice,
    threshold: float,
) -> NDArray[np.bool_] | None:
    """Correct squared distances that cancelled, in place, and return which rows are identical to which.

    Identical and close rows are rare, and one look at the smallest distance finds most tiles without: None.
    """
    if squared.min() > threshold:
        return None
    identical: NDArray[np.bool_] = groups[rows, None] == groups[columns]
    close = ((squared < threshold) & ~identical).any(axis=1)
    if close.any():
        squared[close] = cdist(points[rows][close], points[columns], "sqeuclidean")
    squared[identical] = 0.0
    return identical
