"""What is said of many pairs: histogram on fixed edges, mean, quantiles, and how well two sets separate."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

from repstat.arrays import Floats, Integers, activation_matrix, binary_scale, centred_blocks, checked_integer
from repstat.clustering.pairs import Grid, PairCounts

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_LARGEST = float(np.finfo(float).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistanceSummary:
    """Pairwise distances or cosine similarities of one relation: within classes, between them, or all.

    Parameters
    ----------
    edges
        Shape (n_bins + 1,), in activation units for distances.
    counts
        Shape (n_bins,): pairs per bin; the last bin includes its upper edge.
    n_above
        Pairs above the last edge.
    n_pairs
        All pairs, those above included.
    mean
        Mean over the pairs; None without pairs.
    quantiles
        Values at the levels `QUANTILES`, to `resolution`; empty without pairs.
    resolution
        Width of the bins that the quantiles come from.
    """

    edges: Floats
    counts: Integers
    n_above: int
    n_pairs: int
    mean: float | None
    quantiles: tuple[float, ...]
    resolution: float


def summarize(pairs: PairCounts, fine: Grid, edges: Floats, scale: float) -> DistanceSummary:
    """Summarise counted pairs; values are multiplied by `scale`."""
    width = (fine.high - fine.low) / fine.n_bins
    quantiles: tuple[float, ...] = ()
    if pairs.n_pairs:
        # Pairs are taken as spread evenly over their bin, those at exactly zero excepted.
        below = np.concatenate([[0], np.cumsum(pairs.fine)]) / pairs.n_pairs
        grid = fine.low + width * np.arange(len(below))
        zero = pairs.n_zero / pairs.n_pairs if fine.low == 0.0 else 0.0
        below[0] = zero
        quantiles = tuple(float(q) * scale for q in np.interp(QUANTILES, below, grid))
    return DistanceSummary(
        edges=edges,
        counts=pairs.coarse[:-1].copy(),
        n_above=int(pairs.coarse[-1]),
        n_pairs=pairs.n_pairs,
        mean=pairs.total / pairs.n_pairs * scale if pairs.n_pairs else None,
        quantiles=quantiles,
        resolution=width * scale,
    )


def separation(within: PairCounts, between: PairCounts) -> tuple[float, float, float]:
    """Return P(a between pair is farther than a within pair), ties half, and rigorous bounds on it.

    Pairs of identical rows are ties. Of two other pairs in the same fine bin the order is not known, nor in
    neighbouring bins, since rounding may move a distance across an edge; the bounds allow for both.
    """
    zeros = within.n_zero, between.n_zero
    inside = np.concatenate([[zeros[0], within.fine[0] - zeros[0]], within.fine[1:]]).astype(np.float64)
    outside = np.concatenate([[zeros[1], between.fine[0] - zeros[1]], between.fine[1:]]).astype(np.float64)
    farther = outside.sum() - np.cumsum(outside)
    pairs = inside.sum() * outside.sum()
    value = float(inside @ (farther + outside / 2.0) / pairs)
    same = float(inside[1:] @ outside[1:] / pairs) / 2.0
    won = float(inside[1:-1] @ outside[2:] / pairs)
    lost = float(inside[2:] @ outside[1:-1] / pairs)
    return value, max(0.0, value - same - won), min(1.0, value + same + lost)


def distance_edges(blocks: Iterable[ArrayLike], n_bins: int = 100) -> Floats:
    """Return histogram edges that hold every distance of a trajectory, reading one block at a time.

    Parameters
    ----------
    blocks
        Activations of one layer, one array (n_samples, ...) per checkpoint; those with non-finite values are
        left out.
    n_bins
        Equal bins from 0 to twice the largest distance of a sample from its checkpoint's mean.

    Returns
    -------
    edges
        Shape (n_bins + 1,); from 0 to 1 where all samples coincide.

    Raises
    ------
    UsageError
        If `n_bins` is not a positive integer.
    """
    checked_integer("n_bins", n_bins, 1)
    upper = 0.0
    for block in blocks:
        matrix = activation_matrix(block)
        if np.isfinite(matrix).all() and (scale := binary_scale(matrix)):
            square = np.zeros(len(matrix))
            for part in centred_blocks(matrix, scale, 256):
                square += np.einsum("ij,ij->i", part, part)
            upper = max(upper, 2.0 * scale * sqrt(float(square.max())))
    # The largest distance must not fall above the last edge by rounding.
    edges: Floats = np.linspace(0.0, min(upper * (1.0 + 1e-9), _LARGEST) if upper else 1.0, n_bins + 1)
    return edges
