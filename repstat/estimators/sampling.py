"""Monte Carlo over a mixture until the standard errors are small enough.

Two designs, one formula for the error. Up to `MAX_STRATIFIED` distinct centres every centre is a stratum,
with draws in proportion to its weight: the spread between centres then adds nothing to the error. Above,
samples are drawn at random, without replacement within a batch, as a single stratum: the spread between
centres is part of the error, which is slightly overstated because nothing is taken off for the finite number
of samples.
"""

from dataclasses import dataclass

import numpy as np

from repstat.arrays import Floats, Integers
from repstat.estimators.mixture import Mixture, log_sums_of_others

MAX_STRATIFIED = 8192
"""Distinct centres up to which each of them is sampled (two pairs each: 4 n^2 exponents)."""

FIRST_PAIRS = 2048
"""Pairs of draws before the error is first believed: with fewer, a chance small variance stops the loop."""

BATCH_PAIRS = 2**16
"""Pairs per batch at most: some ten float64 each are kept while a batch is reduced."""

_PRIVATE_KEY = (0x72657073, 0x74617421)
"""Spawn key of the noise. Data made with default_rng(seed) must not share its stream with the noise: equal
numbers once put every sample onto another centre and made the residual exceed ln n."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Terms of a draw in nats; expectations over centres and noise are the estimates.

    Parameters
    ----------
    residual
        r >= 0 with I(X;T) = ln n - E r.
    label
        Log ratio with I(Y;T) = E label.
    left_out
        Residual of the leave-one-out entropy: ln(n - 1) - L.
    label_lower, label_upper
        The label term with one entropy left-one-out: within classes, or of the whole.
    """

    residual: float
    label: float
    left_out: float
    label_lower: float
    label_upper: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """Means of the terms, the errors of the first two, and how many draws were made."""

    mean: Terms
    residual_error: float
    label_error: float
    n_draws: int


def noise_rng(seed: int) -> np.random.Generator:
    """Return the generator of the measurement noise for a seed."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_PRIVATE_KEY))


class _Moments:
    """Counts, means and squared deviations of every term per stratum, merged batch by batch."""

    def __init__(self, n_strata: int) -> None:
        self.count = np.zeros(n_strata)
        self.mean = np.zeros((5, n_strata))
        self.deviation = np.zeros((5, n_strata))

    def add(self, strata: Integers, terms: Floats) -> None:
        """Add terms (5, n_pairs) that belong to the strata (n_pairs,)."""
        count = np.bincount(strata, minlength=len(self.count)).astype(np.float64)
        total = self.count + count
        filled = np.maximum(total, 1.0)
        for k, values in enumerate(terms):
            mean = np.bincount(strata, values, len(count)) / np.maximum(count, 1.0)
            squares = np.bincount(strata, (values - mean[strata]) ** 2, len(count))
            shift = mean - self.mean[k]
            self.deviation[k] += squares + shift**2 * self.count * count / filled
            self.mean[k] += shift * count / filled
        self.count = total

    def overall(self, share: Floats) -> Floats:
        """Return the means over all strata, weighted by `share` (n_strata,)."""
        return self.mean @ share

    def errors(self, share: Floats) -> Floats:
        """Return the standard errors of `overall`."""
        variance = self.deviation / np.maximum(self.count - 1.0, 1.0) / self.count
        return np.sqrt(variance @ share**2)


def sample_terms(mixture: Mixture, *, tolerance: float, max_draws: int, rng: np.random.Generator) -> Sampled:
    """Sample the mixture until both standard errors are at most `tolerance`, or `max_draws` is spent.

    Parameters
    ----------
    mixture
        At least two distinct centres.
    tolerance
        In nats.
    max_draws
        At least four.
    rng
        Source of the noise and of random subsets.
    """
    max_pairs = max_draws // 2
    strata = _Strata(mixture, max_pairs)
    moments = _Moments(len(strata.share))
    own = strata.first_batch(min(max(FIRST_PAIRS, 2 * len(strata.share)), max_pairs), rng)
    n_pairs = 0
    while True:
        moments.add(strata.of(own), _terms(mixture, own, rng))
        n_pairs += len(own)
        residual_error, label_error = moments.errors(strata.share)[:2]
        error = max(residual_error, label_error)
        # Five per cent more than the estimate asks for, or the last steps would be many and tiny.
        wanted = int(min(n_pairs * (1.05 * (error / tolerance) ** 2 - 1.0), BATCH_PAIRS)) + 1
        if error <= tolerance or n_pairs >= max_pairs:
            break
        own = strata.batch(min(max(wanted, 1), max_pairs - n_pairs), rng)
    mean = Terms(*(float(m) for m in moments.overall(strata.share)))
    return Sampled(mean, float(residual_error), float(label_error), 2 * n_pairs)


class _Strata:
    """Which components to draw from: every one in turn, or those of random samples."""

    def __init__(self, mixture: Mixture, max_pairs: int) -> None:
        every_one = mixture.n_points <= MAX_STRATIFIED and 2 * mixture.n_points <= max_pairs
        self._weights = mixture.weights.astype(np.int64)
        self._cumulative = np.cumsum(self._weights)
        self.share = mixture.weights / mixture.n_samples if every_one else np.ones(1)

    def of(self, own: Integers) -> Integers:
        """Return the stratum of each component in `own`."""
        return own if len(self.share) > 1 else np.zeros(len(own), dtype=np.int64)

    def first_batch(self, n_pairs: int, rng: np.random.Generator) -> Integers:
        """Return components for about `n_pairs` pairs of draws, every stratum at least twice."""
        if len(self.share) == 1:
            return self.batch(n_pairs, rng)
        twice = np.repeat(np.arange(len(self.share)), 2)
        return np.sort(np.concatenate([twice, self.batch(n_pairs - len(twice), rng)]))

    def batch(self, n_pairs: int, rng: np.random.Generator) -> Integers:
        """Return components, sorted, for at most `n_pairs` pairs in proportion to the weights."""
        n_samples = int(self._cumulative[-1])
        if len(self.share) == 1:
            samples = rng.choice(n_samples, min(n_pairs, n_samples), replace=False, shuffle=False)
        else:
            steps = (np.arange(n_pairs) + rng.random()) * (n_samples / max(n_pairs, 1))
            samples = np.minimum(steps.astype(np.int64), n_samples - 1)
        return np.searchsorted(self._cumulative, np.sort(samples), side="right").astype(np.int64)


def _terms(mixture: Mixture, own: Integers, rng: np.random.Generator) -> Floats:
    """Draw a pair of samples of each of `own` (sorted) and return mean terms, shape (5, n_pairs)."""
    everyone, same_class = log_sums_of_others(mixture, own, rng)
    n = mixture.n_samples
    n_class = mixture.class_sizes[mixture.class_of(own)]
    residual, class_residual = np.logaddexp(0.0, everyone), np.logaddexp(0.0, same_class)
    conditional = np.log(n_class) - class_residual
    left_out = np.log(n - 1.0) - everyone
    alone = np.isneginf(same_class)
    class_left_out = np.log(np.maximum(n_class - 1.0, 1.0)) - np.where(alone, 0.0, same_class)
    plug_in = np.log(n) - residual
    terms = [residual, plug_in - conditional, left_out, plug_in - class_left_out, left_out - conditional]
    return np.stack([term.mean(axis=0) for term in terms])
