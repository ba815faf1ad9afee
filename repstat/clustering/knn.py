"""Agreement of the nearest neighbours: how many of a sample's k nearest others are of its class.

References
----------
T. M. Cover and P. E. Hart, Nearest neighbor pattern classification, IEEE Trans. Inf. Theory 13 (1967) 21,
doi:10.1109/TIT.1967.1053964.
"""

import numpy as np
from numpy.typing import NDArray

from repstat.arrays import Floats, Integers

K = 10
"""Neighbours looked at; fewer where there are fewer other samples."""

TIE = 1e-7
"""Squared distances that differ by less than this, of themselves, are ties: Gram products err by less."""


def neighbour_agreement(squared: Floats, same: NDArray[np.bool_], k: int) -> Floats:
    """Return of each row the share of its class among the `k` nearest others.

    Others that are equally far as the k-th share the places that are left: the mean over every order in which
    ties could be broken, so that the order of the samples has no say.

    Parameters
    ----------
    squared
        Shape (n_rows, n_samples): squared distances, infinite to itself.
    same
        Shape (n_rows, n_samples): whether of one class.
    k
        Less than n_samples.

    Returns
    -------
    agreement
        Shape (n_rows,), from 0 to 1.
    """
    last = np.partition(squared, k - 1, axis=1)[:, k - 1 : k]
    near = squared < last * (1.0 - TIE)
    tied = squared <= last * (1.0 + TIE)
    tied &= ~near
    places = k - np.count_nonzero(near, axis=1)
    alike = np.count_nonzero(tied & same, axis=1) / np.count_nonzero(tied, axis=1)
    agreement: Floats = (np.count_nonzero(near & same, axis=1) + places * alike) / k
    return agreement


def chance_and_ceiling(sizes: Integers, k: int) -> tuple[float, float]:
    """Return the agreement that labels without any meaning have on average, and the largest possible.

    Parameters
    ----------
    sizes
        Shape (n_classes,): samples per class; in a class of fewer than k + 1, others must come in.
    k
        Neighbours looked at.
    """
    share = sizes / sizes.sum()
    chance = float(share @ ((sizes - 1) / (sizes.sum() - 1)))
    return chance, float(share @ np.minimum(1.0, (sizes - 1) / k))
