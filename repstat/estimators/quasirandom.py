"""Noise of low discrepancy: Sobol sequences on the principal axes, independent replicates for the error.

One scrambled Sobol sequence serves all replicates; each moves it by a random digital shift of its own, so
that every point of it is a standard normal vector and replicates are independent. Only the first principal
axes are treated so. In the others the direction comes from ordinary random numbers, and the length, on which
the overlap of centres depends most in high dimension, is one more coordinate of the sequence.

References
----------
A. B. Owen, Randomly permuted (t,m,s)-nets and (t,s)-sequences, in Monte Carlo and Quasi-Monte Carlo Methods
(Springer, 1995), doi:10.1007/978-1-4612-2552-2_19.
"""

import numpy as np
from scipy.special import gammaincinv, ndtri

from repstat.arrays import Floats

MAX_AXES = 16
"""Axes with Sobol points: beyond these the gain is lost in what the other axes contribute."""

_BITS = 30


class NoiseDesign:
    """A source of standard normal vectors: one sequence of low discrepancy for each replicate.

    Parameters
    ----------
    points
        Shape (n_points, n_axes): the centres, whose widest directions get the Sobol points.
    n_replicates
        Sequences, independent of each other.
    rng
        Source of the randomisation.
    """

    def __init__(self, points: Floats, n_replicates: int, rng: np.random.Generator) -> None:
        from scipy.stats import qmc  # takes half a second: only where something is sampled

        self._n_axes = points.shape[1]
        self._rng = rng
        self._axes = _principal_axes(points, MAX_AXES, rng) if self._n_axes > MAX_AXES else None
        # The length comes first: Sobol points are best in their first coordinates.
        n_coordinates = self._n_axes if self._axes is None else 1 + MAX_AXES
        self._sobol = qmc.Sobol(n_coordinates, scramble=True, bits=_BITS, rng=rng)
        self._shifts = rng.integers(0, 2**_BITS, (n_replicates, 1, n_coordinates))

    def draw(self, n_noises: int) -> Floats:
        """Return the next `n_noises` (a power of two) of each replicate.

        Shape (n_replicates * n_noises, n_axes), one replicate after the other.
        """
        base = (self._sobol.random(n_noises) * 2.0**_BITS).astype(np.int64)
        uniform = ((base ^ self._shifts) + 0.5) / 2.0**_BITS
        uniform = uniform.reshape(-1, base.shape[1])
        if self._axes is None:
            return np.asarray(ndtri(uniform))
        noise = self._rng.standard_normal((len(uniform), self._n_axes))
        noise -= noise @ self._axes @ self._axes.T
        # The squared length is chi-square with one degree of freedom for each of these axes.
        squares = 2.0 * gammaincinv((self._n_axes - MAX_AXES) / 2.0, uniform[:, 0])
        noise *= np.sqrt(squares / np.einsum("ij,ij->i", noise, noise))[:, None]
        noise += ndtri(uniform[:, 1:]) @ self._axes.T
        return noise


def _principal_axes(points: Floats, n_axes: int, rng: np.random.Generator) -> Floats:
    """Return about the widest directions of the centres, orthonormal columns (n_axes_of_points, n_axes).

    By subspace iteration on at most 2,048 centres: any orthonormal directions give unbiased estimates.
    """
    some = points[rng.permutation(len(points))[:2048]]
    basis = rng.standard_normal((points.shape[1], n_axes))
    for _ in range(4):
        basis = np.linalg.qr(some.T @ (some @ np.linalg.qr(basis)[0]))[0]
    # Within the subspace the widest direction comes first, as Sobol points are best in their first axes.
    _, turn = np.linalg.eigh((some @ basis).T @ (some @ basis))
    return np.asarray(basis @ turn[:, ::-1])
