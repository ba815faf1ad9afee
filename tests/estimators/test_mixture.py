"""The kernel against its slow twin: tiles, duplicates, reduction of rank, small noise."""

import numpy as np
import pytest
from scipy.special import logsumexp

from repstat.arrays import centred_blocks, group_rows
from repstat.estimators import bounds, mixture, sampling
from repstat.estimators.mixture import Mixture, coordinates, log_sum_exp, log_sums_of_others
from tests.estimators.truths import Floats, plain_log_sums


def unweighted(points: Floats, classes: list[int] | None = None) -> Mixture:
    return Mixture(points, np.ones(len(points)), np.array(classes or [0, len(points)]))


@pytest.mark.parametrize("radius", [mixture.GRAM_RADIUS, 0.0], ids=["gram", "differences"])
@pytest.mark.parametrize("tile", [1, 100, 2**18])
def test_tiles_equal_the_plain_form(
    radius: float, tile: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture, "GRAM_RADIUS", radius)
    monkeypatch.setattr(mixture, "TILE_ELEMENTS", tile)
    points = rng.standard_normal((40, 3)) * 3
    own = np.repeat(np.arange(40), 3)
    everyone, same = log_sums_of_others(unweighted(points, [0, 15, 16, 40]), own, np.random.default_rng(1))
    noise = np.random.default_rng(1).standard_normal((120, 3))
    first = own < 15
    for side, z in enumerate((noise, -noise)):
        assert everyone[side] == pytest.approx(plain_log_sums(points, own, z), abs=1e-11)
        of_class = plain_log_sums(points[:15], own[first], z[first])
        assert same[side, first] == pytest.approx(of_class, abs=1e-11)
    assert np.all(np.isneginf(same[:, own == 15]))


def test_weights_equal_repetition(rng: np.random.Generator) -> None:
    points, weights = rng.standard_normal((10, 2)), rng.integers(1, 5, 10)
    own = np.arange(10)
    found, _ = log_sums_of_others(
        Mixture(points, weights.astype(float), np.array([0, 10])), own, np.random.default_rng(1)
    )
    noise = np.random.default_rng(1).standard_normal((10, 2))
    repeated = np.repeat(points, weights, axis=0)
    first = np.concatenate([[0], np.cumsum(weights)[:-1]])
    assert found[0] == pytest.approx(plain_log_sums(repeated, first, noise), abs=1e-12)


