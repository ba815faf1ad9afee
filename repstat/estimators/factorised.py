"""The fast kernel: log-sums of many rows and noises as one matrix product of positive numbers.

With the noises z_q shared by a block of rows j, the sum over the other samples factorises:

    sum_i w_i exp E_ji(z_q) = sum_i K_ji w_i W_iq / W_jq,
    K_ji = exp(-|y_j - y_i|^2 / (2 b^2)),   W_iq = exp(z_q.y_i / b).

A block of r rows and q noises needs n (r + q) exponentials and distance products instead of n r q; the n r q
terms are one matrix product of positive numbers, in which nothing cancels. The price is range: W must neither
overflow nor lose the terms that count. `ROW_RADIUS` says for which rows it is safe, and every call checks the
noise that was really drawn; what is refused goes to `exact_log_sums`. Without this guard the result is
silently wrong by 1e-3 nat and more.

The same code runs on numpy, torch or cupy (`repstat.estimators.backend`).

References
----------
Z. Goldfeld et al., Estimating Information Flow in Deep Neural Networks, ICML 2019, arXiv:1810.05728 (the
mixture; the factorisation is repstat's own, derived in docs/estimators.md, "The kernel").
"""

from collections.abc import Iterator, Sequence
from math import exp, sqrt
from typing import Any

import numpy as np

from repstat.arrays import Floats, Integers
from repstat.estimators.backend import Backend
from repstat.estimators.mixture import LogSums, Mixture, slices

TILE_COLUMNS = 1024
"""Centres per tile: with some 200 rows and noises 1.6 MB in float64, near the second-level cache."""

FEW_CLASSES = 16
"""Classes up to which the product is cut at their borders; many classes get small ones of their own."""

ROW_RADIUS = 40.0
"""Of rows about their centre, in noise_std: noise six standard deviations long along a row then keeps W_jq
above exp(-250)."""

EXP_FLOOR = -340.0
"""K is zero below: pairs farther than 26 noise_std, which cost exp(-85) each (`neighbours`). Above, no
product K W leaves the range of normal numbers; with subnormal ones the products take five times as long."""

WAVE_LIMIT = {"float64": (300.0, 250.0), "float32": (40.0, 40.0)}
"""Largest |z.y/b| over all centres, and over the rows of a block, for which a precision is safe."""

SINGLE_RADIUS = 4.5
"""Up to this radius (in noise_std) every K W is a normal float32, and exponents err by 2e-5 at most."""

SINGLE_TOLERANCE = 2e-3
"""float32 serves where the standard error to reach is at least this: its mean error is below 1e-6."""

UNRESOLVED = -30.0
"""A log-sum below this may be made of what was cut off; beside the own term of 1 it is nothing."""


class Factorised:
    """Factorised log-sums of rows of a mixture that lie close enough together, on a backend.

    Parameters
    ----------
    mixture
        The centres.
    columns
        Shape (n_columns,), sorted: which centres are summed over; the rest must be far from all rows. By
        default all.
    centre
        Shape (n_axes,): about which noise is projected, near the middle of the rows. By default the mean.
    backend
        Where the arrays live.
    single
        Compute in float32.
    """

    def __init__(
        self,
        mixture: Mixture,
        columns: Integers | None = None,
        centre: Floats | None = None,
        backend: Backend | None = None,
        *,
        single: bool = False,
    ) -> None:
        self.mixture = mixture
        self.backend = backend or Backend.numpy()
        self.dtype = "float32" if single else "float64"
        self.index = np.arange(mixture.n_points) if columns is None else columns
        self._points = mixture.points[self.index]
        if centre is not None:
            self._points = self._points - centre
        self._half = 0.5 * np.einsum("ij,ij->i", self._points, self._points)
        self.radius = sqrt(2.0 * float(self._half.max(initial=0.0)))
        augmented = np.hstack([self._points, self._half[:, None], np.ones((len(self.index), 1))])
        self._augmented = self.backend.array(augmented, self.dtype)
        self.weights = None
        if mixture.weighted:
            self.weights = self.backend.array(mixture.weights[self.index], self.dtype)
        self.starts = np.searchsorted(self.index, mixture.starts)

    def log_sums(self, rows: Integers, noise: Floats, stds: Sequence[float]) -> list[LogSums | None]:
        """Return the log-sums of `rows` for every noise standard deviation; None where the guard refuses.

        Parameters
        ----------
        rows
            Shape (n_rows,), sorted; indices of centres among the columns.
        noise
            Shape (n_noises, n_axes), standard normal; every row meets every noise.
        stds
            Standard deviations of the noise, in the units of the points.

        Returns
        -------
        log_sums
            Right to rounding above `UNRESOLVED`; below, of unknown value.
        """
        own = np.searchsorted(self.index, rows)
        centres, n_rows = self._points[own], len(rows)
        # One product gives the exponents of K and, below them, those of W.
        left = np.zeros((n_rows + len(noise), centres.shape[1] + 2))
        left[:n_rows] = np.hstack([centres, -np.ones((n_rows, 1)), -self._half[own, None]])
        left[n_rows:, :-2] = noise
        on_device = self.backend.array(left, self.dtype)
        own_waves = centres @ noise.T
        blocks = [_Block(self, rows, own, own_waves / std, std) for std in stds]
        for tile in slices(len(self.index), TILE_COLUMNS):
            shared = on_device @ self._augmented[tile].T
            for last, block in enumerate(blocks, start=1 - len(blocks)):
                block.add(shared, tile, overwrite=last == 0)
        return [block.result() for block in blocks]


