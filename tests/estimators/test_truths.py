"""Noisy mutual information against truths, and wrong estimators against the same table."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
from scipy.stats import norm

from repstat.estimators import grid, noisy_mi, pairwise_bounds
from repstat.results import Estimate, Status
from tests.estimators.truths import (
    Case,
    Estimator,
    Floats,
    failures,
    gaussian_information,
    information,
    plain_log_sums,
    table,
    uniform_information,
)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return table()


@pytest.fixture(params=[True, False], ids=["as it comes", "sampled"])
def sampled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as users get it, once without quadrature, which would leave nothing to sampling in few axes."""
    if not request.param:
        monkeypatch.setattr(grid, "MAX_AXES", 0)


def right(points: Floats, noise_std: float, labels: np.ndarray) -> tuple[Estimate, Estimate]:
    found = noisy_mi(points, noise_std, labels=labels, seed=1)
    assert found.label is not None
    return found.input, found.label


def constant(points: Floats, noise_std: float, labels: np.ndarray) -> tuple[Estimate, Estimate]:
    return tuple(replace(e, value=0.6) for e in right(points, noise_std, labels))


def bits(points: Floats, noise_std: float, labels: np.ndarray) -> tuple[Estimate, Estimate]:
    return tuple(replace(e, value=e.value / log(2)) for e in right(points, noise_std, labels))


def variance(points: Floats, noise_std: float, labels: np.ndarray) -> tuple[Estimate, Estimate]:
    return right(points, noise_std**2, labels)


def twice(points: Floats, noise_std: float, labels: np.ndarray) -> tuple[Estimate, Estimate]:
    rng = np.random.default_rng(5)
    return right(points + noise_std * rng.standard_normal(points.shape), noise_std, labels)


def ceiling(points: Floats, noise_std: float, labels: np.ndarray) -> tuple[Estimate, Estimate]:
    return tuple(replace(e, value=e.ceiling) for e in right(points, noise_std, labels))


def test_the_quadrature_gives_the_published_digits() -> None:
    found = [information([-1, 1], s) for s in (0.5, 1, 2)]
    found += [information([-3, -1, 1, 3], s) for s in (0.5, 1)] + [uniform_information(0.1)]
    expected = [0.632720, 0.336831, 0.111421, 1.295654, 0.845233, 1.667113]
    assert found == pytest.approx(expected, abs=1e-6)
    tanh = [
        information(np.tanh(w * np.array([-3, -1, 1, 3]) + b), 0.05) for w, b in [(1, 0), (1, -2), (2, -4)]
    ]
    assert tanh == pytest.approx([1.359519, 1.022587, 0.603110], abs=1e-6)


@pytest.mark.usefixtures("sampled")
def test_every_truth_of_the_table_is_met(cases: list[Case]) -> None:
    assert failures(right, cases) == []


@pytest.mark.usefixtures("sampled")
def test_every_truth_is_met_at_a_thousandth(cases: list[Case]) -> None:
    """Standard errors of 0.001 nat; 11 of 12 digits of the truths are known."""

    def fine(points: Floats, noise_std: float, labels: np.ndarray) -> tuple[Estimate, Estimate]:
        found = noisy_mi(points, noise_std, labels=labels, tolerance=0.001, seed=2)
        assert found.label is not None
        return found.input, found.label

    assert failures(fine, cases, largest_error=0.001) == []


@pytest.mark.parametrize("wrong", [constant, bits, variance, twice, ceiling])
def test_a_wrong_estimator_fails_the_same_table(wrong: Estimator, cases: list[Case]) -> None:
    assert len(failures(wrong, cases)) >= len(cases) // 2


def test_weights_are_repetitions() -> None:
    """Points 0, 1, 2, 5 with multiplicities 5, 1, 1, 3 (n = 10) at noise 0.7; truth by quadrature."""
    x, times = np.array([0.0, 1.0, 2.0, 5.0]), [5, 1, 1, 3]
    found = noisy_mi(np.repeat(x, times), 0.7, tolerance=0.004, seed=2)
    assert found.n_distinct == 4
    assert found.input.value == pytest.approx(information(x, 0.7, times), abs=4 * 0.004)


