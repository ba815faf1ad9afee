"""Noise levels picked for a trajectory: neither saturated nor empty, whatever the dimension."""

from math import log

import numpy as np
import pytest

from repstat.autoscale import FACTORS, pick_levels
from repstat.estimators import noisy_mi, pairwise_bounds
from repstat.scales import pooled_std


@pytest.mark.parametrize("d", [1, 3, 10, 100, 784])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e5])
def test_levels_show_something_in_any_dimension(d: int, size: float, rng: np.random.Generator) -> None:
    """Normal activations, n = 512: at the finer level most samples are told apart, at the coarser few are."""
    block = size * rng.standard_normal((512, d))
    spread = pooled_std([block])
    finer, coarser = (level.factor * spread for level in pick_levels([block], spread))
    assert finer < coarser
    middle = [sum(pairwise_bounds(block, std)) / 2 / log(512) for std in (finer, coarser)]
    assert middle[0] <= 0.8
    assert middle[1] <= 0.4 or coarser <= 5.01 * finer
    values = noisy_mi(block, [finer, coarser])
    assert all(0.02 * log(512) < found.input.value < log(512) - 0.1 for found in values)


def test_the_least_clustered_checkpoint_decides(rng: np.random.Generator) -> None:
    """Late checkpoints of tight clusters do not let the level sink to where the early ones are saturated."""
    early = rng.standard_normal((512, 4))
    late = np.sign(early) * (1 + 1e-6 * rng.standard_normal((512, 4)))
    spread = pooled_std([early, late])
    alone = pick_levels([early], spread)
    assert pick_levels([early, late], spread) == alone
    assert pick_levels([early, late, np.full((512, 4), np.nan)], spread) == alone
    assert pick_levels([late], spread) != alone


@pytest.mark.parametrize("blocks", [[np.zeros((50, 3))], [np.ones((1, 3))], [np.full((9, 2), np.inf)], []])
def test_a_layer_without_information_gets_levels_all_the_same(blocks: list[np.ndarray]) -> None:
    assert [level.text for level in pick_levels(blocks, 0.0)] == ["0.1x", "0.2x"]


def test_multiples_are_round() -> None:
    assert [f"{factor:g}" for factor in FACTORS[6:12]] == ["0.1", "0.2", "0.5", "1", "2", "5"]
