"""Which rows are sampled together: slots that are each spread over the data.

References
----------
W. G. Cochran, Sampling Techniques, 3rd ed. (Wiley, 1977), chapter 10 (two-stage sampling).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

import numpy as np

from repstat.arrays import Floats, Integers
from repstat.estimators.mixture import Mixture

SLOT_ROWS = 64
"""Rows of a slot, about: more save exponentials, fewer give more different noises."""

MIN_SLOTS = 64
"""Slots before the variance between them is believed, where not all are visited."""

MAX_STRATIFIED = 2**14
"""Distinct weighted centres up to which all are visited; above, random samples are."""


@dataclass(frozen=True, slots=True)
class Slots:
    """Rows dealt into slots that are each spread over the data.

    Parameters
    ----------
    members
        Rows of each slot, sorted; in an order that chance decides.
    row_shares
        Weight of each row within its slot; they sum to one.
    shares
        Shape (n_slots,): weight of each slot; they sum to one.
    group
        Shape (n_slots,): of which group the rows are.
    all_needed
        Whether the slots differ so much in weight that an estimate needs all of them.
    """

    members: list[Integers]
    row_shares: list[Floats]
    shares: Floats
    group: Integers
    all_needed: bool

    @classmethod
    def deal(
        cls,
        mixture: Mixture,
        groups: Sequence[Integers],
        n_noises: int,
        max_draws: int,
        rng: np.random.Generator,
    ) -> "Slots":
        """Deal rows; slots of the usual size, or smaller ones where `max_draws` does not allow them.

        Parameters
        ----------
        mixture
            The centres.
        groups
            Rows that may share a slot; of several groups, all slots are needed.
        n_noises
            Noises that a slot meets.
        max_draws
            Rows times noises, at most.
        rng
            Source of all randomness.
        """
        n_rows = sum(map(len, groups))
        fits = n_rows <= MAX_STRATIFIED and n_noises * n_rows <= max_draws
        whole = len(groups) > 1 or (mixture.weighted and fits)
        weights = mixture.weights
        if mixture.weighted and not whole:
            # Random samples, not distinct centres: slots then weigh the same, and some may be left out.
            groups = [np.repeat(rows, weights[rows].astype(np.int64)) for rows in groups]
            weights = np.ones(mixture.n_points)
            n_rows = sum(map(len, groups))
        size = SLOT_ROWS
        if n_noises * n_rows > max_draws:
            size = max(1, min(SLOT_ROWS, max_draws // (n_noises * MIN_SLOTS)))
        dealt = [_deal(mixture, rows, _n_slots(len(rows), size), rng) for rows in groups]
        members = [rows for parts in dealt for rows in parts]
        total = np.array([weights[rows].sum() for rows in members])
        return cls(
            members=members,
            row_shares=[weights[rows] / t for rows, t in zip(members, total, strict=True)],
            shares=total / total.sum(),
            group=np.repeat(np.arange(len(dealt)), [len(parts) for parts in dealt]),
            all_needed=whole,
        )


def _n_slots(n_rows: int, size: int) -> int:
    """Return a power of two, as many noises make a Sobol net: slots then have about `size` rows."""
    return 1 << min(round(log2(max(n_rows / size, 1.0))), int(log2(n_rows)))


def _deal(mixture: Mixture, rows: Integers, n_slots: int, rng: np.random.Generator) -> list[Integers]:
    """Return the rows of each slot: one at random from each stretch of `n_slots` rows.

    The stretches follow the leading axis, so that each slot is spread over the data.
    """
    if n_slots == 1:
        return [np.sort(rows)]
    # A stretch that is not full would favour its end of the axis: rows of chance are left over instead.
    order = rng.permutation(len(rows))
    n_over = len(rows) % n_slots
    spare, rest = order[:n_over], order[n_over:]
    leading = mixture.points[rows[rest], 0] if mixture.n_axes else np.zeros(len(rest))
    stretches = rest[np.argsort(leading, kind="stable")].reshape(-1, n_slots)
    table = rng.permuted(stretches, axis=1)
    places = rng.permutation(n_slots)[:n_over]
    parts = [table[:, k] for k in range(n_slots)]
    for place, row in zip(places, spare, strict=True):
        parts[place] = np.append(parts[place], row)
    return [np.sort(rows[part]) for part in parts]
