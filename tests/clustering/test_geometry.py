"""Collapse, neighbours, silhouette and dimension: by hand, against independent computations, invariances."""

from math import inf, nan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances, silhouette_score
from sklearn.neighbors import NearestNeighbors

from repstat.clustering import Geometry, geometry, pairs
from repstat.clustering.geometry import COINCIDE, OPPOSITE
from repstat.errors import UsageError
from repstat.results import Status

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def values(found: Geometry) -> dict[str, float | None]:
    return {name: estimate.value for name, estimate in found.estimates.items()}


def clusters(seed: int, n: int = 120, d: int = 5, c: int = 4) -> tuple[Floats, Integers]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, c, n)
    y[:c] = np.arange(c)
    return 2.0 * rng.standard_normal((c, d))[y] + rng.standard_normal((n, d)), y


def plain_collapse(x: Floats, y: Integers, *, pooled: bool = False) -> dict[str, float]:
    """Neural collapse by its formulas: covariances as tables, the pseudo-inverse of numpy."""
    classes = np.unique(y)
    means = np.array([x[y == c].mean(0) for c in classes])
    centre = x.mean(0) if pooled else means.mean(0)
    within = np.mean([np.cov(x[y == c].T, bias=True) for c in classes], axis=0)
    between = sum(np.outer(m - centre, m - centre) for m in means) / len(classes)
    norms = np.linalg.norm(means - centre, axis=1)
    unit = (means - centre) / norms[:, None]
    cosines = (unit @ unit.T)[~np.eye(len(classes), dtype=bool)]
    return {
        "nc1": float(np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / len(classes)),
        "nc2_equinorm": float(norms.std() / norms.mean()),
        "nc2_equiangularity": float(cosines.std()),
        "nc2_simplex": float(np.abs(cosines + 1 / (len(classes) - 1)).mean()),
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("d", "c"), [(5, 4), (3, 6), (20, 3), (300, 5)])
def test_collapse_equals_its_formulas(seed: int, d: int, c: int) -> None:
    """Classes of unequal size; d below and above the number of classes and of samples."""
    x, y = clusters(seed, d=d, c=c)
    found, expected = values(geometry(x + 7.0, y)), plain_collapse(x, y)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-8), name
    # Mutants that must not pass: the centre of the samples for that of the classes, a factor of C.
    wrong = plain_collapse(x, y, pooled=True)
    assert wrong["nc2_equinorm"] != pytest.approx(expected["nc2_equinorm"], rel=1e-3)
    assert found["nc1"] != pytest.approx(c * expected["nc1"], rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_silhouette_and_neighbours_equal_those_of_scikit_learn(seed: int) -> None:
    x, y = clusters(seed)
    found = geometry(x, y, k=7).estimates
    assert found["silhouette"].value == pytest.approx(silhouette_score(x, y), abs=1e-12)
    nearest = NearestNeighbors(n_neighbors=8).fit(x).kneighbors(x, return_distance=False)
    # Mutant: a sample is not its own neighbour.
    share = (y[nearest] == y[:, None]).mean(axis=1)
    assert found["knn_agreement"].value == pytest.approx((y[nearest[:, 1:]] == y[:, None]).mean(), abs=1e-12)
    assert found["knn_agreement"].value != pytest.approx(share.mean(), abs=1e-3)
    assert {found[name].std_error for name in found} == {0.0}


@pytest.mark.parametrize("tile", [1, 500, 2**18])
def test_distance_rows_equal_those_of_scikit_learn(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows twice, some 1e-9 apart: where Gram products cancel."""
    monkeypatch.setattr(pairs, "TILE_ELEMENTS", tile)
    x, _ = clusters(0)
    x -= x.mean(0)
    x[5], x[6] = x[9], x[8] + 1e-9
    groups = np.unique(x, axis=0, return_inverse=True)[1].ravel()
    rows = np.array([5, 6, 8, 9, 40])
    expected = pairwise_distances(x)[rows] ** 2
    expected[0, 9] = expected[3, 5] = 0.0
    expected[1, 8] = expected[2, 6] = float(((x[6] - x[8]) ** 2).sum())
    expected[np.arange(5), rows] = inf
    found = list(pairs.distance_rows(x, groups, rows))
    np.testing.assert_array_equal(np.concatenate([some for some, _ in found]), rows)
    np.testing.assert_allclose(np.vstack([squared for _, squared in found]), expected, rtol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(60, 4), (30, 200)])
def test_dimension_is_that_of_the_eigenvalues(n: int, d: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((n, d)) * np.linspace(0.1, 3, d)
    spectrum = np.linalg.eigvalsh(np.cov(x.T))
    found = geometry(x).estimates["participation_ratio"]
    assert found.value == pytest.approx(spectrum.sum() ** 2 / (spectrum**2).sum(), rel=1e-10)
    assert found.ceiling == min(d, n - 1)
    assert found.value < found.ceiling


def test_by_hand() -> None:
    """Classes at 0, 2 and at 6, 8 on a line: every number by mental arithmetic.

    Means 1 and 7, arms 3: W = 1, B = 9, C = 2, so NC1 = 1 / 18. Silhouettes: of 0, a = 2 and b = 7; of 2,
    a = 2 and b = 5; and mirrored.
    """
    found = geometry([0.0, 2.0, 6.0, 8.0], ["a", "a", "b", "b"], k=1)
    assert values(found) == {
        "participation_ratio": pytest.approx(1.0),
        "nc1": pytest.approx(1 / 18),
        "nc2_equinorm": None,
        "nc2_equiangularity": None,
        "nc2_simplex": None,
        "knn_agreement": 1.0,
        "silhouette": pytest.approx((5 / 7 + 3 / 5) / 2),
    }
    assert found.estimates["nc2_simplex"].reason == OPPOSITE
    assert found.chance == pytest.approx(1 / 3)
    # The second neighbour of each is of the other class, whichever it is.
    assert geometry([0.0, 2.0, 6.0, 8.0], [0, 0, 1, 1], k=2).estimates["knn_agreement"].value == 0.5


def test_a_simplex_is_collapsed_and_a_square_is_not() -> None:
    """Three points at the corners of a triangle; four at those of a square have cosines 0, 0, -1 twice."""
    angles = np.arange(3) * 2 * np.pi / 3
    x = np.repeat(np.c_[np.cos(angles), np.sin(angles)], 5, axis=0)
    found = values(geometry(x, np.arange(15) // 5))
    for name in ("nc1", "nc2_equinorm", "nc2_equiangularity", "nc2_simplex"):
        assert found[name] == pytest.approx(0.0, abs=1e-12)
    assert (found["knn_agreement"], found["silhouette"]) == (pytest.approx(0.4), 1.0)
    square = values(geometry([[1, 0], [0, 1], [-1, 0], [0, -1]], [0, 1, 2, 3]))
    assert square["nc2_simplex"] == pytest.approx((4 * 1 / 3 + 2 * 2 / 3) / 6)
    assert square["nc2_equiangularity"] == pytest.approx(np.std([0, 0, 0, 0, -1, -1]))


def test_small_classes_lower_the_ceiling_of_agreement() -> None:
    found = geometry(np.repeat([0.0, 5.0, 9.0], 5), np.arange(15) // 5, k=10).estimates["knn_agreement"]
    assert found.ceiling == pytest.approx(0.4)
    assert found.value == pytest.approx(0.4)


def test_ties_are_shared(rng: np.random.Generator) -> None:
    """Twenty samples on two points: 9 of a and 1 of b here, 2 of a and 8 of b there; k = 4.

    A sample has nine others at distance 0; the order that breaks the ties must not matter.
    """
    x, y = np.repeat([0.0, 1.0], 10), np.array([0] * 9 + [1] + [0] * 2 + [1] * 8)
    expected = (9 * 8 / 9 + 0 + 2 * 1 / 9 + 8 * 7 / 9) / 20
    for _ in range(3):
        order = rng.permutation(20)
        found = geometry(x[order], y[order], k=4)
        assert found.estimates["knn_agreement"].value == pytest.approx(expected)


def test_nc4_is_where_the_output_and_the_nearest_mean_differ() -> None:
    x, y = np.array([0.0, 1.0, 5.0, 6.0]), np.array([0, 0, 2, 2])
    outputs = np.eye(4)[[0, 2, 2, 3]]
    found = geometry(x, y, outputs).estimates["nc4"]
    assert (found.value, found.std_error, found.ceiling) == (0.5, 0.0, 1.0)
    assert geometry(x, y, np.eye(3)[y]).estimates["nc4"].value == 0.0
    for wrong, text in (
        (np.zeros((4, 1)), "one output does not say"),
        (np.eye(4)[:, :2], "labels from 0 to 2 are not the outputs 0 to 1"),
        (np.full((4, 3), nan), "the outputs have 12 NaN"),
    ):
        assert text in geometry(x, y, wrong).estimates["nc4"].reason
    assert "text do not say" in geometry(x, list("aabb"), outputs).estimates["nc4"].reason
    assert "nc4" not in geometry(x, None, outputs).estimates
    with pytest.raises(UsageError, match="outputs and activations differ in length: found 3 outputs for 4"):
        geometry(x, y, outputs[:3])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    factor=st.sampled_from([1e-150, 1e-3, 1.0, 64.0, 1e100]),
    shift=st.sampled_from([0.0, -3.0, 100.0]),
    c=st.integers(2, 5),
)
def test_rotation_scale_shift_and_order_change_nothing(
    seed: int, factor: float, shift: float, c: int
) -> None:
    x, y = clusters(seed, n=40, d=4, c=c)
    rng = np.random.default_rng(seed)
    rotation, order = np.linalg.qr(rng.standard_normal((4, 4)))[0], rng.permutation(40)
    names = rng.permutation(c)
    moved = values(geometry(((x @ rotation + shift) * factor)[order], names[y][order]))
    for name, value in values(geometry(x, y)).items():
        assert moved[name] == (None if value is None else pytest.approx(value, rel=1e-6, abs=1e-9)), name
    stretched = values(geometry(x * [1, 1, 1, 30.0], y))
    assert stretched["participation_ratio"] != pytest.approx(moved["participation_ratio"], rel=1e-2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_floats_are_computed_in_float64(dtype: type) -> None:
    x, y = clusters(1)
    narrow = x.astype(dtype)
    for name, value in values(geometry(narrow.astype(np.float64), y)).items():
        assert values(geometry(narrow, y))[name] == pytest.approx(value, rel=1e-12), name


def test_what_has_no_value_says_why() -> None:
    def reasons(x: object, y: object) -> dict[str, str]:
        return {name: e.reason for name, e in geometry(x, y).estimates.items() if e.value is None}  # type: ignore[arg-type]

    assert set(reasons(np.ones((4, 2)), [0, 0, 1, 1]).values()) == {COINCIDE}
    one = reasons([0.0, 1.0, 2.0], [3, 3, 3])
    assert set(one.values()) == {"there is one class only"}
    assert "participation_ratio" not in one
    assert reasons([0.0, 1.0, 2.0], [0, 1, 2])["silhouette"] == "no class has two samples"
    meeting = reasons([-1.0, 1.0, -2.0, 2.0], [0, 0, 1, 1])
    assert meeting["nc1"] == meeting["nc2_equinorm"] == "all class means coincide"
    at_centre = reasons([-1.0, -1.0, 0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1, 2, 2])
    assert at_centre["nc2_simplex"] == "the mean of a class lies at their centre"
    assert "nc2_equinorm" not in at_centre
    assert set(reasons([[1.0]], [0]).values()) == {"one sample has no other"}
    for bad in (nan, inf):
        found = geometry([0.0, bad, 1.0], [0, 0, 1])
        assert {e.status for e in found.estimates.values()} == {Status.UNDEFINED}
        assert "in 1 of 3 samples" in found.estimates["nc1"].reason
    assert list(geometry([0.0, 1.0]).estimates) == ["participation_ratio"]


def test_rounding_is_no_distance_between_means() -> None:
    """Classes of the same float32 values but for their last bit: means that differ by rounding coincide."""
    x = np.array([0.1, 0.3, 0.1, 0.3], np.float32)
    x[3] = np.nextafter(x[3], np.float32(1))
    assert geometry(x, [0, 0, 1, 1]).estimates["nc1"].reason == "all class means coincide"
    assert geometry(x.astype(np.float64), [0, 0, 1, 1]).estimates["nc1"].value is not None


def test_the_errors_of_what_was_chosen_are_honest() -> None:
    """400 choices of 150 of 600 samples, 60 of them looked at: z scores have spread 1 to four errors.

    The dimension is that of a subset, which is too small by some 1/n: three tenths of its error here.
    """
    x, y = clusters(3, n=600, d=4, c=3)
    x += 2.0 * np.random.default_rng(0).standard_normal(x.shape)
    whole = geometry(x, y, max_queries=600)
    scores: dict[str, list[float]] = {"participation_ratio": [], "silhouette": []}
    for seed in range(400):
        found = geometry(x, y, max_samples=150, max_queries=60, seed=seed).estimates
        for name, z in scores.items():
            z.append((found[name].value - whole.estimates[name].value) / found[name].std_error)
    for name, z in scores.items():
        assert np.std(z) == pytest.approx(1.0, abs=0.05 + 4 / sqrt(800)), name
        assert abs(np.mean(z)) < 0.5, name
    queried = [geometry(x, y, max_queries=60, seed=s).estimates["knn_agreement"] for s in range(400)]
    z = [(e.value - whole.estimates["knn_agreement"].value) / e.std_error for e in queried]
    assert np.std(z) == pytest.approx(1.0, abs=4 / sqrt(800) + 0.05)
    assert abs(np.mean(z)) < 4 / sqrt(400)


def test_alike_samples_have_an_error_all_the_same() -> None:
    """All of 50 that were looked at agree with their neighbours; the other 250 may not."""
    x, y = np.repeat([0.0, 9.0], 150) + np.linspace(0, 1, 300), np.arange(300) // 150
    found = geometry(x, y, max_queries=50).estimates["knn_agreement"]
    assert found.value == 1.0
    assert 0.0 < found.std_error < 0.02


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"k": 0}, "k must be an integer of at least 1"),
        ({"max_samples": 1}, "max_samples must be an integer of at least 2"),
        ({"max_queries": 0}, "max_queries must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_options_that_cannot_be_right(options: dict[str, int], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        geometry([0.0, 1.0], [0, 1], **options)
