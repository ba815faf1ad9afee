"""Pairwise-distance bounds on the mutual information through a Gaussian channel, without Monte Carlo.

For the mixture of N(y_j, b^2 I) with weights p_j, I(index; output) is at least
-sum_i p_i ln sum_j p_j exp(-|y_i - y_j|^2 / (8 b^2)), the Bhattacharyya form, and at most the same with
2 b^2, the Kullback-Leibler form. Both are exact where the components coincide or are far apart.

References
----------
A. Kolchinsky and B. D. Tracey, Estimating Mixture Entropy with Pairwise Distances, Entropy 19 (2017) 361,
doi:10.3390/e19070361, arXiv:1706.02419.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from repstat.arrays import Floats
from repstat.estimators.mixture import Mixture, gram_cancels, half_distances, over_variance, slices

TILE_POINTS = 384
"""Rows and columns of a tile: what it takes fits in the second-level cache."""

FAR = 80.0
"""exp(-80) and its fourth power are normal numbers, and nothing beside the own term of 1."""


@dataclass(frozen=True, slots=True)
class PairwiseBounds:
    """Rigorous bounds for one mixture, in nats.

    Parameters
    ----------
    lower, upper
        On I(X;T), X the sample and T its noisy activation.
    within_lower, within_upper
        On I(X;T|Y), Y the class: the mean over the samples of the bounds of their class.
    """

    lower: float
    upper: float
    within_lower: float
    within_upper: float

    @property
    def label_lower(self) -> float:
        """Lower bound on I(Y;T) = I(X;T) - I(X;T|Y)."""
        return max(0.0, self.lower - self.within_upper)

    @property
    def label_upper(self) -> float:
        """Upper bound on I(Y;T) = I(X;T) - I(X;T|Y)."""
        return self.upper - self.within_lower


def mixture_bounds(mixture: Mixture, stds: Sequence[float]) -> list[PairwiseBounds]:
    """Return the pairwise bounds for every noise standard deviation, in the units of the points.

    Every pair of centres is met once, in tiles of bounded size, and one exponential serves both bounds.
    """
    # Overlaps of each centre with everyone and with its class, at 8 b^2 and at 2 b^2.
    overlaps = np.zeros((len(stds), 2, 2, mixture.n_points))
    for rows, columns in _tiles(mixture.n_points):
        squares: dict[bool, Floats] = {}
        same = _same_class(mixture, rows, columns)
        for k, std in enumerate(stds):
            form = gram_cancels(mixture, std)
            if form not in squares:
                squares[form] = half_distances(mixture, rows, std, columns)
                if rows == columns:
                    np.fill_diagonal(squares[form], 0.0)
            _add(overlaps[k], squares[form], std, mixture.weights, (rows, columns), same)
    share = mixture.weights / mixture.n_samples
    class_size = mixture.class_sizes[mixture.classes]
    log_total = np.log(np.stack([np.full_like(class_size, mixture.n_samples), class_size]))
    means = (log_total[:, None] - np.log(overlaps)) @ share
    return [PairwiseBounds(*(float(v) for v in found.ravel())) for found in means]


def _tiles(n_points: int) -> Iterator[tuple[slice, slice]]:
    """Yield (rows, columns) that cover the upper triangle of the table of pairs."""
    parts = list(slices(n_points, TILE_POINTS))
    for i, rows in enumerate(parts):
        for columns in parts[i:]:
            yield rows, columns


def _same_class(mixture: Mixture, rows: slice, columns: slice) -> Floats | bool:
    """Return which pairs of a tile are of one class: all, none, or a table of ones and zeros."""
    first, second = mixture.classes[rows], mixture.classes[columns]
    if first[-1] < second[0]:
        return False
    if first[0] == second[-1]:
        return True
    return np.equal(first[:, None], second).astype(np.float64)


def _add(
    overlaps: Floats,
    squares: Floats,
    std: float,
    weights: Floats,
    tile: tuple[slice, slice],
    same: Floats | bool,
) -> None:
    """Add what the pairs of a tile contribute to the overlaps (2, 2, n_points) at one noise."""
    rows, columns = tile
    exponents = over_variance(squares.copy(), std)
    exponents *= -0.25
    np.maximum(exponents, -FAR, out=exponents)
    near = np.exp(exponents, out=exponents)
    for scale in range(2):
        if scale == 1:
            np.multiply(near, near, out=near)
            np.multiply(near, near, out=near)
        _add_sums(overlaps[0, scale], near, weights, rows, columns)
        if same is True:
            _add_sums(overlaps[1, scale], near, weights, rows, columns)
        elif same is not False:
            _add_sums(overlaps[1, scale], near * same, weights, rows, columns)


def _add_sums(sums: Floats, near: Floats, weights: Floats, rows: slice, columns: slice) -> None:
    sums[rows] += near @ weights[columns]
    if rows != columns:
        sums[columns] += weights[rows] @ near
