"""The sparse kernel: log-sums over near neighbours, for noise that is small beside the distances.

Leaving out the pair (j, i) at distance r (in noise_std) lowers the mean residual of j by at most
exp(-r^2 / 8), since ln(1 + t) <= sqrt t and the mean of sqrt(exp E_ji) is exactly that Bhattacharyya
coefficient. What skipping costs is therefore known before anything is drawn: the far neighbours of a row are
left out while their coefficients together stay below a given number of nats.

References
----------
A. Bhattacharyya, On a measure of divergence between two multinomial populations, Sankhya 7 (1946) 401,
https://www.jstor.org/stable/25047882.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log, sqrt

import numpy as np

from repstat.arrays import Floats, Integers
from repstat.estimators.mixture import TILE_ELEMENTS, LogSums, Mixture, half_distances, over_variance, slices

RINGS = 6
"""Distances tried as the last one that counts."""


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Positions of rows, sorted, and of their neighbours, |y_i - y_j|^2 / (2 b^2), weights of neighbours."""

    at: Integers
    column: Integers
    half: Floats
    weight: Floats


def reach(n_samples: float, bias: float) -> float:
    """Return the distance (in noise_std) beyond which the pairs of a row cost at most `bias` nats."""
    return sqrt(8.0 * log(max(n_samples / bias, 2.0)))


def near_log_sums(mixture: Mixture, rows: Integers, noise: Floats, std: float, bias: float) -> LogSums:
    """Return the log-sums over the other samples, without far ones that cost at most `bias`.

    Parameters
    ----------
    mixture
        The centres.
    rows
        Shape (n_rows,): the components that the samples come from.
    noise
        Shape (n_noises, n_axes), standard normal; every row meets every noise.
    std
        Standard deviation of the noise, in the units of the points.
    bias
        How much the mean residual of a row may be too small, in nats.
    """
    everyone = np.full((len(rows), len(noise)), -np.inf)
    same_class = everyone.copy()
    step = max(1, TILE_ELEMENTS // mixture.n_points)
    for part_of_rows in slices(len(rows), step):
        start, some = part_of_rows.start, rows[part_of_rows]
        pairs = _neighbours(mixture, some, std, bias)
        for part in _chunks(pairs.at, max(1, TILE_ELEMENTS // len(noise))):
            at, column = pairs.at[part], pairs.column[part]
            own = some[at]
            # Differences first: a projection of the far centre itself would drown the small one.
            exponents = (mixture.points[column] - mixture.points[own]) @ (noise.T / std)
            exponents -= pairs.half[part, None]
            terms = np.exp(np.maximum(exponents, -700.0, out=exponents), out=exponents)
            terms *= pairs.weight[part, None]
            first = np.flatnonzero(np.diff(at, prepend=-1))
            with np.errstate(divide="ignore"):
                everyone[start + at[first]] = np.log(np.add.reduceat(terms, first, axis=0))
                if mixture.n_classes > 1:
                    terms[mixture.classes[column] != mixture.classes[own]] = 0.0
                same_class[start + at[first]] = np.log(np.add.reduceat(terms, first, axis=0))
    return LogSums(everyone, same_class)


def mean_neighbours(mixture: Mixture, rows: Integers, std: float, within: float) -> float:
    """Return how many centres lie within a distance (in noise_std) of a row, on average."""
    count = 0
    step = max(1, TILE_ELEMENTS // mixture.n_points)
    for some in slices(len(rows), step):
        distances = over_variance(half_distances(mixture, rows[some], std), std)
        count += int(np.count_nonzero(distances <= within**2 / 2.0))
    return count / len(rows)


def _neighbours(mixture: Mixture, rows: Integers, std: float, bias: float) -> _Pairs:
    """Return the neighbours of rows that count."""
    far = reach(mixture.n_samples, bias / 2.0)
    distances = over_variance(half_distances(mixture, rows, std), std)
    distances[np.arange(len(rows)), rows] = np.inf
    at, column = np.divmod(np.flatnonzero(distances.ravel() <= far**2 / 2.0), mixture.n_points)
    half = distances[at, column]
    weight = mixture.weights[column]
    kept = half <= _last_ring(at, half, weight, len(rows), (reach(1.0, bias / 2.0), far), bias / 2.0)[at]
    at, column, half, weight = at[kept], column[kept], half[kept], weight[kept]
    if mixture.weighted:
        # The other samples of the own centre are neighbours at distance zero.
        shared = np.flatnonzero(mixture.weights[rows] > 1.0)
        at, column = np.append(at, shared), np.append(column, rows[shared])
        half = np.append(half, np.zeros(len(shared)))
        weight = np.append(weight, mixture.weights[rows[shared]] - 1.0)
        order = np.argsort(at, kind="stable")
        at, column, half, weight = at[order], column[order], half[order], weight[order]
    return _Pairs(at, column, half, weight)


def _last_ring(
    at: Integers, half: Floats, weight: Floats, n_rows: int, rings: tuple[float, float], bias: float
) -> Floats:
    """Return for each row half the square of the smallest distance beyond which pairs cost at most `bias`."""
    last = np.full(n_rows, rings[1] ** 2 / 2.0)
    outer = half > rings[0] ** 2 / 2.0
    at, half = at[outer], half[outer]
    cost = weight[outer] * np.exp(-half / 4.0)
    for ring in np.linspace(rings[1], rings[0], RINGS)[1:]:
        beyond = half > ring**2 / 2.0
        spent = np.bincount(at[beyond], cost[beyond], n_rows)
        last[spent <= bias] = ring**2 / 2.0
    return last


def _chunks(at: Integers, size: int) -> Iterator[slice]:
    """Yield slices of about `size` pairs that never part the pairs of one row."""
    starts = np.flatnonzero(np.diff(at, prepend=-1)) if len(at) else np.zeros(0, np.int64)
    borders = np.append(starts, len(at))
    first = 0
    while first < len(starts):
        last = max(int(np.searchsorted(borders, borders[first] + size, side="right")) - 1, first + 1)
        yield slice(int(borders[first]), int(borders[last]))
        first = last
