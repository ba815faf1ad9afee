"""Randomised quasi-Monte Carlo over slots of rows until the standard errors are small enough.

Rows of centres are dealt into slots; a slot meets noises that its rows share (what it finds there is the
business of a `Measure`, in `mixture_terms` and `channel`). The slots walk along Sobol sequences: each takes
the next few points, so that the noise which all slots met is spread as evenly as that of one. Two sources of
error are told apart:

- the *noise*: everything is done with `REPLICATES` independent sequences, and their results differ;
- the *rows*, as long as not all slots were visited: the slots differ. Once all were, this part is gone.

Where the error is too large, the slots go on along the sequences, for as long as they have come: the noise
gets denser, and the error falls faster than with the root of the draws.

References
----------
A. B. Owen, Monte Carlo variance of scrambled net quadrature, SIAM J. Numer. Anal. 34 (1997) 1884,
doi:10.1137/S0036142994277468.
W. G. Cochran, Sampling Techniques, 3rd ed. (Wiley, 1977), section 10.4 (two-stage sampling).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np
from scipy.special import ndtri, stdtrit

from repstat.arrays import Floats
from repstat.estimators.quasirandom import NoiseDesign
from repstat.estimators.slots import MIN_SLOTS, Slots

REPLICATES = 16
"""Independent sequences: fewer make denser ones, but an error that is itself too uncertain."""

FIRST_POINTS, FIRST_FINE_POINTS = 2, 8
"""Points of each sequence for a slot at its first visit: for a coarse and a fine tolerance."""

FINE = 0.004
"""Tolerance (nats) below which the second holds."""

LEAST_POINTS = 128
"""Points of each sequence, of all slots together, before an error is believed."""

MAX_NOISES = 512
"""Noises of one call of the kernel: bounds memory."""

SLOTS_PER_COVARIATE = 8
"""Slots for each covariate that is used: its coefficient is estimated, too."""

MOST_LEVERAGE = 20.0
"""Squared distance of the slots' covariates from those of all rows, in standard errors of their mean: as many
as there are covariates on average, and above this once in some thousand times where slots are typical."""

COLLINEAR = 1e-6
"""Covariates that vary less than this beside others are not told apart."""

MOST_DRAWN = 0.9
"""How much of its own residual a slot may explain: above this it is the regression alone."""

FUTILE = 0.1
"""Share of the variance by rows: once all slots were visited and noise adds less than this, it is enough."""

CHECK_SLOTS = 8
"""Slots between two looks at the error while not all slots were visited."""

_PRIVATE_KEY = (0x72657073, 0x74617421)
"""Spawn key of the noise. Data made with default_rng(seed) must not share its stream with the noise: equal
numbers once put every sample onto another centre and made the residual exceed ln n."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a slot found with some noises at one noise standard deviation.

    Parameters
    ----------
    terms
        Shape (n_terms, n_noises): averages over the rows of the slot, in nats.
    extras
        Shape (n_extras,): numbers of less importance, for the first noises only and without an error.
    """

    terms: Floats
    extras: Floats


Measure = Callable[[int, Floats, Sequence[float], bool], list[Found]]
"""Of a slot and noises, for several standard deviations; whether these are the first noises of the slot."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """Means of the terms (n_terms,), their standard errors, means of the extras, and the number of draws."""

    means: Floats
    errors: Floats
    extras: Floats
    n_draws: int


def noise_rng(seed: int, stream: int = 0) -> np.random.Generator:
    """Return a generator of the measurement noise for a seed; streams are independent."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(*_PRIVATE_KEY, stream)))


@dataclass(slots=True)
class _Record:
    """What was found at one noise standard deviation, slot by slot.

    Parameters
    ----------
    sums
        For each visited slot, shape (n_terms, n_replicates): the terms, summed over its noises.
    n_points
        For each visited slot, the noises of one replicate.
    extras
        For each visited slot, shape (n_extras,).
    n_draws
        Rows times noises.
    done
        The tolerance is reached.
    """

    sums: list[Floats] = field(default_factory=list)
    n_points: list[int] = field(default_factory=list)
    extras: list[Floats] = field(default_factory=list)
    n_draws: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """How many replicates, and how many points of each a slot meets at first, so that the draws suffice."""

    n_replicates: int
    n_points: int

    @classmethod
    def fit(cls, tolerance: float, max_draws: int, wanted: int, least: int) -> "Budget":
        """Return what fits `max_draws`.

        Parameters
        ----------
        tolerance
            In nats.
        max_draws
            Rows times noises.
        wanted, least
            Rows that are to be visited if possible, and in any case.
        """
        n_points = FIRST_FINE_POINTS if tolerance < FINE else FIRST_POINTS
        while n_points > 1 and REPLICATES * n_points * wanted > max_draws:
            n_points //= 2
        n_replicates = REPLICATES
        while n_replicates > 2 and n_replicates * n_points * least > max_draws:
            n_replicates //= 2
        return cls(n_replicates, n_points)

    @property
    def n_noises(self) -> int:
        """Noises that a slot meets at first."""
        return self.n_replicates * self.n_points


