"""NC3 of neural collapse: how far the last layer's weights are from the class means that they tell apart.

With centred class means M (n_classes, n_units) and weights W of the same shape, NC3 is |W/|W| - M/|M||, norms
of Frobenius: 0 where the two are one up to a factor, sqrt(2) where they have nothing to do with each other, 2
where they are opposite. A store holds no weights: they are given by who has the model.

References
----------
V. Papyan, X. Y. Han and D. L. Donoho, Prevalence of neural collapse during the terminal phase of deep
learning training, PNAS 117 (2020) 24652, doi:10.1073/pnas.2015509117.
"""

import numpy as np
from numpy.typing import ArrayLike

from repstat.arrays import activation_matrix, binary_scale, centred_blocks, class_indices, nonfinite_reason
from repstat.clustering.diagnostics import rounding_of
from repstat.errors import UsageError
from repstat.results import Estimate

ORTHOGONAL, OPPOSITE = 2.0**0.5, 2.0
"""NC3 of weights that have nothing to do with the means, and of their negative."""
_BLOCK_UNITS = 256


def self_duality(activations: ArrayLike, labels: ArrayLike, weights: ArrayLike) -> Estimate:
    """Return NC3 of the last hidden layer at one checkpoint.

    Parameters
    ----------
    activations
        Shape (n_samples, ...), of the layer that the weights take; axes after the first are units.
    labels
        Shape (n_samples,), whole numbers: row u of the weights is that of label u.
    weights
        Shape (n_outputs, n_units), as of PyTorch's ``Linear``; Keras' and ONNX' are often transposed.

    Returns
    -------
    nc3
        Exact for the samples given (standard error 0), with the ceiling 2.

    Raises
    ------
    UsageError
        The shapes or the labels do not fit each other.
    """
    matrix = activation_matrix(activations)
    classes, rows = class_indices(labels, len(matrix)), activation_matrix(weights)
    chosen = _rows_of(labels, rows.shape, matrix.shape[1])
    for values, what in ((matrix, "activations"), (rows, "weights")):
        if reason := nonfinite_reason(values):
            return _undefined(f"{reason} in the {what}", matrix.shape)
    if len(chosen) < 2:
        return _undefined("there is one class only", matrix.shape)
    scale = binary_scale(matrix)
    if scale == 0.0:
        return _undefined("all class means coincide", matrix.shape)
    sizes = np.bincount(classes)
    means = np.hstack(
        [
            np.stack([block[classes == c].mean(axis=0) for c in range(len(sizes))])
            for block in centred_blocks(matrix, scale, _BLOCK_UNITS)
        ]
    )
    arms = means - means.mean(axis=0)
    last = rows[chosen].astype(np.float64)
    last /= np.abs(last).max() or 1.0
    lengths = np.linalg.norm(arms), np.linalg.norm(last)
    if lengths[0] <= rounding_of(matrix, scale) or lengths[1] == 0.0:
        return _undefined("all class means coincide" if lengths[1] else "all weights are zero", matrix.shape)
    apart = float(np.linalg.norm(last / lengths[1] - arms / lengths[0]))
    return Estimate(
        value=apart, std_error=0.0, ceiling=OPPOSITE, n_samples=len(matrix), n_units=matrix.shape[1]
    )


def _rows_of(labels: ArrayLike, shape: tuple[int, ...], n_units: int) -> list[int]:
    """Return the rows of the weights that the labels stand for."""
    if shape[1] != n_units:
        raise UsageError(
            what="the weights do not fit the layer",
            why=f"found {shape[1]} columns, expected {n_units} units",
            fix="Give them as (outputs, units); those of Keras are the transpose.",
        )
    names = np.unique(np.asarray(labels))
    if names.dtype.kind not in "iub" or int(names.min()) < 0 or int(names.max()) >= shape[0]:
        raise UsageError(
            what="the labels do not say which row of the weights is whose",
            why=f"found labels from {names.min()} to {names.max()} and {shape[0]} rows",
            fix="Give labels as whole numbers from 0: row u is that of label u.",
        )
    return [int(name) for name in names]


def _undefined(reason: str, shape: tuple[int, ...]) -> Estimate:
    return Estimate.undefined(reason, n_samples=shape[0], n_units=shape[1])
