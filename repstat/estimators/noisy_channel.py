"""Mutual information through measurement noise: I(X;T) and I(Y;T) for T = S + N(0, noise_std^2 I).

The gate of the method: it checks arguments, prepares the mixture, and says what may be claimed of the result.
The mathematics is in `mixture` (one draw), `sampling` (many draws) and `bounds` (no draws). `noisy_mi` is
long by its documentation.

References
----------
Z. Goldfeld et al., Estimating Information Flow in Deep Neural Networks, ICML 2019, arXiv:1810.05728.
Z. Goldfeld et al., Convergence of Smoothed Empirical Measures with Applications to Entropy Estimation,
IEEE Trans. Inf. Theory 66 (2020) 4368, doi:10.1109/TIT.2020.2975480, arXiv:1905.13576.
"""

from dataclasses import dataclass
from math import isfinite, log
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from repstat.arrays import (
    Integers,
    Matrix,
    activation_matrix,
    binary_scale,
    checked_integer,
    class_indices,
    group_rows,
    nonfinite_reason,
)
from repstat.errors import RepstatError, UsageError
from repstat.estimators.bounds import PairwiseBounds, mixture_bounds
from repstat.estimators.mixture import DRAW_RADIUS, Mixture, coordinates
from repstat.estimators.sampling import Sampled, noise_rng, sample_terms
from repstat.results import Estimate, Status, saturates
from repstat.threads import one_blas_thread

DEFAULT_MAX_DRAWS = 2**20

CERTAIN = 1e-12
"""Where nothing can be sampled, the value is known all the same if its bounds are this close (nats)."""