class Sampler:
    """Visit slots until the standard errors of two terms are at most `tolerance`, or `max_draws` is spent.

    Parameters
    ----------
    slots
        What is visited.
    measure
        What is found there: two terms that the tolerance is for, and perhaps more.
    stds
        Noise standard deviations, in the units of the points. They share the noise, and the result for
        each is what it would be alone.
    points
        Shape (n_points, n_axes): the centres, whose widest directions get the most even noise.
    budget
        Replicates and first points.
    tolerance
        In nats; infinite for one look at `MIN_SLOTS` slots.
    max_draws
        For each noise standard deviation, at least 16.
    rng
        Source of all randomness.
    share
        Of the rows that the result is about, how much is in the slots.
    covariates
        Shape (n_slots, n_covariates): what is known of all rows that the result is about, and explains some
        of the difference between slots; less the mean over all those rows. The first are used first.
    """

    def __init__(
        self,
        slots: Slots,
        measure: Measure,
        stds: Sequence[float],
        points: Floats,
        budget: Budget,
        *,
        tolerance: float,
        max_draws: int,
        rng: np.random.Generator,
        share: float = 1.0,
        covariates: Floats | None = None,
    ) -> None:
        self._slots, self._measure, self._stds = slots, measure, stds
        self._tolerance, self._max_draws, self._rng = tolerance, max_draws, rng
        self._share, self._covariates = share, covariates
        self._n_slots, self._n_replicates = len(slots.members), budget.n_replicates
        self._pass_size = sum(map(len, slots.members)) * budget.n_replicates
        n_points = budget.n_points
        while n_points * self._n_slots < LEAST_POINTS and 2 * n_points * self._pass_size <= max_draws:
            n_points *= 2
        self._n_points = n_points
        self._design = NoiseDesign(points, budget.n_replicates, rng)
        self._records = [_Record() for _ in stds]

    def run(self) -> list[Sampled]:
        """Return what was sampled, one for each of the standard deviations."""
        self._first_round()
        n_points = self._n_points
        # Every round doubles the noises, whatever the error: so none depends on what it was.
        while any(len(r.sums) == self._n_slots and not r.done for r in self._records):
            if 2 * n_points * self._pass_size > self._max_draws:
                break
            # In another order, lest a slot meets the same stretch of the leading axes again.
            for slot in np.lexsort((self._rng.random(self._n_slots), self._slots.group)).tolist():
                self._visit(slot, n_points)
            self._look()
            n_points *= 2
        return [self._sampled(record) for record in self._records]

    def _first_round(self) -> None:
        """Visit the slots until the errors are small enough or `max_draws` is spent."""
        needed = self._n_slots if self._slots.all_needed else min(MIN_SLOTS, self._n_slots)
        spent = 0
        for slot, members in enumerate(self._slots.members):
            spent += len(members) * self._n_points * self._n_replicates
            if spent > self._max_draws:
                break
            self._visit(slot, self._n_points)
            seen = slot + 1
            if seen >= needed and (seen - needed) % CHECK_SLOTS == 0:
                self._look()
            if all(record.done for record in self._records):
                break
        self._look()

    def _look(self) -> None:
        """Note which standard deviations have reached the tolerance, or will not by more noise."""
        for record in self._records:
            if record.done or not record.sums:
                continue
            _, noise, rows = self._means(record)
            reached = noise + rows <= self._tolerance**2
            # Each term by itself: one that is precise already need not wait for noise that helps neither.
            futile = (len(record.sums) == self._n_slots) & (noise <= FUTILE * rows) & (rows > 0.0)
            record.done = bool((reached | futile)[:2].all())

    def _visit(self, slot: int, n_points: int) -> None:
        """Let a slot meet the next points of every sequence."""
        at_once = min(n_points, MAX_NOISES // self._n_replicates)
        for _ in range(n_points // at_once):
            noise = self._design.draw(at_once)
            active = [k for k, record in enumerate(self._records) if not record.done]
            first = any(slot == len(self._records[k].sums) for k in active)
            found = self._measure(slot, noise, [self._stds[k] for k in active], first)
            for k, one in zip(active, found, strict=True):
                self._note(slot, self._records[k], one, first=first)

    def _note(self, slot: int, record: _Record, found: Found, *, first: bool) -> None:
        """Add what a slot found at one noise standard deviation."""
        n_terms, n_noises = found.terms.shape
        if first:
            record.sums.append(np.zeros((n_terms, self._n_replicates)))
            record.n_points.append(0)
            record.extras.append(found.extras)
        record.sums[slot] += found.terms.reshape(n_terms, self._n_replicates, -1).sum(axis=2)
        record.n_points[slot] += n_noises // self._n_replicates
        record.n_draws += len(self._slots.members[slot]) * n_noises

    def _means(self, record: _Record) -> tuple[Floats, Floats, Floats]:
        """Return the means of the terms, and the variances of these by noise and by rows that are not in."""
        table = np.stack(record.sums) / np.array(record.n_points)[:, None, None]
        n_visited, n_replicates = len(table), self._n_replicates
        replicates = np.tensordot(self._weights(n_visited), table, axes=1)
        noise = replicates.var(axis=1, ddof=1) / n_replicates * _widening(n_replicates) ** 2
        means, rows = replicates.mean(axis=1), np.zeros_like(noise)
        unseen = 1.0 - self._share * n_visited / self._n_slots
        if unseen > 0.0:
            in_slots = table.var(axis=2, ddof=1).mean(axis=0) / n_replicates
            of_slots = table.mean(axis=2)
            n_used = n_visited // SLOTS_PER_COVARIATE
            if self._covariates is not None and n_used > 0:
                means, of_slots, penalty = _explained_away(of_slots, self._covariates[:n_visited, :n_used])
                unseen *= penalty
            rows = unseen * _between(of_slots, in_slots) / n_visited
        return means, noise, rows

    def _weights(self, n_visited: int) -> Floats:
        """Return the weight of each visited slot; those that were not visited are like the others."""
        if n_visited == self._n_slots:
            return self._slots.shares
        return np.full(n_visited, 1.0 / n_visited)

    def _sampled(self, record: _Record) -> Sampled:
        means, noise, rows = self._means(record)
        extras = self._weights(len(record.sums)) @ np.array(record.extras)
        return Sampled(means, np.sqrt(noise + rows), extras, record.n_draws)


def _widening(n_replicates: int) -> float:
    """Return by what an error from few replicates is widened: 1.96 of it then cover 95 per cent.

    Student's quantile, with two thirds of the usual degrees of freedom: the tails of a mean over Sobol points
    are heavier than normal, and sampling stops where the error happens to be small.
    """
    return float(stdtrit(max(1.0, (n_replicates - 1) * 2.0 / 3.0), 0.975) / ndtri(0.975))


def _explained_away(means: Floats, covariates: Floats) -> tuple[Floats, Floats, float]:
    """Return the mean over slots with what covariates of mean zero explain by linear regression taken off.

    This is the regression estimator of survey sampling (Cochran, chapter 7). Where the slots do not show what
    the covariates are like, or the mean would lie outside all of them, that is extrapolation: they stay as
    they are.

    Parameters
    ----------
    means
        Shape (n_slots, n_terms).
    covariates
        Shape (n_slots, n_covariates).

    Returns
    -------
    middle, of_slots, penalty
        The mean; the slots as they differ from regressions without them (the jackknife: residuals are
        small where a slot draws the line to itself); by what the variance is larger as slopes are estimated.
    """
    offset = covariates.mean(axis=0)
    left, scales, right = np.linalg.svd(covariates - offset, full_matrices=False)
    known = scales > COLLINEAR * scales.max(initial=0.0)
    inverse = right[known].T / scales[known]
    leverage = len(means) * float(np.square(offset @ inverse).sum())
    if not known.any() or leverage > MOST_LEVERAGE:
        return means.mean(axis=0), means, 1.0
    slopes = inverse @ (left[:, known].T @ (means - means.mean(axis=0)))
    adjusted = means - covariates @ slopes
    middle = adjusted.mean(axis=0)
    drawn = np.minimum(1.0 / len(means) + np.square(left[:, known]).sum(axis=1), MOST_DRAWN)
    left_out = middle + (adjusted - middle) / (1.0 - drawn[:, None])
    inside = (middle >= means.min(axis=0)) & (middle <= means.max(axis=0))
    return (
        np.where(inside, middle, means.mean(axis=0)),
        np.where(inside, left_out, means),
        1.0 + leverage / len(means),
    )


def _between(means: Floats, noise: Floats) -> Floats:
    """Return the variance between slots, less what noise makes of it, but at least half: both are estimates.

    Parameters
    ----------
    means
        Shape (n_slots, n_terms).
    noise
        Shape (n_terms,): variance of each mean from its noise.
    """
    if len(means) < 2:
        return np.full(means.shape[1], inf)
    variance = means.var(axis=0, ddof=1)
    return np.asarray(np.maximum(variance / 2.0, variance - noise))


def combined(parts: Sequence[tuple[float, Sampled]]) -> Sampled:
    """Return the whole of parts that were sampled apart, each with its share of the samples."""
    return Sampled(
        np.asarray(sum(share * s.means for share, s in parts)),
        np.sqrt(sum(np.square(share * s.errors) for share, s in parts)),
        np.asarray(sum(share * s.extras for share, s in parts)),
        sum(s.n_draws for _, s in parts),
    )
