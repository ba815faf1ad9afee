"""Identities that hold for any data, degenerate data, and refusals."""

from dataclasses import replace
from itertools import pairwise
from math import inf, log, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repstat.errors import RepstatError, UsageError
from repstat.estimators import noisy_channel, noisy_mi, pairwise_bounds
from repstat.results import Status
from tests.estimators.truths import Floats
from tests.optional import require


@pytest.fixture
def x(rng: np.random.Generator) -> Floats:
    return rng.standard_normal((200, 4))


@pytest.fixture
def y(x: Floats) -> np.ndarray:
    return (x[:, 0] > 0).astype(int)


def test_the_order_of_samples_is_irrelevant(x: Floats, y: np.ndarray, rng: np.random.Generator) -> None:
    order = rng.permutation(len(x))
    a, b = noisy_mi(x, 0.5, labels=y), noisy_mi(x[order], 0.5, labels=y[order])
    assert a.label is not None
    assert b.label is not None
    assert (a.input.value, a.label.value) == pytest.approx((b.input.value, b.label.value), abs=1e-12)


@pytest.mark.parametrize(
    ("shift", "factor"), [(1e4, 1.0), (-3.0, 1.0), (0.0, 1e-20), (0.0, 7.0), (1e4, 1e10), (0.0, 1e300)]
)
def test_shift_and_joint_scale_are_irrelevant(x: Floats, shift: float, factor: float) -> None:
    """Also the regression of a Gram form on uncentred data, which once gave more than ln n."""
    plain, moved = noisy_mi(x, 0.5), noisy_mi((x + shift) * factor, 0.5 * factor)
    assert moved.input.value == pytest.approx(plain.input.value, abs=1e-8)
    assert moved.input.lower_bound == pytest.approx(plain.input.lower_bound, abs=1e-8)


def test_rotation_and_order_of_units_are_irrelevant(x: Floats, rng: np.random.Generator) -> None:
    """n = 200, d = 4, standard errors 0.005: the noise is another, so values agree within it."""
    rotation = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    plain = noisy_mi(x, 0.5, tolerance=0.005)
    for moved in (x @ rotation, x[:, ::-1]):
        found = noisy_mi(moved, 0.5, tolerance=0.005)
        assert found.input.value == pytest.approx(plain.input.value, abs=4 * 0.0071)
        assert found.input.upper_bound == pytest.approx(plain.input.upper_bound, abs=1e-12)


def test_extra_units_that_carry_nothing_are_irrelevant(x: Floats) -> None:
    """Constant units are dropped; more units than samples go through the reduction of rank."""
    padded = np.hstack([x, np.full((len(x), 3), 7.0)])
    assert noisy_mi(padded, 0.5).input.value == pytest.approx(noisy_mi(x, 0.5).input.value, abs=1e-12)
    wide = np.tile(x, 100)
    found, plain = noisy_mi(wide, 5.0, tolerance=0.005), noisy_mi(x, 0.5, tolerance=0.005)
    assert found.input.value == pytest.approx(plain.input.value, abs=4 * 0.0071)
    assert found.input.lower_bound == pytest.approx(plain.input.lower_bound, abs=1e-10)


def test_repetition_of_the_whole_sample_is_irrelevant(x: Floats) -> None:
    once, thrice = noisy_mi(x, 0.5), noisy_mi(np.repeat(x, 3, axis=0), 0.5)
    assert thrice.n_distinct == once.n_distinct == 200
    assert thrice.input.value == pytest.approx(once.input.value, abs=1e-12)
    assert thrice.input.upper_bound == pytest.approx(once.input.upper_bound, abs=1e-12)
    assert thrice.input.ceiling == pytest.approx(log(600))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_floats_are_computed_in_float64(x: Floats, dtype: type) -> None:
    narrow = x.astype(dtype)
    assert noisy_mi(narrow, 0.5).input == noisy_mi(narrow.astype(np.float64), 0.5).input


def test_zero_has_no_sign() -> None:
    found = noisy_mi(np.array([0.0, -0.0, 1.0]), 0.1)
    assert found.n_distinct == 2


