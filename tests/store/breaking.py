"""Break one rule of a store file, for the tests of this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from repstat import open_store
from repstat.errors import StoreDamagedError
from repstat.store import verify
from repstat.store.header import metadata_digest
from repstat.store.schema import LIBVER

Change = Callable[[h5py.File], None]


def refused(path: Path) -> str:
    with pytest.raises(StoreDamagedError) as caught:
        open_store(path)
    assert caught.value.exit_code == 4
    assert verify(path) == [str(caught.value)]
    return str(caught.value)


def edit(path: Path, change: Change) -> None:
    """Change a file and make its metadata hash right again: only the rule in question can refuse it."""
    with h5py.File(path, "r+", libver=LIBVER) as file:
        change(file)
        try:
            digest = metadata_digest(file).encode()
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, MemoryError):
            return
        file.attrs.create("metadata_sha256", np.bytes_(digest), dtype=h5py.string_dtype("utf-8", 64))


def replaced(name: str, **how: Any) -> Change:
    """Replace a dataset by one that is made otherwise."""

    def change(file: h5py.File) -> None:
        old = file[name][...]
        attributes = {key: file[name].attrs[key] for key in ("name",) if key in file[name].attrs}
        del file[name]
        options = {"data": old} | how
        dataset = file.create_dataset(name, **options)
        dataset.attrs.update(attributes)

    return change


def named(name: str) -> Change:
    return lambda file: file["layers"].create_group(name) and None


def removed(name: str) -> Change:
    return lambda file: file.pop(name) and None


def attribute(owner: str, name: str, value: Any, dtype: Any = None) -> Change:
    return lambda file: file[owner].attrs.create(name, value, dtype=dtype)


def text(owner: str, name: str, value: bytes) -> Change:
    return attribute(owner, name, np.bytes_(value), h5py.string_dtype("utf-8", len(value)))


def one_byte_damages(path: Path, rng: np.random.Generator) -> Iterator[None]:
    """Flip one bit of each of 100 random bytes in turn; stop where `verify` does not notice.

    More than 30 must be noticed by the end.
    """
    original = path.read_bytes()
    noticed = 0
    for position in rng.integers(0, len(original), 100):
        damaged = bytearray(original)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        if verify(path):
            noticed += 1
            continue
        yield
    assert noticed > 30
