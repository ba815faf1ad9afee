"""What a file is, by its content and without PyTorch."""

import json
import zipfile
from pathlib import Path
from typing import Literal

Kind = Literal["checkpoint", "legacy", "torchscript", "exported", "safetensors", ""]

_ZIP = b"PK\x03\x04"
_LEGACY = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
"""The first pickle of a checkpoint from before PyTorch 1.6, behind its protocol: a number of ten bytes."""
_LARGEST_HEADER = 100_000_000
"""As in the safetensors library."""


def kind_of(path: Path) -> Kind:
    """Return what PyTorch calls such a file, or nothing if it is none of PyTorch's."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if head.startswith(_ZIP):
            return _zip_kind(path)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError):
        return ""
    if head[:1] == b"\x80" and head[2:14] == _LEGACY:
        return "legacy"
    return "safetensors" if read_header(path) is not None else ""


def is_in_pieces(path: Path) -> bool:
    """Whether a path is of a checkpoint of ``torch.distributed.checkpoint``: a folder, its index, a piece."""
    folder = path if path.is_dir() else path.parent
    piece = path.suffix == ".distcp" or path.name == ".metadata"
    if not (piece or path.is_dir()) or not (folder / ".metadata").is_file():
        return False
    return piece or any(folder.glob("*.distcp"))


def _zip_kind(path: Path) -> Kind:
    """One folder holds all of an archive of PyTorch; only ``.pt2`` of PyTorch 2.7 and before has none."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if "serialized_exported_program.json" in names:
        return "exported"
    inner = {name.partition("/")[2] for name in names}
    if "archive_format" in inner and any(n.startswith("models/") and n.endswith(".json") for n in inner):
        return "exported"
    if "data.pkl" not in inner:
        return ""
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return "torchscript"
    return "checkpoint"


def read_header(path: Path) -> dict[str, object] | None:
    """Return the header of a safetensors file, or None if it has none."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LARGEST_HEADER) or file.read(1) != b"{":
                return None
            header = json.loads(b"{" + file.read(length - 1))
    except (OSError, ValueError, RecursionError):
        return None
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    fits = all(isinstance(entry, dict) and "data_offsets" in entry for entry in tensors)
    return header if fits else None
