"""``.npy``: one array. The header is read by NumPy; nothing is ever unpickled."""

from io import BytesIO
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as npy

from repstat.errors import InputRefusedError
from repstat.tensors.tensor import Tensor, check_shape, of_bytes

MAGIC = b"\x93NUMPY"
HEAD_BYTES = 1 << 14
"""NumPy's headers of plain arrays are below 10,000 bytes."""


def read_npy(path: Path, name: str = "inputs") -> Tensor:
    """Return the array in a ``.npy`` file, unread.

    Raises
    ------
    InputRefusedError
        It is damaged, or holds Python objects.
    """
    with path.open("rb") as file:
        shape, dtype, columns_first, offset = parse_header(file.read(HEAD_BYTES), path, "")
    check_size(path.stat().st_size - offset, shape, dtype, path, "")
    return of_bytes(name, path, lambda: path.open("rb"), offset, shape, dtype, columns_first=columns_first)


def parse_header(head: bytes, path: Path, place: str) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Return shape, dtype, whether columns come first, and where the array begins.

    Raises
    ------
    InputRefusedError
        It is no header, or one of Python objects.
    """
    file = BytesIO(head)
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise refused(path, place, f"its format is version {version}, expected 1.0 or 2.0")
        shape, columns_first, dtype = read(file)
    except InputRefusedError:
        raise
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, TokenError) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise refused(path, place, f"its header is damaged ({why})") from None
    if dtype.hasobject:
        why = "it holds Python objects (a pickle), which may run code; numbers were expected"
        raise refused(path, place, why, "Save plain numeric arrays")
    if why := check_shape(shape) or ("" if dtype.itemsize else f"its dtype is {dtype}"):
        raise refused(path, place, why)
    return shape, dtype, columns_first, file.tell()


def check_size(found: int, shape: tuple[int, ...], dtype: np.dtype[Any], path: Path, place: str) -> None:
    """Refuse an array of more or fewer bytes than its header says."""
    expected = prod(shape) * dtype.itemsize
    if found != expected:
        why = f"its header says {expected} bytes of {dtype} {shape}, found {found}"
        raise refused(path, place, why)


def refused(
    path: Path, place: str, why: str, fix: str = "Save it again; it may be truncated"
) -> InputRefusedError:
    """Return the error of an array that cannot be read."""
    return InputRefusedError(what="cannot read the arrays", path=path, place=place, why=why, fix=fix)
