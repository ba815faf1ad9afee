"""Scatter coordinates of some samples, in axes that all checkpoints of a trajectory share.

The axes are the units themselves where there are three or fewer, else the two first principal components of
the activations about the mean of their checkpoint, pooled over some checkpoints. Origin and axes are the same
in every frame, so that what moves between frames has moved.

References
----------
I. T. Jolliffe and J. Cadima, Principal component analysis: a review and recent developments, Phil. Trans. R.
Soc. A 374 (2016) 20150202, doi:10.1098/rsta.2015.0202.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from repstat.arrays import Floats, Integers, Matrix, activation_matrix, binary_scale, random_rows

MAX_POINTS = 256
"""Samples shown and fitted to, of each checkpoint: a trajectory of 100 checkpoints of 12 layers is 5 MB."""

MAX_CHECKPOINTS = 8
"""Checkpoints that the axes are fitted to, evenly spaced."""

RAW_UNITS = 3

_PRIVATE_KEY = (0x72657073, 0x73636174)


@dataclass(frozen=True, slots=True)
class Axes:
    """Axes to look at a layer along.

    Parameters
    ----------
    names
        ``unit 0``, ... or ``PC 1``, ``PC 2``.
    origin
        Shape (n_units,), in activation units.
    directions
        Shape (n_units, n_axes), orthonormal columns.
    """

    names: tuple[str, ...]
    origin: Floats
    directions: Floats


def choose_points(n_samples: int, seed: int) -> Integers:
    """Return which samples are shown, in order: all, or a random part of `MAX_POINTS`."""
    return random_rows(n_samples, MAX_POINTS, seed, _PRIVATE_KEY)


def fit_axes(blocks: Iterable[ArrayLike]) -> Axes:
    """Return the axes of a layer.

    Parameters
    ----------
    blocks
        Activations (n_points, ...) of the samples shown, at some checkpoints; those with non-finite values
        are left out. At least one block.

    Returns
    -------
    axes
        An axis points to where its largest component is positive.
    """
    parts: list[Floats] = []
    origins: list[Floats] = []
    n_units = 0
    for block in blocks:
        matrix = activation_matrix(block)
        n_units = matrix.shape[1]
        if n_units <= RAW_UNITS:
            return Axes(tuple(f"unit {u}" for u in range(n_units)), np.zeros(n_units), np.eye(n_units))
        if np.isfinite(matrix).all():
            values = matrix.astype(np.float64)
            # The mean of half the values cannot overflow.
            origins.append(2.0 * (values / 2.0).mean(axis=0))
            parts.append(values / 2.0 - origins[-1] / 2.0)
    names = ("PC 1", "PC 2")
    if not parts:
        return Axes(names, np.zeros(n_units), np.eye(n_units, 2))
    rows = np.vstack(parts)
    rows /= binary_scale(rows) or 1.0
    origin = np.mean(np.stack(origins) / 2.0, axis=0) * 2.0
    return Axes(names, origin, _principal(rows))


def _principal(rows: Floats) -> Floats:
    """Return the two first principal directions (n_units, 2) of centred rows, by the smaller table."""
    if rows.shape[1] <= len(rows):
        directions = np.linalg.eigh(rows.T @ rows)[1][:, :-3:-1]
    else:
        if len(rows) == 1:  # a single sample has one direction only
            rows = np.vstack([rows, np.zeros_like(rows)])
        of_rows = np.linalg.eigh(rows @ rows.T)[1][:, :-3:-1]
        # A direction that holds nothing comes out short; QR makes it a direction all the same.
        directions = np.linalg.qr(rows.T @ of_rows)[0]
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(2)])
    found: Floats = np.ascontiguousarray(directions * signs)
    return found


def project(matrix: Matrix, axes: Axes) -> tuple[Floats, float]:
    """Return coordinates along the axes, and the share of the variance of these samples that they show.

    Parameters
    ----------
    matrix
        Shape (n_points, n_units), of one checkpoint.
    axes
        From `fit_axes`.

    Returns
    -------
    coordinates, share
        Shape (n_points, n_axes), in activation units, NaN if a value is not finite; the share is NaN there
        and where there is no variance.
    """
    shape = len(matrix), len(axes.names)
    if not np.isfinite(matrix).all():
        return np.full(shape, np.nan), float("nan")
    values = matrix.astype(np.float64) - axes.origin
    coordinates = values @ axes.directions
    scale = binary_scale(values) or 1.0
    total = float((values / scale).var(axis=0).sum())
    shown = float((coordinates / scale).var(axis=0).sum())
    return coordinates, shown / total if total > 0.0 else float("nan")
