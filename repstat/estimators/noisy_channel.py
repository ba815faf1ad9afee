"""Mutual information through measurement noise: I(X;T) and I(Y;T) for T = S + N(0, noise_std^2 I).

The gate of the method: it checks arguments and prepares the mixture. The mathematics is in `mixture` (what
is drawn), `engines` (how it is computed fast: `grid`, `factorised`, `neighbours`), `sampling` (how much is
drawn) and `bounds` (without draws); `claims` says what may be claimed. `noisy_mi` is long by its
documentation.

References
----------
Z. Goldfeld et al., Estimating Information Flow in Deep Neural Networks, ICML 2019, arXiv:1810.05728.
Z. Goldfeld et al., Convergence of Smoothed Empirical Measures with Applications to Entropy Estimation,
IEEE Trans. Inf. Theory 66 (2020) 4368, doi:10.1109/TIT.2020.2975480, arXiv:1905.13576.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from repstat.arrays import (
    Floats,
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
from repstat.estimators.backend import Backend
from repstat.estimators.bounds import PairwiseBounds, mixture_bounds
from repstat.estimators.claims import Report
from repstat.estimators.engines import Request, sample_mixture
from repstat.estimators.mixture import Mixture, coordinates
from repstat.estimators.mixture_terms import MixtureTerms
from repstat.results import Estimate
from repstat.threads import one_blas_thread

DEFAULT_MAX_DRAWS = 2**24

MAX_BOUND_POINTS = 2**15
"""Distinct centres up to which every pair is met for the bounds: some seconds."""

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


@overload
def noisy_mi(
    activations: ArrayLike,
    noise_std: float,
    *,
    labels: ArrayLike | None = ...,
    tolerance: float = ...,
    seed: int = ...,
    max_draws: int = ...,
    input_entropy: float | None = ...,
    device: str = ...,
) -> NoisyMI: ...


@overload
def noisy_mi(
    activations: ArrayLike,
    noise_std: Sequence[float],
    *,
    labels: ArrayLike | None = ...,
    tolerance: float = ...,
    seed: int = ...,
    max_draws: int = ...,
    input_entropy: float | None = ...,
    device: str = ...,
) -> list[NoisyMI]: ...


def noisy_mi(
    activations: ArrayLike,
    noise_std: float | Sequence[float],
    *,
    labels: ArrayLike | None = None,
    tolerance: float = 0.01,
    seed: int = 0,
    max_draws: int = DEFAULT_MAX_DRAWS,
    input_entropy: float | None = None,
    device: str = "cpu",
) -> NoisyMI | list[NoisyMI]:
    """Estimate I(X;T) and I(Y;T) of a layer whose activations are read through Gaussian noise.

    The network is deterministic and T = S + Z with Z ~ N(0, noise_std^2 I) is a measurement of its stored
    activations S at a chosen scale. The value is unbiased for the stored samples and never clamped.

    Parameters
    ----------
    activations
        Shape (n_samples, ...), noiseless activations of one layer at one checkpoint; axes after the first
        are units. Any floating dtype; distances are computed in float64.
    noise_std
        Standard deviation of the noise in activation units, positive; or several, which share what they can
        and give the numbers that each gives alone.
    labels
        Shape (n_samples,), classes as integers, booleans or strings.
    tolerance
        Standard error (nats) at which sampling stops.
    seed
        Of the noise; equal arguments give equal results.
    max_draws
        Samples of the noise at most, for each noise_std; if they do not suffice the status is
        `tolerance_not_reached`.
    input_entropy
        H(X) in nats where inputs repeat and it is below ln n; lowers the ceiling.
    device
        ``cpu`` or ``cuda`` (torch or cupy; never a silent fallback).

    Returns
    -------
    result
        With value, standard error, rigorous pairwise bounds, ceiling, population bracket and status; a list
        of them for several noise_std. Overlaps too rare for any draw to meet are in no standard error, but
        within the bounds. In up to three dimensions the value is an integral where it can be, and its
        standard error that of the quadrature. Non-finite activations give estimates with status
        `undefined`. The bounds are left out (None) above 32,768 distinct samples.

    Raises
    ------
    UsageError
        If an argument cannot be right, or the device is not there.
    RepstatError
        If the result contradicts itself, which is a bug.

    Notes
    -----
    Time grows as n_distinct^2 * n_units up to some thousand distinct samples, and as n_distinct * n_units
    above 32,768; memory is about five times the input in float64, and some tens of MB.
    """
    matrix = activation_matrix(activations)
    n_samples, n_units = matrix.shape
    several = isinstance(noise_std, list | tuple | np.ndarray)
    if several and np.size(noise_std) == 0:
        raise UsageError(what="noise_std is empty", fix="Name at least one standard deviation.")
    stds = [_noise_std(std) for std in np.ravel(np.asarray(noise_std, object)).tolist()]
    tolerance = checked_positive("tolerance", tolerance)
    checked_integer("seed", seed, 0)
    checked_integer("max_draws", max_draws, 16)
    ceiling = checked_ceiling(input_entropy, n_samples)
    classes = None if labels is None else class_indices(labels, n_samples)
    backend = Backend.open(device)
    reason = nonfinite_reason(matrix)
    if reason:
        nothing = Estimate.undefined(reason, n_samples=n_samples, n_units=n_units)
        label = None if classes is None else nothing
        found = [
            NoisyMI(input=nothing, label=label, noise_std=std, n_draws=0, seed=seed, n_distinct=0)
            for std in stds
        ]
        return found if several else found[0]
    with one_blas_thread():
        mixture, scale, n_distinct = distinct_mixture(matrix, stds, classes)
        relative = [std / scale for std in stds]
        bounds = _bounds(mixture, relative)
        sampled = sample_mixture(Request(mixture, tolerance, max_draws, seed, backend), relative)
    found = []
    for std, bound, sample in zip(stds, bounds, sampled, strict=True):
        _check(sample, n_samples)
        report = Report(bound, sample, tolerance, n_samples, n_units)
        found.append(
            NoisyMI(
                input=report.input(ceiling),
                label=None if classes is None else report.label(mixture.class_sizes, ceiling),
                noise_std=std,
                n_draws=sample.n_draws if sample else 0,
                seed=seed,
                n_distinct=n_distinct,
            )
        )
    return found if several else found[0]


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
    std = _noise_std(noise_std)
    reason = nonfinite_reason(matrix)
    if reason:
        raise UsageError(
            what="activations are not finite", why=reason, fix="Leave out the samples concerned."
        )
    with one_blas_thread():
        mixture, scale, _ = distinct_mixture(matrix, [std], None)
        (bounds,) = mixture_bounds(mixture, [std / scale])
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


def _noise_std(value: float) -> float:
    return checked_positive("noise_std", value, kind=" is a standard deviation and")


def checked_positive(name: str, value: float, kind: str = "") -> float:
    """Return one positive finite number after checking that it is one."""
    number = float(value) if np.isscalar(value) and not isinstance(value, str | bytes) else None
    if number is None:
        raise UsageError(what=f"{name}{kind} must be one number, got {value!r}")
    if not (isfinite(number) and number > 0):
        raise UsageError(what=f"{name}{kind} must be > 0, got {number:g}")
    return number


def distinct_mixture(
    matrix: Matrix, stds: Sequence[float], classes: Integers | None
) -> tuple[Mixture, float, int]:
    """Collapse equal samples of equal class to weighted centres.

    Returns
    -------
    mixture, scale, n_distinct
        The points are in units of `scale`; `n_distinct` counts the distinct rows of the matrix.
    """
    groups = group_rows(matrix)
    n_distinct = len(groups.first)
    scale = binary_scale(matrix)
    smallest = min(stds, default=1.0)
    if n_distinct > 1 and smallest < MIN_RELATIVE_NOISE * scale:
        raise UsageError(
            what=f"noise_std {smallest:g} is too small for activations of size {scale:g}",
            why=f"their ratio is below {MIN_RELATIVE_NOISE:g}, and squared distances would overflow",
            fix="Choose noise of the order of the distances between activations.",
        )
    points = coordinates(matrix[groups.first], scale)
    rank = _canonical_rank(points)
    if classes is None:
        classes = np.zeros(len(matrix), np.int64)
    pairs, counts = np.unique(classes * n_distinct + rank[groups.inverse], return_counts=True)
    starts = np.concatenate([[0], np.cumsum(np.bincount(pairs // n_distinct))])
    sorted_points = points[np.argsort(rank)]
    return (
        Mixture(sorted_points[pairs % n_distinct], counts.astype(np.float64), starts),
        scale or 1.0,
        n_distinct,
    )


def _canonical_rank(points: Floats) -> Integers:
    """Return the place of each centre along the leading axes.

    The order, and so the noise that a centre meets, stays when activations are shifted, scaled or stored in
    another precision: what these round is rounded off here.
    """
    keys = np.round(points[:, :4] * (2.0**26 / max(np.abs(points).max(initial=0.0), 1e-300)))
    rank = np.empty(len(points), np.int64)
    rank[np.lexsort(keys.T[::-1]) if keys.size else np.arange(len(points))] = np.arange(len(points))
    return rank


def _bounds(mixture: Mixture, stds: Sequence[float]) -> list[PairwiseBounds | None]:
    if mixture.n_points > MAX_BOUND_POINTS:
        return [None] * len(stds)
    return list(mixture_bounds(mixture, stds))


def _check(sampled: MixtureTerms | None, n_samples: int) -> None:
    """Raise an error if a result contradicts itself."""
    if sampled and sampled.residual > log(n_samples) + 5.0 * sampled.residual_error + 1e-6:
        raise RepstatError(
            what="internal error: the mean residual exceeds ln n",
            why=f"{sampled.residual:.6g} against {log(n_samples):.6g}",
            fix="Please report this with the data.",
        )
