"""Pairwise-distance bounds on the mutual information through a Gaussian channel, without Monte Carlo.

For the mixture of N(y_j, I) with weights p_j, I(index; output) is at least
-sum_i p_i ln sum_j p_j exp(-|y_i - y_j|^2 / 8), the Bhattacharyya form, and at most the same with
|y_i - y_j|^2 / 2, the Kullback-Leibler form. Both are exact where the components coincide or are far apart.

References
----------
A. Kolchinsky and B. D. Tracey, Estimating Mixture Entropy with Pairwise Distances, Entropy 19 (2017) 361,
doi:10.3390/e19070361, arXiv:1706.02419.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from repstat.arrays import Floats
from repstat.estimators.mixture import GRAM_RADIUS, TILE_ELEMENTS, Mixture


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


def mixture_bounds(mixture: Mixture) -> PairwiseBounds:
    """Return the pairwise bounds of a mixture, from every pair of centres in tiles of bounded size."""
    share = mixture.weights / mixture.n_samples
    log_class = np.log(mixture.class_sizes)
    n_rows = max(1, TILE_ELEMENTS // mixture.n_points)
    sums = np.zeros(4)
    for c, (low, high) in enumerate(zip(mixture.starts[:-1], mixture.starts[1:], strict=True)):
        for start in range(low, high, n_rows):
            rows = slice(start, min(start + n_rows, high))
            for k, overlap in enumerate(_overlaps(mixture, rows)):
                same = overlap[:, low:high].sum(axis=1)
                rest = overlap[:, :low].sum(axis=1) + overlap[:, high:].sum(axis=1)
                sums[k] += share[rows] @ (np.log(mixture.n_samples) - np.log(same + rest))
                sums[k + 2] += share[rows] @ (log_class[c] - np.log(same))
    return PairwiseBounds(*(float(s) for s in sums))


def _overlaps(mixture: Mixture, rows: slice) -> tuple[Floats, Floats]:
    """Return w_j exp(-D/8) and w_j exp(-D/2) for rows of centres, D their squared distance to all centres."""
    points = mixture.points
    if mixture.radius <= GRAM_RADIUS:
        square = 2.0 * mixture.half_squares
        distance = points[rows] @ points.T
        distance *= -2.0
        distance += square
        distance += square[rows, None]
    else:
        distance = cdist(points[rows], points, "sqeuclidean")
    distance[np.arange(rows.stop - rows.start), np.arange(rows.start, rows.stop)] = 0.0
    # A floor of exp(-80) keeps the fourth power a normal number and is lost beside the own term.
    np.clip(distance, 0.0, 640.0, out=distance)
    distance *= -0.125
    near = np.exp(distance, out=distance)
    square_of_near = near * near
    return near * mixture.weights, square_of_near * square_of_near * mixture.weights
