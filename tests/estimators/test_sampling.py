"""What is drawn, and how its error is told: slots, noise, replicates and rows, budget."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, log, sqrt

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import kstest

from repstat.arrays import Integers
from repstat.estimators import grid, sampling, slots
from repstat.estimators.factorised import Factorised
from repstat.estimators.mixture import LogSums, Mixture
from repstat.estimators.mixture_terms import MixtureTerms, sample_centres
from repstat.estimators.quasirandom import MAX_AXES, NoiseDesign
from repstat.estimators.sampling import Sampled, Sampler, combined, noise_rng
from repstat.estimators.slots import SLOT_ROWS, Slots
from tests.estimators.truths import Floats, cube, information


def mixture_of(points: Floats, weights: Floats | None = None) -> Mixture:
    return Mixture(points, np.ones(len(points)) if weights is None else weights, np.array([0, len(points)]))


def run(
    centres: Mixture,
    stds: Sequence[float] = (1.0,),
    groups: Sequence[Integers] | None = None,
    seed: int = 0,
    tolerance: float = 0.01,
    max_draws: int = 2**24,
) -> list[MixtureTerms]:
    factorised = Factorised(centres)

    def kernel(rows: Integers, noise: Floats, some: Sequence[float]) -> list[LogSums]:
        return [sums for sums in factorised.log_sums(rows, noise, some) if sums is not None]

    def left_out(rows: Integers, noise: Floats, sums: LogSums, std: float) -> tuple[Floats, Floats]:
        return sums.everyone.mean(axis=1), sums.same_class.mean(axis=1)

    found = sample_centres(
        centres,
        stds,
        kernel,
        left_out,
        groups or [np.arange(centres.n_points)],
        tolerance=tolerance,
        max_draws=max_draws,
        rng=noise_rng(seed),
    )
    return [MixtureTerms.of(sampled) for sampled in found]


@pytest.mark.parametrize("n_axes", [1, 5, 16, 17, 40])
def test_noise_is_standard_normal(n_axes: int) -> None:
    """4,000 replicates: means 0, variances 1, no correlation, chi-square lengths, to four errors."""
    rng = np.random.default_rng(0)
    design = NoiseDesign(rng.standard_normal((300, n_axes)) * np.arange(1, n_axes + 1), 4000, rng)
    for _ in range(2):
        noise = design.draw(8)
        assert noise.shape == (4000 * 8, n_axes)
        third = noise.reshape(4000, 8, n_axes)[:, 3]
        bound = 4 / sqrt(4000)
        assert np.abs(third.mean(axis=0)).max() < bound * 1.2
        assert np.abs(third.T @ third / 4000 - np.eye(n_axes)).max() < 1.5 * sqrt(2) * bound
        energy = (third**2).sum(axis=1)
        assert abs(energy.mean() - n_axes) < bound * sqrt(2 * n_axes)
        assert kstest(energy, "chi2", args=(n_axes,)).pvalue > 1e-4


def test_a_sequence_goes_on_where_it_stopped() -> None:
    """Two draws of 64 are one net of 128: each replicate meets every 128th part of every axis once."""
    rng = np.random.default_rng(3)
    design = NoiseDesign(rng.standard_normal((300, 4)), 200, rng)
    parts = [design.draw(64).reshape(200, 64, 4) for _ in range(2)]
    cells = np.floor(ndtr(np.concatenate(parts, axis=1)) * 128).astype(int)
    assert np.array_equal(np.sort(cells, axis=1), np.broadcast_to(np.arange(128)[:, None], cells.shape))


def test_sobol_points_lie_on_the_principal_axes_and_on_the_length() -> None:
    """The mean over 16 points varies far less along the widest directions than along the others."""
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    points = (
        rng.standard_normal((500, 60)) * np.r_[np.full(MAX_AXES, 9.0), np.full(60 - MAX_AXES, 0.1)]
    ) @ basis.T
    noise = NoiseDesign(points, 500, rng).draw(16) @ basis
    spread = noise.reshape(500, 16, 60).mean(axis=1).std(axis=0) * sqrt(16)
    assert spread[:MAX_AXES].max() < 0.5
    assert spread[MAX_AXES:].min() > 0.8
    energy = (noise[:, MAX_AXES:] ** 2).sum(axis=1).reshape(500, 16).mean(axis=1)
    assert energy.std() * sqrt(16) < 0.3 * sqrt(2 * (60 - MAX_AXES))


@pytest.mark.parametrize("seed", [0, 1, 20])
def test_the_noise_has_a_stream_of_its_own(seed: int) -> None:
    """Data made with default_rng(seed) once met their own numbers as noise."""
    noise = noise_rng(seed).standard_normal(2000)
    assert not np.isin(noise, np.random.default_rng(seed).standard_normal(2000)).any()
    assert not np.isin(noise, noise_rng(seed, stream=1).standard_normal(2000)).any()
    assert np.array_equal(noise, noise_rng(seed).standard_normal(2000))


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 1000, 5000])
def test_every_row_is_dealt_once(n: int, rng: np.random.Generator) -> None:
    dealt = Slots.deal(mixture_of(rng.standard_normal((n, 2))), [np.arange(n)], 16, 2**24, rng)
    assert np.array_equal(np.sort(np.concatenate(dealt.members)), np.arange(n))
    # A power of two, so that noises shared out among slots are a Sobol net.
    assert len(dealt.members).bit_count() == 1
    assert max(map(len, dealt.members)) <= 1.5 * SLOT_ROWS
    assert dealt.shares.sum() == pytest.approx(1)
    assert all(np.all(np.diff(m) > 0) for m in dealt.members)
    assert not dealt.all_needed


def test_slots_are_spread_along_the_leading_axis(rng: np.random.Generator) -> None:
    """5,000 values: the means of slots of 64 vary far less than those of 64 random values."""
    x = rng.standard_normal((5000, 1))
    dealt = Slots.deal(mixture_of(x), [np.arange(5000)], 16, 2**24, rng)
    assert np.std([x[m].mean() for m in dealt.members]) < 0.3 / sqrt(64)


def test_each_row_has_the_same_chance(rng: np.random.Generator) -> None:
    """100 rows in 64 slots, the first slot of 4,000 deals: each row 62.5 times, +-4 errors of 8."""
    centres, counts = mixture_of(rng.standard_normal((100, 1))), np.zeros(100)
    for _ in range(4000):
        counts[Slots.deal(centres, [np.arange(100)], 100, 6400, rng).members[0]] += 1
    assert counts / 4000 == pytest.approx(1 / 64, abs=4 * 0.002)


def test_weights_are_shares_and_many_become_samples(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = rng.integers(1, 50, 300).astype(float)
    centres = mixture_of(rng.standard_normal((300, 2)), weights)
    by_weight = Slots.deal(centres, [np.arange(300)], 16, 2**24, rng)
    assert by_weight.all_needed
    total = np.zeros(300)
    for members, share, slot in zip(by_weight.members, by_weight.row_shares, by_weight.shares, strict=True):
        total[members] += share * slot
    assert total == pytest.approx(weights / weights.sum())
    monkeypatch.setattr(slots, "MAX_STRATIFIED", 100)
    by_sample = Slots.deal(centres, [np.arange(300)], 16, 2**24, rng)
    assert not by_sample.all_needed
    assert sum(map(len, by_sample.members)) == weights.sum()
    assert np.bincount(np.concatenate(by_sample.members)) == pytest.approx(weights)


def test_the_error_is_that_of_noise_and_rows(rng: np.random.Generator) -> None:
    """Slots of mean 0 +- 1, 16 replicates +- 0.5 of 2 points each; 20 of 80 slots, then all 20 of 20."""
    sampler = Sampler.__new__(Sampler)
    sampler._n_slots, sampler._n_replicates, sampler._share = 80, 16, 1.0
    sampler._covariates = None
    sampler._slots = Slots(
        [np.zeros(1, int)] * 80, [np.ones(1)] * 80, np.full(80, 1 / 80), np.zeros(80, int), all_needed=False
    )
    table = rng.standard_normal((20, 1, 1)) + 0.5 * rng.standard_normal((20, 2, 16))
    record = sampling._Record(sums=list(2 * table), n_points=[2] * 20)
    means, by_noise, by_rows = sampler._means(record)
    noise = table.mean(axis=0).var(axis=1, ddof=1) / 16 * (2.2281 / 1.96) ** 2
    between = table.mean(axis=2).var(axis=0, ddof=1)
    rows = between - table.var(axis=2, ddof=1).mean(axis=0) / 16
    assert means == pytest.approx(table.mean(axis=(0, 2)))
    assert by_noise == pytest.approx(noise, rel=1e-3)
    assert by_rows == pytest.approx(0.75 * rows / 20)
    # All slots visited: what lies between them is no error any more.
    sampler._n_slots = 20
    sampler._slots = replace(sampler._slots, shares=np.full(20, 1 / 20))
    _, by_noise, by_rows = sampler._means(record)
    assert by_noise == pytest.approx(noise, rel=1e-3)
    assert not by_rows.any()


def test_of_the_variance_between_slots_noise_explains_half_at_most() -> None:
    means = np.array([[0.0, 0.0], [2.0, 2.0]])
    assert sampling._between(means, np.array([0.5, 1.9])) == pytest.approx([1.5, 1.0])
    assert np.isinf(sampling._between(means[:1], np.zeros(2))).all()


def test_few_replicates_widen_the_error() -> None:
    """Student's 97.5 % quantiles over 1.96, at two thirds of the degrees of freedom."""
    assert sampling._widening(16) == pytest.approx(2.2281 / 1.9600, abs=1e-4)
    assert sampling._widening(2) == pytest.approx(12.706 / 1.9600, abs=1e-3)
    assert sampling._widening(1501) == pytest.approx(1.0, abs=2e-3)


