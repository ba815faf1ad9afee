"""Rank correlation along a trajectory, and what it would be by chance, by permutation.

The interval holds 95 % of the correlations of shuffled checkpoints. A trajectory is not shuffled:
neighbouring checkpoints are alike, and two quantities that both drift correlate whatever drives them. A
correlation outside the interval says that they move together along this training, and nothing about a cause.

References
----------
C. Spearman, The proof and measurement of association between two things, Am. J. Psychol. 15 (1904) 72,
doi:10.2307/1412159.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

MIN_POINTS = 5
"""Fewer values cannot decline steadily by less than a chance of one in a hundred."""

EXACT_POINTS = 7
"""Up to here all orders are gone through (5,040)."""

N_PERMUTATIONS = 4999

COVERAGE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCorrelation:
    """Spearman's rank correlation of two series over the same checkpoints.

    Parameters
    ----------
    value
        From -1 to 1, of average ranks where values are equal; None where it has none, with the `reason`.
    chance_low, chance_high
        What holds 95 % of the correlations of shuffled checkpoints.
    p_value
        How often shuffled checkpoints correlate as strongly, in either direction.
    n
        Checkpoints.
    """

    value: float | None
    chance_low: float | None = None
    chance_high: float | None = None
    p_value: float | None = None
    n: int
    reason: str = ""

    @property
    def beyond_chance(self) -> bool:
        """Whether it lies outside the interval."""
        low, high = self.chance_low, self.chance_high
        return (
            self.value is not None and low is not None and high is not None and not low <= self.value <= high
        )


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> RankCorrelation:
    """Return the rank correlation of two series of equal length, which must be finite."""
    n = len(first)
    if n < MIN_POINTS:
        return RankCorrelation(value=None, n=n, reason=f"fewer than {MIN_POINTS} checkpoints")
    # The second series is the one that is shuffled: callers keep it while the first changes.
    a, b = _standard_ranks(first), _standard_ranks(second)
    if a is None or b is None:
        return RankCorrelation(value=None, n=n, reason="one of them is constant")
    value, shuffled = float(a @ b), _shuffled(b.tobytes()) @ a
    tail = (1.0 - COVERAGE) / 2.0
    low, high = np.quantile(shuffled, [tail, 1.0 - tail])
    return RankCorrelation(
        value=value,
        chance_low=float(low),
        chance_high=float(high),
        p_value=_share(np.abs(shuffled) >= abs(value) - 1e-12, n),
        n=n,
    )


def decline(values: Sequence[float]) -> float | None:
    """Return how often values in random order decline as steadily as these; None of fewer than five."""
    if len(values) < MIN_POINTS:
        return None
    ranks, places = _standard_ranks(values), _standard_ranks(range(len(values)))
    if ranks is None or places is None:
        return 1.0
    shuffled = _shuffled(places.tobytes()) @ ranks
    return _share(shuffled <= float(ranks @ places) + 1e-12, len(values))


def _share(hits: NDArray[np.bool_], n: int) -> float:
    """Return the share of orders that hit; of drawn ones, the order that was found counts as one more."""
    extra = 0 if n <= EXACT_POINTS else 1
    return float((np.count_nonzero(hits) + extra) / (len(hits) + extra))


def _standard_ranks(values: Sequence[float]) -> NDArray[np.float64] | None:
    """Return average ranks, centred and of norm 1; None where all values are equal."""
    _, inverse, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    ranks -= ranks.mean()
    norm = float(np.linalg.norm(ranks))
    return ranks / norm if norm > 0.0 else None


@lru_cache(maxsize=6)
def _shuffled(ranks: bytes) -> NDArray[np.float64]:
    """Return a series of ranks in all the orders, shape (n_orders, n); one serves many correlations."""
    values = np.frombuffer(ranks, np.float64)
    return values[_orders(len(values))]


@lru_cache(maxsize=8)
def _orders(n: int) -> NDArray[np.int64]:
    """Return orders of n checkpoints, (n_orders, n): all of them, or the same random ones every time."""
    if n <= EXACT_POINTS:
        return np.array(list(permutations(range(n))), np.int64)
    rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(0x72657073, 0x72616E6B, n)))
    return rng.permuted(np.tile(np.arange(n), (N_PERMUTATIONS, 1)), axis=1)
