"""Every kernel against a plain twin, in every regime; what they refuse; bounds on the same pairs."""

from collections.abc import Callable
from math import exp

import numpy as np
import pytest
from scipy.special import logsumexp

from repstat.arrays import binary_scale, centred_blocks
from repstat.errors import UsageError
from repstat.estimators import bounds, factorised, mixture, neighbours
from repstat.estimators.backend import Backend
from repstat.estimators.factorised import UNRESOLVED, Factorised
from repstat.estimators.mixture import LogSums, Mixture, coordinates, exact_log_sums, log_sum_exp
from repstat.estimators.neighbours import near_log_sums, reach
from repstat.estimators.noisy_channel import distinct_mixture
from tests.estimators.truths import Floats
from tests.optional import require

Kernel = Callable[[Mixture, np.ndarray, Floats, float], LogSums | None]

SKIPPED = 1e-12
"""Nats that skipping may cost in these tests."""


def plain(centres: Mixture, rows: np.ndarray, noise: Floats, std: float) -> tuple[Floats, Floats]:
    """Differences, no Gram matrix, no blocks, no classes in a row."""
    y = np.repeat(centres.points / std, centres.weights.astype(int), axis=0)
    kind = np.repeat(centres.classes, centres.weights.astype(int))
    found = np.empty((2, len(rows), len(noise)))
    for at, row in enumerate(rows):
        others = np.arange(len(y)) != np.flatnonzero((y == centres.points[row] / std).all(1))[0]
        step = y[others] - centres.points[row] / std
        exponents = noise @ step.T - 0.5 * (step**2).sum(1)
        own = kind[others] == centres.classes[row]
        found[0, at] = logsumexp(exponents, axis=1)
        found[1, at] = logsumexp(exponents[:, own], axis=1) if own.any() else -np.inf
    return found[0], found[1]


def regimes() -> dict[str, tuple[Floats, float, int]]:
    """Activations, a noise about the distances between them, number of classes."""
    rng = np.random.default_rng(1)
    corners = np.sign(rng.standard_normal((200, 6)))
    return {
        "spread": (rng.standard_normal((300, 5)), 0.7, 3),
        "two points": (rng.standard_normal((2, 4)), 1.0, 2),
        "duplicates": (rng.integers(-1, 2, (200, 3)).astype(float), 0.5, 1),
        "saturated clusters": (corners * (1 - 1e-3 * rng.random((200, 6))), 0.3, 2),
        "more units than samples": (rng.standard_normal((40, 300)), 8.0, 2),
        "many classes": (rng.standard_normal((300, 5)), 0.7, 40),
        "offset": (rng.standard_normal((300, 5)) + 1e6, 0.7, 3),
        "float16": (rng.standard_normal((300, 5)).astype(np.float16), 0.7, 3),
        "two tiles": (rng.standard_normal((1500, 2)), 0.2, 7),
        "high dimension": (rng.standard_normal((300, 100)), 4.0, 1),
    }


KERNELS: dict[str, Kernel] = {
    "exact": exact_log_sums,
    "factorised": lambda m, rows, z, std: Factorised(m).log_sums(rows, z, [std])[0],
    "factorised, of several": lambda m, rows, z, std: Factorised(m).log_sums(rows, z, [2 * std, std])[1],
    "factorised, local": lambda m, rows, z, std: Factorised(m, centre=m.points[rows].mean(0)).log_sums(
        rows, z, [std]
    )[0],
    "neighbours": lambda m, rows, z, std: near_log_sums(m, rows, z, std, SKIPPED),
}  # fmt: skip


def prepared(name: str, factor: float = 1.0) -> tuple[Mixture, np.ndarray, Floats, float]:
    """A mixture with labels, up to 40 rows, 6 noises, and the noise standard deviation."""
    data, std, n_classes = regimes()[name]
    rng = np.random.default_rng(2)
    kinds = np.unique(rng.integers(0, n_classes, len(data)), return_inverse=True)[1]
    if name == "duplicates":
        kinds = np.zeros(len(data), int)
    centres, scale, _ = distinct_mixture(data, [std * factor], kinds)
    rows = np.sort(rng.permutation(centres.n_points)[:40])
    return centres, rows, rng.standard_normal((6, centres.n_axes)), std * factor / scale


