"""The noisy network: truths by closed form and quadrature, the bias of few realizations, wrong variants."""

from collections.abc import Callable
from itertools import pairwise
from math import log, sqrt

import numpy as np
import pytest
from scipy.stats import norm

from repstat.errors import UsageError
from repstat.estimators import NetworkMI, noisy_mi, rise, sample_propagation_mi
from repstat.estimators import channel as channels
from repstat.estimators import network_claims as claims
from repstat.estimators.channel import gaussian_excess
from repstat.results import Estimate, Status
from tests.estimators.truths import Floats, gaussian_information


def spread(centres: Floats, std: float, n: int, seed: int) -> Floats:
    """Realizations s = c + N(0, std^2), shape (n, m, d)."""
    return centres + std * np.random.default_rng(seed).standard_normal((n, *centres.shape))


def table() -> tuple[Floats, float]:
    """Fifty inputs in three units, S|x ~ N(c_x, 0.2^2), noise 0.1: T|x is normal, so the truth is that of
    measurement noise of variance 0.05."""
    centres = 0.63 * np.random.default_rng(1).standard_normal((50, 3))
    return centres, noisy_mi(centres, sqrt(0.05), tolerance=0.0005).input.value or 0.0


def estimate(n_recorded: int, n_conditional: int, **options: object) -> NetworkMI:
    centres, _ = table()
    conditional = spread(centres, 0.2, n_conditional, 3).swapaxes(0, 1)
    values = spread(centres, 0.2, n_recorded, 2)
    return sample_propagation_mi(values, conditional, noise_std=0.1, **options)


def test_the_bias_of_few_realizations_is_there_and_told() -> None:
    """R = 1 ... 300 with C = 1000: upward, falling, and flagged where it exceeds the tolerance.

    The standard error is about 0.013; the truth 2.521.
    """
    _, truth = table()
    found = [estimate(r, 1000) for r in (1, 3, 10, 100)]
    values = [f.input.value for f in found]
    assert all(b < a for a, b in pairwise(values))
    assert values[0] > truth + 0.4
    assert values[3] == pytest.approx(truth, abs=4 * found[3].input.std_error + 0.03)
    for one in found:
        excess = one.input.value - truth
        assert one.input.value <= log(50)
        assert one.bias > excess - 4 * one.input.std_error - 0.02
        if excess > 0.01 + 4 * one.input.std_error:
            assert one.input.status is Status.TOO_FEW_REALIZATIONS
            assert "too large by up to about" in one.input.reason
    # Of a single recorded pass no more is known than h(T|X) - h(Z), of Gaussians: 2.41.
    assert found[0].bias == pytest.approx(1.5 * log(5), abs=0.03)


def test_the_conditional_entropy_is_that_of_a_normal_variable() -> None:
    """h(T|X) - h(Z) = 1.5 ln(0.05 / 0.01); 1,000 realizations of 50 inputs cost up to 0.06 nat."""
    found = estimate(10, 1000)
    assert found.conditional_entropy.value == pytest.approx(1.5 * log(5), abs=0.08)
    assert found.linearised.value is not None
    assert found.linearised.value <= found.input.value + 4 * found.input.std_error


def test_pooled_realizations_serve_both_terms() -> None:
    """R = C = 10 and 100 for all inputs: 3.02 and 2.64 where 2.52 is true; never above ln m."""
    centres, truth = table()
    few = sample_propagation_mi(spread(centres, 0.2, 10, 5), noise_std=0.1)
    many = sample_propagation_mi(spread(centres, 0.2, 100, 5), noise_std=0.1)
    assert truth + 0.3 < few.input.value <= log(50)
    assert truth < many.input.value < truth + 0.2
    assert few.input.status is many.input.status is Status.TOO_FEW_REALIZATIONS


def test_separate_sample_sets_for_the_two_terms_fail() -> None:
    """The mutant: h(T) from R recorded passes, h(T|X) from C others, their difference far above ln m."""
    centres = 3.0 * np.random.default_rng(7).standard_normal((100, 4))
    values, conditional = spread(centres, 0.5, 1, 1), spread(centres, 0.5, 200, 2).swapaxes(0, 1)
    found = sample_propagation_mi(values, conditional, noise_std=0.05)
    assert found.input.value <= log(100) + 1e-9
    marginal = noisy_mi(np.concatenate([values[0]]), 0.05).input.value
    assert marginal - found.conditional_entropy.value < found.input.value - 1
    pooled = noisy_mi(conditional.reshape(-1, 4), 0.05).input.value
    assert pooled - noisy_mi(conditional[0], 0.05).input.value > found.input.value - 4


