"""What is sampled of a noisy network: the terms of inputs whose conditional density is a mixture itself.

Every input j has a density p_j, the mean of N(s, b^2) over the activations s that were recorded in R noisy
passes. Of some inputs i there are C passes more (the repeated ones); these make up p_i where a sample t is
drawn from it, and enter the marginal in the place of the recorded ones:

    p(t) = [ p_i(t) + sum_{j != i} p_j(t) ] / m.

Since p_i is a part of p, ln p_i(t) / p(t) never exceeds ln m. Estimated from separate samples for the two
densities it would be far above. About a centre s of p_i all densities are log-sums of a mixture of two parts,

    A = sum over other samples of both parts,  B = sum over the other centres of i,

where the recorded centres weigh C / R; the kernels of `factorised` and `neighbours` compute both.

References
----------
Z. Goldfeld et al., Estimating Information Flow in Deep Neural Networks, ICML 2019, arXiv:1810.05728.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log, sqrt

import numpy as np

from repstat.arrays import Floats, Integers, Matrix
from repstat.estimators.backend import Backend
from repstat.estimators.factorised import ROW_RADIUS, Factorised
from repstat.estimators.mixture import (
    TILE_ELEMENTS,
    LogSums,
    Mixture,
    exact_log_sums,
    half_distances,
    log_sum_exp,
    slices,
)
from repstat.estimators.neighbours import near_log_sums, reach
from repstat.estimators.sampling import Found

SOURCES = 64
"""Realizations of a repeated input that samples are drawn about at a time."""

MAX_COMPARED = 2**14
"""Inputs up to which each is compared with all others beforehand."""

LEFT_OUT_ROWS, LEFT_OUT_NOISES = 3, 2
"""Realizations and noises for which the input is left out of the marginal."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Positions of the terms of a `ChannelMeasure`; all are means over inputs and noise, in nats.

    The first two are those that the tolerance is for: I(X;T) = ln m - `RESIDUAL`, I(Y;T) = H(Y) -
    `EQUIVOCATION`, which is H(Y|T): no term is negative, so neither information is above its entropy whatever
    inputs were repeated. `CONDITIONAL` is h(T|X) - h(Z) of the estimated channel. `LINEARISED` is ln m -
    I(X;T) where h(T|X) is that of Gaussians of the realizations' covariance, which is never smaller.
    """

    RESIDUAL = 0
    EQUIVOCATION = 1
    CONDITIONAL = 2
    LINEARISED = 3


@dataclass(frozen=True)
class Channel:
    """The estimated channel: recorded activations of all inputs, and more of some.

    Parameters
    ----------
    recorded
        Shape (m, R, d), float64.
    repeated
        Shape (k,): which inputs have more realizations.
    realizations
        k arrays of shape (C, d), any floating dtype, in the same units.
    classes
        Shape (m,), from 0 without gaps; all zero without labels.
    """

    recorded: Floats
    repeated: Integers
    realizations: Sequence[Matrix]
    classes: Integers

    @property
    def n_inputs(self) -> int:
        """Inputs, m."""
        return len(self.recorded)

    @property
    def n_recorded(self) -> int:
        """Realizations of every input, R."""
        return int(self.recorded.shape[1])

    @property
    def n_conditional(self) -> int:
        """Realizations of the repeated inputs, C."""
        return len(self.realizations[0])

    @cached_property
    def class_sizes(self) -> Floats:
        """Inputs per class."""
        return np.bincount(self.classes).astype(np.float64)

    @property
    def surprise(self) -> Floats:
        """Of every input -ln of the share of its class; the mean is H(Y)."""
        return np.asarray(np.log(self.n_inputs / self.class_sizes)[self.classes])

    def halved(self) -> "Channel":
        """Return the channel from half the realizations of both kinds, at least one."""
        return Channel(
            self.recorded[:, : max(1, self.n_recorded // 2)],
            self.repeated,
            [some[: max(1, len(some) // 2)] for some in self.realizations],
            self.classes,
        )


@dataclass(frozen=True, slots=True)
class ChannelMeasure:
    """Measures repeated inputs, one a slot: `Terms`, and as extras what leaving out adds.

    The extras are of the input's first noises: what h(T) gains without the input, h(T|Y) without it, and
    h(T|X) without the realization that a sample is drawn about; then of the first two terms the variance
    between these realizations. Each time an input is met, other realizations are the sources of samples.

    Parameters
    ----------
    channel
        The densities.
    n_sources
        Realizations that samples are drawn about at a time.
    order
        Shape (n_slots,): which of the repeated inputs a slot is.
    bias
        What skipping far centres may cost, in nats.
    backend
        Where products are computed.
    n_visits
        Shape (n_slots,): how often each slot was met, counted here.
    with_gaps
        Whether what leaving out adds is wanted, which takes as long as the rest.
    """

    channel: Channel
    n_sources: int
    order: Integers
    bias: float
    backend: Backend
    n_visits: Integers
    with_gaps: bool

    def __call__(self, slot: int, noise: Floats, stds: Sequence[float], first: bool) -> list[Found]:
        """Return what a slot finds."""
        which, n_conditional = int(self.order[slot]), self.channel.n_conditional
        start = int(self.n_visits[slot]) * self.n_sources
        members = np.sort(np.arange(start, start + self.n_sources) % n_conditional)
        self.n_visits[slot] += 1
        return [self._found(which, members, noise, std, first=first) for std in stds]

    def _found(self, which: int, members: Integers, noise: Floats, std: float, *, first: bool) -> Found:
        channel = self.channel
        own = np.asarray(channel.realizations[which], np.float64)
        centre = own.mean(axis=0)
        own = own - centre
        i = int(channel.repeated[which])
        mixture, place = self._mixture(i, own, centre, std)
        sums = self._log_sums(mixture, members + place, noise, std)
        alone = Mixture(own, np.ones(len(own)), np.array([0, len(own)]))
        within = self._log_sums(alone, members, noise, std).everyone
        everyone, inside = np.logaddexp(0.0, sums.everyone), np.logaddexp(0.0, within)
        # ln p(y|t) is not above zero, but for rounding and what was skipped.
        equivocation = np.maximum(everyone - np.logaddexp(0.0, sums.same_class), 0.0)
        log_c = log(len(own))
        residual = everyone - inside
        excess = gaussian_excess(own, std)
        terms = np.stack(
            [
                residual.mean(axis=0),
                equivocation.mean(axis=0),
                log_c - inside.mean(axis=0),
                everyone.mean(axis=0) - log_c + excess,
            ]
        )
        if not first:
            return Found(terms, np.empty(0))
        between = [_variance(term.mean(axis=1)) for term in (residual, equivocation)]
        gaps = self._gaps(i, own, centre, members, noise, std) if self.with_gaps else np.full(3, np.nan)
        return Found(terms, np.append(gaps, between))

    def _mixture(self, i: int, own: Floats, centre: Floats, std: float) -> tuple[Mixture, int]:
        """Return the centres that count for an input, about `centre`, and where its own ones begin."""
        channel = self.channel
        n_recorded, log_pairs = channel.n_recorded, channel.n_inputs * sqrt(channel.n_recorded * len(own))
        far = radius(own) + reach(log_pairs, self.bias) * std
        near = -2.0 * std**2 * _log_kernels(channel.recorded, centre[None], std)[0] <= far**2
        near[i] = False
        own_class = int(channel.classes[i])
        parts, weights, place = list[Floats](), list[Floats](), 0
        for c in range(len(channel.class_sizes)):
            points = channel.recorded[near & (channel.classes == c)[:, None]] - centre
            weights.append(np.full(len(points), len(own) / n_recorded))
            if c == own_class:
                place = sum(len(part) for part in parts) + len(points)
                points = np.concatenate([points, own])
                weights.append(np.ones(len(own)))
            parts.append(points)
        starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        return Mixture(np.concatenate(parts), np.concatenate(weights), starts), place

    def _log_sums(self, mixture: Mixture, rows: Integers, noise: Floats, std: float) -> LogSums:
        """Return log-sums by the product, or where the realizations lie too far apart by neighbours."""
        if radius(mixture.points[rows]) <= ROW_RADIUS * std:
            (sums,) = Factorised(mixture, backend=self.backend).log_sums(rows, noise, [std])
            return sums or exact_log_sums(mixture, rows, noise, std)
        # ln(1 + w t) <= sqrt(w t): light centres count for more than their weight.
        lightest = min(1.0, float(mixture.weights.min()))
        return near_log_sums(mixture, rows, noise, std, self.bias * sqrt(lightest))

    def _gaps(
        self, i: int, own: Floats, centre: Floats, members: Integers, noise: Floats, std: float
    ) -> Floats:
        """Return what leaving out adds to h(T), h(T|Y) and h(T|X), exactly, from a few samples."""
        channel = self.channel
        some = members[:: -(-len(members) // LEFT_OUT_ROWS)]
        samples = own[some][:, None] + std * noise[None, :LEFT_OUT_NOISES]
        samples = samples.reshape(-1, own.shape[1])
        others = channel.classes == channel.classes[i]
        log_r = log(channel.n_recorded)
        densities = _log_kernels(channel.recorded, samples + centre, std)
        densities[:, i] = -np.inf
        same = log_sum_exp(densities[:, others].reshape(len(samples), -1)) - log_r
        everyone = log_sum_exp(densities.reshape(len(samples), -1)) - log_r
        inside = _log_kernels(own[None], samples, std)[:, 0]
        mine = log_sum_exp(inside.copy()) - log(len(own))
        m, n_class = channel.n_inputs, channel.class_sizes[channel.classes[i]]
        gaps = np.full(3, np.nan)
        gaps[0] = _gap(np.logaddexp(everyone, mine) - log(m), everyone - log(max(m - 1, 1)))
        gaps[1] = _gap(np.logaddexp(same, mine) - log(n_class), same - log(max(n_class - 1, 1)))
        if len(own) > 1:
            inside[np.arange(len(samples)), np.repeat(some, len(samples) // len(some))] = -np.inf
            gaps[2] = _gap(mine, log_sum_exp(inside) - log(len(own) - 1))
        return gaps


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the mean activations of all inputs tell of each one.

    Parameters
    ----------
    log_densities
        Shape (m, 3): how crowded it is. The logarithm of the sum of normal kernels over all inputs; their
        width is the noise together with the mean spread of realizations, times 1, 2 and 4.
    doubt
        Shape (m,): -ln of the share that the own class has in the sum of the second width, in nats. It is
        about what the input adds to H(Y|T).
    """

    log_densities: Floats
    doubt: Floats

    @classmethod
    def of(cls, channel: Channel, noise_std: float) -> "Surroundings | None":
        """Compare each input with all others; None for very many."""
        if channel.n_inputs > MAX_COMPARED:
            return None
        points = channel.recorded.mean(axis=1)
        points = points - points.mean(axis=0)
        own = [np.asarray(some, np.float64).var(axis=0).mean() for some in channel.realizations]
        width = sqrt(noise_std**2 + float(np.mean(own)))
        mixture = Mixture(points, np.ones(len(points)), np.array([0, len(points)]))
        found, doubt = np.empty((len(points), 3)), np.empty(len(points))
        for rows in slices(len(points), max(1, TILE_ELEMENTS // len(points))):
            squares = half_distances(mixture, rows, width)
            for k, scale in enumerate((1.0, 2.0, 4.0)):
                found[rows, k] = log_sum_exp(-squares / (scale * width) ** 2)
            squares[channel.classes[rows, None] != channel.classes] = np.inf
            doubt[rows] = found[rows, 1] - log_sum_exp(-squares / (2.0 * width) ** 2)
        return cls(found, np.maximum(doubt, 0.0))

    def missed(self, some: Integers) -> float:
        """Return how much more `doubt` varies over all inputs than over `some`, in nats squared.

        Inputs between the classes may be so few that none was repeated: then nothing that was sampled
        tells of them, and an error from it alone would be zero.
        """
        return max(0.0, float(self.doubt.var() - self.doubt[some].var()))


def radius(points: Floats) -> float:
    """Return the largest distance of a point from the origin."""
    return sqrt(float(np.einsum("ij,ij->i", points, points).max(initial=0.0)))


def gaussian_excess(centred: Floats, std: float) -> float:
    """Return an upper bound on h(T|x) - h(Z): that of a Gaussian of the covariance of the realizations.

    Half the log-determinant from C realizations is too small, to first order by
    (tr^2 M + tr M^2) / (4 (C - 1)) where M = (S + b^2)^-1 S for their covariance S; this is added.

    Parameters
    ----------
    centred
        Shape (C, d), realizations of one input less their mean.
    std
        Standard deviation of the noise, in the same units.
    """
    if len(centred) < 2:
        return 0.0
    singular = np.linalg.svd(centred / std, compute_uv=False)
    eigenvalues = singular**2 / (len(centred) - 1)
    ratio = eigenvalues / (1.0 + eigenvalues)
    correction = (ratio.sum() ** 2 + np.square(ratio).sum()) / (4.0 * (len(centred) - 1))
    return float(0.5 * np.log1p(eigenvalues).sum() + correction)


def _log_kernels(centres: Floats, samples: Floats, std: float) -> Floats:
    """Return -|t - s|^2 / (2 b^2), shape (n_samples, *centres.shape[:-1])."""
    found = np.empty((len(samples), *centres.shape[:-1]))
    for some in slices(len(centres), max(1, 4 * TILE_ELEMENTS // centres[0].size)):
        for at, sample in enumerate(samples):
            offset = (centres[some] - sample) / std
            found[at, some] = -0.5 * np.einsum("...d,...d->...", offset, offset)
    return found


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def _gap(whole: Floats, left_out: Floats) -> float:
    """Return E -ln of the density that leaves out, less that of the whole; infinite where nothing is left."""
    return float(np.mean(whole - left_out))
