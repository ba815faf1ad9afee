"""What is drawn, and how its error is told: slots, noise, two-stage variance, control variate, budget."""

from collections.abc import Sequence
from math import inf, log, sqrt

import numpy as np
import pytest

from repstat.arrays import Integers
from repstat.estimators import sampling, slots
from repstat.estimators.factorised import Factorised
from repstat.estimators.mixture import LogSums, Mixture
from repstat.estimators.quasirandom import MAX_AXES, NoiseDesign
from repstat.estimators.sampling import Sampled, Sampler, Terms, combined, noise_rng
from repstat.estimators.slots import MIN_SLOTS, SLOT_ROWS, Slots
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
) -> list[Sampled]:
    factorised = Factorised(centres)

    def kernel(rows: Integers, noise: Floats, some: Sequence[float]) -> list[LogSums]:
        return [sums for sums in factorised.log_sums(rows, noise, some) if sums is not None]

    def left_out(rows: Integers, noise: Floats, sums: LogSums, std: float) -> tuple[Floats, Floats]:
        return sums.everyone.mean(axis=1), sums.same_class.mean(axis=1)

    sampler = Sampler(
        centres,
        stds,
        kernel,
        left_out,
        groups or [np.arange(centres.n_points)],
        tolerance=tolerance,
        max_draws=max_draws,
        rng=noise_rng(seed),
    )
    return sampler.run()


@pytest.mark.parametrize(("n_axes", "n_noises"), [(1, 16), (5, 64), (16, 16), (40, 16)])
def test_noise_is_standard_normal(n_axes: int, n_noises: int) -> None:
    """4,000 replicates: means 0, variances 1, no correlation, to four errors; the same within a replicate."""
    rng = np.random.default_rng(0)
    design = NoiseDesign(rng.standard_normal((300, n_axes)) * np.arange(1, n_axes + 1), n_noises, rng)
    noise, energy = design.draw(4000)
    assert noise.shape == (4000 * n_noises, n_axes)
    assert energy == pytest.approx((noise**2).sum(1).reshape(4000, -1).mean(1) - n_axes, abs=1e-9)
    first = noise.reshape(4000, n_noises, n_axes)[:, 3]
    bound = 4 / sqrt(4000)
    assert np.abs(first.mean(axis=0)).max() < bound * 1.2
    assert np.abs(first.T @ first / 4000 - np.eye(n_axes)).max() < 1.5 * sqrt(2) * bound
    assert abs(energy.mean()) < 4 * energy.std() / sqrt(4000)


def test_sobol_points_lie_on_the_principal_axes() -> None:
    """The mean over 16 points varies far less along the widest directions than along the others."""
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    points = (
        rng.standard_normal((500, 60)) * np.r_[np.full(MAX_AXES, 9.0), np.full(60 - MAX_AXES, 0.1)]
    ) @ basis.T
    noise, _ = NoiseDesign(points, 16, rng).draw(500)
    spread = (noise @ basis).reshape(500, 16, 60).mean(axis=1).std(axis=0) * sqrt(16)
    assert spread[:MAX_AXES].max() < 0.5
    assert spread[MAX_AXES:].min() > 0.8


@pytest.mark.parametrize("seed", [0, 1, 20])
def test_the_noise_has_a_stream_of_its_own(seed: int) -> None:
    """Data made with default_rng(seed) once met their own numbers as noise."""
    noise = noise_rng(seed).standard_normal(2000)
    assert not np.isin(noise, np.random.default_rng(seed).standard_normal(2000)).any()
    assert not np.isin(noise, noise_rng(seed, stream=1).standard_normal(2000)).any()
    assert np.array_equal(noise, noise_rng(seed).standard_normal(2000))


@pytest.mark.parametrize("n", [2, 63, 64, 65, 1000, 5000])
def test_every_row_is_dealt_once_per_copy(n: int, rng: np.random.Generator) -> None:
    dealt = Slots.deal(mixture_of(rng.standard_normal((n, 2))), [np.arange(n)], 16, 2**24, rng)
    assert len(dealt.members) >= MIN_SLOTS
    rows = np.sort(np.concatenate(dealt.members))
    copies = len(rows) // n
    assert np.array_equal(rows, np.repeat(np.arange(n), copies))
    assert max(map(len, dealt.members)) <= SLOT_ROWS
    assert dealt.shares.sum() == pytest.approx(1)
    assert all(np.all(np.diff(m) > 0) for m in dealt.members)
    assert dealt.all_needed == (copies > 1)


def test_slots_are_spread_along_the_leading_axis(rng: np.random.Generator) -> None:
    """5,000 values: the means of slots of 64 vary far less than those of 64 random values."""
    x = rng.standard_normal((5000, 1))
    dealt = Slots.deal(mixture_of(x), [np.arange(5000)], 16, 2**24, rng)
    assert np.std([x[m].mean() for m in dealt.members]) < 0.3 / sqrt(64)


def test_each_row_has_the_same_chance(rng: np.random.Generator) -> None:
    """100 rows in slots of 7, the first slot of 4,000 deals: each row 280 times, +-4 errors of 16."""
    centres, counts = mixture_of(rng.standard_normal((100, 1))), np.zeros(100)
    for _ in range(4000):
        counts[Slots.deal(centres, [np.arange(100)], 1, 7 * 2 * MIN_SLOTS, rng).members[0]] += 1
    assert counts / 4000 == pytest.approx(0.07, abs=4 * 0.0041 + 0.001)


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