@pytest.mark.parametrize("layer", [2, 3])
def test_linear_networks_are_gaussian_throughout(layer: int) -> None:
    """Three linear layers of noise 0.3 on 300 inputs: given x all is normal with a known covariance.

    The truth is a mixture of 300 normal densities of one covariance S: whitened it is measurement noise 1.
    """
    rng = np.random.default_rng(11)
    x, noise = rng.standard_normal((300, 4)), 0.3
    weights = [rng.standard_normal((4, 4)) / 2 for _ in range(3)]

    def passes(n: int) -> Floats:
        t = np.broadcast_to(x, (n, 300, 4)) @ weights[0]
        for w in weights[1:layer]:
            t = (t + noise * rng.standard_normal(t.shape)) @ w
        return t

    covariance, mean = np.zeros((4, 4)), x @ weights[0]
    for w in weights[1:layer]:
        covariance, mean = w.T @ (covariance + noise**2 * np.eye(4)) @ w, mean @ w
    total = covariance + noise**2 * np.eye(4)
    whitened = mean @ np.linalg.inv(np.linalg.cholesky(total)).T
    truth = noisy_mi(whitened, 1.0, tolerance=0.001).input.value
    found = sample_propagation_mi(passes(100), passes(400).swapaxes(0, 1), noise_std=noise)
    slack = 4 * np.hypot(found.input.std_error, 0.001)
    assert -slack < found.input.value - truth < slack + found.bias
    assert found.bias < 0.05
    assert found.linearised.value == pytest.approx(truth, abs=4 * found.linearised.std_error + found.bias)
    excess = gaussian_information(covariance, noise)
    # What the mutant that takes the noise's entropy for h(T|X) would leave out.
    assert found.conditional_entropy.value == pytest.approx(excess, abs=0.05)
    assert excess > 0.3


def quadrature(f: Callable[[Floats], Floats], x: Floats, noise: float) -> float:
    """I(X;T_2) of T_1 = f(x) + Z_1, T_2 = f(1.5 T_1) + Z_2 in one unit each, by two integrals."""
    grid = np.linspace(-4, 4, 4001)
    step = grid[1] - grid[0]
    nodes, mass = np.polynomial.hermite_e.hermegauss(120)
    mass = mass / mass.sum()
    inner = f(1.5 * (f(x)[:, None] + noise * nodes))
    density = np.einsum("xn,xgn->xg", np.broadcast_to(mass, inner.shape), _normal(grid, inner, noise))
    marginal = density.mean(axis=0)

    def entropy(p: Floats) -> Floats:
        return -np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0.0), axis=-1) * step

    return float(entropy(marginal) - entropy(density).mean())


def _normal(grid: Floats, centres: Floats, std: float) -> Floats:
    return norm.pdf(grid[None, :, None], centres[:, None, :], std)


@pytest.mark.parametrize("name", ["tanh", "leaky"])
def test_two_layer_scalar_networks_against_quadrature(name: str) -> None:
    """Twenty inputs, noise 0.2, R = 400 and C = 4,000: to 0.01 nat and four errors."""
    f = {"tanh": np.tanh, "leaky": lambda t: np.where(t > 0, t, 0.1 * t)}[name]
    x, noise = np.linspace(-2, 2, 20), 0.2
    rng = np.random.default_rng(3)

    def passes(n: int) -> Floats:
        return f(1.5 * (f(x) + noise * rng.standard_normal((n, 20))))[:, :, None]

    found = sample_propagation_mi(
        passes(400), passes(4000).swapaxes(0, 1), noise_std=noise, labels=(x > 0).astype(int), tolerance=0.004
    )
    assert found.input.value == pytest.approx(quadrature(f, x, noise), abs=4 * found.input.std_error + 0.01)
    within = [quadrature(f, x[x > 0], noise), quadrature(f, x[x < 0], noise)]
    label = quadrature(f, x, noise) - np.mean(within)
    assert found.label.value == pytest.approx(label, abs=4 * found.label.std_error + 0.01)