def test_axes_after_the_first_are_units(x: Floats) -> None:
    assert noisy_mi(x.reshape(200, 2, 2), 0.5).input == noisy_mi(x, 0.5).input
    assert noisy_mi(x[:, 0], 0.5).input == noisy_mi(x[:, :1], 0.5).input
    assert noisy_mi(x, 0.5).input.n_units == 4


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(2, 30), st.integers(1, 40), st.floats(0.01, 10.0), st.integers(0, 1000))
def test_information_is_ordered(n: int, d: int, std: float, seed: int) -> None:
    """0 <= I(Y;T) <= I(X;T) <= ln n within five standard errors, and bounds around the values."""
    rng = np.random.default_rng(seed)
    data, labels = rng.standard_normal((n, d)).round(1), rng.integers(0, 3, n)
    found = noisy_mi(data, std, labels=labels, tolerance=0.05, seed=seed)
    a, b = found.input, found.label
    assert b is not None
    slack = 5 * (a.std_error + b.std_error) + 1e-9
    assert -slack <= b.value <= a.value + slack
    assert a.value <= log(n) + 1e-12
    for e in (a, b):
        assert e.lower_bound - slack <= e.value <= e.upper_bound + slack
        assert e.lower_bound >= -1e-12
        assert e.lower_bound <= e.upper_bound + 1e-12
        assert e.value <= e.ceiling + slack


def test_information_falls_with_noise(x: Floats) -> None:
    values = [noisy_mi(x, std).input.value for std in (0.01, 0.1, 0.3, 1.0, 3.0, 30.0)]
    assert all(a > b - 0.04 for a, b in pairwise(values))
    assert values[0] - values[-1] > 4


@pytest.mark.parametrize("d", [3, 784, 2000])
def test_extreme_noise_in_any_dimension(d: int, rng: np.random.Generator) -> None:
    data = rng.standard_normal((100, d))
    for std in (1e-6, 1e-9, 1e-14, 1e-100):
        tiny = noisy_mi(data, std).input
        assert tiny.value == pytest.approx(log(100), abs=1e-12)
        assert tiny.status == Status.SATURATED
    for std in (1e9, 1e100):
        assert noisy_mi(data, std).input.value == pytest.approx(0.0, abs=1e-7)


def test_neighbours_that_float64_cannot_resolve_are_undefined() -> None:
    data = np.array([0.0, 1e-13, 1.0])
    found = noisy_mi(data, 1e-13, labels=[0, 1, 1])
    assert found.input.status == Status.UNDEFINED
    assert "larger noise_std" in found.input.reason
    assert noisy_mi(data, 1e-13).input.value is None


@pytest.mark.parametrize(("factor", "std"), [(1.0, 1e-320), (1e300, 1e-10)])
def test_a_ratio_beyond_float64_is_refused(x: Floats, factor: float, std: float) -> None:
    with pytest.raises(UsageError, match=r"noise_std .* is too small for activations of size"):
        noisy_mi(x * factor, std)


@pytest.mark.parametrize("tolerance", [0.03, 0.01, 0.003])
def test_the_tolerance_is_honoured(x: Floats, y: np.ndarray, tolerance: float) -> None:
    found = noisy_mi(x, 0.5, labels=y, tolerance=tolerance)
    assert found.label is not None
    for estimate in (found.input, found.label):
        assert 0 < estimate.std_error <= tolerance
        assert estimate.status == Status.OK


@pytest.mark.parametrize("max_draws", [16, 300, 5000])
def test_too_few_draws_are_said(x: Floats, max_draws: int) -> None:
    found = noisy_mi(x, 0.5, tolerance=1e-4, max_draws=max_draws)
    assert max_draws / 3 <= found.n_draws <= max_draws
    assert found.input.status == Status.TOLERANCE_NOT_REACHED
    assert "above the tolerance 0.0001" in found.input.reason


def test_equal_arguments_give_equal_results_and_seeds_differ(x: Floats) -> None:
    assert noisy_mi(x, 0.5, seed=3) == noisy_mi(x, 0.5, seed=3)
    assert noisy_mi(x, 0.5, seed=3).input.value != noisy_mi(x, 0.5, seed=4).input.value


@pytest.mark.parametrize("seed", [0, 1, 20])
def test_data_of_the_same_seed_do_not_meet_their_own_noise(seed: int) -> None:
    """default_rng(seed) twice made z equal the centres: residuals of 28 where ln n is 6.9."""
    data = np.random.default_rng(seed).standard_normal((1000, 3))
    same, other = noisy_mi(data, 1.0, seed=seed), noisy_mi(data, 1.0, seed=seed + 100)
    assert same.input.value == pytest.approx(other.input.value, abs=4 * 0.0142)


