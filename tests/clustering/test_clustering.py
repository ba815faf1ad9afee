"""Distances and cosines by hand, against plain numpy, and on degenerate data."""

from math import inf, nan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from repstat.clustering import Clustering, clustering, distance_edges, pairs
from repstat.clustering.diagnostics import LABELLED, UNLABELLED
from repstat.clustering.summary import QUANTILES, separation
from repstat.errors import UsageError
from repstat.results import Status

Floats = NDArray[np.float64]


def values(found: Clustering) -> dict[str, float | None]:
    return {name: estimate.value for name, estimate in found.estimates.items()}


@pytest.fixture
def x(rng: np.random.Generator) -> Floats:
    return rng.standard_normal((80, 5)).round(1)


@pytest.fixture
def y() -> NDArray[np.int64]:
    return np.arange(80) % 3


def plain(x: Floats, y: NDArray[np.int64]) -> dict[str, float]:
    """The slow obvious twin: every pair in a table."""
    i, j = np.triu_indices(len(x), 1)
    centred = x - x.mean(0)
    distance = np.sqrt(((x[i] - x[j]) ** 2).sum(1))
    norm = np.sqrt((centred**2).sum(1))
    cosine = (centred[i] * centred[j]).sum(1) / (norm[i] * norm[j])
    same = y[i] == y[j]
    w, b = distance[same].round(9), distance[~same].round(9)
    auc = np.mean((b[:, None] > w) + 0.5 * (b[:, None] == w))
    return {
        "within_class_distance": float(w.mean()),
        "between_class_distance": float(b.mean()),
        "distance_ratio": float(w.mean() / b.mean()),
        "distance_auc": float(auc),
        "within_class_cosine": float(cosine[same].mean()),
        "between_class_cosine": float(cosine[~same].mean()),
    }


def test_four_points_by_hand() -> None:
    """0, 0 | 1, 3 on a line: within 0 and 2, between 1, 1, 3, 3; the third is the mean."""
    found = clustering([0.0, 0.0, 1.0, 3.0], ["a", "a", "b", "b"], distance_edges=[0.0, 1.5, 3.0])
    assert values(found) == pytest.approx(
        {
            "within_class_distance": 1.0,
            "between_class_distance": 2.0,
            "distance_ratio": 0.5,
            "distance_auc": 0.75,
            "within_class_cosine": 1.0,
            "between_class_cosine": -1.0,
        }
    )
    within, between = found.distances["within"], found.distances["between"]
    assert (within.counts.tolist(), between.counts.tolist()) == ([1, 1], [2, 2])
    assert (within.n_pairs, between.n_pairs, found.n_zero_vectors) == (2, 4, 1)
    assert found.cosines["within"].counts[-1] == 1
    assert found.cosines["between"].counts[0] == 2
    assert (found.n_classes, found.n_singletons, found.n_samples, found.n_total) == (2, 0, 4, 4)


def test_a_tie_counts_half() -> None:
    """Corners of a square, classes on opposite sides: within {1, 1}, between {1, 1, sqrt 2, sqrt 2}."""
    found = clustering([[0, 0], [1, 0], [0, 1], [1, 1]], [0, 0, 1, 1])
    auc = found.estimates["distance_auc"]
    assert auc.value == pytest.approx(0.75)
    assert auc.lower_bound == pytest.approx(0.5)
    assert auc.upper_bound == pytest.approx(1.0)


