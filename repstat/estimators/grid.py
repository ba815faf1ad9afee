"""Up to three axes: the integrals themselves, by the trapezoid rule, instead of samples.

h(T) = -int p ln p with p the density of the mixture on a regular grid; p is a product of separable factors,
so that each slab of the grid is one matrix product. The rule converges exponentially for analytic integrands.
Two grids, shifted by half a cell, give the value (their mean) and its error (half their difference).

References
----------
L. N. Trefethen and J. A. C. Weideman, The exponentially convergent trapezoidal rule, SIAM Review 56 (2014)
385, doi:10.1137/130932132.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log, pi, prod, sqrt

import numpy as np
from scipy.special import xlogy

from repstat.arrays import Floats
from repstat.estimators.mixture import Mixture

MAX_AXES = 3

SPACING = {0: 1.0, 1: 0.25, 2: 0.5, 3: 0.75}
"""Of the grid, in noise_std, by number of axes: finer where it costs nothing."""

PADDING = 7.0
"""Beyond the outermost centres, in noise_std; outside lies a mass of 1e-12."""

SUPPORT = 8.5
"""A centre farther than this (in noise_std) from a slab adds less than exp(-36) to its density."""

ROUNDING = 1e-9
"""What padding, truncated factors and rounding may add to an error, generously (nats)."""

MAX_WORK = 4e9
"""Centres times cells up to which a grid is worth it: some tenths of a second."""

MAX_CELLS = 6e6
"""Classes times cells up to which the logarithms are: again some tenths of a second."""

SLAB = 64
"""Grid points of the first axis at a time."""


@dataclass(frozen=True, slots=True)
class Integrated:
    """Information in nats by quadrature, and how far the two grids are apart.

    Parameters
    ----------
    input, label
        I(X;T) and I(Y;T).
    input_error, label_error
        Half the difference of the two grids: an estimate of the error of each of them, more than that of
        their mean.
    """

    input: float
    label: float
    input_error: float
    label_error: float


def worth_it(mixture: Mixture, std: float) -> bool:
    """Whether a grid of bounded size holds the mixture."""
    if not 0 < mixture.n_axes <= MAX_AXES:
        return False
    extent = mixture.points.max(axis=0) - mixture.points.min(axis=0)
    sizes = (extent / std + 2.0 * PADDING) / SPACING[mixture.n_axes] + 2.0
    # Centres away from a slab are left out, which bounds what one cell costs.
    share = min(1.0, (2.0 * SUPPORT + SLAB * SPACING[1]) * std / max(float(extent.max()), 1e-300))
    cells = prod(sizes.tolist())
    work = cells * max(mixture.n_points * share, 1.0)
    return bool(work <= MAX_WORK and cells * mixture.n_classes <= MAX_CELLS)


def integrate(mixture: Mixture, std: float) -> Integrated:
    """Return I(X;T) and I(Y;T) of a mixture that is `worth_it`."""
    first, second = (_informations(mixture, std, shift) for shift in (0.0, 0.5))
    mean, error = (first + second) / 2.0, np.maximum(np.abs(first - second) / 2.0, ROUNDING)
    return Integrated(float(mean[0]), float(mean[1]), float(error[0]), float(error[1]))


def _informations(mixture: Mixture, std: float, shift: float) -> Floats:
    """Return I(X;T) and I(Y;T) on one grid."""
    spacing = SPACING[mixture.n_axes]
    # The widest axis is cut into slabs, outside of which most centres may be left out.
    points = mixture.points / std
    grids = [
        np.arange(low - PADDING, high + PADDING + spacing, spacing) + shift * spacing
        for low, high in zip(points.min(axis=0), points.max(axis=0), strict=True)
    ]
    share = mixture.class_sizes / mixture.n_samples
    whole, within = 0.0, 0.0
    for slab in _slabs(grids):
        density = np.zeros(())
        for c, (low, high) in enumerate(zip(mixture.starts[:-1], mixture.starts[1:], strict=True)):
            of_class = _density(points[low:high], mixture.weights[low:high], slab) * (
                share[c] / mixture.class_sizes[c]
            )
            if mixture.n_classes > 1:
                # -p_c ln p_c with share p_c at hand: the logarithm of the share is taken off again.
                within -= float(xlogy(of_class, of_class).sum()) - log(share[c]) * float(of_class.sum())
            density = density + of_class
        whole -= float(xlogy(density, density).sum())
    cell = spacing**mixture.n_axes
    noise = mixture.n_axes / 2.0 * log(2.0 * pi * np.e)
    return np.array([whole * cell - noise, (whole - within) * cell if mixture.n_classes > 1 else 0.0])


def _slabs(grids: list[Floats]) -> Iterator[list[Floats]]:
    """Yield the grid in slabs of bounded size along its first axis."""
    size = {1: 16 * SLAB, 2: SLAB, 3: 1}[len(grids)]
    for start in range(0, len(grids[0]), size):
        yield [grids[0][start : start + size], *grids[1:]]


def _density(points: Floats, weights: Floats, slab: list[Floats]) -> Floats:
    """Return the sum of weighted normal densities on a slab, flattened to two axes."""
    near = (points[:, 0] >= slab[0][0] - SUPPORT) & (points[:, 0] <= slab[0][-1] + SUPPORT)
    points, weights = points[near], weights[near]
    factors = [_normal(grid[:, None] - points[:, axis]) for axis, grid in enumerate(slab)]
    factors[0] *= weights
    if len(factors) == 1:
        return np.asarray(factors[0].sum(axis=1))
    left = factors[0] if len(factors) == 2 else factors[0] * factors[1]
    return np.asarray(left @ factors[-1].T)


def _normal(distances: Floats) -> Floats:
    """Return the standard normal density; overwrites `distances`."""
    np.multiply(distances, distances, out=distances)
    distances *= -0.5
    # exp is far slower below, where its value does not matter.
    np.maximum(distances, -600.0, out=distances)
    np.exp(distances, out=distances)
    distances /= sqrt(2.0 * pi)
    return distances
