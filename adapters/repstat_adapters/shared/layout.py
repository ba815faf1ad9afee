"""Where the samples are in a tensor, learnt by running: never assumed from axis 0."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from repstat.adapter import Array

_TOLERANCE = {"float64": 1e-6, "float32": 1e-4, "float16": 1e-2}
"""Relative to the largest value. Rounding differs with the batch size by 3e-7 in float32."""


@dataclass(frozen=True)
class BatchLayout:
    """How a tensor holds its samples.

    Parameters
    ----------
    axis
        Axis along which the samples are, or None if the whole tensor belongs to the only sample.
    inner
        Elements along `axis` per sample: more than 1 where an exporter merged batch and time, ``(B*T, d)``.
    sample_major
        Whether a sample's `inner` elements are adjacent.
    spatial
        Spatial axes before the channels where those are the last axis and are to be first
        (`repstat_adapters.shared.axes`); 0 where axes stay as they are.
    """

    axis: int | None
    inner: int = 1
    sample_major: bool = True
    spatial: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether samples are along the first axis, one element each."""
        return self.axis == 0 and self.inner == 1 and not self.spatial

    def shape(self, n: int, unit_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the tensor for `n` samples."""
        if self.spatial:
            at = len(unit_shape) - 1 - self.spatial
            unit_shape = (*unit_shape[:at], *unit_shape[at + 1 :], unit_shape[at])
        if self.axis is None:
            return unit_shape
        before, after = unit_shape[: self.axis], unit_shape[self.axis + (self.inner > 1) :]
        return (*before, n * self.inner, *after)

    def by_sample(self, value: Array) -> Array:
        """Return a view or copy of `value` of shape ``(n_samples, ...)``."""
        values = self._by_sample(value)
        return np.moveaxis(values, -1, -1 - self.spatial) if self.spatial else values

    def _by_sample(self, value: Array) -> Array:
        if self.axis is None:
            return value[None]
        if self.inner == 1:
            return np.moveaxis(value, self.axis, 0)
        n = value.shape[self.axis] // self.inner
        parts = (n, self.inner) if self.sample_major else (self.inner, n)
        split = value.reshape(*value.shape[: self.axis], *parts, *value.shape[self.axis + 1 :])
        return np.moveaxis(split, self.axis + (0 if self.sample_major else 1), 0)

    def from_samples(self, values: Array) -> Array:
        """Return the tensor that holds `values`, ``(n_samples, ...)``: the inverse of `by_sample`."""
        if self.spatial:
            values = np.moveaxis(values, -1 - self.spatial, -1)
            return replace(self, spatial=0).from_samples(values)
        if self.axis is None:
            return values.reshape(values.shape[1:])
        outer = self.axis + (0 if self.inner == 1 or self.sample_major else 1)
        return np.moveaxis(values, 0, outer).reshape(self.shape(len(values), values.shape[1:]))


def close(a: Array, b: Array) -> bool:
    """Whether two arrays agree up to the rounding of another batch size; NaN equals NaN."""
    if a.shape != b.shape:
        return False
    if np.array_equal(a, b):  # as it is most often, at a small part of the cost
        return True
    finite = np.abs(b[np.isfinite(b)]).astype(np.float64)
    scale = float(finite.max()) if finite.size else 0.0
    tolerance = _TOLERANCE.get(a.dtype.name, 1e-4) * scale
    return bool(np.allclose(a.astype(np.float64), b.astype(np.float64), 0.0, tolerance, equal_nan=True))


def find_layout(two: Array, three: Array) -> tuple[BatchLayout | None, str]:
    """Compare a tensor for two samples with the one for the same two and a third.

    Returns
    -------
    layout, reason
        The layout, or None and why the tensor is not the activation of a layer.
    """
    if two.ndim != three.ndim:
        return None, "its number of axes depends on the number of samples"
    pairs = list(zip(two.shape, three.shape, strict=True))
    growing = [axis for axis, (a, b) in enumerate(pairs) if a != b]
    if not growing:
        return None, "no axis grows with the number of samples"
    if len(growing) > 1 or 3 * two.shape[growing[0]] != 2 * three.shape[growing[0]]:
        return None, f"its shape is {two.shape} for two samples and {three.shape} for three"
    axis = growing[0]
    inner = two.shape[axis] // 2
    if inner == 1:
        return BatchLayout(axis), ""
    orders = [BatchLayout(axis, inner, major) for major in (True, False)]
    fitting = [order for order in orders if close(order.by_sample(two), order.by_sample(three)[:2])]
    return _one_of(fitting or orders[:1])  # where samples are mixed they are run alone, and any order fits


def find_fixed_layout(ordered: Array, reverse: Array, n: int) -> tuple[BatchLayout | None, str]:
    """Compare a tensor for `n` samples with the one for the same samples in reverse order.

    With one sample all of the tensor belongs to it.

    Returns
    -------
    layout, reason
        As `find_layout`.
    """
    if n == 1:
        return BatchLayout(0 if ordered.ndim and ordered.shape[0] == 1 else None), ""
    whole, merged = list[BatchLayout](), list[BatchLayout]()
    for axis, length in enumerate(ordered.shape):
        if length == 0 or length % n:
            continue
        orders = (True,) if length == n else (True, False)
        for layout in (BatchLayout(axis, length // n, major) for major in orders):
            if close(layout.by_sample(ordered), layout.by_sample(reverse)[::-1]):
                (whole if layout.inner == 1 else merged).append(layout)
    leading = [layout for layout in whole if layout.axis == 0]
    return _one_of(leading or whole or merged)


def _one_of(layouts: Sequence[BatchLayout]) -> tuple[BatchLayout | None, str]:
    if len(layouts) == 1:
        return layouts[0], ""
    if not layouts:
        return None, "its values depend on the other samples of the batch"
    return None, "samples and positions share an axis, and the probe does not tell their order"
