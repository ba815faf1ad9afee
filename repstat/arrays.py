"""Activations and labels as plain arrays: what is accepted, what is refused, exact grouping of rows.

The gate that estimators and clustering share. It knows nothing of stores, frameworks or estimators.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import frexp, ldexp

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repstat.errors import UsageError

Matrix = NDArray[np.floating]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Rows = NDArray[np.floating] | NDArray[np.integer]
Words = NDArray[np.uint64]

# Odd and without pattern (those of splitmix64); they order the groups and enter no result.
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_FEW_BYTES = 64
# Bytes of rows at a time: what is made of them then stays in cache.
_CACHED_BYTES = 2**20


def activation_matrix(activations: ArrayLike) -> Matrix:
    """Return activations as a two-dimensional floating-point array.

    Parameters
    ----------
    activations
        Shape (n_samples, ...); all axes after the first are flattened to units, a one-dimensional array
        is one unit. Booleans and integers become float64; float16, float32 and float64 are kept.

    Returns
    -------
    matrix
        Shape (n_samples, n_units), finite or not.

    Raises
    ------
    UsageError
        If the array is empty, masked, a scalar or not numeric.
    """
    if isinstance(activations, np.ma.MaskedArray):
        raise UsageError(
            what="activations are a masked array",
            why="a mask has no meaning in a joint distribution",
            fix="Select the samples to analyse first and pass a plain array.",
        )
    try:
        array = np.asarray(activations)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            what="activations cannot be read as an array",
            why=str(error),
            fix="Pass a numeric array of shape (samples, units).",
        ) from error
    if array.dtype.kind not in "biuf":
        raise UsageError(
            what="activations are not real numbers",
            why=f"found dtype {array.dtype}, expected a floating-point array",
            fix="Convert them, for example with array.astype('float32').",
        )
    if array.ndim == 0 or array.size == 0:
        raise UsageError(
            what="activations are empty",
            why=f"found shape {array.shape}, expected (samples, units) with at least one of each",
            fix="Pass the recorded activations of one layer.",
        )
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return array.reshape(len(array), -1)


def nonfinite_reason(matrix: Matrix) -> str:
    """Return why statistics of `matrix` (n_samples, n_units) are undefined, or an empty text."""
    finite = np.isfinite(matrix)
    if finite.all():
        return ""
    n_nan = int(np.count_nonzero(np.isnan(matrix)))
    n_inf = int(finite.size - np.count_nonzero(finite)) - n_nan
    n_rows = int(np.count_nonzero(~finite.all(axis=1)))
    return f"{n_nan} NaN and {n_inf} infinite values in {n_rows} of {len(matrix)} samples"


def class_indices(labels: ArrayLike, n_samples: int) -> Integers:
    """Return labels as integers 0..n_classes-1 in the sorted order of the labels.

    Parameters
    ----------
    labels
        Shape (n_samples,): integers, booleans or strings.
    n_samples
        How many samples the activations have.

    Returns
    -------
    classes
        Shape (n_samples,); every class from 0 to the maximum occurs.

    Raises
    ------
    UsageError
        If the labels are of another length, not one-dimensional, or not of a discrete type.
    """
    if isinstance(labels, np.ma.MaskedArray):
        raise UsageError(
            what="labels are a masked array",
            why="a sample without a label has no class",
            fix="Select the labelled samples first and pass plain arrays.",
        )
    array = np.asarray(labels)
    if array.ndim != 1:
        raise UsageError(
            what="labels are not one per sample",
            why=f"found shape {array.shape}, expected ({n_samples},)",
            fix="Turn one-hot labels into classes with labels.argmax(axis=1).",
        )
    if len(array) != n_samples:
        raise UsageError(
            what="labels and activations differ in length",
            why=f"found {len(array)} labels for {n_samples} samples",
            fix="Pass one label per sample, in the order of the samples.",
        )
    if array.dtype.kind not in "biuUS":
        raise UsageError(
            what="labels are not classes",
            why=f"found dtype {array.dtype}, expected integers, booleans or strings",
            fix="Convert them, for example with labels.astype(int); bin a continuous target first.",
        )
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def checked_integer(name: str, value: object, least: int) -> int:
    """Return `value` if it is an integer of at least `least`.

    Raises
    ------
    UsageError
        Naming the argument, if it is not.
    """
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= least:
        return int(value)
    raise UsageError(what=f"{name} must be an integer of at least {least}, got {value!r}")


def random_rows(n_rows: int, at_most: int, seed: int, key: Sequence[int]) -> Integers:
    """Return the indices of all rows, or of a random part of them, increasing.

    Parameters
    ----------
    seed, key
        Of the choice; a key of its own for each purpose keeps choices of one seed independent.
    """
    if n_rows <= at_most:
        return np.arange(n_rows)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(key)))
    return np.sort(rng.choice(n_rows, at_most, replace=False))


@dataclass(frozen=True, slots=True)
class RowGroups:
    """Groups of identical rows, in an order that depends on the rows alone and not on their order.

    Parameters
    ----------
    first
        Shape (n_groups,): the first sample of each group.
    inverse
        Shape (n_samples,): the group of each sample.
    counts
        Shape (n_groups,): samples per group.
    """

    first: Integers
    inverse: Integers
    counts: Integers


def group_rows(rows: Rows) -> RowGroups:
    """Group identical rows exactly; -0.0 equals +0.0.

    Groups come in an arbitrary order, which is not that of the numbers: it is fixed by the set of rows, so
    that permuted samples, or floats stored in a wider dtype, have the same groups in the same order. One
    float, or integers of at most 64 bits together, are their own key; longer rows are grouped by a hash of 64
    bits, and each row is then compared with the first of its group.

    Parameters
    ----------
    rows
        Shape (n_samples, n_columns), integers or floats of at most 64 bits, no NaN.
    """
    width = _row_bytes(rows)
    if width <= 8:
        return _equal_keys(_words(rows)[:, 0])
    # A few columns tell most rows apart; the comparison says whether they were enough.
    for step in sorted({-(-width // _FEW_BYTES), 1}, reverse=True):
        groups = _equal_keys(_hashed(rows[:, ::step]))
        if _are_uniform(rows, groups):
            return groups
    # Two rows share a hash: sorting whole rows is slower and cannot err.
    words = _words(rows)
    whole = words.view(np.dtype((np.void, words.itemsize * words.shape[1]))).ravel()
    return _equal_keys(np.unique(whole, return_inverse=True)[1].astype(np.uint64).ravel())


def _row_bytes(rows: Rows) -> int:
    """Bytes of a row as `_words` takes them."""
    return int((8 if rows.dtype.kind == "f" else rows.itemsize) * rows.shape[1])


def _words(rows: Rows) -> Words:
    """Return each row as 64-bit words filled up with zeros; rows of equal numbers have equal words.

    Floats are widened to float64, so that neither words nor the order of groups depend on their dtype.
    """
    # Adding zero is what turns -0.0 into +0.0.
    plain = np.ascontiguousarray(rows + np.zeros(1) if rows.dtype.kind == "f" else rows)
    width = plain.itemsize * plain.shape[1]
    n_words = max(1, -(-width // 8))
    if width == 8 * n_words:
        return plain.view(np.uint64)
    filled = np.zeros((len(plain), n_words), np.uint64)
    filled.view(np.uint8)[:, :width] = plain.view(np.uint8)
    return filled


def _hashed(rows: Rows) -> Words:
    """Return one 64-bit key per row of `rows` (n_samples, n_columns), the same for equal rows."""
    keys = np.zeros(len(rows), np.uint64)
    n_rows = max(256, _CACHED_BYTES // _row_bytes(rows))
    for start in range(0, len(rows), n_rows):
        key = keys[start : start + n_rows]
        # A product carries bits upwards only; the shift brings them down, so that no byte of the next word
        # can undo a byte of this one.
        for word in _words(rows[start : start + n_rows]).T:
            key ^= word
            key *= _FACTORS[0]
            key ^= key >> np.uint64(32)
            key *= _FACTORS[1]
    return keys


def _equal_keys(keys: Words) -> RowGroups:
    """Group equal keys, shape (n_samples,), in the order of the keys."""
    order = np.argsort(keys)
    in_order = keys[order]
    is_new = np.ones(len(keys), np.bool_)
    np.not_equal(in_order[1:], in_order[:-1], out=is_new[1:])
    starts = np.flatnonzero(is_new)
    inverse = np.empty(len(keys), np.int64)
    inverse[order] = np.cumsum(is_new) - 1
    # The sort is not stable, hence the smallest index and not the leading one.
    first = np.minimum.reduceat(order, starts) if len(starts) else starts
    return RowGroups(first, inverse, np.diff(starts, append=len(keys)))


def _are_uniform(rows: Rows, groups: RowGroups) -> bool:
    """Whether each row equals the first row of its group."""
    if len(groups.first) == len(rows):
        return True
    model = groups.first[groups.inverse]
    repeated = np.flatnonzero(model != np.arange(len(rows)))
    n_rows = max(1, _CACHED_BYTES // _row_bytes(rows))
    for start in range(0, len(repeated), n_rows):
        chosen = repeated[start : start + n_rows]
        if not np.array_equal(rows[chosen], rows[model[chosen]]):
            return False
    return True


class ConstantUnits:
    """Finds the units that have one value for every sample, from blocks of samples as they pass."""

    _FIRST_ROWS = 16

    def __init__(self) -> None:
        self._first: Matrix | None = None
        self._left: NDArray[np.intp] = np.empty(0, np.intp)

    def add(self, rows: Matrix) -> None:
        """Take a block, shape (n_rows, ...); NaN equals nothing."""
        if not len(rows):
            return
        rows = rows.reshape(len(rows), -1)
        if self._first is None:
            self._first = rows[0].copy()
            self._left = np.arange(rows.shape[1])
        # A few rows are enough to tell that most units vary.
        for some in (rows[: self._FIRST_ROWS], rows[self._FIRST_ROWS :]):
            if self._left.size:
                whole = len(self._left) == some.shape[1]
                same = (some if whole else some[:, self._left]) == self._first[self._left]
                self._left = self._left[same.all(axis=0)]

    @property
    def count(self) -> int:
        """How many units have had one value so far."""
        return len(self._left)


def binary_scale(matrix: Matrix) -> float:
    """Return a power of two at or above the largest magnitude, or zero; dividing by it is exact."""
    largest = max(abs(float(matrix.max())), abs(float(matrix.min())))
    # The exponents are kept where both the scale and its reciprocal are finite.
    return ldexp(1.0, min(max(frexp(largest)[1], -1000), 1000)) if largest else 0.0


def centred_blocks(matrix: Matrix, scale: float, n_columns: int) -> Iterator[Floats]:
    """Yield blocks of units in float64, divided by `scale`, minus their mean, without constant units.

    Parameters
    ----------
    matrix
        Shape (n_samples, n_units), finite.
    scale
        From `binary_scale`, not zero.
    n_columns
        Units per block.

    Yields
    ------
    block
        Shape (n_samples, at most n_columns).
    """
    for start in range(0, matrix.shape[1], n_columns):
        block = matrix[:, start : start + n_columns]
        varying = block.min(axis=0) != block.max(axis=0)
        columns = block[:, varying].astype(np.float64) / scale
        columns -= columns.mean(axis=0)
        # Under a large offset the first sum is rounded; the second, about zero, is not.
        columns -= columns.mean(axis=0)
        yield columns
