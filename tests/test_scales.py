"""Noise levels relative to a layer's spread."""

import numpy as np
import pytest

from repstat.errors import UsageError
from repstat.scales import AUTO, NoiseLevel, parse_noise, pooled_std


def test_levels_are_read() -> None:
    assert [level.text for level in parse_noise("0.1, 2x,auto")] == ["0.1", "2x", "auto"]
    assert parse_noise("auto") == (AUTO,)
    assert [level.factor for level in parse_noise([0.5, "0.1x"])] == [0.5, 0.1]
    assert parse_noise(0.25) == (NoiseLevel("0.25", 0.25, relative=False),)
    assert len(parse_noise("0.1,0.1")) == 1


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", "", "0.1y", "1,,2"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not a positive number: it is a standard deviation"):
        parse_noise(text)


def test_relative_levels_follow_the_spread() -> None:
    assert NoiseLevel.parse("0.1x").std(2.0) == 0.2
    assert NoiseLevel.parse("0.1x").std(1 / 3) == 0.0333
    assert NoiseLevel.parse("0.1").std(2.0) == 0.1
    assert NoiseLevel.parse("0.1x").std(0.0) == 0.1


def test_the_spread_is_pooled_within_checkpoints(rng: np.random.Generator) -> None:
    # n = 100,000 values of standard deviation 3 and 4, at different offsets: rms sqrt(12.5), error 1/450.
    blocks = [rng.normal(5, 3, (50_000, 2)), rng.normal(-100, 4, (50_000, 2))]
    assert pooled_std(blocks) == pytest.approx(np.sqrt(12.5), rel=4 / 450)
    assert pooled_std([*blocks, np.full((3, 2), np.nan)]) == pooled_std(blocks)
    assert pooled_std([]) == 0.0


def test_each_unit_has_its_own_mean() -> None:
    """Units 0, 2 and 100, 106: variances 1 and 9, whatever lies between the units."""
    assert pooled_std([np.array([[0.0, 100.0], [2.0, 106.0]])]) == pytest.approx(np.sqrt(5))


def test_the_spread_scales_with_the_data(rng: np.random.Generator) -> None:
    block = rng.normal(size=(100, 3))
    assert pooled_std([block * 1e-20]) == pytest.approx(1e-20 * pooled_std([block]))