def test_slots_share_out_one_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corners of a cube of 10 bits, 16 slots, 2^18 draws: fresh noise at each visit has a larger error.

    Errors of 8 seeds together are known to 9 %.
    """

    def error() -> float:
        found = [
            run(mixture_of(cube(10)), [1.0], seed=k, tolerance=1e-9, max_draws=2**18)[0].residual_error
            for k in range(8)
        ]
        return float(np.sqrt(np.mean(np.square(found))))

    joint, real = error(), NoiseDesign.draw

    def fresh(self: NoiseDesign, n_noises: int) -> Floats:
        self._shifts = self._rng.integers(0, 2**30, self._shifts.shape)
        return real(self, n_noises)

    monkeypatch.setattr(NoiseDesign, "draw", fresh)
    assert error() > 1.5 * joint


@pytest.mark.parametrize("ignored", [0, 1], ids=["label", "residual"])
def test_sampling_goes_on_for_either_error(ignored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two errors is said to be zero; the other alone has to bring sampling on."""
    real = Sampler._means

    def one_is_zero(self: Sampler, record: object) -> tuple[Floats, ...]:
        means, noise, rows = real(self, record)
        noise[ignored] = 0.0
        return means, noise, rows

    monkeypatch.setattr(Sampler, "_means", one_is_zero)
    corners = cube(6)
    centres = Mixture(corners[np.argsort(corners[:, 0])], np.ones(64), np.array([0, 32, 64]))
    (first,) = run(centres, tolerance=10.0)
    goal = max(first.residual_error, first.label_error) / 3
    (found,) = run(centres, tolerance=goal)
    assert max(found.residual_error, found.label_error) <= goal
    assert found.n_draws > first.n_draws


