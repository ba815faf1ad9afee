"""Weights in HDF5 files from strangers: what is in them, and that nothing leads out of them.

The one module of the adapters that reads HDF5: Keras' own formats are HDF5, and only the file itself says
whether a name in it is a link to another file, and which variables it holds.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal
from zipfile import BadZipFile, ZipFile

import h5py
import numpy as np

from repstat.errors import InputRefusedError
from repstat_adapters.keras.sniff import HDF5_MAGIC

WEIGHTS_MEMBER = "model.weights.h5"
"""Where an archive of Keras keeps the weights."""

_NOT_OF_THE_MODEL = frozenset({"optimizer", "optimizer_weights", "seed_generator", "metrics"})
_DEEPEST, _MOST_OBJECTS, _MOST_PER_BYTE = 40, 1_000_000, 200
_CHUNKED_FROM = 1 << 20
"""Small datasets may be stored in blocks larger than they are, or not at all; large ones may not."""


@dataclass(frozen=True)
class Stored:
    """One array in a file of weights."""

    path: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Contents:
    """What a file of weights holds.

    Parameters
    ----------
    arrays
        The model's arrays; those of the optimizer, of metrics and of random generators are left out.
    names
        By group, the name of the layer whose variables are in it; in the order of the file.
    config
        The architecture as JSON, or nothing.
    """

    arrays: tuple[Stored, ...]
    names: dict[str, str]
    config: str = ""


def kind_of(path: Path) -> Literal["h5", "weights", ""]:
    """Return whether an HDF5 file holds a Keras model (``h5``), weights only, or something else."""
    try:
        with h5py.File(path, "r") as file:
            if "model_config" in file.attrs:
                return "h5"
            if "layer_names" in file.attrs or any(_holds_variables(file, 0)):
                return "weights"
    except (OSError, RuntimeError, ValueError):
        return ""
    return ""


def read_contents(path: Path) -> Contents:
    """Check a file, or the weights inside an archive, and return what it holds.

    Raises
    ------
    InputRefusedError
        It is damaged, leads to other files, or declares more than it holds.
    """
    try:
        with path.open("rb") as file, _weights_of(file) as weights, h5py.File(weights, "r") as root:
            arrays = tuple(_walk(root, "", path, [0]))
            names = _legacy_names(root) or dict(_names(root, ""))
            return Contents(arrays, names, _text(root.attrs.get("model_config", "")))
    except InputRefusedError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, BadZipFile) as error:
        raise damaged(path, str(error)) from None


def damaged(path: Path, why: str) -> InputRefusedError:
    """Return the error for a file that cannot be read."""
    first = why.strip().splitlines()[0] if why.strip() else "its content is not what Keras writes"
    return InputRefusedError(
        what="cannot read the weights", path=path, why=first, fix="Copy or save the file again"
    )


def _weights_of(file: IO[bytes]) -> Any:
    if file.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
        file.seek(0)
        return file
    with ZipFile(file) as archive:
        info = archive.getinfo(WEIGHTS_MEMBER)
        if info.file_size > _MOST_PER_BYTE * max(info.compress_size, 1):
            message = f"{WEIGHTS_MEMBER} is {info.file_size} bytes packed into {info.compress_size}"
            raise ValueError(message)
        return io.BytesIO(archive.read(info))


def _holds_variables(group: Any, depth: int) -> Iterator[bool]:
    """Yield True for each group called ``vars``, as Keras 3 writes them; links are not followed."""
    for name in group:
        if depth < _DEEPEST and isinstance(group.get(name, getlink=True), h5py.HardLink):
            child = group[name]
            if isinstance(child, h5py.Group):
                if name == "vars":
                    yield True
                yield from _holds_variables(child, depth + 1)


def _walk(group: Any, prefix: str, path: Path, seen: list[int]) -> Iterator[Stored]:
    if prefix.count("/") > _DEEPEST or seen[0] > _MOST_OBJECTS:
        raise _refused(path, prefix, "it is nested too deeply or has too many objects")
    for name in group:
        here = f"{prefix}/{name}" if prefix else name
        seen[0] += 1
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise _refused(path, here, "it is a link, which may lead to another file")
        child = group[name]
        if isinstance(child, h5py.Group):
            yield from _walk(child, here, path, seen)
            continue
        _check_dataset(child, here, path)
        if not _NOT_OF_THE_MODEL & set(here.split("/")):
            yield Stored(here, tuple(child.shape))


def _check_dataset(dataset: Any, here: str, path: Path) -> None:
    if dataset.external or dataset.is_virtual:
        raise _refused(path, here, "its values are in another file")
    if dataset.dtype.kind not in "fiubV" or dataset.shape is None:
        raise _refused(path, here, f"it is an array of type {dataset.dtype}, not of numbers")
    declared = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
    if declared >= _CHUNKED_FROM and declared > _MOST_PER_BYTE * dataset.id.get_storage_size():
        raise _refused(path, here, f"it declares {declared} bytes and stores {dataset.id.get_storage_size()}")


def _refused(path: Path, place: str, why: str) -> InputRefusedError:
    return InputRefusedError(
        what="the weights are not as Keras writes them",
        path=path,
        place=place or "the root",
        why=why,
        fix="Save the model again",
    )


def _legacy_names(root: Any) -> dict[str, str]:
    group = root.get("model_weights", root)
    names = [_text(name) for name in group.attrs.get("layer_names", ())]
    return {name: name for name in names if name in group and len(group[name].attrs.get("weight_names", ()))}


def _names(group: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for name in group:
        child = group[name]
        here = f"{prefix}/{name}" if prefix else name
        if not isinstance(child, h5py.Group) or name in _NOT_OF_THE_MODEL:
            continue
        if name == "vars" and len(child) and "name" in child.attrs:
            yield prefix, _text(child.attrs["name"])
        yield from _names(child, here)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