class _Block:
    """The sums of one block of rows at one noise standard deviation."""

    def __init__(
        self, kernel: Factorised, rows: Integers, own: Integers, own_waves: Floats, std: float
    ) -> None:
        self._backend, self._columns = kernel.backend, kernel
        self._own, self._own_waves = own, own_waves
        self._limit, row_limit = WAVE_LIMIT[kernel.dtype]
        self._safe = bool(np.abs(own_waves).max(initial=0.0) <= row_limit)
        weights = kernel.mixture.weights[rows]
        self._others = (weights - 1.0) / weights
        self._classes = kernel.mixture.classes[rows]
        self._present = np.unique(self._classes)
        n_noises = own_waves.shape[1]
        scale = np.concatenate([np.full(len(rows), std**-2.0), np.full(n_noises, 1.0 / std)])
        self._scale = self._backend.array(scale[:, None], kernel.dtype)
        self._floor = EXP_FLOOR if 2.0 * (kernel.radius / std) ** 2 > -EXP_FLOOR else None
        self._total = self._backend.zeros((len(rows), n_noises), kernel.dtype)
        self._same = self._backend.zeros((len(rows), n_noises), kernel.dtype)

    def add(self, shared: Any, tile: slice, *, overwrite: bool) -> None:
        """Add the terms of a tile of centres."""
        if not self._safe:
            return
        n_rows = len(self._own)
        exponents = self._backend.scaled(shared, self._scale, overwrite=overwrite)
        if self._backend.largest(exponents[n_rows:]) > self._limit:
            self._safe = False
            return
        self._backend.exp(exponents, self._floor)
        here = np.flatnonzero((self._own >= tile.start) & (self._own < tile.stop))
        self._backend.put(exponents, here, self._own[here] - tile.start, self._others[here])
        kernel, waves = exponents[:n_rows], exponents[n_rows:]
        if self._floor is not None:
            self._backend.cut(kernel, exp(self._floor))
        if self._columns.weights is not None:
            waves *= self._columns.weights[tile]
        self._sum(kernel, waves, tile)

    def _sum(self, kernel: Any, waves: Any, tile: slice) -> None:
        """Add the product over all columns of a tile, and over those of each row's own class."""
        spans = list(self._spans(tile))
        if len(self._present) > FEW_CLASSES:
            self._total += kernel @ waves.T
            for columns, members in spans:
                self._same[members] += kernel[members, columns] @ waves[:, columns].T
            return
        position, width = 0, tile.stop - tile.start
        for columns, members in [*spans, (slice(width, width), slice(0, 0))]:
            if columns.start > position:
                self._total += kernel[:, position : columns.start] @ waves[:, position : columns.start].T
            if columns.stop > columns.start:
                part = kernel[:, columns] @ waves[:, columns].T
                self._total += part
                self._same[members] += part[members]
            position = columns.stop

    def _spans(self, tile: slice) -> Iterator[tuple[slice, slice]]:
        """Yield (columns within the tile, rows) of each class that has both."""
        starts = self._columns.starts
        present = self._present
        for c in present[(starts[present + 1] > tile.start) & (starts[present] < tile.stop)].tolist():
            low, high = max(int(starts[c]), tile.start), min(int(starts[c + 1]), tile.stop)
            first, last = np.searchsorted(self._classes, [c, c + 1])
            yield slice(low - tile.start, high - tile.start), slice(int(first), int(last))

    def result(self) -> LogSums | None:
        """Return the logarithms, or None if the guard refused the noise."""
        if not self._safe:
            return None
        with np.errstate(divide="ignore"):
            everyone, same = (
                np.log(self._backend.to_numpy(s)) - self._own_waves for s in (self._total, self._same)
            )
        return LogSums(everyone, same)
