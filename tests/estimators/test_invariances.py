"""What must hold for any data: Hypothesis chooses sizes, dimensions, duplicates and scales."""

from math import log

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from repstat.estimators import NoisyMI, noisy_mi
from repstat.results import Estimate
from tests.estimators.truths import Floats

sizes = st.integers(2, 80)
dimensions = st.integers(1, 12)
scales = st.floats(0.02, 20.0)
seeds = st.integers(0, 10_000)
examples = settings(max_examples=25, deadline=None, derandomize=True)


def data(n: int, d: int, seed: int) -> tuple[Floats, np.ndarray]:
    """Values with one decimal, so that low dimensions have duplicates, and three classes."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)).round(1), rng.integers(0, 3, n)


def estimate(x: Floats, y: np.ndarray, std: float, seed: int = 0) -> NoisyMI:
    return noisy_mi(x, std, labels=y, tolerance=0.02, seed=seed)


def agree(a: NoisyMI, b: NoisyMI) -> None:
    """Values within five errors, bounds to rounding."""
    for one, other in ((a.input, b.input), (a.label, b.label)):
        assert one is not None
        assert other is not None
        slack = 5 * np.hypot(one.std_error, other.std_error) + 1e-4
        assert abs(one.value - other.value) <= slack
        assert abs(one.lower_bound - other.lower_bound) <= 1e-7
        assert abs(one.upper_bound - other.upper_bound) <= 1e-7


@examples
@given(sizes, dimensions, scales, seeds)
def test_permutation(n: int, d: int, std: float, seed: int) -> None:
    x, y = data(n, d, seed)
    order = np.random.default_rng(seed + 1).permutation(n)
    a, b = estimate(x, y, std), estimate(x[order], y[order], std)
    assert abs(a.input.value - b.input.value) < 1e-12
    agree(a, b)


@examples
@given(sizes, dimensions, scales, seeds)
def test_rotation(n: int, d: int, std: float, seed: int) -> None:
    x, y = data(n, d, seed)
    turn = np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((d, d)))[0]
    agree(estimate(x, y, std), estimate(x @ turn, y, std, seed=1))


@examples
@given(sizes, dimensions, scales, seeds, st.floats(-1e4, 1e4))
def test_translation(n: int, d: int, std: float, seed: int, shift: float) -> None:
    x, y = data(n, d, seed)
    agree(estimate(x, y, std), estimate(x + shift, y, std))


@examples
@given(sizes, dimensions, scales, seeds, st.floats(-12, 12))
def test_joint_scaling(n: int, d: int, std: float, seed: int, power: float) -> None:
    x, y = data(n, d, seed)
    agree(estimate(x, y, std), estimate(x * 10.0**power, y, std * 10.0**power))


@examples
@given(sizes, dimensions, scales, seeds, st.integers(2, 5))
def test_duplication(n: int, d: int, std: float, seed: int, times: int) -> None:
    """Every sample `times` times is the same mixture, held with weights."""
    x, y = data(n, d, seed)
    agree(estimate(x, y, std), estimate(np.repeat(x, times, axis=0), np.repeat(y, times), std))


@examples
@given(sizes, dimensions, scales, seeds, st.floats(1.05, 4.0))
def test_more_noise_leaves_less(n: int, d: int, std: float, seed: int, factor: float) -> None:
    x, y = data(n, d, seed)
    less, more = noisy_mi(x, [std, std * factor], labels=y, tolerance=0.02)
    for a, b in ((less.input, more.input), (less.label, more.label)):
        assert a is not None
        assert b is not None
        assert b.value <= a.value + 5 * np.hypot(a.std_error, b.std_error) + 1e-4
        if a is less.input:
            assert b.lower_bound <= a.lower_bound + 1e-9
            assert b.upper_bound <= a.upper_bound + 1e-9


def between(found: Estimate) -> bool:
    """Whether value, bounds, bracket and ceiling are in order, within five errors."""
    slack = 5 * found.std_error + 1e-4
    assert found.ceiling is not None
    return (
        found.lower_bound - slack <= found.value <= found.upper_bound + slack
        and found.lower_bound <= found.upper_bound + 1e-12
        and found.value <= found.ceiling + slack
        and (found.population_lower is None or found.population_lower <= found.value + 1e-9)
        and (found.population_upper is None or found.population_upper >= found.value - 0.05)
    )


@examples
@given(sizes, dimensions, scales, seeds)
def test_order(n: int, d: int, std: float, seed: int) -> None:
    """0 <= I(Y;T) <= min(I(X;T), H(Y)), I(X;T) <= ln n, and everything within its bounds."""
    x, y = data(n, d, seed)
    found = estimate(x, y, std)
    assert found.label is not None
    slack = 5 * np.hypot(found.input.std_error, found.label.std_error) + 1e-4
    share = np.unique(y, return_counts=True)[1] / n
    entropy = float(-(share @ np.log(share)))
    assert -slack <= found.label.value <= min(found.input.value, entropy) + slack
    assert found.input.value <= log(n) + 1e-9
    assert between(found.input)
    assert between(found.label)
