"""The kernel: log-sums of a mixture of equal spheres, without their noise energy.

Pure mathematics on checked arrays. Centres are in units of the noise, so every component is N(y_j, I). With
a sample s = y_i + z of component i,

    exp(E_ij),  E_ij = -|y_i - y_j|^2 / 2 - (y_i - y_j).z,

is the density of component j at s relative to that of component i, and E_ii = 0 exactly. Everything that the
estimators need is the logarithm of the sum over the *other* components, `L`: the residual of the entropy is
ln(1 + exp L), the leave-one-out density is exp L / (n - 1). Energy |z|^2/2 never appears, so nothing of size
d cancels (docs/estimators.md, "The kernel").

References
----------
Z. Goldfeld et al., Estimating Information Flow in Deep Neural Networks, ICML 2019, arXiv:1810.05728.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import numpy as np
from scipy.spatial.distance import cdist

from repstat.arrays import Floats, Integers, Matrix, binary_scale, centred_blocks

TILE_ELEMENTS = 2**17
"""Elements of one tile of exponents (1 MiB): near the second-level cache, and a bound on memory."""

GRAM_RADIUS = 2.0e4
"""Beyond this radius r (in noise_std) |a|^2 + |b|^2 - 2ab in float64 errs by 1e-6 nat or more (8 eps r^2)."""

DRAW_RADIUS = 1.0e10
"""Beyond this radius (in noise_std) differences of projections are off by more than 1e-5 (eps r |z|)."""

EXP_SAFE = 300.0
"""Sums of exponentials of up to this magnitude neither overflow nor drown in what is left of the floor."""

EXP_FLOOR = -700.0
"""exp is one to two orders of magnitude slower below this, where its value does not matter."""


@dataclass(frozen=True)
class Mixture:
    """Distinct centres with weights, grouped by class.

    Parameters
    ----------
    points
        Shape (n_points, n_axes), in units of noise_std, classes contiguous.
    weights
        Shape (n_points,): how many samples share the centre and the class.
    starts
        Shape (n_classes + 1,): class c is points[starts[c]:starts[c + 1]].
    """

    points: Floats
    weights: Floats
    starts: Integers

    @property
    def n_points(self) -> int:
        """Distinct (centre, class) pairs."""
        return len(self.points)

    @property
    def n_samples(self) -> float:
        """Sum of the weights."""
        return float(self.weights.sum())

    @cached_property
    def class_sizes(self) -> Floats:
        """Samples per class, shape (n_classes,)."""
        return np.add.reduceat(self.weights, self.starts[:-1])

    @cached_property
    def half_squares(self) -> Floats:
        """Half the squared norm of each centre, shape (n_points,)."""
        half: Floats = 0.5 * np.einsum("ij,ij->i", self.points, self.points)
        return half

    @cached_property
    def log_weights(self) -> Floats:
        """Logarithms of the weights, shape (n_points,)."""
        return np.log(self.weights)

    @property
    def radius(self) -> float:
        """Largest distance of a centre from the mean, in noise_std."""
        return sqrt(2.0 * float(self.half_squares.max(initial=0.0)))

    def class_of(self, points: Integers) -> Integers:
        """Return the class of each point index."""
        return np.searchsorted(self.starts, points, side="right") - 1


def coordinates(matrix: Matrix, noise_std: float) -> Floats:
    """Return the centres in units of the noise, in as few coordinates as they span.

    Noise orthogonal to the affine hull of the centres cancels in every exponent, so a rotation into at most
    n_points axes changes nothing; it is the triangular factor of a QR decomposition, accumulated over blocks
    of units so that no float64 copy of a wide layer is made.

    Parameters
    ----------
    matrix
        Shape (n_points, n_units), finite.
    noise_std
        Standard deviation of the noise, in the units of `matrix`.

    Returns
    -------
    points
        Shape (n_points, n_axes) with n_axes <= min(n_points, n_units); constant units are dropped.
    """
    scale = binary_scale(matrix)
    n_points, n_units = matrix.shape
    if scale == 0.0:
        return np.zeros((n_points, 0))
    blocks = centred_blocks(matrix, scale, n_columns=max(n_points, 256))
    if n_units <= n_points:
        return np.hstack(list(blocks)) / (noise_std / scale)
    factor = np.zeros((0, n_points))
    for block in blocks:
        factor = np.asarray(np.linalg.qr(np.vstack([factor, block.T]), mode="r"))
    return np.ascontiguousarray(factor.T) / (noise_std / scale)


def log_sum_exp(exponents: Floats) -> Floats:
    """Return ln sum exp over each row, -inf without columns; overwrites `exponents` (n_rows, n_columns)."""
    if exponents.shape[1] == 0:
        return np.full(len(exponents), -np.inf)
    top = exponents.max(axis=1)
    # Rows that exp can hold are left as they are, which saves a pass over nearly all tiles.
    reference = np.where((np.abs(top) < EXP_SAFE) | np.isneginf(top), 0.0, top)
    if reference.any():
        exponents -= reference[:, None]
    np.maximum(exponents, EXP_FLOOR, out=exponents)
    total = np.exp(exponents, out=exponents).sum(axis=1)
    return np.where(np.isneginf(top), -np.inf, reference + np.log(total))


def relative_exponents(mixture: Mixture, own: Integers, noise: Floats) -> tuple[Floats, Floats]:
    """Return the two parts of ln w_j + E_ij for samples of the components `own`, their own sample left out.

    Parameters
    ----------
    mixture
        The centres.
    own
        Shape (n_draws,): the component that each sample comes from.
    noise
        Shape (n_draws, n_axes), standard normal.

    Returns
    -------
    distances, projections
        Each of shape (n_draws, n_points): ln w_j - |y_i - y_j|^2 / 2, at the own component ln(w_i - 1); and
        (y_j - y_i).z. Their sum belongs to z, their difference to -z.
    """
    centres, points = mixture.points[own], mixture.points
    if mixture.radius <= GRAM_RADIUS:
        distances = centres @ points.T
        distances -= mixture.half_squares - mixture.log_weights
        distances -= mixture.half_squares[own, None]
    else:
        distances = cdist(centres, points, "sqeuclidean")
        distances *= -0.5
        distances += mixture.log_weights
    rows = np.arange(len(own))
    with np.errstate(divide="ignore"):
        distances[rows, own] = np.log(mixture.weights[own] - 1.0)
    projections = noise @ points.T
    projections -= projections[rows, own][:, None]
    return distances, projections


def log_sums_of_others(mixture: Mixture, own: Integers, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw two opposite samples of each component in `own` and sum over all other samples of the mixture.

    Opposite noise cancels what is linear in it. That costs nothing in few dimensions, and in hundreds, where
    the residual is nearly linear, it saves a factor of ten or more.

    Parameters
    ----------
    mixture
        The centres, at least two samples.
    own
        Shape (n_pairs,), sorted, so that classes are contiguous.
    rng
        Source of the noise.

    Returns
    -------
    everyone, same_class
        Each of shape (2, n_pairs): ln of the sum over the other samples, and over those of the own class;
        -inf where there are none.
    """
    everyone, same_class = np.empty((2, len(own))), np.empty((2, len(own)))
    for rows, low, high in _tiles(mixture, own):
        noise = rng.standard_normal((rows.stop - rows.start, mixture.points.shape[1]))
        distances, projections = relative_exponents(mixture, own[rows], noise)
        forward = distances + projections
        backward = np.subtract(distances, projections, out=distances)
        for side, exponents in enumerate((forward, backward)):
            same_class[side, rows] = log_sum_exp(exponents[:, low:high])
            below, above = log_sum_exp(exponents[:, :low]), log_sum_exp(exponents[:, high:])
            everyone[side, rows] = np.logaddexp(np.logaddexp(below, above), same_class[side, rows])
    return everyone, same_class


def _tiles(mixture: Mixture, own: Integers) -> Iterator[tuple[slice, int, int]]:
    """Yield (rows of `own`, first point, last point + 1 of their class), each of bounded size."""
    n_rows = max(1, TILE_ELEMENTS // mixture.n_points)
    borders = np.searchsorted(own, mixture.starts)
    for c in np.flatnonzero(np.diff(borders)):
        for start in range(borders[c], borders[c + 1], n_rows):
            stop = min(start + n_rows, borders[c + 1])
            yield slice(start, stop), int(mixture.starts[c]), int(mixture.starts[c + 1])
