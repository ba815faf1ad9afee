"""``FILE.h5:DATASET``: one array of an HDF5 file of any origin, judged in a process of its own first."""

import os
from pathlib import Path

import numpy as np

from repstat.adapter import Array
from repstat.child import Child, ChildDiedError
from repstat.errors import InputRefusedError, UsageError
from repstat.tensors.npy import refused
from repstat.tensors.tensor import check_memory

_KINDS = {kind.__name__: kind for kind in (UsageError, InputRefusedError)}
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SECONDS = 600.0
GATE = Child("repstat.tensors.hdf5_child", _SECONDS)
"""Judges one dataset of a file."""


def read_hdf5(path: Path, dataset: str) -> Array:
    """Return an array in an HDF5 file.

    Raises
    ------
    UsageError
        There is no dataset of this name.
    InputRefusedError
        It is not plain numbers, leads out of the file, is damaged, or crashes HDF5.
    ResourceError
        It is too large to be read at once.
    """
    with path.open("rb") as file:
        head = file.read(len(_SIGNATURE))
    if head != _SIGNATURE:
        raise refused(path, "", f"it is no HDF5 file: it begins with {head!r}", "Check the path")
    before = _stamp(path)
    folder = "" if path.is_absolute() else str(Path.cwd())
    try:
        answer = GATE.ask({"path": os.fspath(path), "dataset": dataset, "folder": folder})
    except ChildDiedError as error:
        why = f"reading it was tried in a process of its own, and {error}"
        raise refused(path, dataset, why, "Do not use it") from error
    if "kind" in answer:
        error_: UsageError | InputRefusedError = _KINDS[answer["kind"]](**answer["facts"])
        raise error_
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        found = file[dataset]
        if _stamp(path) != before:
            raise refused(path, dataset, "the file was changed while it was read", "Run the command again")
        native = found.dtype.newbyteorder("=")
        check_memory("the array", found.nbytes, path, dataset)
        return np.asarray(found[...], native)


def _stamp(path: Path) -> tuple[int, int, int, int]:
    facts = path.stat()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