def test_bounds_do_not_depend_on_tiles(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    points = rng.standard_normal((60, 3))
    whole = bounds.mixture_bounds(unweighted(points, [0, 20, 60]))
    monkeypatch.setattr(bounds, "TILE_ELEMENTS", 50)
    tiled = bounds.mixture_bounds(unweighted(points, [0, 20, 60]))
    monkeypatch.setattr(bounds, "GRAM_RADIUS", 0.0)
    direct = bounds.mixture_bounds(unweighted(points, [0, 20, 60]))
    square = ((points[:, None] - points) ** 2).sum(-1)
    plain = [np.log(60) - np.log(np.exp(-square / s).sum(1)).mean() for s in (8, 2)]
    for found in (whole, tiled, direct):
        assert (found.lower, found.upper) == pytest.approx(plain, abs=1e-12)
        assert found.within_lower == pytest.approx(whole.within_lower, abs=1e-12)


def test_bounds_of_the_label_combine_those_of_both_terms(rng: np.random.Generator) -> None:
    """Classes of 8 and 22; the lower bound takes the upper one of I(X;T|Y)."""
    points = rng.standard_normal((30, 2)) * 0.5 + 4 * (np.arange(30) >= 8)[:, None]
    square = ((points[:, None] - points) ** 2).sum(-1)

    def plain(members: slice, variance: int) -> float:
        overlap = np.exp(-square[members, members] / variance)
        return float(-np.log(overlap.mean(axis=1)).mean())

    within = {v: (8 * plain(slice(0, 8), v) + 22 * plain(slice(8, 30), v)) / 30 for v in (8, 2)}
    found = bounds.mixture_bounds(unweighted(points, [0, 8, 30]))
    lower, upper = plain(slice(0, 30), 8) - within[2], plain(slice(0, 30), 2) - within[8]
    assert 0 < lower < upper - 0.1
    assert (found.label_lower, found.label_upper) == pytest.approx((lower, upper), abs=1e-12)


def test_the_error_is_that_of_a_stratified_mean(rng: np.random.Generator) -> None:
    """Two pairs per stratum, then batches of another mean: as numpy says of all of them at once."""
    share = np.array([0.2, 0.5, 0.3])
    batches = [
        (np.repeat(np.arange(3), times), 10.0 * k) for k, times in enumerate([2, [1, 3, 4], [5, 0, 2]])
    ]
    moments, strata, terms = sampling._Moments(3), np.zeros(0, int), np.zeros((5, 0))
    for own, shift in batches:
        new = rng.standard_normal((5, len(own))) + shift
        moments.add(own, new)
        strata, terms = np.append(strata, own), np.hstack([terms, new])
        parts = [terms[:, strata == s] for s in range(3)]
        variances = np.array([part.var(axis=1, ddof=1) / part.shape[1] for part in parts])
        assert moments.errors(share) == pytest.approx(np.sqrt(share**2 @ variances), rel=1e-12)
        assert moments.overall(share) == pytest.approx(share @ [part.mean(axis=1) for part in parts])


@pytest.mark.parametrize("ignored", [0, 1], ids=["label", "residual"])
def test_sampling_goes_on_for_either_error(
    ignored: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the two errors is said to be zero; the other alone has to bring sampling on."""
    real = sampling._Moments.errors

    def one_is_zero(moments: sampling._Moments, share: Floats) -> Floats:
        errors = real(moments, share)
        errors[ignored] = 0.0
        return errors

    monkeypatch.setattr(sampling._Moments, "errors", one_is_zero)
    points = unweighted(rng.standard_normal((60, 2)), [0, 30, 60])
    options = {"max_draws": 10**6, "rng": np.random.default_rng(1)}
    first = sampling.sample_terms(points, tolerance=10.0, **options)
    goal = max(first.residual_error, first.label_error) / 2
    found = sampling.sample_terms(points, tolerance=goal, **options)
    assert max(found.residual_error, found.label_error) <= goal


@pytest.mark.parametrize("seed", [0, 1, 20])
def test_the_noise_has_a_stream_of_its_own(seed: int) -> None:
    """Data made with default_rng(seed) once met their own numbers as noise."""
    noise = sampling.noise_rng(seed).standard_normal(2000)
    assert not np.isin(noise, np.random.default_rng(seed).standard_normal(2000)).any()
    assert np.array_equal(noise, sampling.noise_rng(seed).standard_normal(2000))


def test_centring_survives_an_offset(rng: np.random.Generator) -> None:
    """20,000 values about 1e8: one pass of sums leaves a mean as large as the rounding of a value."""
    (block,) = centred_blocks(rng.random((20_000, 3)) + 1e8, 1.0, 256)
    assert np.abs(block.mean(axis=0)).max() < 1e-14


@pytest.mark.parametrize("shape", [(30, 7), (30, 30), (30, 500)])
def test_coordinates_keep_distances(shape: tuple[int, int], rng: np.random.Generator) -> None:
    data = (rng.standard_normal(shape) + 100).astype(np.float32)
    points = coordinates(data, 0.25)
    assert points.shape == (30, min(shape))
    wide = data.astype(np.float64)
    expected = ((wide[:, None] - wide) ** 2).sum(-1) / 0.25**2
    assert ((points[:, None] - points) ** 2).sum(-1) == pytest.approx(expected, rel=1e-10)


def test_sums_survive_overflow_and_underflow() -> None:
    exponents = np.array([[-1e6, -1e6 - 1.0], [800.0, 1.0], [750.0, 749.0], [-750.0, -751.0], [-np.inf, 3.0]])
    expected = [*logsumexp(exponents, axis=1), -np.inf]
    exponents = np.vstack([exponents, [[-np.inf, -np.inf]]])
    assert log_sum_exp(exponents.copy()) == pytest.approx(expected, abs=1e-9)
    assert log_sum_exp(np.empty((2, 0))).tolist() == [-np.inf, -np.inf]


def test_draws_follow_the_weights_and_reach_every_centre(rng: np.random.Generator) -> None:
    weights = np.array([1.0, 1, 98, 1, 99])
    strata = sampling._Strata(Mixture(np.zeros((5, 1)), weights, np.array([0, 5])), 10_000)
    counts = np.bincount(strata.first_batch(2010, rng), minlength=5)
    assert counts.sum() == 2010
    assert counts - 2 == pytest.approx(10 * weights, abs=1)


def test_a_large_sample_is_sampled(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit each batch holds distinct samples; the estimate agrees with the stratified one."""
    points = unweighted(rng.standard_normal((500, 2)) * 3)
    options = {"tolerance": 0.02, "max_draws": 10**6}
    stratified = sampling.sample_terms(points, rng=np.random.default_rng(1), **options)
    monkeypatch.setattr(sampling, "MAX_STRATIFIED", 100)
    strata = sampling._Strata(points, 10**6)
    assert len(np.unique(strata.batch(300, rng))) == 300
    sampled = sampling.sample_terms(points, rng=np.random.default_rng(2), **options)
    assert sampled.mean.residual == pytest.approx(stratified.mean.residual, abs=4 * 0.0283)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int64])
def test_rows_are_grouped_exactly(dtype: type, rng: np.random.Generator) -> None:
    rows = rng.integers(-2, 3, (200, 3)).astype(dtype)
    groups = group_rows(rows)
    expected, counts = np.unique(rows, axis=0, return_counts=True)
    assert np.array_equal(rows[groups.first][groups.inverse], rows)
    assert sorted(groups.counts) == sorted(counts)
    if np.issubdtype(dtype, np.floating):
        assert np.array_equal(rows[groups.first], expected)