def test_noise_counted_twice_and_variance_for_std_fail() -> None:
    """The linear case again with wrong arguments: both lie far outside four errors and the bias."""
    centres, truth = table()
    good, bad = spread(centres, 0.2, 100, 2), spread(centres, sqrt(0.05), 100, 2)
    right = sample_propagation_mi(good, spread(centres, 0.2, 400, 3).swapaxes(0, 1), noise_std=0.1)
    slack = 4 * right.input.std_error + right.bias
    assert abs(right.input.value - truth) < slack
    twice = sample_propagation_mi(bad, spread(centres, sqrt(0.05), 400, 3).swapaxes(0, 1), noise_std=0.1)
    variance = sample_propagation_mi(good, spread(centres, 0.2, 400, 3).swapaxes(0, 1), noise_std=0.01)
    assert abs(twice.input.value - truth) > slack
    assert abs(variance.input.value - truth) > slack


def test_a_first_layer_is_exact() -> None:
    """Without earlier noise every pass is the same: the estimate is that of measurement noise."""
    centres, _ = table()
    y = np.arange(50) % 2
    plain = noisy_mi(centres, 0.1, labels=y)
    for values in (centres[None], np.repeat(centres[None], 3, axis=0)):
        found = sample_propagation_mi(values, noise_std=0.1, labels=y)
        assert found.input == plain.input
        assert found.label == plain.label
        assert found.conditional_entropy.value == 0.0
        assert found.noise_model == "network"


def test_a_subset_of_inputs_stands_for_all() -> None:
    """Forty of 400 inputs, twelve subsets: their spread about the value of all is that of the errors."""
    centres = np.random.default_rng(5).exponential(size=(400, 2))
    values, conditional = spread(centres, 0.1, 10, 1), spread(centres, 0.1, 100, 2).swapaxes(0, 1)
    whole = sample_propagation_mi(values, conditional, noise_std=0.1)
    scores = []
    for seed in range(12):
        some = np.random.default_rng(seed).permutation(400)[:40]
        found = sample_propagation_mi(
            values, conditional[some], noise_std=0.1, conditional_samples=some, seed=seed
        )
        assert whole.input.std_error < found.input.std_error < 0.1
        scores.append((found.input.value - whole.input.value) / found.input.std_error)
    # Root mean square of 12 z-scores: 0.35 to 1.7 but once in a thousand.
    assert 0.35 < np.sqrt(np.mean(np.square(scores))) < 1.7


def two_classes(distance: float) -> tuple[Floats, Floats, np.ndarray]:
    """200 inputs, a fifth of class 1 and `distance` away, 3 recorded passes and 12 of each repeated one."""
    rng = np.random.default_rng(0)
    labels = (rng.random(200) < 0.2).astype(int)
    centres = rng.standard_normal((200, 2)) + distance * labels[:, None]
    return spread(centres, 0.2, 3, 1), spread(centres, 0.2, 12, 2).swapaxes(0, 1), labels


def subset(distance: float, seed: int, n: int) -> NetworkMI:
    values, conditional, labels = two_classes(distance)
    some = np.sort(np.random.default_rng(1000 + seed).choice(200, n, replace=False))
    return sample_propagation_mi(
        values,
        conditional[some],
        noise_std=0.3,
        conditional_samples=some,
        labels=labels,
        seed=seed,
        tolerance=0.02,
    )


@pytest.mark.parametrize("n", [4, 12, 48])
def test_a_saturated_layer_tells_the_label_whatever_inputs_were_repeated(n: int) -> None:
    """The subset holds the classes in other proportions than all inputs: its own entropy is not H(Y)."""
    _, _, labels = two_classes(80.0)
    share = labels.mean()
    truth = -share * log(share) - (1 - share) * log(1 - share)
    for seed in range(6):
        found = subset(80.0, seed, n).label
        assert found.value == pytest.approx(truth, abs=1e-12)
        assert found.value <= found.ceiling + 1e-12
        assert found.std_error < 1e-12
        assert found.status is Status.SATURATED


def label_scores(distance: float) -> Floats:
    """I(Y;T) of 48 of 200 inputs less that of all, in standard errors, for 40 subsets."""
    values, conditional, labels = two_classes(distance)
    whole = sample_propagation_mi(values, conditional, noise_std=0.3, labels=labels, tolerance=0.004).label
    scores = []
    for seed in range(40):
        found = subset(distance, seed, 48).label
        assert found.value <= whole.ceiling + 1e-12
        scores.append((found.value - whole.value) / np.hypot(found.std_error, whole.std_error))
    return np.array(scores)


