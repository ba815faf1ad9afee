"""``--noise-std auto``: noise levels at which a layer's trajectory has something to show.

Too little noise and every estimate sits at its ceiling ln n; too much and all are zero. Where the range
between lies depends on the number of units and on how activations spread, not on their scale alone: in a few
hundred dimensions it spans less than a factor of two. For each layer two levels are picked, the same for all
checkpoints, as round multiples of the layer's pooled standard deviation.
"""

from collections.abc import Iterable
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.estimators import pairwise_bounds
from repstat.scales import SMALLEST, NoiseLevel

FACTORS = tuple(digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5))
"""Multiples of the spread to choose from."""

FRACTIONS = (0.8, 0.4)
"""Of the ceiling: what the trajectory holds at most at the finer and the coarser level."""

MAX_CHECKPOINTS = 3
MAX_SAMPLES = 2048
"""Looked at: the information is known within its pairwise bounds, which is enough to choose a scale."""


def pick_levels(blocks: Iterable[NDArray[Any]], spread: float) -> tuple[NoiseLevel, ...]:
    """Return two noise levels for a layer, the finer one first.

    Parameters
    ----------
    blocks
        Shape (n_samples, n_units) each: some checkpoints of the trajectory. Those with non-finite values are
        left out.
    spread
        Pooled standard deviation of the layer over the trajectory, in activation units.

    Returns
    -------
    levels
        Multiples of the spread. The finer is the smallest of `FACTORS` at which the middle of the pairwise
        bounds on I(X;T) is at most 0.8 of ln n at every checkpoint; the coarser the smallest at
        which it is at most 0.4, and at least the next one up. For a constant layer, which has no information
        at any scale, the levels are 0.1x and 0.2x.
    """
    some = [np.asarray(block, np.float64).reshape(len(block), -1) for block in blocks]
    some = [block[:: -(-len(block) // MAX_SAMPLES)] for block in some if np.isfinite(block).all()]
    some = [block for block in some if len(block) > 1]
    finest, coarsest = FACTORS.index(0.1), len(FACTORS) - 1
    if spread > 0 and some:
        held = (_held(some, max(factor * spread, SMALLEST)) for factor in FACTORS)
        finest = next((k for k, share in enumerate(held) if share <= FRACTIONS[0]), coarsest - 1)
    finest = min(finest, coarsest - 1)
    coarser = finest + 1
    while spread > 0 and some and coarser < coarsest:
        if _held(some, max(FACTORS[coarser] * spread, SMALLEST)) <= FRACTIONS[1]:
            break
        coarser += 1
    return tuple(NoiseLevel.parse(f"{FACTORS[k]:g}x") for k in (finest, coarser))


def _held(blocks: list[NDArray[np.float64]], noise_std: float) -> float:
    """Return the middle of the bounds on I(X;T) over ln n, at the checkpoint where it is largest."""
    return max(sum(pairwise_bounds(b, noise_std)) / (2.0 * log(len(b))) for b in blocks)
