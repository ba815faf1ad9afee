"""The mixture whose entropy is wanted, and the exact form of its log-sums without their noise energy.

Pure mathematics on checked arrays. The centres y_i share one noise standard deviation b. With a sample
s = y_i + b z of component i,

    exp(E_ij),  E_ij = -|y_i - y_j|^2 / (2 b^2) - (y_i - y_j).z / b,

is the density of component j at s relative to that of component i, and E_ii = 0 exactly. Everything that the
estimators need is the logarithm of the sum over the *other* samples, `L`: the residual of the entropy is
ln(1 + exp L), the leave-one-out density is exp L / (n - 1). Energy |z|^2/2 never appears, so nothing of size
d cancels (docs/estimators.md, "The kernel").

`exact_log_sums` is the reference: every term, in log-sum-exp form, whatever the scale. `factorised` and
`neighbours` compute the same numbers from the same noise, faster, each in its range.

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

from repstat.arrays import Floats, Integers, Matrix, centred_blocks

TILE_ELEMENTS = 2**17
"""Elements of one tile of exponents (1 MiB): near the second-level cache, and a bound on memory."""

GRAM_RADIUS = 2.0e4
"""Beyond this radius r (in noise_std) |a|^2 + |b|^2 - 2ab in float64 errs by 1e-6 nat or more (8 eps r^2)."""

ROTATED_AXES = 64
"""Up to this many axes they are rotated into principal ones, which costs next to nothing."""

NEGLIGIBLE = 1e-13
"""Of the largest coordinate: an axis along which no centre exceeds this holds nothing but rounding."""

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
        Shape (n_points, n_axes), centred, in units of a scale of the data; classes contiguous.
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
    def n_axes(self) -> int:
        """Coordinates of a centre."""
        return int(self.points.shape[1])

    @property
    def n_classes(self) -> int:
        """Classes; one without labels."""
        return len(self.starts) - 1

    @cached_property
    def n_samples(self) -> float:
        """Sum of the weights."""
        return float(self.weights.sum())

    @cached_property
    def weighted(self) -> bool:
        """Whether some samples coincide."""
        return bool((self.weights != 1.0).any())

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

    @cached_property
    def radius(self) -> float:
        """Largest distance of a centre from the mean."""
        return sqrt(2.0 * float(self.half_squares.max(initial=0.0)))

    @cached_property
    def classes(self) -> Integers:
        """Class of each point, shape (n_points,)."""
        return np.repeat(np.arange(self.n_classes), np.diff(self.starts))


@dataclass(frozen=True, slots=True)
class LogSums:
    """ln of the sum of exp E over the other samples, for rows of centres and noises.

    Parameters
    ----------
    everyone, same_class
        Each of shape (n_rows, n_noises): over all other samples, and over those of the own class; -inf where
        there are none.
    """

    everyone: Floats
    same_class: Floats


def coordinates(matrix: Matrix, scale: float) -> Floats:
    """Return the centres over `scale`, centred, in as few coordinates as they span.

    Noise orthogonal to the affine hull of the centres cancels in every exponent, so a rotation changes
    nothing. Where there are more units than points it is the triangular factor of a QR decomposition,
    accumulated over blocks of units so that no float64 copy of a wide layer is made; few axes are turned
    into principal ones, the widest first, and those that hold nothing are dropped.

    Parameters
    ----------
    matrix
        Shape (n_points, n_units), finite.
    scale
        From `repstat.arrays.binary_scale`; zero if all values are.

    Returns
    -------
    points
        Shape (n_points, n_axes) with n_axes <= min(n_points, n_units).
    """
    n_points, n_units = matrix.shape
    if scale == 0.0:
        return np.zeros((n_points, 0))
    blocks = centred_blocks(matrix, scale, n_columns=max(n_points, 256))
    if n_units <= n_points:
        points = np.hstack(list(blocks))
    else:
        factor = np.zeros((0, n_points))
        for block in blocks:
            factor = np.asarray(np.linalg.qr(np.vstack([factor, block.T]), mode="r"))
        points = np.ascontiguousarray(factor.T)
    if 1 < points.shape[1] <= ROTATED_AXES:
        _, axes = np.linalg.eigh(points.T @ points)
        # An axis has no direction of its own: let its largest component be positive.
        signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))])
        points = points @ (axes * signs)[:, ::-1]
    extent = np.abs(points).max(axis=0, initial=0.0)
    return np.ascontiguousarray(points[:, extent > NEGLIGIBLE * extent.max(initial=0.0)])


def gram_cancels(mixture: Mixture, std: float) -> bool:
    """Whether distances must come from differences of centres, not from their products."""
    return mixture.radius > GRAM_RADIUS * std


def half_distances(
    mixture: Mixture, rows: Integers | slice, std: float, columns: slice = slice(None)
) -> Floats:
    """Return |y_i - y_j|^2 / 2, shape (n_rows, n_columns), as precise as noise of `std` needs it."""
    if gram_cancels(mixture, std):
        found = cdist(mixture.points[rows], mixture.points[columns], "sqeuclidean")
        found *= 0.5
        return found
    found = mixture.points[rows] @ mixture.points[columns].T
    np.subtract(mixture.half_squares[columns], found, out=found)
    found += mixture.half_squares[rows, None]
    return np.maximum(found, 0.0, out=found)


def over_variance(squares: Floats, std: float) -> Floats:
    """Divide by std^2 in place; twice by std, since the square of a tiny one may underflow."""
    if 1e-100 < std < 1e100:
        squares *= 1.0 / std**2
    else:
        squares /= std
        squares /= std
    return squares


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
    with np.errstate(divide="ignore"):
        return np.where(np.isneginf(top), -np.inf, reference + np.log(total))


def exact_log_sums(mixture: Mixture, rows: Integers, noise: Floats, std: float) -> LogSums:
    """Return the log-sums by log-sum-exp over every term.

    Parameters
    ----------
    mixture
        The centres.
    rows
        Shape (n_rows,): the components that the samples come from.
    noise
        Shape (n_noises, n_axes), standard normal; every row meets every noise.
    std
        Standard deviation of the noise, in the units of the points.
    """
    everyone, same_class = np.empty((2, len(rows), len(noise)))
    for few in slices(len(noise), max(1, 16 * TILE_ELEMENTS // mixture.n_points)):
        projections = (noise[few] / std) @ mixture.points.T
        for some in slices(len(rows), max(1, TILE_ELEMENTS // mixture.n_points)):
            distances = over_variance(half_distances(mixture, rows[some], std), std)
            distances -= mixture.log_weights
            for at, row in enumerate(rows[some]):
                with np.errstate(divide="ignore"):
                    distances[at, row] = -np.log(mixture.weights[row] - 1.0)
                exponents = projections - projections[:, row, None]
                exponents -= distances[at]
                low, high = mixture.starts[mixture.classes[row] :][:2]
                own = log_sum_exp(exponents[:, low:high])
                rest = np.logaddexp(log_sum_exp(exponents[:, :low]), log_sum_exp(exponents[:, high:]))
                same_class[some.start + at, few] = own
                everyone[some.start + at, few] = np.logaddexp(own, rest)
    return LogSums(everyone, same_class)


def slices(length: int, step: int) -> Iterator[slice]:
    """Yield slices of `step` elements, the last one shorter, that cover `length`."""
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
