"""Randomised quasi-Monte Carlo over a mixture until the standard errors are small enough.

Rows of centres are dealt into slots, each spread over the data; a slot meets noises that its rows share. The
slots walk along Sobol sequences: each takes the next few points, so that the noise which all slots met is
spread as evenly as that of one. Two sources of error are told apart:

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
from dataclasses import dataclass, field, fields
from math import inf, log

import numpy as np
from scipy.special import ndtri, stdtrit

from repstat.arrays import Floats, Integers
from repstat.estimators.mixture import LogSums, Mixture
from repstat.estimators.quasirandom import NoiseDesign
from repstat.estimators.slots import MIN_SLOTS, SLOT_ROWS, Slots

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

CHECK_SLOTS = 8
"""Slots between two looks at the error while not all slots were visited."""

_PRIVATE_KEY = (0x72657073, 0x74617421)
"""Spawn key of the noise. Data made with default_rng(seed) must not share its stream with the noise: equal
numbers once put every sample onto another centre and made the residual exceed ln n."""

Kernel = Callable[[Integers, Floats, Sequence[float]], list[LogSums]]
"""Log-sums of rows and noises for several noise standard deviations."""

LeftOut = Callable[[Integers, Floats, LogSums, float], tuple[Floats, Floats]]
"""Of each row: the mean of L over everyone, and of the same within its class less ln(n_class - 1)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Expectations in nats over centres and noise.

    Parameters
    ----------
    residual
        r >= 0 with I(X;T) = ln n - E r.
    label
        Log ratio with I(Y;T) = E label.
    gap
        What leaving out the own sample adds to h(T): E ln [A / n] - E ln [(A - 1) / (n - 1)], A = exp r.
    class_gap
        The same for h(T|Y), within classes.
    """

    residual: float
    label: float
    gap: float
    class_gap: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """Means of the terms, the errors of the first two, and how many draws were made."""

    mean: Terms
    residual_error: float
    label_error: float
    n_draws: int


TERM_NAMES = tuple(f.name for f in fields(Terms))


def noise_rng(seed: int, stream: int = 0) -> np.random.Generator:
    """Return a generator of the measurement noise for a seed; streams are independent."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(*_PRIVATE_KEY, stream)))


@dataclass(slots=True)
class _Record:
    """What was found at one noise standard deviation, slot by slot.

    Parameters
    ----------
    sums
        For each visited slot, shape (2, n_replicates): residual and label term, summed over its noises.
    n_points
        For each visited slot, the noises of one replicate.
    gaps
        For each visited slot the two gaps (2,), from its first noises.
    n_draws
        Rows times noises.
    done
        The tolerance is reached.
    """

    sums: list[Floats] = field(default_factory=list)
    n_points: list[int] = field(default_factory=list)
    gaps: list[Floats] = field(default_factory=list)
    n_draws: int = 0
    done: bool = False


