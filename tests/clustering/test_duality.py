"""NC3: the weights of the last layer beside the class means."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repstat.clustering import self_duality
from repstat.errors import UsageError
from repstat.results import Status


def plain(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """NC3 as a plain script computes it."""
    means = np.array([x[y == c].mean(axis=0) for c in range(len(w))])
    arms = means - means.mean(axis=0)
    return float(np.linalg.norm(w / np.linalg.norm(w) - arms / np.linalg.norm(arms)))


def drawn(seed: int, n: int = 60, d: int = 5, c: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % c
    return rng.standard_normal((n, d)) + np.eye(c, d)[y], y, rng.standard_normal((c, d))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_a_plain_script_computes(seed: int) -> None:
    x, y, w = drawn(seed)
    found = self_duality(x, y, w)
    assert found.value == pytest.approx(plain(x, y, w), rel=1e-12)
    assert (found.std_error, found.status) == (0.0, Status.OK)


def test_by_hand() -> None:
    x, y = np.array([[1.0, 0.0], [1.0, 2.0], [-1.0, 1.0], [-1.0, 1.0]]), [0, 0, 1, 1]
    assert self_duality(x, y, [[3.0, 0.0], [-3.0, 0.0]]).value == pytest.approx(0.0, abs=1e-15)
    assert self_duality(x, y, [[-1.0, 0.0], [1.0, 0.0]]).value == pytest.approx(2.0)
    assert self_duality(x, y, [[0.0, 1.0], [0.0, -1.0]]).value == pytest.approx(sqrt(2.0))
    # A wrong one that does not centre the means would see the second unit: its angle is another.
    assert self_duality(x, y, [[1.0, 1.0], [-1.0, 1.0]]).value == pytest.approx(sqrt(2.0 - sqrt(2.0)))


@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_scale_shift_and_rotation_do_not_matter(seed: int, a: float, b: float) -> None:
    x, y, w = drawn(seed)
    turn = np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((5, 5)))[0]
    moved = self_duality(a * (x @ turn) + 7.0, y, b * (w @ turn))
    assert moved.value == pytest.approx(plain(x, y, w), rel=1e-6)


def test_only_the_rows_of_labels_that_occur_count() -> None:
    x, y, w = drawn(1)
    wide = np.zeros((7, 5))
    wide[[1, 3, 6]] = w
    assert self_duality(x, np.array([1, 3, 6])[y], wide).value == pytest.approx(plain(x, y, w))


def test_what_has_no_value_and_what_does_not_fit() -> None:
    x, y, w = drawn(2)
    assert "one class only" in self_duality(x, np.zeros(60, int), w).reason
    assert "all class means coincide" in self_duality(np.ones((60, 5)), y, w).reason
    assert "all weights are zero" in self_duality(x, y, 0.0 * w).reason
    assert "in the weights" in self_duality(x, y, w * np.nan).reason
    x[0, 0] = np.inf
    assert "in the activations" in self_duality(x, y, w).reason
    with pytest.raises(UsageError, match=r"found 3 columns, expected 5 units\. Give them as \(outputs"):
        self_duality(x, y, w.T)
    with pytest.raises(UsageError, match="found labels from 0 to 2 and 2 rows"):
        self_duality(x, y, w[:2])
