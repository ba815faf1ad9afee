"""NumPy's indexing for a dataset on disk, reading no more than a block beyond what is selected."""

from math import prod
from operator import index as as_integer
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from repstat.store.values import BLOCK_BYTES

Selector = int | slice | NDArray[np.int64]


def read_selection(
    dataset: h5py.Dataset, fixed: tuple[int, ...], shape: tuple[int, ...], key: Any
) -> NDArray[Any]:
    """Read ``dataset[fixed][key]``, where ``dataset[fixed]`` has the shape `shape`.

    Raises
    ------
    IndexError
        If an index is out of range, or `key` has more than integers, slices, an ellipsis and one
        one-dimensional array of integers or booleans.
    """
    selectors = _expand(key, shape)
    arrays = [axis for axis, s in enumerate(selectors) if isinstance(s, np.ndarray)]
    if len(arrays) > 1:
        msg = "only one array can be an index of activations; read() them for more"
        raise IndexError(msg)
    if arrays:
        return _read_array(dataset, fixed, shape, selectors, arrays[0])
    return _read_slices(dataset, fixed, selectors)


def _expand(key: Any, shape: tuple[int, ...]) -> list[Selector]:
    """One selector for each axis, in range and without negative integers."""
    parts = list(key) if isinstance(key, tuple) else [key]
    dots = [position for position, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1 or len(parts) - len(dots) > len(shape):
        msg = f"too many indices for activations of shape {shape}"
        raise IndexError(msg)
    free: list[Any] = [slice(None)] * (len(shape) - len(parts) + len(dots))
    position = dots[0] if dots else len(parts)
    parts[position : position + len(dots)] = free
    return [_selector(part, length) for part, length in zip(parts, shape, strict=True)]


def _selector(part: Any, length: int) -> Selector:
    if isinstance(part, slice):
        return slice(*part.indices(length)) if part.indices(length)[2] > 0 else part
    if isinstance(part, list | np.ndarray) and np.ndim(part) == 1:
        return _positions(np.asarray(part), length)
    if part is None or isinstance(part, bool | np.bool_):
        msg = f"{part!r} is not an index of activations"
        raise IndexError(msg)
    try:
        return range(length)[as_integer(part)]
    except TypeError:
        msg = f"{part!r} is not an index of activations"
        raise IndexError(msg) from None


def _positions(part: NDArray[Any], length: int) -> NDArray[np.int64]:
    if part.dtype == bool:
        if len(part) != length:
            msg = f"a mask of {len(part)} for an axis of {length}"
            raise IndexError(msg)
        return np.flatnonzero(part)
    if part.size and part.dtype.kind not in "iu":
        msg = f"an array of {part.dtype} is not an index"
        raise IndexError(msg)
    positions = part.astype(np.int64)
    if positions.size and not -length <= positions.min() <= positions.max() < length:
        msg = f"an index is out of range for an axis of {length}"
        raise IndexError(msg)
    return np.where(positions < 0, positions + length, positions)


def _read_slices(dataset: h5py.Dataset, fixed: tuple[int, ...], selectors: list[Selector]) -> NDArray[Any]:
    """Read integers and slices. HDF5 knows no negative step: such an axis is read upwards and turned."""
    upward: list[Selector] = []
    turned: list[slice] = []
    lengths = dataset.shape[-len(selectors) :]
    for selector, length in zip(selectors, lengths, strict=True):
        step = selector.step if isinstance(selector, slice) else 1
        if isinstance(selector, slice) and step < 0:
            chosen = range(*selector.indices(length))[::-1]
            upward.append(slice(chosen.start, chosen.stop, chosen.step))
        else:
            upward.append(selector)
        if isinstance(selector, slice):
            turned.append(slice(None, None, -1 if step < 0 else 1))
    values = dataset[(*fixed, *upward)]
    return np.asarray(values[tuple(turned)] if turned else values)


def _read_array(
    dataset: h5py.Dataset,
    fixed: tuple[int, ...],
    shape: tuple[int, ...],
    selectors: list[Selector],
    axis: int,
) -> NDArray[Any]:
    """Read an array of positions along `axis` in blocks, each from its first to its last position."""
    positions = np.asarray(selectors[axis])
    kept = [
        len(range(*s.indices(n)))
        for i, (s, n) in enumerate(zip(selectors, shape, strict=True))
        if i != axis and isinstance(s, slice)
    ]
    place = sum(isinstance(s, slice) for s in selectors[:axis])
    result = np.empty([*kept[:place], len(positions), *kept[place:]], dataset.dtype)
    along = np.moveaxis(result, place, 0)
    reach = max(1, BLOCK_BYTES // max(1, prod(kept) * dataset.dtype.itemsize))
    order = np.argsort(positions, kind="stable")
    begin = 0
    while begin < len(order):
        first = int(positions[order[begin]])
        end = int(np.searchsorted(positions, first + reach, sorter=order))
        members = order[begin:end]
        selectors[axis] = slice(first, int(positions[members[-1]]) + 1, 1)
        block = np.moveaxis(_read_slices(dataset, fixed, selectors), place, 0)
        along[members] = block[positions[members] - first]
        begin = end
    return result
