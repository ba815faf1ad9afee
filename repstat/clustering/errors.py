"""Standard errors over the choice of a random subset: how far the numbers of all samples may be.

Each number is linearised in the weight of a sample (the Hajek projection), which takes of each sample only
sums over its pairs. Where these sums hardly differ, as those of cosines between opposite classes, what
remains of a mean is the chance of single pairs, which is added. Samples are drawn without replacement, hence
the factor 1 - n / n_total on the variance.

References
----------
W. Hoeffding, A class of statistics with asymptotically normal distribution, Annals of Mathematical Statistics
19 (1948) 293, doi:10.1214/aoms/1177730196.
"""

from math import sqrt

import numpy as np

from repstat.arrays import Floats, Integers
from repstat.clustering.pairs import Measure, PairCounts, sum_scores

MIN_ROWS = 20
"""Samples that must have pairs of a relation; from fewer, no error is told."""


def subset_error(influence: Floats | None, n_total: int, of_pairs: float = 0.0) -> float | None:
    """Return the standard error of a number.

    Parameters
    ----------
    influence
        Shape (n_samples,): of each sample on the number; None for no error.
    n_total
        Samples that the subset was drawn from.
    of_pairs
        Standard error of the number if its pairs were independent.
    """
    if influence is None:
        return None
    n = len(influence)
    spread = float(np.square(influence - influence.mean()).sum())
    return sqrt((1.0 - n / n_total) * (n / (n - 1) * spread + of_pairs**2))


def mean_influence(pairs: PairCounts) -> Floats | None:
    """Return the influence of each sample on a mean over pairs; None from too few samples."""
    if np.count_nonzero(pairs.partners) < MIN_ROWS:
        return None
    influence: Floats = (pairs.sums - pairs.total / pairs.n_pairs * pairs.partners) / pairs.n_pairs
    return influence


def ratio_influence(distance: Measure) -> Floats | None:
    """Return the influence of each sample on the mean within classes over that between them."""
    same, other = mean_influence(distance.same), mean_influence(distance.other)
    if same is None or other is None:
        return None
    within, between = (counts.total / counts.n_pairs for counts in (distance.same, distance.other))
    influence: Floats = (same - within / between * other) / between
    return influence


def auc_influence(distance: Measure, points: Floats, groups: Integers, classes: Integers) -> Floats | None:
    """Return the influence of each sample on the AUC; arguments as of `count_pairs`, by a second pass."""
    if min(np.count_nonzero(counts.partners) for counts in (distance.same, distance.other)) < MIN_ROWS:
        return None
    within, between = (counts.fine / counts.n_pairs for counts in (distance.same, distance.other))
    # Share of between pairs that are farther than a bin, and of within pairs that are closer; ties half.
    farther = 1.0 - np.cumsum(between) + between / 2.0
    closer = np.cumsum(within) - within / 2.0
    auc = float(within @ farther)
    of_same, of_other = (farther - auc) / distance.same.n_pairs, (closer - auc) / distance.other.n_pairs
    return sum_scores(points, groups, classes, distance.fine, of_same, of_other)
