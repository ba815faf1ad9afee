"""Participation ratio: over how many directions the variance of a layer is spread.

References
----------
A. Litwin-Kumar, K. D. Harris, R. Axel, H. Sompolinsky and L. F. Abbott, Optimal degrees of synaptic
connectivity, Neuron 93 (2017) 1153, doi:10.1016/j.neuron.2017.01.030.
"""

import numpy as np

from repstat.arrays import Floats


def participation_ratio(points: Floats) -> tuple[float, Floats]:
    """Return (tr C)^2 / tr(C^2), C the covariance of the samples, and the influence of each sample on it.

    Parameters
    ----------
    points
        Shape (n_samples, n_units), finite, not all equal.

    Returns
    -------
    ratio
        From 1, all variance along one direction, to min(n_units, n_samples - 1), equal in each.
    influence
        Shape (n_samples,): change of the ratio with the weight of a sample, to first order (of
        `repstat.clustering.errors.subset_error`).
    """
    centred = points - points.mean(axis=0)
    centred /= np.abs(centred).max()
    n_samples, n_units = centred.shape
    lengths = np.einsum("ij,ij->i", centred, centred)
    trace = float(lengths.mean())
    if n_units <= n_samples:
        covariance = centred.T @ centred / n_samples
        square = float(np.einsum("ij,ij->", covariance, covariance))
        along = np.einsum("ij,ij->i", centred @ covariance, centred)
    else:
        gram = centred @ centred.T
        along = np.einsum("ij,ij->i", gram, gram) / n_samples
        square = float(along.mean())
    ratio = trace**2 / square
    influence: Floats = 2.0 * ratio * (lengths / trace - along / square) / n_samples
    return ratio, influence