def test_an_impossible_residual_is_an_internal_error(x: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    real = noisy_channel.sample_mixture

    def wrong(*args: object) -> object:
        (sampled,) = real(*args)
        return [replace(sampled, residual=28.0)]

    monkeypatch.setattr(noisy_channel, "sample_mixture", wrong)
    with pytest.raises(RepstatError, match="internal error: the mean residual exceeds ln n"):
        noisy_mi(x, 0.5)


@pytest.mark.parametrize(("factor", "status"), [(0.99, Status.OK), (1.01, Status.TOLERANCE_NOT_REACHED)])
@pytest.mark.parametrize("quantity", ["input", "label"])
def test_an_error_above_the_tolerance_is_said(
    x: Floats, y: np.ndarray, quantity: str, factor: float, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = noisy_channel.sample_mixture
    name = {"input": "residual_error", "label": "label_error"}[quantity]

    def with_error(*args: object) -> object:
        return [replace(sampled, **{name: factor * 0.01}) for sampled in real(*args)]

    monkeypatch.setattr(noisy_channel, "sample_mixture", with_error)
    estimate = getattr(noisy_mi(x, 0.5, labels=y, tolerance=0.01), quantity)
    assert (estimate.status, estimate.std_error) == (status, factor * 0.01)


def test_one_sample_says_nothing() -> None:
    found = noisy_mi([[1.0, 2.0]], 0.1, labels=[3])
    assert found.label is not None
    for estimate in (found.input, found.label):
        assert (estimate.value, estimate.std_error) == (0.0, 0.0)
        assert estimate.status == Status.TOO_FEW_SAMPLES


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-320, 0.1, 1e300])
def test_a_constant_layer_has_exactly_no_information(value: float) -> None:
    found = noisy_mi(np.full((50, 7), value), 0.1, labels=np.arange(50) % 3)
    assert found.label is not None
    for estimate in (found.input, found.label):
        assert (estimate.value, estimate.std_error, estimate.status) == (0.0, 0.0, Status.OK)
        assert (estimate.lower_bound, estimate.upper_bound) == (0.0, 0.0)
    assert (found.n_draws, found.n_distinct, found.input.population_upper) == (0, 1, 0.0)


def test_one_class_has_exactly_no_information(x: Floats) -> None:
    label = noisy_mi(x, 0.5, labels=np.zeros(200, int)).label
    assert label is not None
    assert (label.value, label.std_error, label.ceiling, label.status) == (0.0, 0.0, 0.0, Status.OK)


def test_labels_of_one_sample_each_have_no_population_bracket_below(x: Floats) -> None:
    found = noisy_mi(x, 0.5, labels=np.arange(200))
    assert found.label is not None
    assert found.label.value == pytest.approx(found.input.value, abs=1e-12)
    assert found.label.population_lower is None


def test_the_kind_of_labels_is_irrelevant(x: Floats, y: np.ndarray) -> None:
    expected = noisy_mi(x, 0.5, labels=y)
    assert noisy_mi(x, 0.5, labels=y.astype(bool)) == expected
    assert noisy_mi(x, 0.5, labels=np.where(y, "dog", "cat")) == expected


def test_repeated_inputs_lower_the_ceiling(x: Floats) -> None:
    found = noisy_mi(x, 0.01, input_entropy=5.0)
    assert found.input.ceiling == 5.0
    assert noisy_mi(x, 0.01).input.ceiling == pytest.approx(log(200))


def test_no_label_knows_more_than_the_inputs(x: Floats, y: np.ndarray) -> None:
    found = noisy_mi(x, 0.01, labels=y, input_entropy=0.3)
    assert found.label is not None
    assert (found.label.ceiling, found.label.upper_bound) == (0.3, 0.3)
    found = noisy_mi(x, 0.01, labels=y, input_entropy=5.0)
    assert found.label is not None
    share = np.bincount(y) / 200
    assert found.label.ceiling == pytest.approx(-(share @ np.log(share)))


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_nonfinite_activations_are_undefined_with_counts(x: Floats, y: np.ndarray, bad: float) -> None:
    x[3, 1] = x[5, 0] = x[5, 1] = bad
    found = noisy_mi(x, 0.5, labels=y)
    assert found.label is not None
    for estimate in (found.input, found.label):
        assert estimate.value is None
        assert estimate.status == Status.UNDEFINED
        counts = "3 NaN and 0 infinite" if bad != bad else "0 NaN and 3 infinite"
        assert estimate.reason == f"{counts} values in 2 of 200 samples"
    with pytest.raises(UsageError, match="not finite"):
        pairwise_bounds(x, 0.5)


