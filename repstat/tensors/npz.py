"""``.npz``: a zip archive of ``.npy`` members, each decompressed block by block."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from repstat.errors import InputRefusedError
from repstat.tensors.npy import HEAD_BYTES, check_size, parse_header, refused
from repstat.tensors.tensor import Tensor, of_array, of_bytes

MAX_ARRAYS = 100_000
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npz(path: Path) -> tuple[Tensor, ...]:
    """Return the arrays in a ``.npz`` file in their order, unread.

    Raises
    ------
    InputRefusedError
        It is damaged, or holds anything but plain arrays.
    """
    with _damage_said(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_members(path, members)
        return tuple(_member(path, archive, info) for info in members)


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_ARRAYS:
        raise refused(
            path, "", f"it has {len(members)} arrays, at most {MAX_ARRAYS} were expected", "Split it"
        )
    seen = set()
    for info in members:
        place = repr(info.filename)[:200]
        if info.filename.endswith("data.pkl"):
            why = "it is a PyTorch file (a pickle), which may run code; arrays were expected"
            raise refused(path, place, why, "Save the activations with numpy.savez or safetensors")
        if not info.filename.endswith(".npy"):
            raise refused(path, place, "it is not an array", "Save the arrays with numpy.savez")
        if info.filename in seen:
            raise refused(path, place, "two arrays have this name", "Give each array a name of its own")
        if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
            kind = "encrypted" if info.flag_bits & _ENCRYPTED else f"packed by method {info.compress_type}"
            why = f"it is {kind}, expected stored or deflated"
            raise refused(path, place, why, "Save the arrays with numpy.savez or numpy.savez_compressed")
        seen.add(info.filename)


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor:
    name = info.filename.removesuffix(".npy")
    with archive.open(info) as file:
        head = file.read(HEAD_BYTES)
    shape, dtype, columns_first, offset = parse_header(head, path, repr(name)[:200])
    check_size(info.file_size - offset, shape, dtype, path, repr(name)[:200])

    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        with _damage_said(path), zipfile.ZipFile(path) as again, again.open(info.filename) as file:
            yield cast(BinaryIO, file)

    if not columns_first:
        return of_bytes(name, path, opened, offset, shape, dtype)
    # A packed array cannot be read out of order: it is turned in memory, which `read` bounds.
    turned = of_bytes(name, path, opened, offset, shape[::-1], dtype)

    return Tensor(
        name, shape, turned.dtype, turned.source_dtype, path,
        lambda: of_array(name, turned.read().transpose()).rows(),
    )  # fmt: skip


@contextmanager
def _damage_said(path: Path) -> Iterator[None]:
    """Turn what a damaged archive raises, when it is opened or read, into an error that says so."""
    try:
        yield
    except InputRefusedError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise refused(path, "", why) from None
