"""Whether a training taught the network something, as far as its results tell.

A network can lose information about its input without learning anything; that is not called compression.

References
----------
M. F. Schilling, Multivariate two-sample tests based on nearest neighbors, J. Am. Stat. Assoc. 81 (1986) 799,
doi:10.1080/01621459.1986.10478337 (neighbours of one class, against shuffled labels).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

from repstat.rank import MIN_POINTS, decline
from repstat.results import Results, Row

TREND = 0.01
"""How often one that wanders without direction may be said to decline."""

LEARNED_LOSS, LEARNED_ACCURACY = 0.1, 0.05
"""A loss has fallen that lost a tenth of itself; an accuracy has risen that gained this much."""

APART_ERRORS = 4.0
"""Neighbours share their class beyond chance by this many of the errors that shuffled labels would have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """Whether the training taught the network something, as far as the results tell.

    Parameters
    ----------
    metric
        The recorded loss or accuracy that was looked at, one of a test set before one of the training set.
    first, best
        Its first value, and its best.
    improves
        Whether it improves, steadily and by enough; None without a metric at enough checkpoints.
    apart
        Whether neighbours in some layer share their class beyond chance at the last checkpoint; None without.
    """

    metric: str = ""
    first: float | None = None
    best: float | None = None
    improves: bool | None = None
    apart: bool | None = None

    @property
    def learned(self) -> bool | None:
        """No if any evidence says no, yes if some says yes, None without evidence."""
        known = [fact for fact in (self.improves, self.apart) if fact is not None]
        return all(known) if known else None


def learning_of(results: Results) -> Learning:
    """Return what the recorded metrics and the neighbours at the last checkpoint say."""
    name, sign = _metric(results.metrics)
    # Of an accuracy, the negative falls.
    values = [sign * value for value in results.metrics.get(name, ()) if isfinite(value)]
    first = best = improves = None
    if len(values) >= MIN_POINTS:
        first, best = values[0], min(values)
        gain = first - best
        enough = gain >= (LEARNED_LOSS * abs(first) if sign > 0 else LEARNED_ACCURACY)
        steady = decline(values)
        improves = enough and steady is not None and steady <= TREND
    last = len(results.steps) - 1
    neighbours = [row for row in results.rows if row.quantity == "knn_agreement" and row.checkpoint == last]
    excess = [_beyond_chance(row) for row in neighbours if row.value is not None]
    return Learning(
        metric=name,
        first=None if first is None else sign * first,
        best=None if best is None else sign * best,
        improves=improves,
        apart=max(excess) > APART_ERRORS if excess else None,
    )


def _metric(metrics: Mapping[str, Sequence[float]]) -> tuple[str, float]:
    """Return the name of what shows learning best, and the sign with which it falls."""
    held_out = [name for name in metrics if any(word in name.lower() for word in ("test", "val"))]
    for among in (held_out, list(metrics)):
        for words, sign in ((("loss", "error", "cross"), 1.0), (("acc",), -1.0)):
            for name in among:
                if any(word in name.lower() for word in words):
                    return name, sign
    return "", 1.0


def _beyond_chance(row: Row) -> float:
    """Return by how many errors of shuffled labels neighbours agree more than by chance.

    Under shuffled labels the variance of the agreement is at most about twice that of as many independent
    pairs, since two samples can be neighbours of each other.
    """
    chance, n = float(row.params["chance"]), int(row.params["n_queries"]) * int(row.params["k"])
    return (
        ((row.value or 0.0) - chance) / sqrt(2.0 * chance * (1.0 - chance) / n) if 0.0 < chance < 1.0 else 0.0
    )
