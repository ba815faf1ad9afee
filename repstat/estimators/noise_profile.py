"""The noise-scale profile: how many samples can be told apart through noise of many scales.

exp(I(X;T)), T = S + N(0, noise_std^2 I), X uniform on n samples, is the effective number of clusters at the
scale noise_std: n where the noise is small, 1 where it drowns all, and in between a plateau at the number of
clusters if there are any. I(X;T) is that of `repstat.noisy_mi`; all scales share one pass over its products.

References
----------
Z. Goldfeld et al., Estimating Information Flow in Deep Neural Networks, ICML 2019, arXiv:1810.05728 (the
information); M. O. Hill, Diversity and evenness: a unifying notation and its consequences, Ecology 54 (1973)
427, doi:10.2307/1934352 (its exponential as a number of kinds).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log

import numpy as np
from numpy.typing import ArrayLike

from repstat.arrays import activation_matrix, checked_integer, nonfinite_reason, random_rows
from repstat.errors import UsageError
from repstat.estimators.backend import Backend
from repstat.estimators.bounds import mixture_bounds
from repstat.estimators.claims import Report
from repstat.estimators.engines import Request, sample_mixture
from repstat.estimators.noisy_channel import DEFAULT_MAX_DRAWS, checked_positive, distinct_mixture
from repstat.results import Estimate
from repstat.threads import one_blas_thread

MAX_SAMPLES = 400
"""Samples told apart: enough for some hundred clusters, at a fraction of the cost of all."""

SCALES = tuple(10.0 ** (k / 3.0 - 2.5) for k in range(10))
"""Noise levels of a trajectory, over the layer's root mean square distance from the mean: 0.003 to 3."""

TOLERANCE = 0.05
"""Standard error (nats) of I(X;T): five percent of the number of clusters. It is mostly far below."""

_SMALLEST = float(np.finfo(np.float64).tiny)
_PRIVATE_KEY = (0x72657073, 0x70726F66)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseProfile:
    """Effective numbers of clusters over noise scales.

    Parameters
    ----------
    noise_std
        Standard deviations, in activation units.
    clusters
        exp(I(X;T)) at each, with standard error (to first order), bounds and ceiling, the number of samples;
        `saturated` where I(X;T) is within 0.1 nat of its ceiling.
    n_samples, n_total
        Samples told apart, and samples given.
    """

    noise_std: tuple[float, ...]
    clusters: tuple[Estimate, ...]
    n_samples: int
    n_total: int


def noise_profile(
    activations: ArrayLike,
    noise_std: Sequence[float],
    *,
    max_samples: int = MAX_SAMPLES,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    subset_seed: int | None = None,
) -> NoiseProfile:
    """Estimate the effective number of clusters at several noise scales.

    Parameters
    ----------
    activations
        Shape (n_samples, ...), noiseless activations of one layer at one checkpoint.
    noise_std
        Standard deviations of the noise in activation units, positive.
    max_samples
        Above this many samples a random subset is told apart. Numbers of clusters grow with the samples until
        each cluster has some: compare profiles of equally many.
    tolerance
        Standard error (nats) of I(X;T) at which sampling stops.
    seed
        Of the noise.
    subset_seed
        Of the subset; by default `seed`.

    Returns
    -------
    result
        Non-finite activations give estimates with status `undefined`.

    Raises
    ------
    UsageError
        If an argument cannot be right.
    """
    matrix = activation_matrix(activations)
    stds = tuple(checked_positive("noise_std", std) for std in noise_std)
    if stds and min(stds) < _SMALLEST:
        raise UsageError(
            what=f"noise_std {min(stds):g} is too small",
            why=f"it is below the smallest normal number, {_SMALLEST:.3g}",
            fix="Scale the activations.",
        )
    tolerance = checked_positive("tolerance", tolerance)
    checked_integer("seed", seed, 0)
    checked_integer("max_samples", max_samples, 2)
    n_total, n_units = matrix.shape
    reason = nonfinite_reason(matrix)
    subset_seed = seed if subset_seed is None else subset_seed
    matrix = matrix[random_rows(n_total, max_samples, subset_seed, _PRIVATE_KEY)]
    n_samples = len(matrix)
    if reason:
        nothing = Estimate.undefined(reason, n_samples=n_samples, n_units=n_units)
        clusters: list[Estimate] = [nothing] * len(stds)
    else:
        with one_blas_thread():
            mixture, scale, _ = distinct_mixture(matrix, stds, None)
            relative = [std / scale for std in stds]
            request = Request(
                mixture, tolerance, DEFAULT_MAX_DRAWS, seed, Backend.open("cpu"), quadrature=False
            )
            found = zip(mixture_bounds(mixture, relative), sample_mixture(request, relative), strict=True)
            clusters = [
                _exponential(Report(bound, sample, tolerance, n_samples, n_units).input(log(n_samples)))
                for bound, sample in found
            ]
    return NoiseProfile(noise_std=stds, clusters=tuple(clusters), n_samples=n_samples, n_total=n_total)


def _exponential(information: Estimate) -> Estimate:
    """Return the number of clusters that an information stands for."""

    def number(value: float | None) -> float | None:
        return None if value is None else exp(value)

    value, error = number(information.value), information.std_error
    return replace(
        information,
        value=value,
        std_error=None if value is None or error is None else value * error,
        lower_bound=number(information.lower_bound),
        upper_bound=number(information.upper_bound),
        ceiling=number(information.ceiling),
        population_lower=None,
        population_upper=None,
    )
