"""Quadrature in up to three axes: truths, its own error, where it is not worth it."""

from math import log

import numpy as np
import pytest

from repstat.estimators import grid, noisy_mi
from repstat.estimators.mixture import Mixture
from repstat.estimators.noisy_channel import distinct_mixture
from tests.estimators.truths import Floats, cube, information, label_information, uniform_information


def mixture_of(points: Floats, labels: np.ndarray | None = None) -> Mixture:
    return distinct_mixture(points, [1.0], labels)[0]


def scaled(points: Floats, std: float, labels: np.ndarray | None = None) -> tuple[Mixture, float]:
    found, scale, _ = distinct_mixture(points, [std], labels)
    return found, std / scale


@pytest.mark.parametrize("std", [0.05, 0.3, 1.0, 2.0, 30.0])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_product_constellations(d: int, std: float) -> None:
    """I = d I_BPSK; the label is the first bit. To the stated error and 1e-7."""
    centres, relative = scaled(cube(d), std, (cube(d)[:, 0] > 0).astype(int))
    found = grid.integrate(centres, relative)
    one = information([-1, 1], std)
    assert found.input == pytest.approx(d * one, abs=found.input_error + 1e-7)
    assert found.label == pytest.approx(one, abs=found.label_error + 1e-7)
    assert 1e-9 <= found.input_error < 2e-5


@pytest.mark.parametrize("gap", [1.0, 2.0, 4.0, 6.0, 8.0])
def test_the_error_is_stated_where_it_is_largest(gap: float) -> None:
    """Two Gaussians some standard deviations apart: ln p has singularities near the real line."""
    for d in (1, 2, 3):
        points = np.zeros((2, d)) + 1e-9 * np.eye(2, d)
        points[1, 0] = gap
        spread = np.vstack([points, points + np.r_[np.zeros(d - 1), 1e-9]])
        centres, relative = scaled(spread, 1.0)
        found = grid.integrate(centres, relative)
        assert found.input == pytest.approx(information([0.0, gap], 1.0), abs=2 * found.input_error + 1e-7)


def test_weights_and_classes_by_quadrature() -> None:
    """Points 0, 1, 2, 5 with multiplicities 5, 1, 1, 3 in two classes at noise 0.7."""
    x = np.repeat([0.0, 1.0, 2.0, 5.0], [5, 1, 1, 3])
    y = np.array([0, 0, 1, 1, 1, 0, 1, 0, 1, 1])
    centres, relative = scaled(x[:, None], 0.7, y)
    found = grid.integrate(centres, relative)
    assert found.input == pytest.approx(information(x, 0.7), abs=1e-8)
    assert found.label == pytest.approx(label_information(x, y, 0.7), abs=1e-8)


def test_slabs_and_padding_hold_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,500 evenly spaced points: uniform but for 1e-6, whatever the size of a slab."""
    points = (-1 + (2 * np.arange(1500) + 1) / 1500)[:, None]
    for slab in (1, 64):
        monkeypatch.setattr(grid, "SLAB", slab)
        centres, relative = scaled(points, 0.1)
        found = grid.integrate(centres, relative)
        assert found.input == pytest.approx(uniform_information(0.1), abs=2e-6)


def test_where_a_grid_is_not_worth_it() -> None:
    rng = np.random.default_rng(0)
    three = mixture_of(rng.standard_normal((1000, 3)))
    assert grid.worth_it(three, 0.1)
    assert not grid.worth_it(three, 1e-4)
    assert not grid.worth_it(mixture_of(rng.standard_normal((1000, 4))), 1.0)
    assert not grid.worth_it(mixture_of(np.ones((5, 2))), 1.0)
    many = mixture_of(rng.standard_normal((1000, 3)), np.arange(1000))
    assert not grid.worth_it(many, 0.02)


def test_more_units_that_span_three_axes_are_integrated(rng: np.random.Generator) -> None:
    """200 points in a plane of 50 units: quadrature, as for their two coordinates."""
    plane = rng.standard_normal((200, 2))
    wide = plane @ np.linalg.qr(rng.standard_normal((50, 2)))[0].T
    flat, turned = noisy_mi(plane, 0.4).input, noisy_mi(wide, 0.4).input
    assert turned.value == pytest.approx(flat.value, abs=1e-8)
    assert max(flat.std_error, turned.std_error) < 1e-7


def test_quadrature_and_sampling_agree(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """n = 500 in the plane, three classes, noise 0.3; sampled with a standard error below 0.001."""
    x, y = rng.standard_normal((500, 2)), rng.integers(0, 3, 500)
    exact = noisy_mi(x, 0.3, labels=y, tolerance=0.001)
    monkeypatch.setattr(grid, "MAX_AXES", 0)
    drawn = noisy_mi(x, 0.3, labels=y, tolerance=0.001)
    for a, b in ((exact.input, drawn.input), (exact.label, drawn.label)):
        assert a is not None
        assert b is not None
        assert a.std_error < 1e-6 < b.std_error
        assert b.value == pytest.approx(a.value, abs=4 * b.std_error)
    assert exact.input.value < log(500)
    assert exact.input.population_upper == pytest.approx(drawn.input.population_upper, abs=0.02)
