"""Silhouettes: how much closer a sample is to its own class than to the nearest other one.

References
----------
P. J. Rousseeuw, Silhouettes: a graphical aid to the interpretation and validation of cluster analysis,
J. Comput. Appl. Math. 20 (1987) 53, doi:10.1016/0377-0427(87)90125-7.
"""

import numpy as np

from repstat.arrays import Floats, Integers


def silhouettes(squared: Floats, own_class: Integers, starts: Integers) -> Floats:
    """Return (b - a) / max(a, b) of each row: a, b the mean distances to its own and to the nearest class.

    Parameters
    ----------
    squared
        Shape (n_rows, n_samples): squared distances, of whatever value to itself; overwritten.
    own_class
        Shape (n_rows,): class of each row.
    starts
        Shape (n_classes + 1,): class c is the columns starts[c]:starts[c + 1]. Two classes at least.

    Returns
    -------
    silhouettes
        Shape (n_rows,), from -1 to 1; 0 for a sample that is alone in its class, or at distance 0 from both.
    """
    rows = np.arange(len(squared))
    lengths = np.sqrt(squared, out=squared)
    lengths[np.isinf(lengths)] = 0.0
    sums = np.add.reduceat(lengths, starts[:-1], axis=1)
    sizes = np.diff(starts)
    others = sizes[own_class] - 1
    inside = sums[rows, own_class] / np.maximum(others, 1)
    means = sums / sizes
    means[rows, own_class] = np.inf
    outside = means.min(axis=1)
    widest = np.maximum(inside, outside)
    found: Floats = np.divide(outside - inside, widest, out=np.zeros(len(rows)), where=widest > 0.0)
    return np.where(others > 0, found, 0.0)
