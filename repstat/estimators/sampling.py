"""Randomised quasi-Monte Carlo over a mixture until the standard errors are small enough.

Rows of centres are dealt into slots, each spread over the data; a slot meets the noises of a few independent
replicates, shared by its rows. Two sources of error are told apart, as in two-stage sampling:

- *within* a slot, between its replicates: the noise. |z|^2 is a control variate, with a coefficient from the
  other slots, so that the estimate stays unbiased;
- *between* slots, as long as not all of them were visited: the rows. Once all were, this part is gone.

References
----------
W. G. Cochran, Sampling Techniques, 3rd ed. (Wiley, 1977), section 10.4 (two-stage sampling).
A. B. Owen, Monte Carlo variance of scrambled net quadrature, SIAM J. Numer. Anal. 34 (1997) 1884,
doi:10.1137/S0036142994277468.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from math import inf, log

import numpy as np

from repstat.arrays import Floats, Integers
from repstat.estimators.mixture import LogSums, Mixture
from repstat.estimators.quasirandom import NoiseDesign
from repstat.estimators.slots import MIN_SLOTS, SLOT_ROWS, Slots

REPLICATE_NOISES = 16
"""Noises of a replicate; twice as many where the tolerance is below `FINE`. With more the errors shrink
further, but get heavier tails, and fewer truths lie within two of them than should."""

FINE = 0.004
"""Tolerance (nats) below which larger Sobol sets pay."""

MAX_REPLICATES = 16
"""Replicates of one visit to a slot; the first is of two, later ones as many as there are already."""

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
    visits
        For each visited slot one array (3, n_replicates) per visit: residual, label term, covariate.
    gaps
        For each visited slot the two gaps (2,), from the same noise as its first terms.
    n_draws
        Rows times noises.
    done
        The tolerance is reached.
    """

    visits: list[list[Floats]] = field(default_factory=list)
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
        n_noises = REPLICATE_NOISES * (2 if tolerance < FINE else 1)
        n_rows = sum(map(len, groups))
        least = max(min(SLOT_ROWS, n_rows) * MIN_SLOTS, n_rows if len(groups) > 1 else 0)
        while 2 * n_noises * least > max_draws and n_noises > 1:
            n_noises //= 2
        self._mixture, self._stds = mixture, stds
        self._kernel, self._left_out = kernel, left_out
        self._tolerance, self._max_draws = tolerance, max_draws
        self._design = NoiseDesign(mixture.points, n_noises, rng)
        self._slots = Slots.deal(mixture, groups, n_noises, max_draws, rng)
        self._records = [_Record() for _ in stds]
        self._n_noises = n_noises

    def run(self) -> list[Sampled]:
        """Return what was sampled, one for each of the standard deviations."""
        replicates = 2
        self._first_round(replicates)
        pass_size = sum(map(len, self._slots.members)) * self._n_noises
        n_slots, spent = len(self._slots.members), replicates * pass_size
        # Later rounds double the replicates, whatever the error: so none depends on what it was.
        while any(len(r.visits) == n_slots and not r.done for r in self._records):
            if spent + replicates * pass_size > self._max_draws:
                break
            for slot in range(n_slots):
                self._visit(slot, replicates)
            self._look()
            spent += replicates * pass_size
            replicates = min(2 * replicates, MAX_REPLICATES)
        return [self._sampled(record) for record in self._records]

    def _first_round(self, replicates: int) -> None:
        """Visit the slots until the errors are small enough or `max_draws` is spent."""
        needed = len(self._slots.members) if self._slots.all_needed else MIN_SLOTS
        spent = 0
        for slot, members in enumerate(self._slots.members):
            spent += len(members) * self._n_noises * replicates
            if spent > self._max_draws:
                break
            self._visit(slot, replicates)
            seen = slot + 1
            if seen >= needed and (seen - needed) % CHECK_SLOTS == 0:
                self._look()
            if all(record.done for record in self._records):
                break
        self._look()

    def _look(self) -> None:
        """Note which standard deviations have reached the tolerance."""
        for record in self._records:
            if not record.done and record.visits:
                record.done = bool(self._means(record)[1].max() <= self._tolerance)

    def _visit(self, slot: int, replicates: int) -> None:
        members, share = self._slots.members[slot], self._slots.row_shares[slot]
        noise, energy = self._design.draw(replicates)
        active = [k for k, record in enumerate(self._records) if not record.done]
        found = self._kernel(members, noise, [self._stds[k] for k in active])
        for k, sums in zip(active, found, strict=True):
            record = self._records[k]
            terms = self._terms(members, sums, share)
            if slot == len(record.visits):
                record.visits.append([])
                log_sums = self._left_out(members, noise, sums, self._stds[k])
                record.gaps.append(self._gaps(terms.mean(axis=1), [float(share @ mean) for mean in log_sums]))
            record.visits[slot].append(np.vstack([terms.reshape(2, replicates, -1).mean(axis=2), energy]))
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
        table = np.stack([np.concatenate(visits, axis=1) for visits in record.visits])
        adjusted = _without_energy(table)
        share = self._weights(len(table))
        means = adjusted.mean(axis=2)
        within = adjusted.var(axis=2, ddof=1) / table.shape[2]
        variance = share**2 @ within
        if len(table) < len(self._slots.members):
            visited = len(table) / len(self._slots.members)
            between = means.var(axis=0, ddof=1) / len(table) if len(table) > 1 else np.full(2, inf)
            variance = (1.0 - visited) * between + visited * variance
        return share @ means, np.sqrt(variance)

    def _weights(self, n_visited: int) -> Floats:
        """Return the weight of each visited slot; those that were not visited are like the others."""
        if n_visited == len(self._slots.members):
            return self._slots.shares
        return np.full(n_visited, 1.0 / n_visited)

    def _sampled(self, record: _Record) -> Sampled:
        (residual, label), errors = self._means(record)
        gap, class_gap = self._weights(len(record.visits)) @ np.array(record.gaps)
        mean = Terms(float(residual), float(label), float(gap), float(class_gap))
        return Sampled(mean, float(errors[0]), float(errors[1]), record.n_draws)


def _without_energy(table: Floats) -> Floats:
    """Take off from the terms what their covariate explains.

    Parameters
    ----------
    table
        Shape (n_slots, 3, n_replicates): two terms and a covariate of mean zero.

    Returns
    -------
    adjusted
        Shape (n_slots, 2, n_replicates). The coefficient of a slot comes from the replicates of the other
        slots, on which its own noise has no influence: the expectation does not change.
    """
    deviation = table - table.mean(axis=2, keepdims=True)
    products = np.einsum("str,sr->st", deviation, deviation[:, 2])
    others = products.sum(axis=0) - products
    known = others[:, 2:] > 0
    coefficient = np.divide(others[:, :2], others[:, 2:], out=np.zeros((len(table), 2)), where=known)
    return np.asarray(table[:, :2] - coefficient[:, :, None] * table[:, 2:])


def combined(parts: Sequence[tuple[float, Sampled]]) -> Sampled:
    """Return the whole of parts that were sampled apart, each with its share of the samples."""
    mean = Terms(*(sum(share * getattr(s.mean, name) for share, s in parts) for name in TERM_NAMES))
    residual, label = (
        sum((share * getattr(s, name)) ** 2 for share, s in parts) ** 0.5
        for name in ("residual_error", "label_error")
    )
    return Sampled(mean, residual, label, sum(s.n_draws for _, s in parts))
