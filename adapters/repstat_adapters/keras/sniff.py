"""What a path holds, by content and without a framework."""

import struct
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile, ZipFile

Kind = Literal["keras", "h5", "weights", "saved-model", "checkpoint", ""]

_TABLE_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
"""Ends every table of key and value that TensorFlow writes, such as the index of a checkpoint."""
_SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"


def kind_of(path: Path) -> Kind:
    """Return what `path` is to this adapter, or nothing if it is not one of its own.

    ``keras``: an archive with architecture and weights. ``h5``: the same in HDF5, as older versions wrote it.
    ``weights``: HDF5 with weights only. ``saved-model``: a folder. ``checkpoint``: of `tf.train.Checkpoint`.
    """
    if path.is_dir():
        return "saved-model" if any((path / name).is_file() for name in _SAVED_MODEL) else ""
    if not path.is_file():
        return "checkpoint" if _is_index(index_of(path)) else ""
    head = _head(path)
    if head.startswith(_ZIP) and _is_keras_archive(path):
        return "keras"
    if head.startswith(HDF5_MAGIC) and (kind := _hdf5_kind(path)):
        return kind
    if path.suffix == ".index" and _is_index(path):
        return "checkpoint"
    return named_as(path)


def named_as(path: Path) -> Kind:
    """Return what the name alone promises."""
    name = path.name.lower()
    if name.endswith(".keras"):
        return "keras"
    return "weights" if name.endswith(".weights.h5") else ""


def index_of(path: Path) -> Path:
    """Return the index file of a checkpoint named by its prefix or by its index."""
    return path if path.suffix == ".index" else path.with_name(f"{path.name}.index")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError:
        return b""


def _hdf5_kind(path: Path) -> Kind:
    from repstat_adapters.keras.hdf5 import kind_of  # it imports h5py, which other files do not need

    return kind_of(path)


def _is_keras_archive(path: Path) -> bool:
    try:
        with ZipFile(path) as archive:
            return {"config.json", "metadata.json"} <= set(archive.namelist())
    except (BadZipFile, OSError, ValueError):
        return False


def _is_index(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            if file.tell() < len(_TABLE_MAGIC):
                return False
            file.seek(-len(_TABLE_MAGIC), 2)
            return file.read() == _TABLE_MAGIC
    except OSError:
        return False
