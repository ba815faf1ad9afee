"""Scatter axes that all checkpoints share."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from repstat.clustering.scatter import MAX_POINTS, choose_points, fit_axes, project


@pytest.mark.parametrize(("n", "d"), [(100, 5), (20, 300)])
def test_the_axes_are_the_principal_ones_of_all_checkpoints(n: int, d: int, rng: np.random.Generator) -> None:
    blocks = [rng.standard_normal((n, d)) * np.linspace(0.5, 3, d) + offset for offset in (0.0, 50.0)]
    axes = fit_axes(blocks)
    expected = PCA(2).fit(np.vstack([block - block.mean(0) for block in blocks])).components_
    np.testing.assert_allclose(np.abs(np.sum(axes.directions.T * expected, axis=1)), 1.0, atol=1e-9)
    np.testing.assert_allclose(axes.directions.T @ axes.directions, np.eye(2), atol=1e-12)
    # A mutant that fits the blocks without taking their means off sees the offset first.
    drift = PCA(1).fit(np.vstack(blocks)).components_[0]
    assert abs(drift @ axes.directions[:, 0]) < 0.9
    assert axes.names == ("PC 1", "PC 2")


def test_frames_share_origin_and_axes(rng: np.random.Generator) -> None:
    """What is moved by a vector moves by its components, and distances are never longer than they were."""
    x = rng.standard_normal((50, 6))
    axes = fit_axes([x, 2 * x])
    here, shown = project(x, axes)
    there, moved = project(x + np.arange(6.0), axes)
    np.testing.assert_allclose(there - here, np.tile(np.arange(6.0) @ axes.directions, (50, 1)), atol=1e-12)
    assert shown == pytest.approx(moved)
    centred = x - x.mean(0)
    assert shown == pytest.approx(np.sum((centred @ axes.directions) ** 2) / np.sum(centred**2))
    assert 0.3 < shown < 1.0


@pytest.mark.parametrize("d", [1, 2, 3])
def test_few_units_are_shown_as_they_are(d: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((9, d)).astype(np.float32)
    axes = fit_axes([x])
    coordinates, shown = project(x, axes)
    np.testing.assert_array_equal(coordinates, x)
    assert axes.names == tuple(f"unit {u}" for u in range(d))
    assert shown == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_checkpoints_that_are_not_finite_have_no_frame(bad: float, rng: np.random.Generator) -> None:
    good, broken = rng.standard_normal((9, 5)), np.full((9, 5), bad)
    axes = fit_axes([broken, good])
    np.testing.assert_array_equal(axes.directions, fit_axes([good]).directions)
    coordinates, shown = project(broken, axes)
    assert np.isnan(coordinates).all()
    assert np.isnan(shown)
    nothing = fit_axes([broken])
    assert nothing.directions.shape == (5, 2)
    constant = project(np.ones((9, 5)), fit_axes([np.ones((9, 5))]))
    assert (constant[0] == 0).all()
    assert np.isnan(constant[1])


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_extreme_scales(scale: float, rng: np.random.Generator) -> None:
    x = rng.standard_normal((30, 5))
    axes = fit_axes([x * scale])
    np.testing.assert_allclose(axes.directions, fit_axes([x]).directions, atol=1e-9)
    assert project(x * scale, axes)[1] == pytest.approx(project(x, fit_axes([x]))[1])


@pytest.mark.parametrize("shape", [(1, 9), (2, 9), (1, 4)])
def test_one_sample_or_two_have_two_axes_all_the_same(
    shape: tuple[int, int], rng: np.random.Generator
) -> None:
    values = rng.normal(size=shape)
    axes = fit_axes([values])
    np.testing.assert_allclose(axes.directions.T @ axes.directions, np.eye(2), atol=1e-12)
    coordinates, _ = project(values, axes)
    length = np.linalg.norm(values - values.mean(axis=0), axis=1)
    np.testing.assert_allclose(np.linalg.norm(coordinates, axis=1), length, atol=1e-12)


def test_points_are_few_and_the_same_every_time() -> None:
    chosen = choose_points(10_000, 3)
    assert len(chosen) == MAX_POINTS
    np.testing.assert_array_equal(chosen, choose_points(10_000, 3))
    assert (np.diff(chosen) > 0).all()
    assert not np.array_equal(chosen, choose_points(10_000, 4))
    assert choose_points(5, 0).tolist() == [0, 1, 2, 3, 4]