MIN_RELATIVE_NOISE = 1e-150
"""Of the largest activation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyMI:
    """Mutual information of noisy activations with the input and with the label, in nats.

    Parameters
    ----------
    input
        I(X;T), X uniform on the samples; equals ln n minus the entropy lost to overlap.
    label
        I(Y;T); None without labels.
    noise_std
        Standard deviation of the noise, in activation units.
    n_draws
        Monte Carlo draws; zero where the value is known without.
    seed
        Of the noise.
    n_distinct
        Distinct activation vectors.
    noise_model
        "measurement": noise is added to the layer under study only.
    """

    input: Estimate
    label: Estimate | None
    noise_std: float
    n_draws: int
    seed: int
    n_distinct: int
    noise_model: Literal["measurement"] = "measurement"


def noisy_mi(
    activations: ArrayLike,
    noise_std: float,
    *,
    labels: ArrayLike | None = None,
    tolerance: float = 0.01,
    seed: int = 0,
    max_draws: int = DEFAULT_MAX_DRAWS,
    input_entropy: float | None = None,
) -> NoisyMI:
    """Estimate I(X;T) and I(Y;T) of a layer whose activations are read through Gaussian noise.

    The network is deterministic and T = S + Z with Z ~ N(0, noise_std^2 I) is a measurement of its stored
    activations S at a chosen scale. The value is unbiased for the stored samples and never clamped.

    Parameters
    ----------
    activations
        Shape (n_samples, ...), noiseless activations of one layer at one checkpoint; axes after the first
        are units. Any floating dtype; computed in float64.
    noise_std
        Standard deviation of the noise in activation units, positive.
    labels
        Shape (n_samples,), classes as integers, booleans or strings.
    tolerance
        Standard error (nats) at which sampling stops.
    seed
        Of the noise; equal arguments give equal results.
    max_draws
        Samples of the noise at most; if they do not suffice the status is `tolerance_not_reached`.
    input_entropy
        H(X) in nats where inputs repeat and it is below ln n; lowers the ceiling.

    Returns
    -------
    result
        With value, standard error, rigorous pairwise bounds, ceiling, population bracket and status.
        Overlaps too rare for any draw to meet are in no standard error, but within the bounds. Non-
        finite activations give estimates with status `undefined`.

    Raises
    ------
    UsageError
        If an argument cannot be right.
    RepstatError
        If the result contradicts itself, which is a bug.

    Notes
    -----
    Time grows as n_distinct^2 * min(n_units, n_distinct), memory as the input plus a few MiB.
    """
    matrix = activation_matrix(activations)
    n_samples, n_units = matrix.shape
    noise_std = _positive("noise_std", noise_std, kind=" is a standard deviation and")
    tolerance = _positive("tolerance", tolerance)
    checked_integer("seed", seed, 0)
    checked_integer("max_draws", max_draws, 16)
    ceiling = checked_ceiling(input_entropy, n_samples)
    classes = None if labels is None else class_indices(labels, n_samples)
    reason = nonfinite_reason(matrix)
    if reason:
        nothing = Estimate.undefined(reason, n_samples=n_samples, n_units=n_units)
        return NoisyMI(
            input=nothing,
            label=None if classes is None else nothing,
            noise_std=noise_std,
            n_draws=0,
            seed=seed,
            n_distinct=0,
        )
    with one_blas_thread():
        mixture, n_distinct = _mixture(matrix, noise_std, classes)
        bounds = mixture_bounds(mixture)
        sampled = _sample(mixture, tolerance, max_draws, seed)
    report = _Report(bounds, sampled, tolerance, n_samples, n_units)
    return NoisyMI(
        input=report.input(ceiling),
        label=None if classes is None else report.label(mixture, ceiling),
        noise_std=noise_std,
        n_draws=sampled.n_draws if sampled else 0,
        seed=seed,
        n_distinct=n_distinct,
    )


def pairwise_bounds(activations: ArrayLike, noise_std: float) -> tuple[float, float]:
    """Return rigorous (lower, upper) bounds on I(X;T) in nats, without sampling.

    Parameters
    ----------
    activations
        Shape (n_samples, ...), finite activations.
    noise_std
        Standard deviation of the noise in activation units, positive.

    Raises
    ------
    UsageError
        If an argument cannot be right or an activation is not finite.

    References
    ----------
    A. Kolchinsky and B. D. Tracey, Entropy 19 (2017) 361, doi:10.3390/e19070361.
    """
    matrix = activation_matrix(activations)
    noise_std = _positive("noise_std", noise_std, kind=" is a standard deviation and")
    reason = nonfinite_reason(matrix)
    if reason:
        raise UsageError(
            what="activations are not finite", why=reason, fix="Leave out the samples concerned."
        )
    with one_blas_thread():
        bounds = mixture_bounds(_mixture(matrix, noise_std, None)[0])
    return bounds.lower, bounds.upper


def checked_ceiling(input_entropy: float | None, n_samples: int) -> float:
    """Return the ceiling of I(X;T), ln n or the entropy of the inputs, after checking the latter."""
    ceiling = log(n_samples)
    if input_entropy is None:
        return ceiling
    if not 0.0 <= input_entropy <= ceiling + 1e-9:
        raise UsageError(
            what=f"input_entropy is in nats and must be from 0 to ln n = {ceiling:.4f}, "
            f"got {input_entropy:g}",
            fix="Leave it out when no input occurs twice.",
        )
    return min(float(input_entropy), ceiling)


def _positive(name: str, value: float, kind: str = "") -> float:
    number = float(value) if np.isscalar(value) and not isinstance(value, str | bytes) else None
    if number is None:
        raise UsageError(what=f"{name}{kind} must be one number, got {value!r}")
    if not (isfinite(number) and number > 0):
        raise UsageError(what=f"{name}{kind} must be > 0, got {number:g}")
    return number


def _mixture(matrix: Matrix, noise_std: float, classes: Integers | None) -> tuple[Mixture, int]:
    """Collapse equal samples of equal class to weighted centres; also return the distinct rows."""
    groups = group_rows(matrix)
    n_distinct = len(groups.first)
    if n_distinct > 1 and noise_std < MIN_RELATIVE_NOISE * binary_scale(matrix):
        raise UsageError(
            what=f"noise_std {noise_std:g} is too small for activations of size {binary_scale(matrix):g}",
            why=f"their ratio is below {MIN_RELATIVE_NOISE:g}, and squared distances would overflow",
            fix="Choose noise of the order of the distances between activations.",
        )
    points = coordinates(matrix[groups.first], noise_std)
    if classes is None:
        weights = groups.counts.astype(np.float64)
        return Mixture(points, weights, np.array([0, n_distinct])), n_distinct
    pairs, counts = np.unique(classes * n_distinct + groups.inverse, return_counts=True)
    members = np.bincount(pairs // n_distinct)
    starts = np.concatenate([[0], np.cumsum(members)])
    return Mixture(points[pairs % n_distinct], counts.astype(np.float64), starts), n_distinct


def _sample(mixture: Mixture, tolerance: float, max_draws: int, seed: int) -> Sampled | None:
    """Sample the mixture; None where all centres coincide, or lie too far apart to be sampled in float64."""
    if mixture.radius == 0.0 or mixture.radius > DRAW_RADIUS:
        return None
    sampled = sample_terms(mixture, tolerance=tolerance, max_draws=max_draws, rng=noise_rng(seed))
    if sampled.mean.residual > log(mixture.n_samples) + 5.0 * sampled.residual_error + 1e-9:
        raise RepstatError(
            what="internal error: the mean residual exceeds ln n",
            why=f"{sampled.mean.residual:.6g} against {log(mixture.n_samples):.6g}",
            fix="Please report this with the data.",
        )
    return sampled


@dataclass(frozen=True, slots=True)
class _Report:
    """What may be claimed: values with their errors, bounds, ceilings, brackets and statuses."""

    bounds: PairwiseBounds
    sampled: Sampled | None
    tolerance: float
    n_samples: int
    n_units: int

    def input(self, ceiling: float) -> Estimate:
        """Return I(X;T)."""
        certain = self.bounds.upper - self.bounds.lower < CERTAIN
        if self.sampled is None:
            value = self.bounds.upper if certain else None
            above = 0.0 if self.bounds.upper == 0.0 and self.n_samples > 1 else None
        else:
            value = log(self.n_samples) - self.sampled.mean.residual
            above = self.sampled.mean.left_out
        return self._estimate(
            value,
            self.sampled.residual_error if self.sampled else 0.0,
            (self.bounds.lower, self.bounds.upper),
            ceiling,
            (value, above),
        )

    def label(self, mixture: Mixture, input_ceiling: float) -> Estimate:
        """Return I(Y;T); its bounds come from those of I(X;T) and I(X;T|Y)."""
        sizes = mixture.class_sizes
        share = sizes / mixture.n_samples
        entropy = float(-(share @ np.log(share))) if len(sizes) > 1 else 0.0
        ceiling = min(entropy, input_ceiling)
        upper = min(ceiling, self.bounds.label_upper)
        lower = min(self.bounds.label_lower, upper)
        value: float | None
        bracket: tuple[float | None, float | None] = (None, None)
        if len(sizes) == 1:
            value, error, lower, upper = 0.0, 0.0, 0.0, 0.0
        elif self.sampled is None:
            value, error = (upper if upper - lower < CERTAIN else None), 0.0
        else:
            value, error = self.sampled.mean.label, self.sampled.label_error
            below = None if sizes.min() < 2 else self.sampled.mean.label_lower
            bracket = (below, self.sampled.mean.label_upper)
        return self._estimate(value, error, (lower, upper), ceiling, bracket)

    def _estimate(
        self,
        value: float | None,
        error: float,
        bounds: tuple[float, float],
        ceiling: float,
        bracket: tuple[float | None, float | None],
    ) -> Estimate:
        if value is None:
            reason = (
                f"the activations spread over more than {DRAW_RADIUS:g} noise_std and some nearly coincide: "
                "float64 cannot resolve the noise; use a larger noise_std"
            )
            return Estimate.undefined(reason, n_samples=self.n_samples, n_units=self.n_units)
        status, reason = self._status(value, error, ceiling)
        return Estimate(
            value=value,
            std_error=error,
            lower_bound=bounds[0],
            upper_bound=bounds[1],
            ceiling=ceiling,
            status=status,
            reason=reason,
            population_lower=bracket[0],
            population_upper=bracket[1],
            n_samples=self.n_samples,
            n_units=self.n_units,
        )

    def _status(self, value: float, error: float, ceiling: float) -> tuple[Status, str]:
        if self.n_samples == 1:
            return Status.TOO_FEW_SAMPLES, "one sample carries no information"
        if saturates(value, ceiling):
            return Status.SATURATED, f"{value:.4f} is within 0.1 nat of the ceiling {ceiling:.4f}"
        if error > self.tolerance:
            return (
                Status.TOLERANCE_NOT_REACHED,
                f"the standard error {error:.2g} is above the tolerance {self.tolerance:g}",
            )
        return Status.OK, ""
