"""What is sampled of a mixture: residual and label term of slots of its centres, and what leaving out costs.

References
----------
Z. Goldfeld et al., Estimating Information Flow in Deep Neural Networks, ICML 2019, arXiv:1810.05728.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from repstat.arrays import Floats, Integers
from repstat.estimators.mixture import LogSums, Mixture
from repstat.estimators.sampling import Budget, Found, Sampled, Sampler
from repstat.estimators.slots import MIN_SLOTS, SLOT_ROWS, Slots

Kernel = Callable[[Integers, Floats, Sequence[float]], list[LogSums]]
"""Log-sums of rows and noises for several noise standard deviations."""

LeftOut = Callable[[Integers, Floats, LogSums, float], tuple[Floats, Floats]]
"""Of each row: the mean of L over everyone, and of the same within its class less ln(n_class - 1)."""


@dataclass(frozen=True, slots=True)
class MixtureTerms:
    """Expectations in nats over centres and noise, with the errors of the first two.

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
    residual_error, label_error
        Standard errors.
    n_draws
        Rows times noises.
    """

    residual: float
    label: float
    gap: float
    class_gap: float
    residual_error: float
    label_error: float
    n_draws: int

    @classmethod
    def of(cls, sampled: Sampled) -> "MixtureTerms":
        """Name what was sampled with a `MixtureMeasure`."""
        (residual, label), (gap, class_gap) = sampled.means.tolist(), sampled.extras.tolist()
        residual_error, label_error = sampled.errors.tolist()
        return cls(residual, label, gap, class_gap, residual_error, label_error, sampled.n_draws)


@dataclass(frozen=True, slots=True)
class MixtureMeasure:
    """Measures slots of the centres of a mixture: terms residual and label, extras the two gaps."""

    mixture: Mixture
    slots: Slots
    kernel: Kernel
    left_out: LeftOut

    def __call__(self, slot: int, noise: Floats, stds: Sequence[float], first: bool) -> list[Found]:
        """Return what a slot finds."""
        members, share = self.slots.members[slot], self.slots.row_shares[slot]
        found = []
        for std, sums in zip(stds, self.kernel(members, noise, stds), strict=True):
            terms = self._terms(members, sums, share)
            extras = np.empty(0)
            if first:
                log_sums = self.left_out(members, noise, sums, std)
                extras = self._gaps(terms.mean(axis=1), [float(share @ mean) for mean in log_sums])
            found.append(Found(terms, extras))
        return found

    def _terms(self, members: Integers, sums: LogSums, share: Floats) -> Floats:
        """Return residual and label term of every noise, averaged over the rows: shape (2, n_noises)."""
        residual = np.logaddexp(0.0, sums.everyone)
        if self.mixture.n_classes == 1:
            return np.stack([share @ residual, np.zeros(residual.shape[1])])
        n_class = self.mixture.class_sizes[self.mixture.classes[members]]
        label = np.logaddexp(0.0, sums.same_class)
        label -= residual
        label += np.log(self.mixture.n_samples / n_class)[:, None]
        return np.stack([share @ residual, share @ label])

    def _gaps(self, terms: Floats, log_sums: Sequence[float]) -> Floats:
        """Return the gaps of a slot from its mean terms and its mean leave-one-out log-sums."""
        n = self.mixture.n_samples
        plug_in = log(n) - terms[0]
        conditional = plug_in - terms[1]
        return np.array([log(n - 1.0) - log_sums[0] - plug_in, -log_sums[1] - conditional])


def sample_centres(
    mixture: Mixture,
    stds: Sequence[float],
    kernel: Kernel,
    left_out: LeftOut,
    groups: Sequence[Integers],
    *,
    tolerance: float,
    max_draws: int,
    rng: np.random.Generator,
) -> list[Sampled]:
    """Sample the centres of a mixture, for each noise standard deviation.

    Parameters
    ----------
    mixture
        At least two distinct centres.
    stds
        In the units of the points.
    kernel, left_out
        Compute log-sums.
    groups
        Indices of the centres to draw from, in groups whose rows may share noise.
    tolerance, max_draws, rng
        As of `Sampler`.
    """
    n_rows = sum(map(len, groups))
    wanted, least = (n_rows, n_rows) if len(groups) > 1 else (SLOT_ROWS * MIN_SLOTS, MIN_SLOTS)
    budget = Budget.fit(tolerance, max_draws, min(wanted, n_rows), min(least, n_rows))
    slots = Slots.deal(mixture, groups, budget.n_noises, max_draws, rng)
    sampler = Sampler(
        slots,
        MixtureMeasure(mixture, slots, kernel, left_out),
        stds,
        mixture.points,
        budget,
        tolerance=tolerance,
        max_draws=max_draws,
        rng=rng,
    )
    return sampler.run()