def test_a_far_point_does_not_blur_close_ones() -> None:
    """0 and 1 at noise 1, and a point 10^7 away, where a Gram product is off by a tenth of a nat."""
    x = np.array([0.0, 1.0, 1e7])
    apart = log(3) - 2 / 3 * log(2)
    lower, upper = pairwise_bounds(x, 1.0)
    assert lower == pytest.approx(log(3) - 2 / 3 * np.log1p(np.exp(-1 / 8)), abs=1e-9)
    assert upper == pytest.approx(log(3) - 2 / 3 * np.log1p(np.exp(-1 / 2)), abs=1e-9)
    found = noisy_mi(x, 1.0, tolerance=0.003, seed=6).input
    assert found.value == pytest.approx(apart + 2 / 3 * information([0, 1], 1.0), abs=4 * 0.003)


def test_a_coincidence_of_classes_is_counted_per_class() -> None:
    """One point in both classes: Y is a coin, I(Y;T) from h(T) - h(T|Y) with weighted mixtures."""
    x, y = np.array([0.0, 0.0, 0.0, 2.0]), [0, 0, 1, 1]
    total = information([0, 2], 0.8, [3, 1])
    truth = total - 0.5 * information([0, 2], 0.8, [1, 1])
    found = noisy_mi(x, 0.8, labels=y, tolerance=0.003, seed=3)
    assert found.label is not None
    assert found.label.value == pytest.approx(truth, abs=4 * 0.003)


@pytest.mark.parametrize(
    ("d", "n", "std", "seed"), [(1, 2000, 0.1, 0), (2, 2000, 0.3, 1), (5, 500, 0.6, 2), (10, 500, 1.0, 3)]
)
def test_the_population_bracket_holds_a_gaussian(d: int, n: int, std: float, seed: int) -> None:
    """S ~ N(0, A A^T) as in a linear network; truth (1/2) ln det(1 + A A^T / std^2).

    The bracket holds in expectation; the spread of an end over samples is at most sqrt(d / (2 n)).
    """
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((d, d)) / np.sqrt(d)
    samples = rng.standard_normal((n, d)) @ mixing.T
    truth = gaussian_information(mixing @ mixing.T, std)
    found = noisy_mi(samples, std, tolerance=0.005, seed=seed).input
    assert found.population_lower is not None
    assert found.population_upper is not None
    spread = 4 * np.sqrt(d / (2 * n))
    assert found.population_lower - spread <= truth <= found.population_upper + spread
    assert found.value == found.population_lower
    assert found.population_upper > found.population_lower


@pytest.mark.parametrize(("n", "width"), [(50, 1.5), (500, 0.3)])
def test_the_population_bracket_holds_in_expectation(n: int, width: float) -> None:
    """S ~ N(0, 0.8^2 I) in five units at noise 0.5: truth (5/2) ln(1 + 0.64/0.25); means of 40 samples."""
    truth = gaussian_information(0.64 * np.eye(5), 0.5)
    ends = []
    for seed in range(40):
        samples = 0.8 * np.random.default_rng(seed).standard_normal((n, 5))
        found = noisy_mi(samples, 0.5, seed=seed).input
        ends.append((found.population_lower, found.population_upper))
    (lower, upper), error = np.mean(ends, axis=0), np.std(ends, axis=0) / np.sqrt(40)
    assert lower - 4 * error[0] <= truth <= upper + 4 * error[1]
    assert lower < truth < upper
    assert upper - lower < width


def test_the_population_bracket_closes_with_samples() -> None:
    """Uniform samples at noise 0.1, n = 100 and 3000; truth 1.667113 by quadrature."""
    widths = []
    for n in (100, 3000):
        x = np.random.default_rng(7).uniform(-1, 1, n)
        found = noisy_mi(x, 0.1, tolerance=0.005).input
        lower, upper = found.population_lower, found.population_upper
        assert lower is not None
        assert upper is not None
        assert lower - 4 * 0.6 / np.sqrt(n) <= uniform_information(0.1) <= upper + 4 * 0.6 / np.sqrt(n)
        widths.append(upper - lower)
    assert widths[1] < widths[0] / 10