def test_noise_levels_do_not_depend_on_each_other() -> None:
    """Alone or with others that need fewer or more draws, the numbers are the same to the last bit."""
    centres = mixture_of(cube(7))
    together = run(centres, [0.3, 1.0, 5.0], tolerance=0.0001)
    assert len({s.n_draws for s in together}) > 1
    for std, found in zip([0.3, 1.0, 5.0], together, strict=True):
        assert run(centres, [std], tolerance=0.0001) == [found]


@pytest.mark.parametrize("max_draws", [16, 100, 1000, 10_000])
@pytest.mark.parametrize("n", [3, 128, 3000])
def test_the_budget_is_kept_and_used(max_draws: int, n: int, rng: np.random.Generator) -> None:
    (found,) = run(mixture_of(rng.standard_normal((n, 5))), tolerance=1e-9, max_draws=max_draws)
    assert max_draws / 3 <= found.n_draws <= max_draws
    assert 0 < found.residual_error < inf


def test_a_part_of_the_slots_stands_for_all() -> None:
    """Half of 6,000 points on [0, 1], half on [0, 3]: at noise 0.05 a part of the slots gives 0.02.

    The truth is the integral. z-scores of 60 seeds: their root mean square is below 1.3 but once in 1,000;
    below 1 it lies because slots spread along an axis are more alike than random ones.
    """
    centres = mixture_of(np.r_[np.linspace(0, 1, 3000), np.linspace(0.005, 3, 3000)][:, None])
    truth, scores = log(6000) - grid.integrate(centres, 0.05).input, []
    for seed in range(60):
        (found,) = run(centres, [0.05], seed=seed, tolerance=0.02)
        assert found.n_draws < 6000 * 32
        scores.append((found.residual - truth) / found.residual_error)
    assert 0.35 <= np.sqrt(np.mean(np.square(scores))) <= 1.3
    assert abs(np.mean(scores)) < 4 / sqrt(60)