@pytest.mark.parametrize("distance", [0.0, 1.5, 4.0])
def test_the_error_of_the_label_covers_the_choice_of_inputs(distance: float) -> None:
    """40 subsets at I(Y;T) = 0.02, 0.25 and 0.475 of H(Y) = 0.479: at 95 % fewer than 33 hits once in 600."""
    scores = label_scores(distance)
    assert np.count_nonzero(np.abs(scores) < 1.96) >= 33
    assert np.sqrt(np.mean(np.square(scores))) < 1.6


def test_the_shares_of_the_subset_in_place_of_those_of_all_fail() -> None:
    """The mutant: the densities at the repeated inputs, with mean ln(m / m_y) of these for H(Y)."""
    _, _, labels = two_classes(80.0)
    surprise = -np.log(np.bincount(labels) / 200)[labels]
    wrong = []
    for seed in range(6):
        some = np.random.default_rng(1000 + seed).choice(200, 48, replace=False)
        found = subset(80.0, seed, 48).label
        wrong.append(found.value - surprise.mean() + surprise[some].mean() - found.ceiling)
    assert max(wrong) > 0.02


def test_without_the_covariates_the_label_is_far_less_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where T tells nothing of Y an input's class is all that matters: its share explains the difference."""
    good = subset(0.0, 0, 48).label
    monkeypatch.setattr("repstat.estimators.sampling.SLOTS_PER_COVARIATE", 10**9)
    assert subset(0.0, 0, 48).label.std_error > 2 * good.std_error