def test_binary_words_of_length_32() -> None:
    """1,000 of the 2^32 words at noise 2: the truth 32 I_BPSK(2) = 3.565487 lies in the bracket."""
    words = np.random.default_rng(11).choice([-1.0, 1.0], (1000, 32))
    found = noisy_mi(words, 2.0, seed=4).input
    truth = 32 * information([-1, 1], 2.0)
    assert truth == pytest.approx(3.565487, abs=1e-5)
    assert found.population_lower is not None
    assert found.population_upper is not None
    assert found.population_lower - 0.06 <= truth <= found.population_upper + 0.06
    assert found.population_upper - found.population_lower < 0.3


def left_one_out(x: Floats, std: float) -> float:
    """E[-ln g_{-i}(x_i + Z)] over i, less h(Z): each point against the others, by quadrature."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(200)
    total = 0.0
    for i, centre in enumerate(x):
        density = norm.pdf((centre + std * nodes)[:, None], np.delete(x, i), std).mean(axis=1)
        total -= float(mass @ np.log(density)) / mass.sum()
    return total / len(x) - 0.5 * log(2 * np.pi * np.e * std**2)


def test_the_population_bracket_is_left_one_out() -> None:
    """Seven points in classes of 2 and 5 at noise 0.8.

    The distance of the ends to the integral is sampled, with 4,096 draws or more and a spread below 2 nats.
    """
    x, y, std = np.array([0.0, 0.9, 0.2, 0.5, 1.5, 2.0, 2.4]), np.array([0, 0, 1, 1, 1, 1, 1]), 0.8
    classes = [x[y == c] for c in (0, 1)]
    within = sum(len(c) / 7 * information(c, std) for c in classes)
    within_left_out = sum(len(c) / 7 * left_one_out(c, std) for c in classes)
    found = noisy_mi(x, std, labels=y, tolerance=0.002, seed=8)
    assert found.label is not None
    truths = {
        (found.input.population_lower, information(x, std)),
        (found.input.population_upper, left_one_out(x, std)),
        (found.label.population_lower, information(x, std) - within_left_out),
        (found.label.population_upper, left_one_out(x, std) - within),
    }
    for end, truth in truths:
        assert end == pytest.approx(truth, abs=4 * 2 / np.sqrt(4096))


@pytest.mark.parametrize("std", [0.5, 1.0])
def test_the_pairwise_bounds_of_bpsk(std: float) -> None:
    lower, upper = pairwise_bounds(np.array([[-1.0], [1.0]]), std)
    assert lower == pytest.approx(log(2) - np.log1p(np.exp(-4 / (8 * std**2))), abs=1e-14)
    assert upper == pytest.approx(log(2) - np.log1p(np.exp(-4 / (2 * std**2))), abs=1e-14)
    rounded = {0.5: (0.5662, 0.6928), 1.0: (0.2191, 0.5662)}[std]
    assert (lower, upper) == pytest.approx(rounded, abs=5e-5)


def test_the_pairwise_bounds_hold_in_the_whole_table(cases: list[Case]) -> None:
    for case in cases:
        found = noisy_mi(case.points, case.noise_std, labels=case.labels, max_draws=2**13)
        for estimate, truth in ((found.input, case.input), (found.label, case.label)):
            assert estimate is not None
            assert estimate.lower_bound is not None
            assert estimate.upper_bound is not None
            assert estimate.lower_bound - 1e-6 <= truth <= estimate.upper_bound + 1e-6, case.name


@pytest.mark.parametrize(("n", "d", "std"), [(300, 128, 6.0), (300, 784, 14.0)])
def test_high_dimension_against_the_plain_form(n: int, d: int, std: float) -> None:
    """Where tree-based kernel densities lose hundreds of nats: 8 plain draws for each of 60 centres."""
    rng = np.random.default_rng(d)
    x = rng.standard_normal((n, d))
    own = np.repeat(np.arange(60), 8)
    residual = np.logaddexp(0.0, plain_log_sums(x / std, own, rng.standard_normal((len(own), d))))
    truth, error = log(n) - residual.mean(), residual.std() / np.sqrt(len(own))
    found = noisy_mi(x, std, tolerance=0.01).input
    assert found.status == Status.OK
    assert found.value == pytest.approx(truth, abs=4 * np.hypot(error, 0.01))