@pytest.mark.parametrize("factor", [1e-4, 1e-2, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("name", regimes())
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_equal_the_plain_form(kernel: str, name: str, factor: float) -> None:
    """Residuals ln(1 + exp L) to 1e-10; L itself where it is resolved; or a refusal, never a wrong number.

    Exponents are differences of products as large as the squared norms, and inherit their rounding: where a
    cloud spans a thousand noises that is the larger tolerance.
    """
    centres, rows, noise, std = prepared(name, factor)
    rounding = np.finfo(float).eps * (centres.points**2).sum(1).max() / std**2
    found = KERNELS[kernel](centres, rows, noise, std)
    if found is None:
        assert kernel.startswith("factorised")
        assert np.abs(centres.points[rows] @ noise.T).max() / std > 100
        return
    for sums, truth in zip((found.everyone, found.same_class), plain(centres, rows, noise, std), strict=True):
        assert np.logaddexp(0, sums) == pytest.approx(np.logaddexp(0, truth), abs=max(1e-10, rounding))
        resolved = truth > UNRESOLVED
        assert sums[resolved] == pytest.approx(truth[resolved], abs=1e-9)
        if kernel == "exact":
            assert sums == pytest.approx(truth, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ["spread", "many classes", "duplicates", "high dimension"])
def test_torch_gives_the_numbers_of_numpy(name: str) -> None:
    """To 1e-7: exponentials of vectorised libraries are not promised to the last bit."""
    require("torch")
    centres, rows, noise, std = prepared(name)
    (numpy,) = Factorised(centres).log_sums(rows, noise, [std])
    (torch,) = Factorised(centres, backend=Backend.open("torch:cpu")).log_sums(rows, noise, [std])
    assert numpy is not None
    assert torch is not None
    assert torch.everyone == pytest.approx(numpy.everyone, abs=1e-7)
    assert torch.same_class == pytest.approx(numpy.same_class, abs=1e-7)


@pytest.mark.parametrize(
    ("device", "text"),
    [
        ("gpu", "device 'gpu' is not understood: expected cpu or cuda"),
        ("cupy", "device 'cupy' is not there: cupy"),
        ("cuda", r"device 'cuda' is not there: torch .*; cupy .*\. Install a CUDA build of torch, or cupy"),
    ],
)
def test_a_device_that_is_not_there_is_said(device: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backend, "_torch", classmethod(lambda cls, device: "torch sees no CUDA device"))
    monkeypatch.setattr(Backend, "_cupy", classmethod(lambda cls, device: "cupy is not installed"))
    with pytest.raises(UsageError, match=text):
        Backend.open(device)


def test_the_libraries_themselves_are_asked_for_cuda() -> None:
    """Nothing is replaced here: without CUDA what each library says, with it a backend."""
    torch = require("torch")
    if torch.cuda.is_available():
        assert Backend.open("cuda").name == "cuda"
        return
    with pytest.raises(UsageError, match="device 'cuda' is not there: torch sees no CUDA device; cupy "):
        Backend.open("cuda")


def test_single_precision_is_good_where_it_is_used() -> None:
    """Up to a radius of 4.5 noise_std exponents err by less than 2e-5."""
    centres, rows, noise, _ = prepared("high dimension")
    std = centres.radius / factorised.SINGLE_RADIUS
    (single,) = Factorised(centres, single=True).log_sums(rows, noise, [std])
    assert single is not None
    truth = plain(centres, rows, noise, std)[0]
    assert single.everyone == pytest.approx(truth, abs=2e-5)
    assert np.abs(single.everyone - truth).max() > 1e-9


def test_the_guard_refuses_noise_that_would_overflow() -> None:
    """A noise a hundred times too long: W would be exp(3000); every other noise is served."""
    centres, rows, noise, std = prepared("spread", 0.3)
    assert Factorised(centres).log_sums(rows, noise, [std])[0] is not None
    noise[3] *= 100
    assert Factorised(centres).log_sums(rows, noise, [std])[0] is None


def test_a_far_centre_is_refused_or_left_out() -> None:
    """One centre 500 noise_std away: with it the projections overflow, without it nothing changes."""
    rng = np.random.default_rng(0)
    data = np.vstack([rng.standard_normal((100, 3)), [[500.0, 0, 0]]])
    centres = Mixture(data, np.ones(101), np.array([0, 101]))
    rows, noise = np.arange(100), np.array([[1.0, 0, 0], [-2.0, 1, 0]])
    assert Factorised(centres).log_sums(rows, noise, [1.0])[0] is None
    (near,) = Factorised(centres, columns=np.arange(100)).log_sums(rows, noise, [1.0])
    assert near is not None
    assert near.everyone == pytest.approx(plain(centres, rows, noise, 1.0)[0], abs=1e-12)


@pytest.mark.parametrize("bias", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("name", ["spread", "saturated clusters", "duplicates", "two tiles"])
def test_skipping_costs_no_more_than_it_may(name: str, bias: float) -> None:
    """Mean residual of each row over 2,000 noises, met by skipped pairs or not: at most `bias` less."""
    centres, rows, _, std = prepared(name, 0.5)
    noise = np.random.default_rng(5).standard_normal((2000, centres.n_axes))
    near = near_log_sums(centres, rows, noise, std, bias)
    exact = exact_log_sums(centres, rows, noise, std)
    lost = (np.logaddexp(0, exact.everyone) - np.logaddexp(0, near.everyone)).mean(axis=1)
    assert (lost > -1e-12).all()
    assert lost.max() <= bias


def test_skipping_leaves_pairs_out() -> None:
    """At a distance of 9, exp(-81/8) = 4e-5: kept where 1e-6 is asked for, left out where 1e-4 is."""
    centres = Mixture(np.array([[0.0], [9.0]]), np.ones(2), np.array([0, 2]))
    rows, noise = np.array([0]), np.array([[1.0]])
    assert np.isneginf(near_log_sums(centres, rows, noise, 1.0, 1e-4).everyone).all()
    kept = near_log_sums(centres, rows, noise, 1.0, 1e-6).everyone
    assert kept == pytest.approx(-81 / 2 + 9, abs=1e-12)


def test_the_reach_is_where_all_pairs_together_are_cheap() -> None:
    assert 1000 * exp(-(reach(1000, 1e-5) ** 2) / 8) == pytest.approx(1e-5)


def test_pairs_of_a_row_stay_together() -> None:
    at = np.array([0, 0, 0, 2, 3, 3, 3, 3, 3, 9])
    chunks = list(neighbours._chunks(at, 4))
    assert [at[c].tolist() for c in chunks] == [[0, 0, 0, 2], [3] * 5, [9]]
    assert list(neighbours._chunks(np.zeros(0, int), 4)) == []


@pytest.mark.parametrize("module", [mixture, neighbours])
def test_tiles_change_nothing(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    centres, rows, noise, std = prepared("spread")
    kernel = exact_log_sums if module is mixture else KERNELS["neighbours"]
    whole = kernel(centres, rows, noise, std)
    monkeypatch.setattr(module, "TILE_ELEMENTS", 7)
    tiled = kernel(centres, rows, noise, std)
    assert whole is not None
    assert tiled is not None
    assert tiled.everyone == pytest.approx(whole.everyone, abs=1e-12)


@pytest.mark.parametrize("n_classes", [1, 2, 4, 5, 40])
def test_classes_may_be_cut_by_tiles(n_classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factorised, "TILE_COLUMNS", 37)
    rng = np.random.default_rng(4)
    kinds = np.sort(rng.integers(0, n_classes, 300))
    starts = np.searchsorted(kinds, np.arange(n_classes + 1))
    centres = Mixture(rng.standard_normal((300, 3)), np.ones(300), starts)
    rows, noise = np.sort(rng.permutation(300)[:50]), rng.standard_normal((4, 3))
    (found,) = Factorised(centres).log_sums(rows, noise, [0.5])
    assert found is not None
    everyone, same = plain(centres, rows, noise, 0.5)
    assert found.everyone == pytest.approx(everyone, abs=1e-11)
    assert found.same_class == pytest.approx(same, abs=1e-11)


def unweighted(points: Floats, classes: list[int] | None = None) -> Mixture:
    return Mixture(points, np.ones(len(points)), np.array(classes or [0, len(points)]))


def test_bounds_do_not_depend_on_tiles(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    points = rng.standard_normal((60, 3))
    whole = bounds.mixture_bounds(unweighted(points, [0, 20, 60]), [1.0])
    monkeypatch.setattr(bounds, "TILE_POINTS", 7)
    tiled = bounds.mixture_bounds(unweighted(points, [0, 20, 60]), [0.5, 1.0])[1:]
    monkeypatch.setattr(mixture, "GRAM_RADIUS", 0.0)
    direct = bounds.mixture_bounds(unweighted(points, [0, 20, 60]), [1.0])
    square = ((points[:, None] - points) ** 2).sum(-1)
    expected = [np.log(60) - np.log(np.exp(-square / s).sum(1)).mean() for s in (8, 2)]
    for (found,) in (whole, tiled, direct):
        assert (found.lower, found.upper) == pytest.approx(expected, abs=1e-12)
        assert found.within_lower == pytest.approx(whole[0].within_lower, abs=1e-12)


def test_bounds_of_the_label_combine_those_of_both_terms(rng: np.random.Generator) -> None:
    """Classes of 8 and 22; the lower bound takes the upper one of I(X;T|Y)."""
    points = rng.standard_normal((30, 2)) * 0.5 + 4 * (np.arange(30) >= 8)[:, None]
    square = ((points[:, None] - points) ** 2).sum(-1)

    def twin(members: slice, variance: int) -> float:
        overlap = np.exp(-square[members, members] / variance)
        return float(-np.log(overlap.mean(axis=1)).mean())

    within = {v: (8 * twin(slice(0, 8), v) + 22 * twin(slice(8, 30), v)) / 30 for v in (8, 2)}
    (found,) = bounds.mixture_bounds(unweighted(points, [0, 8, 30]), [1.0])
    lower, upper = twin(slice(0, 30), 8) - within[2], twin(slice(0, 30), 2) - within[8]
    assert 0 < lower < upper - 0.1
    assert (found.label_lower, found.label_upper) == pytest.approx((lower, upper), abs=1e-12)


def test_centring_survives_an_offset(rng: np.random.Generator) -> None:
    """20,000 values about 1e8: one pass of sums leaves a mean as large as the rounding of a value."""
    (block,) = centred_blocks(rng.random((20_000, 3)) + 1e8, 1.0, 256)
    assert np.abs(block.mean(axis=0)).max() < 1e-14


@pytest.mark.parametrize("shape", [(30, 7), (30, 30), (30, 500), (200, 100)])
def test_coordinates_keep_distances(shape: tuple[int, int], rng: np.random.Generator) -> None:
    data = (rng.standard_normal(shape) + 100).astype(np.float32)
    points = coordinates(data, binary_scale(data)) * binary_scale(data)
    assert points.shape == (shape[0], min(shape[0] - 1 if shape[1] >= shape[0] else shape[1], shape[1]))
    wide = data.astype(np.float64)
    expected = ((wide[:, None] - wide) ** 2).sum(-1)
    assert ((points[:, None] - points) ** 2).sum(-1) == pytest.approx(expected, rel=1e-9)


def test_axes_that_hold_nothing_are_dropped(rng: np.random.Generator) -> None:
    """Three directions in 20 units: three coordinates, the widest first."""
    data = (rng.standard_normal((100, 3)) * [1.0, 5.0, 2.0]) @ np.linalg.qr(rng.standard_normal((20, 3)))[0].T
    points = coordinates(data, 1.0)
    assert points.shape == (100, 3)
    assert np.all(np.diff(points.std(axis=0)) < 0)


def test_sums_survive_overflow_and_underflow() -> None:
    exponents = np.array([[-1e6, -1e6 - 1.0], [800.0, 1.0], [750.0, 749.0], [-750.0, -751.0], [-np.inf, 3.0]])
    expected = [*logsumexp(exponents, axis=1), -np.inf]
    exponents = np.vstack([exponents, [[-np.inf, -np.inf]]])
    assert log_sum_exp(exponents.copy()) == pytest.approx(expected, abs=1e-9)
    assert log_sum_exp(np.empty((2, 0))).tolist() == [-np.inf, -np.inf]