def test_rare_inputs_between_the_classes_are_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant forgets inputs in doubt that were not repeated: its error covers half of the subsets."""
    monkeypatch.setattr(channels.Surroundings, "missed", lambda self, some: 0.0)
    assert np.count_nonzero(np.abs(label_scores(4.0)) < 1.96) < 33


@pytest.mark.parametrize("n_recorded", [1, 4])
def test_one_realization_of_the_repeated_inputs_is_too_few(n_recorded: int) -> None:
    """The channel then looks clean: nothing tells the bias but that I(X;T) is not negative."""
    found = estimate(n_recorded, 1)
    assert found.input.status is Status.TOO_FEW_REALIZATIONS
    assert found.bias == pytest.approx(found.input.value)
    assert found.conditional_entropy.value == pytest.approx(0.0, abs=1e-9)


def test_the_conditional_entropy_ends_at_the_realizations() -> None:
    """Twenty units: C realizations lie apart and give ln C, whatever the truth."""
    centres = np.random.default_rng(1).standard_normal((20, 20))
    found = sample_propagation_mi(
        spread(centres, 1.0, 4, 1), spread(centres, 1.0, 8, 2).swapaxes(0, 1), noise_std=0.01
    )
    assert found.conditional_entropy.ceiling == pytest.approx(log(8))
    assert found.conditional_entropy.status is Status.SATURATED


def test_the_bias_is_of_the_larger_step() -> None:
    """From 100, 50 and 25 realizations, falling as the root: 0.1 from each step, whichever is hidden."""
    curve = [3.0 + 1.0 / sqrt(n) for n in (100, 50, 25)]
    assert claims._bias(curve, [100, 50, 25]) == pytest.approx(0.1)
    assert claims._bias([*curve[:2], curve[1]], [100, 50, 25]) == pytest.approx(0.1)
    assert claims._bias([3.15, *curve[1:]], [100, 50, 25]) == pytest.approx(0.1)


def test_one_close_pair_among_far_inputs_misleads_nobody() -> None:
    """1,000 far inputs but two: no repeated input shows what the pair does to the covariates of all.

    h(T|X) - h(Z) = 2 ln(1 + 1.2^2) = 1.78, less what 64 realizations miss; a regression without bounds gave
    8063 +- 0.016.
    """
    means = np.random.default_rng(0).uniform(-1, 1, (1000, 4))
    means[1] = means[0] + np.array([0.01, 0, 0, 0])
    for seed in range(100, 104):
        chosen = np.sort(2 + np.random.default_rng(seed).choice(998, 64, replace=False))
        found = sample_propagation_mi(
            spread(means, 0.006, 4, seed),
            spread(means[chosen], 0.006, 64, seed + 50).swapaxes(0, 1),
            noise_std=0.005,
            conditional_samples=chosen,
            seed=seed,
        )
        assert found.conditional_entropy.value == pytest.approx(1.7, abs=0.15)
        assert found.input.value <= log(1000)


def test_labels_of_clusters_are_known() -> None:
    """Two far groups: I(Y;T) = ln 2 whatever the realizations, and the status says saturated."""
    centres = np.r_[np.zeros((20, 2)), np.full((20, 2), 50.0)]
    found = sample_propagation_mi(
        spread(centres, 0.3, 20, 1),
        spread(centres, 0.3, 100, 2).swapaxes(0, 1),
        noise_std=0.1,
        labels=np.repeat([0, 1], 20),
    )
    assert found.label.value == pytest.approx(log(2), abs=1e-6)
    assert found.label.status is Status.SATURATED
    # All inputs of a group have one density: what is left of I(X;T) is the label and the bias,
    # which is itself an estimate.
    assert found.input.value == pytest.approx(log(2), abs=1.5 * found.bias + 4 * found.input.std_error)


@pytest.mark.parametrize("kernel", ["neighbours", "exact"])
def test_kernels_agree(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = estimate(5, 50)
    if kernel == "neighbours":
        monkeypatch.setattr(channels, "ROW_RADIUS", 0.0)
    else:
        monkeypatch.setattr("repstat.estimators.factorised.WAVE_LIMIT", {"float64": (0.0, 0.0)})
    assert estimate(5, 50).input.value == pytest.approx(plain.input.value, abs=1e-4)


def test_equal_arguments_give_equal_results() -> None:
    assert estimate(5, 50, seed=3) == estimate(5, 50, seed=3)
    assert estimate(5, 50, seed=3).input.value != estimate(5, 50, seed=4).input.value


def test_gaussian_excess_is_unbiased() -> None:
    """2,000 samples of 30 realizations in 3 units: without the correction 0.04 nat are missing."""
    rng = np.random.default_rng(0)
    found, plain = [], []
    for _ in range(2000):
        s = rng.standard_normal((30, 3)) * [1.0, 0.5, 0.2]
        s -= s.mean(axis=0)
        found.append(gaussian_excess(s, 0.3))
        plain.append(gaussian_information(np.cov(s.T), 0.3))
    truth = gaussian_information(np.diag([1.0, 0.25, 0.04]), 0.3)
    error = np.std(found) / sqrt(2000)
    assert np.mean(found) == pytest.approx(truth, abs=4 * error + 0.01)
    assert truth - np.mean(plain) > 4 * error + 0.01


def test_the_data_processing_inequality_raises_an_alarm() -> None:
    def known(value: float | None, error: float = 0.03) -> Estimate:
        return Estimate(value=value, std_error=error, n_samples=5, n_units=1)

    assert rise(known(3.0), known(3.2, 0.04)) == pytest.approx((0.2, 0.05))
    assert rise(known(3.0), known(2.5)) == pytest.approx((-0.5, 0.03 * sqrt(2)))
    assert rise(known(3.0), known(None)) is None


def test_what_cannot_be_is_refused() -> None:
    values = np.zeros((2, 5, 3))
    values[1] = 1.0
    conditional = np.zeros((2, 4, 3))
    with pytest.raises(UsageError, match=r"values must be numbers of shape .* found float64 of shape"):
        sample_propagation_mi(np.zeros(3), noise_std=0.1)
    with pytest.raises(UsageError, match="differ in their units: found 3 and 2"):
        sample_propagation_mi(values, np.zeros((5, 4, 2)), noise_std=0.1)
    with pytest.raises(UsageError, match="conditional_samples is missing: 2 of 5 inputs were repeated"):
        sample_propagation_mi(values, conditional, noise_std=0.1)
    with pytest.raises(UsageError, match="must be 2 different positions from 0 to 4"):
        sample_propagation_mi(values, conditional, noise_std=0.1, conditional_samples=[1, 5])
    with pytest.raises(UsageError, match="noise_std is a standard deviation and must be > 0"):
        sample_propagation_mi(values, noise_std=0.0)


def test_values_that_are_not_finite_are_undefined_with_the_reason() -> None:
    values = spread(np.zeros((5, 2)), 1.0, 3, 0)
    conditional = spread(np.zeros((5, 2)), 1.0, 4, 1).swapaxes(0, 1).copy()
    conditional[2, 1, 0] = np.nan
    found = sample_propagation_mi(values, conditional, noise_std=0.1)
    assert found.input.status is Status.UNDEFINED
    assert "conditional: 1 NaN and 0 infinite values in 1 of 5 samples" in found.input.reason
