"""Noise of low discrepancy: Sobol points on the principal axes, independent replicates for the error.

One scrambled Sobol sequence serves all blocks; each replicate moves it by a random digital shift of its own,
so that every point of it is a standard normal vector and replicates are independent. Only the first principal
axes are treated so; the others get ordinary random numbers.

References
----------
A. B. Owen, Randomly permuted (t,m,s)-nets and (t,s)-sequences, in Monte Carlo and Quasi-Monte Carlo Methods
(Springer, 1995), doi:10.1007/978-1-4612-2552-2_19.
"""

import numpy as np
from scipy.special import ndtri

from repstat.arrays import Floats

MAX_AXES = 16
"""Axes with Sobol points: beyond these the gain is lost in what the other axes contribute."""

_BITS = 30


class NoiseDesign:
    """A source of replicates of standard normal vectors.

    Parameters
    ----------
    points
        Shape (n_points, n_axes): the centres, whose widest directions get the Sobol points.
    n_noises
        Vectors per replicate, a power of two.
    rng
        Source of the randomisation.
    """

    def __init__(self, points: Floats, n_noises: int, rng: np.random.Generator) -> None:
        from scipy.stats import qmc  # takes half a second: only where something is sampled

        self._n_axes = points.shape[1]
        self._rng = rng
        self._axes = _principal_axes(points, MAX_AXES, rng) if self._n_axes > MAX_AXES else None
        n_sobol = min(self._n_axes, MAX_AXES)
        sobol = qmc.Sobol(n_sobol, scramble=True, bits=_BITS, rng=rng)
        self._base = (sobol.random(n_noises) * 2.0**_BITS).astype(np.int64)

    def draw(self, n_replicates: int) -> tuple[Floats, Floats]:
        """Return noise of shape (n_replicates * n_noises, n_axes) and the covariate of each replicate.

        The covariate, the mean of |z|^2 - n_axes over the replicate, has expectation zero.
        """
        shifts = self._rng.integers(0, 2**_BITS, (n_replicates, 1, self._base.shape[1]))
        uniform = ((self._base ^ shifts) + 0.5) / 2.0**_BITS
        wide = ndtri(uniform).reshape(-1, self._base.shape[1])
        if self._axes is None:
            noise = wide
        else:
            noise = self._rng.standard_normal((len(wide), self._n_axes))
            noise += (wide - noise @ self._axes) @ self._axes.T
        energy = np.einsum("ij,ij->i", noise, noise) - self._n_axes
        return noise, energy.reshape(n_replicates, -1).mean(axis=1)


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