def table_of(rng: np.random.Generator, n_slots: int = 50, n_replicates: int = 4) -> Floats:
    """Two terms that follow a covariate of mean zero with slopes 3 and -1, and noise of 0.1."""
    energy = rng.standard_normal((n_slots, n_replicates))
    slot = rng.standard_normal((n_slots, 1))
    terms = [slope * energy + slot + 0.1 * rng.standard_normal(energy.shape) for slope in (3.0, -1.0)]
    return np.stack([*terms, energy], axis=1)


def test_the_control_variate_takes_off_what_it_explains(rng: np.random.Generator) -> None:
    table = table_of(rng)
    adjusted = sampling._without_energy(table)
    assert (adjusted - adjusted.mean(axis=2, keepdims=True)).std() == pytest.approx(0.1, rel=0.25)
    assert (table - table.mean(axis=2, keepdims=True))[:, 0].std() > 2


def test_the_control_variate_is_unbiased(rng: np.random.Generator) -> None:
    """Three slots of two replicates, where a coefficient from the slot itself would follow its noise.

    The covariate is a chi-square less its mean and the term its cube: 20,000 tables, error of the mean 0.03.
    """
    estimates, own = [], []
    for _ in range(20_000):
        energy = rng.chisquare(1, (3, 1, 2)) - 1
        term = energy**2 - 2
        table = np.concatenate([term, term, energy], axis=1)
        adjusted = sampling._without_energy(table)
        estimates.append(adjusted[:, 0].mean())
        slope = (term * (energy - energy.mean())).sum() / ((energy - energy.mean()) ** 2).sum()
        own.append((term - slope * energy).mean())
    error = np.std(estimates) / sqrt(len(estimates))
    assert abs(np.mean(estimates)) < 4 * error
    # The mutant, its coefficient from the same numbers, fails the same test.
    assert abs(np.mean(own)) > 4 * np.std(own) / sqrt(len(own))


def test_the_error_is_that_of_two_stages(rng: np.random.Generator) -> None:
    """Slots of mean 0 +- 1 with replicates +- 0.5; 20 of 80 slots, 2 replicates: as in Cochran 10.4."""
    sampler = Sampler.__new__(Sampler)
    sampler._slots = Slots([np.zeros(1, int)] * 80, [np.ones(1)] * 80, np.full(80, 1 / 80), all_needed=False)
    record = sampling._Record()
    for _ in range(20):
        values = rng.standard_normal() + 0.5 * rng.standard_normal((2, 2))
        record.visits.append([np.vstack([values, np.zeros(2)])])
    means, errors = sampler._means(record)
    table = np.stack([v[0][:2] for v in record.visits])
    between = table.mean(axis=2).var(axis=0, ddof=1) / 20
    within = (table.var(axis=2, ddof=1) / 2).mean(axis=0) / 20
    assert means == pytest.approx(table.mean(axis=(0, 2)))
    assert errors**2 == pytest.approx(0.75 * between + 0.25 * within)
    # All slots visited: what lies between them is no error any more.
    sampler._slots = Slots(
        sampler._slots.members[:20], [np.ones(1)] * 20, np.full(20, 1 / 20), all_needed=False
    )
    assert sampler._means(record)[1] ** 2 == pytest.approx(within)


@pytest.mark.parametrize("ignored", [0, 1], ids=["label", "residual"])
def test_sampling_goes_on_for_either_error(ignored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two errors is said to be zero; the other alone has to bring sampling on."""
    real = Sampler._means

    def one_is_zero(self: Sampler, record: object) -> tuple[Floats, Floats]:
        means, errors = real(self, record)
        errors[ignored] = 0.0
        return means, errors

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
    """6,000 evenly spaced points at noise 0.1: uniform but for 1e-7; a part of the slots is enough for 0.02.

    z-scores of 40 seeds: their root mean square lies in [0.7, 1.35] but once in 1,000.
    """
    from tests.estimators.truths import uniform_information

    centres = mixture_of((-1 + (2 * np.arange(6000) + 1) / 6000)[:, None])
    truth, scores = log(6000) - uniform_information(0.1), []
    for seed in range(40):
        (found,) = run(centres, [0.1], seed=seed, tolerance=0.02)
        assert found.n_draws < 6000 * 32
        scores.append((found.mean.residual - truth) / found.residual_error)
    assert 0.7 <= np.sqrt(np.mean(np.square(scores))) <= 1.35
    assert abs(np.mean(scores)) < 4 / sqrt(40)


def test_groups_are_sampled_apart() -> None:
    """Two groups of corners: no slot holds rows of both, and the estimate is that of the whole."""
    centres = mixture_of(cube(7))
    groups = [np.flatnonzero(cube(7)[:, 0] < 0), np.flatnonzero(cube(7)[:, 0] > 0)]
    dealt = Slots.deal(centres, groups, 16, 2**24, np.random.default_rng(0))
    seen = [{int(cube(7)[row, 0]) for row in members} for members in dealt.members]
    assert {frozenset(s) for s in seen} == {frozenset({-1}), frozenset({1})}
    (found,) = run(centres, groups=groups, tolerance=0.003)
    truth = 7 * log(2) - 7 * information([-1, 1], 1.0)
    assert found.mean.residual == pytest.approx(truth, abs=4 * found.residual_error)


def test_parts_combine_by_their_share() -> None:
    parts = [
        (0.25, Sampled(Terms(1, 2, 3, 4), 0.4, 0.8, 10)),
        (0.75, Sampled(Terms(5, 6, 7, 8), 0.1, 0.0, 5)),
    ]
    found = combined(parts)
    assert found.mean == Terms(4, 5, 6, 7)
    assert found.residual_error == pytest.approx(np.hypot(0.1, 0.075))
    assert (found.label_error, found.n_draws) == (pytest.approx(0.2), 15)
