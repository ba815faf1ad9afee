"""Grouping of rows: exact whatever the hash, whatever the width, whatever the order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from repstat import arrays
from repstat.arrays import RowGroups, group_rows

DTYPES = ("u1", "i2", "i4", "i8", "f2", "f4", "f8")


def assert_grouped(rows: NDArray[np.generic], groups: RowGroups) -> None:
    """Compare with a dictionary of the bytes of each row: the slow obvious twin."""
    members: dict[bytes, list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault((row + row.dtype.type(0)).tobytes(), []).append(index)
    assert sorted(groups.first.tolist()) == sorted(found[0] for found in members.values())
    for group, (first, count) in enumerate(zip(groups.first, groups.counts, strict=True)):
        found = members[(rows[first] + rows.dtype.type(0)).tobytes()]
        assert np.flatnonzero(groups.inverse == group).tolist() == found
        assert (first, count) == (found[0], len(found))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_columns", [1, 2, 3, 5, 7, 8, 9, 16, 17, 40])
def test_every_width(rng: np.random.Generator, dtype: str, n_columns: int) -> None:
    """n = 200 rows of at most 60 kinds; with bytes the widths are 1 to 40, on either side of a word."""
    rows = rng.integers(0, 200, (60, n_columns)).astype(dtype)[rng.integers(0, 60, 200)]
    assert_grouped(rows, group_rows(rows))
    assert_grouped(rows[:1], group_rows(rows[:1]))


@pytest.mark.parametrize("column", range(17))
@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_every_column_counts(dtype: str, column: int) -> None:
    """Rows of 17 columns that differ in one of them, also in those that a first look leaves out."""
    rows = np.zeros((50, 17), dtype)
    rows[:, column] = np.arange(50) % 25
    groups = group_rows(rows)
    assert_grouped(rows, groups)
    assert groups.counts.tolist() == [2] * 25


@pytest.mark.parametrize("dtype", ["u1", "f8"])
def test_few_bits_in_many_columns_do_not_collide(dtype: str) -> None:
    """2^16 combinations of two values in 16 columns, where a weak hash lets one column undo another."""
    rows = ((np.arange(2**16)[:, None] >> np.arange(16)) & 1).astype(dtype) * 128
    assert len(np.unique(arrays._hashed(rows))) == 2**16


@pytest.mark.parametrize("dtype", DTYPES)
def test_collisions_are_found_and_resolved(
    rng: np.random.Generator, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hash that is the same for all, and one that is the same for half of the rows; n = 100, 30 columns."""
    rows = rng.integers(0, 2, (20, 30)).astype(dtype)[rng.integers(0, 20, 100)]
    order = rng.permutation(100)
    for divisor in (1, 2):
        monkeypatch.setattr(
            arrays, "_hashed", lambda x, d=divisor: (x[:, 0].astype(np.int64) % d).astype(np.uint64)
        )
        groups = group_rows(rows)
        assert_grouped(rows, groups)
        permuted = group_rows(rows[order])
        assert np.array_equal(rows[order][permuted.first], rows[groups.first])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("n_columns", [1, 2, 9])
@pytest.mark.parametrize("constant", [False, True])
def test_zero_has_no_sign(
    dtype: str, n_columns: int, constant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.zeros((4, n_columns), dtype)
    rows[1, 0], rows[2, -1], rows[3, 0] = -0.0, -0.0, np.finfo(dtype).smallest_subnormal
    if constant:
        monkeypatch.setattr(arrays, "_hashed", lambda x: np.zeros(len(x), np.uint64))
    groups = group_rows(rows)
    assert sorted(groups.counts.tolist()) == [1, 3]
    assert sorted(groups.first.tolist()) == [0, 3]


def test_the_rows_are_left_alone() -> None:
    rows = np.array([[-0.0, 1.0], [0.0, 1.0]])
    group_rows(rows)
    assert np.signbit(rows).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("dtype", ["f2", "f4"])
@pytest.mark.parametrize("n_columns", [1, 3, 30])
def test_groups_do_not_depend_on_the_precision(rng: np.random.Generator, dtype: str, n_columns: int) -> None:
    """n = 200 draws of 40 rows."""
    rows = rng.standard_normal((40, n_columns)).astype(dtype)[rng.integers(0, 40, 200)]
    narrow, wide = group_rows(rows), group_rows(rows.astype(np.float64))
    assert narrow.first.tolist() == wide.first.tolist()
    assert narrow.inverse.tolist() == wide.inverse.tolist()


def test_views_are_rows_too(rng: np.random.Generator) -> None:
    """Columns of a wider array, every other row, backwards; n = 50."""
    wide = rng.integers(0, 2, (100, 12)).astype(np.float32)
    assert_grouped(wide[::-2, 1::3], group_rows(wide[::-2, 1::3]))
    assert_grouped(np.asfortranarray(wide), group_rows(np.asfortranarray(wide)))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 80),
    n_kinds=st.integers(1, 20),
    n_columns=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 999),
)
def test_groups_do_not_depend_on_the_order(
    n: int, n_kinds: int, n_columns: int, dtype: str, seed: int
) -> None:
    """Permuted samples have the same groups in the same order; the first of each is the smallest index."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, (n_kinds, n_columns)).astype(dtype)
    rows = kinds[rng.integers(0, n_kinds, n)]
    groups, order = group_rows(rows), rng.permutation(n)
    assert_grouped(rows, groups)
    permuted = group_rows(rows[order])
    assert_grouped(rows[order], permuted)
    assert np.array_equal(rows[order][permuted.first], rows[groups.first])
    assert np.array_equal(permuted.inverse, groups.inverse[order])
