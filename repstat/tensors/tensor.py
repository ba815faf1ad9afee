"""One named array of which only the shape and type are known until its blocks are read.

Files are read, not mapped: the map of a file that is truncated meanwhile kills the process.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from repstat.adapter import Array
from repstat.errors import InputRefusedError, ResourceError
from repstat.memory import usable_memory
from repstat.units import format_bytes

BLOCK_BYTES = 1 << 24
MAX_DIMENSIONS = 32
MAX_LENGTH = 2**62

Open = Callable[[], AbstractContextManager[BinaryIO]]
"""Opens the bytes of one array."""


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One named array.

    Parameters
    ----------
    name
        As the file spells it: data, never a path.
    shape
        ``(n_samples, ...)``; ``()`` for a single number.
    dtype
        Of what is read, native.
    source_dtype
        What the file calls it: ``bfloat16`` stays visible here.
    path
        The file it is in, if any.
    rows
        Yields the array in order, ``(block, *shape[1:])`` each, C-contiguous.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    source_dtype: str
    path: Path | None
    rows: Callable[[], Iterator[Array]]

    @property
    def n_bytes(self) -> int:
        """Bytes of the whole array."""
        return prod(self.shape) * self.dtype.itemsize

    def blocks(self) -> Iterator[Array]:
        """Yield the array in order, a few MB at a time: ``(block, *shape[1:])``.

        Raises
        ------
        ResourceError
            One sample alone is too large.
        InputRefusedError
            The file is damaged.
        """
        one = prod(self.shape[1:]) * self.dtype.itemsize
        check_memory("a sample of the array", one, self.path, self.name)
        yield from self.rows()

    def read(self) -> Array:
        """Return the whole array.

        Raises
        ------
        ResourceError
            It is too large for that.
        InputRefusedError
            The file is damaged.
        """
        check_memory("the array", self.n_bytes, self.path, self.name)
        whole = np.empty(self.shape or (1,), self.dtype)
        start = 0
        for block in self.blocks():
            whole[start : start + len(block)] = block
            start += len(block)
        return whole.reshape(self.shape)


def check_memory(what: str, n_bytes: int, path: Path | None, name: str) -> None:
    """Refuse an array that is not to be read at once.

    Raises
    ------
    ResourceError
        It is larger than `memory_limit`.
    """
    if n_bytes > (limit := memory_limit()):
        raise ResourceError(
            what=f"{what} is too large",
            path=path,
            place=repr(name)[:200],
            why=f"found {format_bytes(n_bytes)}, and at most {format_bytes(limit)} are read at once here",
            fix="Leave it out, or use a machine with more memory",
        )


def memory_limit() -> int:
    """Return half of the memory there is to use."""
    return usable_memory() // 2


def of_array(name: str, array: Array) -> Tensor:
    """Return an array in memory as a `Tensor`."""
    native = array.dtype.newbyteorder("=")

    def rows() -> Iterator[Array]:
        for start, stop in block_limits(array.shape, native):
            block = array[start:stop] if array.ndim else array.reshape(1)
            yield np.ascontiguousarray(block, native)

    return Tensor(name, array.shape, native, native.name, None, rows)


def of_bytes(
    name: str,
    path: Path,
    open_bytes: Open,
    offset: int,
    shape: tuple[int, ...],
    stored: np.dtype[Any],
    *,
    columns_first: bool = False,
    widen: Callable[[Array], Array] | None = None,
    source_dtype: str = "",
) -> Tensor:
    """Return an array in a file as a `Tensor`.

    Parameters
    ----------
    name, path, shape
        As in `Tensor`.
    open_bytes, offset
        Where the array begins.
    stored
        dtype in the file, of any byte order.
    columns_first
        The file has the last axis first (Fortran order).
    widen
        Turns a block into a type that NumPy has.
    source_dtype
        What the file calls the type, if not by NumPy's name.
    """
    native = stored.newbyteorder("=")

    def rows() -> Iterator[Array]:
        read = _column_blocks if columns_first else _row_blocks
        with open_bytes() as file:
            file.seek(offset)
            for block in read(file, shape, stored, name, path):
                whole = np.ascontiguousarray(block, native)
                yield widen(whole) if widen else whole

    dtype = widen(np.empty(0, native)).dtype if widen else native
    return Tensor(name, shape, dtype, source_dtype or native.name, path, rows)


def block_limits(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[tuple[int, int]]:
    """Yield where blocks of samples start and stop."""
    n, size = (shape[0] if shape else 1), max(1, BLOCK_BYTES // max(1, prod(shape[1:]) * dtype.itemsize))
    for start in range(0, n, size):
        yield start, min(start + size, n)


def _row_blocks(
    file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any], name: str, path: Path
) -> Iterator[Array]:
    for start, stop in block_limits(shape, dtype):
        yield _take(file, (stop - start, *shape[1:]), dtype, name, path)


def _column_blocks(
    file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any], name: str, path: Path
) -> Iterator[Array]:
    """Gather the samples of each block unit by unit: in the file the samples of one unit are neighbours."""
    begin, units = file.tell(), tuple(reversed(shape[1:]))
    for start, stop in block_limits(shape, dtype):
        block = np.empty((prod(units), stop - start), dtype)
        for unit, row in enumerate(block):
            file.seek(begin + (unit * shape[0] + start) * dtype.itemsize)
            row[:] = _take(file, row.shape, dtype, name, path)
        yield block.reshape(*units, stop - start).transpose()


def _take(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any], name: str, path: Path) -> Array:
    """Read one array of `shape`, which the caller has bounded."""
    wanted = prod(shape) * dtype.itemsize
    data = file.read(wanted)
    if len(data) < wanted:
        raise InputRefusedError(
            what="cannot read the arrays",
            path=path,
            place=repr(name),
            why="the file ends before the array does",
            fix="Save it again; it may be truncated",
        )
    return np.frombuffer(data, dtype).reshape(shape)


def check_shape(shape: tuple[object, ...]) -> str:
    """Return why no array can have this shape, or an empty text."""
    if len(shape) > MAX_DIMENSIONS:
        return f"it has {len(shape)} dimensions, at most {MAX_DIMENSIONS} were expected"
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < MAX_LENGTH for n in shape):
        return f"its shape is {shape}"
    return ""
