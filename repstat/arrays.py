"""Activations and labels as plain arrays: what is accepted, what is refused, exact grouping of rows.

The gate that estimators and clustering share. It knows nothing of stores, frameworks or estimators.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import frexp, ldexp

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repstat.errors import UsageError

Matrix = NDArray[np.floating]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


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


@dataclass(frozen=True, slots=True)
class RowGroups:
    """Groups of identical rows, in an order that does not depend on the order of the samples.

    Parameters
    ----------
    first
        Shape (n_groups,): one sample of each group.
    inverse
        Shape (n_samples,): the group of each sample.
    counts
        Shape (n_groups,): samples per group.
    """

    first: Integers
    inverse: Integers
    counts: Integers


def group_rows(rows: NDArray[np.floating] | NDArray[np.integer]) -> RowGroups:
    """Group identical rows exactly, without hashing; -0.0 equals +0.0.

    Parameters
    ----------
    rows
        Shape (n_samples, n_columns), any numeric dtype, no NaN.
    """
    # Adding zero is what turns -0.0 into +0.0.
    plain = np.ascontiguousarray(rows + np.zeros(1, rows.dtype))
    sortable = _sortable_bits(plain) if plain.dtype.kind == "f" else plain
    width = sortable.dtype.itemsize * sortable.shape[1]
    keys = sortable.view(np.dtype((np.void, width))).ravel()
    _, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    return RowGroups(first, inverse.astype(np.int64).ravel(), counts)


def _sortable_bits(floats: Matrix) -> NDArray[np.unsignedinteger]:
    """Return integers whose bytes sort as the floats do, whatever their width.

    Groups then keep their order when activations are shifted, scaled or stored in another precision, and so
    do the random numbers that are drawn for them.
    """
    width = floats.dtype.itemsize
    bits = floats.view(np.dtype(f"u{width}"))
    sign = bits.dtype.type(1 << (8 * width - 1))
    return np.where(bits & sign, ~bits, bits | sign).astype(f">u{width}")


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