@pytest.mark.parametrize("value", [0, 0.0, -1, nan, inf])
def test_noise_std_is_positive(x: Floats, value: float) -> None:
    text = f"noise_std is a standard deviation and must be > 0, got {value:g}"
    with pytest.raises(UsageError, match=text):
        noisy_mi(x, value)
    with pytest.raises(UsageError, match=text):
        pairwise_bounds(x, value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"tolerance": 0}, "tolerance must be > 0, got 0"),
        ({"tolerance": nan}, "tolerance must be > 0, got nan"),
        ({"noise_std": [0.1, -0.2]}, "noise_std is a standard deviation and must be > 0, got -0.2"),
        ({"noise_std": [0.1, "0.2"]}, "must be one number, got '0.2'"),
        ({"noise_std": []}, "noise_std is empty"),
        ({"device": "gpu"}, "device 'gpu' is not understood: expected cpu or cuda"),
        ({"noise_std": "0.1"}, "must be one number, got '0.1'"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"seed": 0.5}, "seed must be an integer of at least 0, got 0.5"),
        ({"max_draws": 1}, "max_draws must be an integer of at least 16, got 1"),
        ({"max_draws": True}, "max_draws must be an integer"),
        ({"input_entropy": 9.0}, "input_entropy is in nats and must be from 0 to ln n = 5.2983, got 9"),
        ({"input_entropy": nan}, "input_entropy .* got nan"),
        ({"labels": [0, 1]}, "found 2 labels for 200 samples"),
        ({"labels": np.eye(200)}, r"found shape \(200, 200\), expected \(200,\).*argmax"),
        ({"labels": np.zeros(200)}, "found dtype float64, expected integers, booleans or strings"),
        ({"labels": np.array([None] * 200)}, "found dtype object"),
        (
            {"labels": np.ma.masked_array(np.zeros(200, int), np.arange(200) == 3)},
            "labels are a masked array",
        ),
        ({"activations": np.empty((0, 3))}, r"activations are empty: found shape \(0, 3\)"),
        ({"activations": np.empty((3, 0))}, r"activations are empty: found shape \(3, 0\)"),
        ({"activations": 1.0}, r"activations are empty: found shape \(\)"),
        ({"activations": np.array(["a"])}, "activations are not real numbers: found dtype <U1"),
        ({"activations": np.ones(3, complex)}, "activations are not real numbers: found dtype complex128"),
        ({"activations": [[1.0], [1.0, 2.0]]}, "activations cannot be read as an array"),
        ({"activations": np.ma.masked_array([1.0], [True])}, "activations are a masked array"),
    ],
)
def test_what_cannot_be_right_is_refused(x: Floats, arguments: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        noisy_mi(**({"activations": x, "noise_std": 0.5} | arguments))


def test_several_noise_levels_are_each_what_they_are_alone(x: Floats, y: np.ndarray) -> None:
    """From the bottom, where nothing overlaps, to the top: every kernel has its turn."""
    stds = [1e-3, 0.05, 0.3, 0.5, 3.0, 0.3]
    together = noisy_mi(x, stds, labels=y, tolerance=0.005)
    assert [found.noise_std for found in together] == stds
    assert together == [noisy_mi(x, std, labels=y, tolerance=0.005) for std in stds]
    assert noisy_mi(x, np.array(stds), labels=y, tolerance=0.005) == together


def test_several_noise_levels_without_finite_values(x: Floats) -> None:
    x[0, 0] = nan
    assert [found.input.status for found in noisy_mi(x, [0.1, 0.2])] == [Status.UNDEFINED] * 2


def test_bounds_are_left_out_where_pairs_are_too_many(
    x: Floats, y: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noisy_channel, "MAX_BOUND_POINTS", 199)
    found, whole = noisy_mi(x, 0.5, labels=y), noisy_mi(x[:199], 0.5)
    for estimate in (found.input, found.label):
        assert estimate is not None
        assert (estimate.lower_bound, estimate.upper_bound, estimate.status) == (None, None, Status.OK)
    assert whole.input.lower_bound is not None


def test_torch_gives_the_numbers_of_numpy(x: Floats, y: np.ndarray) -> None:
    require("torch")
    numpy, torch = (noisy_mi(x, 0.5, labels=y, device=device) for device in ("cpu", "torch:cpu"))
    for a, b in ((numpy.input, torch.input), (numpy.label, torch.label)):
        assert a is not None
        assert b is not None
        assert b.value == pytest.approx(a.value, abs=1e-7)
        assert b.std_error == pytest.approx(a.std_error, abs=1e-7)
    assert numpy.n_draws == torch.n_draws
