"""The number of clusters over noise scales."""

from math import exp, log

import numpy as np
import pytest

from repstat.errors import UsageError
from repstat.estimators import noise_profile, noisy_mi, pairwise_bounds
from repstat.results import Status
from tests.estimators.truths import cube, information


def test_eight_clusters_are_a_plateau(rng: np.random.Generator) -> None:
    """Eight tight clusters of fifty far apart: 400 samples, then 8 clusters, then 1."""
    centres = np.array([[i, j, k, 0.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    x = np.repeat(centres, 50, axis=0) + 1e-5 * rng.standard_normal((400, 4))
    found = noise_profile(x, [1e-9, 1e-3, 1e-2, 100.0])
    numbers = [estimate.value for estimate in found.clusters]
    assert numbers == pytest.approx([400.0, 8.0, 8.0, 1.0], rel=0.01)
    assert [e.status for e in found.clusters] == [Status.SATURATED, *[Status.OK] * 3]
    assert found.clusters[0].ceiling == pytest.approx(400.0)
    assert (found.n_samples, found.n_total) == (400, 400)


def test_it_is_the_exponential_of_the_information() -> None:
    """+-1 in each of d axes: exp(d I_BPSK), from the integral; and error and bounds with it."""
    for d in (1, 3, 5):
        (found,) = noise_profile(cube(d), [1.0], tolerance=0.01, max_samples=64).clusters
        truth = exp(d * information([-1.0, 1.0], 1.0))
        assert found.std_error is not None
        assert abs(found.value - truth) < 4 * found.std_error + 1e-6
        low, high = pairwise_bounds(cube(d), 1.0)
        assert (found.lower_bound, found.upper_bound) == (pytest.approx(exp(low)), pytest.approx(exp(high)))
        # Mutants: the information itself, or two to its power.
        for wrong in (log(truth), 2 ** log(truth)):
            assert abs(found.value - wrong) > 4 * found.std_error + 1e-6


def test_many_levels_give_what_each_gives_alone(rng: np.random.Generator) -> None:
    x = rng.standard_normal((200, 7))
    stds = [0.05, 0.3, 1.0, 3.0]
    together = noise_profile(x, stds, seed=3).clusters
    for std, found in zip(stds, together, strict=True):
        (alone,) = noise_profile(x, [std], seed=3).clusters
        assert found == alone
        estimate = noisy_mi(x, std, seed=3, tolerance=0.05).input
        assert found.value == pytest.approx(exp(estimate.value), rel=1e-12)


def test_a_subset_is_seeded_apart_from_the_noise(rng: np.random.Generator) -> None:
    x = np.repeat(np.arange(2000.0)[:, None], 2, axis=1)
    (first,), (again,) = (noise_profile(x, [1e-3], seed=s, subset_seed=1).clusters for s in (0, 1))
    assert first.n_samples == 400
    assert first.ceiling == pytest.approx(400.0)
    (coarse,), (moved,), (other,) = (
        noise_profile(x, [3.0], seed=a, subset_seed=b).clusters for a, b in ((0, 1), (9, 1), (0, 2))
    )
    assert abs(coarse.value - moved.value) < 4 * (coarse.std_error + moved.std_error) < 40.0
    assert coarse.value != other.value
    assert first.value == again.value == pytest.approx(400.0)


def test_what_has_no_value_says_why() -> None:
    found = noise_profile([[0.0], [np.nan]], [0.1, 0.2])
    assert [e.status for e in found.clusters] == [Status.UNDEFINED] * 2
    assert "1 NaN" in found.clusters[0].reason
    constant = noise_profile(np.ones((9, 3)), [0.1]).clusters[0]
    assert (constant.value, constant.std_error, constant.status) == (1.0, 0.0, Status.OK)
    with pytest.raises(UsageError, match="noise_std must be > 0"):
        noise_profile([[0.0], [1.0]], [0.0])