def test_groups_are_sampled_apart() -> None:
    """Two groups of corners: no slot holds rows of both, and the estimate is that of the whole."""
    centres = mixture_of(cube(7))
    groups = [np.flatnonzero(cube(7)[:, 0] < 0), np.flatnonzero(cube(7)[:, 0] > 0)]
    dealt = Slots.deal(centres, groups, 16, 2**24, np.random.default_rng(0))
    seen = [{int(cube(7)[row, 0]) for row in members} for members in dealt.members]
    assert {frozenset(s) for s in seen} == {frozenset({-1}), frozenset({1})}
    (found,) = run(centres, groups=groups, tolerance=0.003)
    truth = 7 * log(2) - 7 * information([-1, 1], 1.0)
    assert found.residual == pytest.approx(truth, abs=4 * found.residual_error)


def test_parts_combine_by_their_share() -> None:
    one = Sampled(np.array([1.0, 2.0]), np.array([0.4, 0.8]), np.array([3.0, 4.0]), 10)
    other = Sampled(np.array([5.0, 6.0]), np.array([0.1, 0.0]), np.array([7.0, 8.0]), 5)
    found = combined([(0.25, one), (0.75, other)])
    assert found.means == pytest.approx([4, 5])
    assert found.extras == pytest.approx([6, 7])
    assert found.errors == pytest.approx([np.hypot(0.1, 0.075), 0.2])
    assert found.n_draws == 15


def test_a_share_of_the_rows_leaves_an_error_when_all_slots_were_visited(rng: np.random.Generator) -> None:
    """20 slots that hold a quarter of all rows: three quarters of the variance between them stay."""
    sampler = Sampler.__new__(Sampler)
    sampler._n_slots, sampler._n_replicates, sampler._share = 20, 16, 0.25
    sampler._covariates = None
    sampler._slots = Slots(
        [np.zeros(1, int)] * 20, [np.ones(1)] * 20, np.full(20, 1 / 20), np.zeros(20, int), all_needed=True
    )
    table = np.repeat(rng.standard_normal((20, 2, 1)), 16, axis=2)
    means, by_noise, by_rows = sampler._means(sampling._Record(sums=list(table), n_points=[1] * 20))
    assert means == pytest.approx(table.mean(axis=(0, 2)))
    assert by_noise == pytest.approx([0, 0])
    assert by_rows == pytest.approx(0.75 * table[:, :, 0].var(axis=0, ddof=1) / 20)


def test_covariates_explain_what_differs_between_slots() -> None:
    """Means 2 c + 0.1 e of 40 slots out of many: the error is that of e, 400 z-scores are normal."""
    scores = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        covariate = rng.standard_normal((40, 1))
        means = 5.0 + 2.0 * covariate + 0.1 * rng.standard_normal((40, 1))
        middle, found, penalty = sampling._explained_away(means, covariate)
        assert 1.0 <= penalty < 1.5
        error = found.std(ddof=1) / sqrt(40)
        assert error < 0.025
        scores.append((middle[0] - 5.0) / error)
    assert 0.9 < np.sqrt(np.mean(np.square(scores))) < 1.2


def test_covariates_do_not_extrapolate(rng: np.random.Generator) -> None:
    """Slots that hardly vary, far from the mean of all rows: a slope from noise would be taken there."""
    covariate = 3e-5 + 4e-7 * rng.standard_normal((64, 1))
    means = 1.0 + 0.1 * rng.standard_normal((64, 2))
    middle, found, penalty = sampling._explained_away(means, covariate)
    assert np.array_equal(middle, means.mean(axis=0))
    assert np.array_equal(found, means)
    assert penalty == 1.0


def test_an_adjusted_mean_stays_among_the_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means from 0 to 1 that rise with the covariate, -1.2 to -0.2: the line at 0 lies above all of them."""
    covariate = np.linspace(-1.2, -0.2, 40)[:, None]
    means = np.hstack([np.linspace(0, 1, 40)[:, None], np.cos(np.arange(40))[:, None]])
    monkeypatch.setattr(sampling, "MOST_LEVERAGE", np.inf)
    _, found, _ = sampling._explained_away(means, covariate)
    assert np.array_equal(found[:, 0], means[:, 0])
    assert not np.array_equal(found[:, 1], means[:, 1])