def pairs_apart(x: Floats, y: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Distances within and between, by differences."""
    i, j = np.triu_indices(len(x), 1)
    distance = np.sqrt(((x[i] - x[j]) ** 2).sum(1))
    return distance[y[i] == y[j]], distance[y[i] != y[j]]


@pytest.mark.parametrize("spread", [1e-3, 1e-7, 1e-9, 1e-12])
def test_close_samples_under_a_far_one(spread: float) -> None:
    """Twelve points close together and one at 1, where |a|^2 + |b|^2 - 2ab cancels; 10 seeds."""
    for seed in range(10):
        close = np.random.default_rng(seed).standard_normal(12) * spread
        x, y = np.append(close, 1.0)[:, None], np.append(close > 0, False).astype(int)
        within, between = pairs_apart(x, y)
        found = clustering(x, y).estimates
        auc = found["distance_auc"]
        truth = np.mean(between[:, None] > within)
        assert auc.lower_bound - 1e-12 <= truth <= auc.upper_bound + 1e-12
        # What centring rounds off is epsilon, whatever the spread.
        assert found["within_class_distance"].value == pytest.approx(within.mean(), rel=1e-9, abs=1e-15)
        assert found["between_class_distance"].value == pytest.approx(between.mean(), rel=1e-9, abs=1e-15)


def test_collapsed_classes_keep_their_size(rng: np.random.Generator) -> None:
    """Classes of width 1e-9 at distance 2 in 30 units; within distances are not what Gram leaves over."""
    y = np.arange(60) % 2
    x = np.where(y, 1.0, -1.0)[:, None] + 1e-9 * rng.standard_normal((60, 30))
    within, _ = pairs_apart(x, y)
    assert clustering(x, y).estimates["within_class_distance"].value == pytest.approx(within.mean(), rel=1e-6)


def test_the_auc_bounds_allow_for_neighbouring_bins() -> None:
    """Fine bins of within 0, 2, 0, 5 and of between 3, 0, 1, 0 pairs: neighbours may be in either order."""
    within = pairs.PairCounts(np.zeros(1, int), np.array([0, 2, 0, 5]))
    between = pairs.PairCounts(np.zeros(1, int), np.array([3, 0, 1, 0]))
    assert separation(within, between) == pytest.approx((2 / 28, 0.0, (2 + 6 + 5) / 28))
    within.fine[:], between.fine[:] = [1, 0, 0, 0], [0, 3, 0, 0]
    assert separation(within, between) == (1.0, 0.0, 1.0)
    within.fine[:] = [0, 2, 0, 0]
    assert separation(within, between) == (0.5, 0.0, 1.0)
    within.fine[:], within.n_zero = [2, 0, 0, 0], 2
    between.fine[:] = [1, 1, 0, 0]
    assert separation(within, between) == (1.0, 1.0, 1.0)


def test_identical_samples_are_at_zero(rng: np.random.Generator) -> None:
    """40 points of 50 units, three times each; a Gram product leaves about 1e-7 of some."""
    x = rng.standard_normal((40, 50)).repeat(3, axis=0) + 3.0
    found = clustering(x, np.arange(120) // 3)
    assert found.estimates["within_class_distance"].value == 0.0
    assert found.distances["within"].quantiles == (0.0,) * len(QUANTILES)
    auc = found.estimates["distance_auc"]
    assert (auc.lower_bound, auc.value, auc.upper_bound) == (1.0, 1.0, 1.0)


def test_only_identical_samples_tie_at_zero() -> None:
    """0 and 1e-20 cannot be told apart after centring, and are farther apart than 1 and 1 all the same."""
    auc = clustering([0.0, 1e-20, 1.0, 1.0], [0, 1, 2, 2]).estimates["distance_auc"]
    assert (auc.lower_bound, auc.value, auc.upper_bound) == (1.0, 1.0, 1.0)


def test_quantiles_know_zero_from_a_small_distance() -> None:
    """Four samples at 0, and one at 1: six of ten pairs are at 0, four at 1."""
    quantiles = clustering([0.0, 0.0, 0.0, 0.0, 1.0]).distances["all"].quantiles
    assert quantiles[:3] == (0.0, 0.0, 0.0)
    assert quantiles[3:] == pytest.approx((1.0, 1.0), abs=1e-4)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e4, 1e6, 1e9])
def test_a_sample_at_the_mean_has_no_direction_at_any_offset(rng: np.random.Generator, offset: float) -> None:
    """Five sets of points that sum to zero, and their mean; the offset rounds them to 1e-16 of itself."""
    for _ in range(5):
        half = rng.standard_normal((4, 3))
        x, y = np.vstack([half, -half.sum(axis=0), np.zeros(3)]), np.arange(6) % 2
        plain_found, moved = clustering(x, y), clustering(x + offset, y)
        assert (plain_found.n_zero_vectors, moved.n_zero_vectors) == (1, 1)
        for name in ("within_class_cosine", "between_class_cosine"):
            assert moved.estimates[name].value == pytest.approx(
                plain_found.estimates[name].value, abs=1e-12 + 1e-14 * offset
            )


def test_the_rounding_is_that_of_the_dtype() -> None:
    """0.2 is the mean of 0.1, 0.2, 0.3 as far as float32 can tell; next to 1e-5 it is another number."""
    assert clustering(np.array([0.1, 0.2, 0.3], np.float32)).n_zero_vectors == 1
    assert clustering(np.array([0.1, 0.20001, 0.3], np.float32)).n_zero_vectors == 0
    # A constant unit has no rounding.
    assert clustering(np.array([[1e9, -1.0], [1e9, 1e-8], [1e9, 1.0]])).n_zero_vectors == 0


@pytest.mark.parametrize("tile", [1, 300, 2**17])
def test_equal_to_the_plain_form(
    x: Floats, y: NDArray[np.int64], tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x[3] = x[7]
    monkeypatch.setattr(pairs, "TILE_ELEMENTS", tile)
    found = clustering(x, y)
    expected = plain(x, y)
    auc = found.estimates["distance_auc"]
    assert auc.lower_bound <= expected["distance_auc"] <= auc.upper_bound
    assert auc.upper_bound - auc.lower_bound < 1e-3
    assert values(found) == pytest.approx(expected, abs=1e-4)
    del expected["distance_auc"]
    for name, value in expected.items():
        assert found.estimates[name].value == pytest.approx(value, rel=1e-9), name


def test_histograms_and_quantiles(rng: np.random.Generator, y: NDArray[np.int64]) -> None:
    x = rng.standard_normal((80, 5))
    edges = np.linspace(0, 4, 9)
    found = clustering(x, y, distance_edges=edges)
    i, j = np.triu_indices(80, 1)
    distance = np.sqrt(((x[i] - x[j]) ** 2).sum(1))
    for relation, chosen in (("within", y[i] == y[j]), ("between", y[i] != y[j])):
        summary = found.distances[relation]
        assert summary.counts.tolist() == np.histogram(distance[chosen], edges)[0].tolist()
        assert summary.n_above == np.count_nonzero(distance[chosen] > 4)
        assert summary.n_above > 0
        assert summary.counts.sum() + summary.n_above == summary.n_pairs
        # An order statistic of few hundred pairs: one pair to either side, and the resolution.
        ranks = [np.quantile(distance[chosen], np.clip(np.array(QUANTILES) + s, 0, 1)) for s in (-0.01, 0.01)]
        assert np.all(summary.quantiles >= ranks[0] - summary.resolution)
        assert np.all(summary.quantiles <= ranks[1] + summary.resolution)


def test_without_labels_all_pairs_are_one_relation(x: Floats) -> None:
    found = clustering(x)
    one_class = clustering(x, np.zeros(80, int))
    assert tuple(found.estimates) == UNLABELLED
    assert found.estimates["mean_distance"].value == one_class.estimates["within_class_distance"].value
    assert list(found.distances) == ["all"]
    assert found.distances["all"].n_pairs == 80 * 79 // 2
    assert one_class.estimates["distance_auc"].reason == "there is one class only"


@pytest.mark.parametrize(("factor", "shift"), [(1e-20, 0.0), (1.0, 1e4), (1e-200, 0.0), (1e290, 0.0)])
def test_scale_and_shift_are_irrelevant(x: Floats, y: NDArray[np.int64], factor: float, shift: float) -> None:
    plain_values, moved = values(clustering(x, y)), values(clustering((x + shift) * factor, y))
    for name in LABELLED:
        scale = factor if name.endswith("class_distance") else 1.0
        assert moved[name] / scale == pytest.approx(plain_values[name], rel=1e-6, abs=1e-4), name


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_floats_are_computed_in_float64(x: Floats, y: NDArray[np.int64], dtype: type) -> None:
    narrow = (300 * x).astype(dtype)
    assert values(clustering(narrow, y)) == values(clustering(narrow.astype(np.float64), y))


def test_separated_and_identical_classes() -> None:
    x = np.repeat([[0.0, 0], [5.0, 0], [0, 5.0]], 10, axis=0)
    found = clustering(x, np.repeat([0, 1, 2], 10))
    assert found.estimates["distance_ratio"].value == 0.0
    assert found.estimates["distance_auc"].value == 1.0
    mixed = clustering(x, np.arange(30) % 2)
    assert mixed.estimates["distance_auc"].value == pytest.approx(0.5, abs=0.05)


def test_a_constant_layer_has_no_ratio() -> None:
    found = clustering(np.full((6, 3), 2.5), [0, 0, 0, 1, 1, 1])
    assert found.estimates["within_class_distance"].value == 0.0
    assert found.distances["within"].counts[0] == 6
    for name in ("distance_ratio", "distance_auc"):
        assert found.estimates[name].status == Status.UNDEFINED
        assert found.estimates[name].reason == "all samples coincide"
    for name in ("within_class_cosine", "between_class_cosine"):
        assert found.estimates[name].reason == "no such pair of samples away from the mean"
    assert found.n_zero_vectors == 6


def test_singletons_are_counted() -> None:
    found = clustering([0.0, 1.0, 2.0, 4.0], [0, 0, 1, 2])
    assert (found.n_singletons, found.n_classes) == (2, 3)
    alone = clustering([0.0, 1.0, 2.0], [0, 1, 2])
    for name in ("within_class_distance", "distance_ratio", "distance_auc", "within_class_cosine"):
        assert alone.estimates[name].reason == "no class has two samples"
    assert alone.estimates["between_class_distance"].value == pytest.approx(4 / 3)


@pytest.mark.parametrize("labels", [None, [0, 0, 1]])
@pytest.mark.parametrize("bad", [nan, inf])
def test_nonfinite_activations_are_undefined(labels: list[int] | None, bad: float) -> None:
    found = clustering([0.0, bad, 1.0], labels)
    assert tuple(found.estimates) == (UNLABELLED if labels is None else LABELLED)
    assert {e.status for e in found.estimates.values()} == {Status.UNDEFINED}
    assert "in 1 of 3 samples" in next(iter(found.estimates.values())).reason
    assert found.distances == {}


def test_one_sample_has_no_pair() -> None:
    assert clustering([[1.0, 2.0]]).estimates["mean_distance"].reason == "one sample has no pair"


def test_a_subset_is_seeded_and_said(rng: np.random.Generator) -> None:
    """200 of 600 standard normal vectors in 50 dimensions: distances near sqrt(100), spread 0.7 per pair."""
    x, y = rng.standard_normal((600, 50)), np.arange(600) % 2
    found, again = (clustering(x, y, max_samples=200, seed=4) for _ in range(2))
    assert values(found) == values(again)
    assert values(found) != values(clustering(x, y, max_samples=200, seed=5))
    assert (found.n_samples, found.n_total) == (200, 600)
    assert found.notes == ("pairs of a random subset of 200 of 600 samples",)
    distance = found.estimates["between_class_distance"]
    assert distance.value == pytest.approx(10.0, abs=0.2)
    assert distance.n_samples == 200
    assert 0.0 < distance.std_error < 0.1
    assert clustering(x, y).estimates["between_class_distance"].std_error == 0.0


def test_a_subset_keeps_its_labels(rng: np.random.Generator) -> None:
    """Separate classes in shuffled order: a subset whose labels belong to other samples would mix them."""
    y = rng.permutation(np.arange(300) % 3)
    x = 10.0 * np.eye(3)[y] + 0.1 * rng.standard_normal((300, 3))
    found = clustering(x, y, max_samples=100).estimates
    assert found["distance_auc"].value == 1.0
    assert found["within_class_distance"].value < 0.5
    assert found["between_class_distance"].value == pytest.approx(10 * sqrt(2), abs=0.2)


def test_edges_hold_every_distance_of_the_trajectory(rng: np.random.Generator) -> None:
    blocks = [rng.standard_normal((30, 4)) * s + 100 for s in (1, 5, 2)]
    edges = distance_edges(iter(blocks), n_bins=20)
    assert len(edges) == 21
    assert edges[0] == 0.0
    assert edges[-1] == pytest.approx(2 * np.sqrt(((blocks[1] - blocks[1].mean(0)) ** 2).sum(1)).max())
    for block in blocks:
        assert clustering(block, distance_edges=edges).distances["all"].n_above == 0
    opposite = np.array([[-1.0], [1.0]])
    assert clustering(opposite).distances["all"].n_above == 0
    assert distance_edges([np.full((3, 2), nan), np.ones((3, 2))])[-1] == 1.0


@pytest.mark.parametrize("upper", [1e-9, 1e-3, 1.0, 1e3, 1e200])
def test_edges_far_from_the_distances(rng: np.random.Generator, upper: float) -> None:
    """n = 60 pairs of a plane against edges much narrower or wider, one distance on the last edge."""
    x = np.append(rng.standard_normal((60, 1)), [[5.0], [5.0 + upper if upper < 10 else 6.0]], axis=0)
    edges = np.linspace(0.0, upper, 8)
    found = clustering(x, distance_edges=edges).distances["all"]
    i, j = np.triu_indices(62, 1)
    distance = np.abs(x[i] - x[j]).ravel()
    assert found.n_pairs == len(distance)
    # Centring rounds what lies on the last edge to either side.
    assert abs(found.n_above - np.count_nonzero(distance > upper)) <= 1


@pytest.mark.parametrize("edges", [[0.0], [0.0, 2.0, 3.0], [1.0, 2.0], [0.0, nan], [0.0, 0.0], [[0.0, 1.0]]])
def test_uneven_edges_are_refused(edges: object) -> None:
    with pytest.raises(UsageError, match="expected at least two finite numbers in equal steps from 0"):
        clustering([0.0, 1.0], distance_edges=edges)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_samples": 1}, "max_samples must be an integer of at least 2, got 1"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"n_bins": 0}, "n_bins must be an integer of at least 1"),
        ({"labels": [1]}, "found 1 labels for 2 samples"),
        ({"labels": [0.5, 1.0]}, "found dtype float64"),
        ({"labels": np.ma.masked_array([0, 1], [False, True])}, "labels are a masked array"),
    ],
)
def test_what_cannot_be_right_is_refused(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        clustering([0.0, 1.0], **arguments)


def test_as_many_classes_as_samples_need_no_table_of_classes(rng: np.random.Generator) -> None:
    found = clustering(rng.standard_normal((1500, 2)), np.arange(1500))
    assert found.n_singletons == 1500
    assert found.distances["between"].n_pairs == 1500 * 1499 // 2
    assert found.distances["between"].mean == pytest.approx(sqrt(np.pi), abs=0.1)


def test_the_error_of_a_subset_is_honest(rng: np.random.Generator) -> None:
    """n = 3000 in 3 units and two classes; 100 subsets of 300 (seeds 0 to 99) against all samples.

    The value of all lies within 1.96 errors in 88 to 99 of 100: 95 +- 3 standard errors of the share, and
    one more below, since the linear error is that of large subsets.
    """
    y = rng.integers(0, 2, 3000)
    x = rng.standard_normal((3000, 3)) * (1.0 + 0.5 * y[:, None]) + y[:, None]
    truth = values(clustering(x, y))
    hits = dict.fromkeys(LABELLED, 0)
    for seed in range(100):
        found = clustering(x, y, max_samples=300, seed=seed).estimates
        for name in LABELLED:
            hits[name] += abs(found[name].value - truth[name]) <= 1.96 * found[name].std_error
    assert all(88 <= hit <= 99 for hit in hits.values()), hits


def test_the_error_of_a_mean_cosine_counts_single_pairs(rng: np.random.Generator) -> None:
    """Two far groups: every sample has the same mean cosine, and its spread over samples tells nothing.

    200 subsets of 300 from n = 3000: within 1.96 errors in 92 to 100 %; the spread over samples alone gives
    81 %, three standard errors of a share below 89.
    """
    x = rng.standard_normal((3000, 3)) * 0.3 + np.where(rng.integers(0, 2, 3000), 2.0, -2.0)[:, None]
    truth, hits = clustering(x).estimates["mean_cosine"].value, 0
    for seed in range(200):
        found = clustering(x, max_samples=300, seed=seed).estimates["mean_cosine"]
        hits += abs(found.value - truth) <= 1.96 * found.std_error
    assert hits >= 184, hits


def test_too_few_pairs_tell_no_error(rng: np.random.Generator) -> None:
    """100 of 200 samples, each its own class but for ten: the within pairs are of too few samples."""
    y = np.where(np.arange(200) < 20, 0, np.arange(200))
    found = clustering(rng.standard_normal((200, 3)), y, max_samples=100).estimates
    assert found["within_class_distance"].std_error is None
    assert found["distance_ratio"].std_error is None
    assert found["distance_auc"].std_error is None
    assert found["between_class_distance"].std_error > 0.0


@settings(max_examples=30, deadline=None, derandomize=True)
@given(n=st.integers(4, 60), d=st.integers(1, 6), exponent=st.integers(-40, 40), seed=st.integers(0, 999))
def test_what_changes_nothing(n: int, d: int, exponent: int, seed: int) -> None:
    """Permutation, scaling, rotation and shift, to what centring and rotation round off."""
    rng = np.random.default_rng(seed)
    x, y, order = rng.standard_normal((n, d)), rng.integers(0, 2, n), rng.permutation(n)
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    before = clustering(x, y).estimates
    for moved, labels, factor in (
        (x[order], y[order], 1.0),
        (x * 2.0**exponent, y, 2.0**exponent),
        (x @ rotation, y, 1.0),
        (x + 7.0, y, 1.0),
    ):
        after = clustering(moved, labels).estimates
        for name in set(LABELLED) - {"distance_auc"}:
            size = factor if name.endswith("class_distance") else 1.0
            if before[name].value is None:
                assert after[name].value is None
            else:
                assert after[name].value == pytest.approx(
                    before[name].value * size, rel=1e-6, abs=1e-9 * size
                )
        auc, again = before["distance_auc"], after["distance_auc"]
        if auc.value is not None:
            assert again.lower_bound - 1e-12 <= auc.upper_bound
            assert auc.lower_bound - 1e-12 <= again.upper_bound