class Sampler:
    """Sample rows of a mixture until both standard errors are at most `tolerance`, or `max_draws` is spent.

    Parameters
    ----------
    mixture
        At least two distinct centres.
    stds
        Noise standard deviations, in the units of the points. They share the noise, and the result for
        each is what it would be alone.
    kernel, left_out
        Compute log-sums.
    groups
        Indices of the centres to draw from, in groups whose rows may share noise.
    tolerance
        In nats; infinite for one look at `MIN_SLOTS` slots.
    max_draws
        For each noise standard deviation, at least 16.
    rng
        Source of all randomness.
    """

    def __init__(
        self,
        mixture: Mixture,
        stds: Sequence[float],
        kernel: Kernel,
        left_out: LeftOut,
        groups: Sequence[Integers],
        *,
        tolerance: float,
        max_draws: int,
        rng: np.random.Generator,
    ) -> None:
        self._mixture, self._stds = mixture, stds
        self._kernel, self._left_out = kernel, left_out
        self._tolerance, self._max_draws, self._rng = tolerance, max_draws, rng
        n_rows = sum(map(len, groups))
        wanted, least = (n_rows, n_rows) if len(groups) > 1 else (SLOT_ROWS * MIN_SLOTS, MIN_SLOTS)
        n_points = FIRST_FINE_POINTS if tolerance < FINE else FIRST_POINTS
        while n_points > 1 and REPLICATES * n_points * min(wanted, n_rows) > max_draws:
            n_points //= 2
        n_replicates = REPLICATES
        while n_replicates > 2 and n_replicates * n_points * min(least, n_rows) > max_draws:
            n_replicates //= 2
        self._slots = Slots.deal(mixture, groups, n_replicates * n_points, max_draws, rng)
        self._n_slots = len(self._slots.members)
        self._pass_size = sum(map(len, self._slots.members)) * n_replicates
        while n_points * self._n_slots < LEAST_POINTS and 2 * n_points * self._pass_size <= max_draws:
            n_points *= 2
        self._n_points, self._n_replicates = n_points, n_replicates
        self._design = NoiseDesign(mixture.points, n_replicates, rng)
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
        """Note which standard deviations have reached the tolerance."""
        for record in self._records:
            if not record.done and record.sums:
                record.done = bool(self._means(record)[1].max() <= self._tolerance)

    def _visit(self, slot: int, n_points: int) -> None:
        """Let a slot meet the next points of every sequence."""
        at_once = min(n_points, MAX_NOISES // self._n_replicates)
        for _ in range(n_points // at_once):
            noise = self._design.draw(at_once)
            active = [k for k, record in enumerate(self._records) if not record.done]
            found = self._kernel(self._slots.members[slot], noise, [self._stds[k] for k in active])
            for k, sums in zip(active, found, strict=True):
                self._note(slot, k, noise, sums)

    def _note(self, slot: int, k: int, noise: Floats, sums: LogSums) -> None:
        """Add what a slot found at one noise standard deviation."""
        members, share = self._slots.members[slot], self._slots.row_shares[slot]
        record = self._records[k]
        terms = self._terms(members, sums, share)
        if slot == len(record.sums):
            record.sums.append(np.zeros((2, self._n_replicates)))
            record.n_points.append(0)
            log_sums = self._left_out(members, noise, sums, self._stds[k])
            record.gaps.append(self._gaps(terms.mean(axis=1), [float(share @ mean) for mean in log_sums]))
        record.sums[slot] += terms.reshape(2, self._n_replicates, -1).sum(axis=2)
        record.n_points[slot] += len(noise) // self._n_replicates
        record.n_draws += len(members) * len(noise)

    def _terms(self, members: Integers, sums: LogSums, share: Floats) -> Floats:
        """Return residual and label term of every noise, averaged over the rows: shape (2, n_noises)."""
        residual = np.logaddexp(0.0, sums.everyone)
        if self._mixture.n_classes == 1:
            return np.stack([share @ residual, np.zeros(residual.shape[1])])
        n_class = self._mixture.class_sizes[self._mixture.classes[members]]
        label = np.logaddexp(0.0, sums.same_class)
        label -= residual
        label += np.log(self._mixture.n_samples / n_class)[:, None]
        return np.stack([share @ residual, share @ label])

    def _gaps(self, terms: Floats, log_sums: Sequence[float]) -> Floats:
        """Return the gaps of a slot from its mean terms and its mean leave-one-out log-sums."""
        n = self._mixture.n_samples
        plug_in = log(n) - terms[0]
        conditional = plug_in - terms[1]
        return np.array([log(n - 1.0) - log_sums[0] - plug_in, -log_sums[1] - conditional])

    def _means(self, record: _Record) -> tuple[Floats, Floats]:
        """Return the means of residual and label term, and their standard errors."""
        table = np.stack(record.sums) / np.array(record.n_points)[:, None, None]
        n_visited, n_replicates = len(table), self._n_replicates
        replicates = np.tensordot(self._weights(n_visited), table, axes=1)
        variance = replicates.var(axis=1, ddof=1) / n_replicates * _widening(n_replicates) ** 2
        if n_visited < self._n_slots:
            noise = table.var(axis=2, ddof=1).mean(axis=0) / n_replicates
            rows = _between(table.mean(axis=2), noise)
            variance += (1.0 - n_visited / self._n_slots) * rows / n_visited
        return replicates.mean(axis=1), np.sqrt(variance)

    def _weights(self, n_visited: int) -> Floats:
        """Return the weight of each visited slot; those that were not visited are like the others."""
        if n_visited == self._n_slots:
            return self._slots.shares
        return np.full(n_visited, 1.0 / n_visited)

    def _sampled(self, record: _Record) -> Sampled:
        (residual, label), errors = self._means(record)
        gap, class_gap = self._weights(len(record.sums)) @ np.array(record.gaps)
        mean = Terms(float(residual), float(label), float(gap), float(class_gap))
        return Sampled(mean, float(errors[0]), float(errors[1]), record.n_draws)


def _widening(n_replicates: int) -> float:
    """Return by what an error from few replicates is widened: 1.96 of it then cover 95 per cent.

    Student's quantile, with two thirds of the usual degrees of freedom: the tails of a mean over Sobol points
    are heavier than normal, and sampling stops where the error happens to be small.
    """
    return float(stdtrit(max(1.0, (n_replicates - 1) * 2.0 / 3.0), 0.975) / ndtri(0.975))


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
    mean = Terms(*(sum(share * getattr(s.mean, name) for share, s in parts) for name in TERM_NAMES))
    residual, label = (
        sum((share * getattr(s, name)) ** 2 for share, s in parts) ** 0.5
        for name in ("residual_error", "label_error")
    )
    return Sampled(mean, residual, label, sum(s.n_draws for _, s in parts))
