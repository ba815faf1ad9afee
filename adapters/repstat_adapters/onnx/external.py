"""Weights kept in files beside the model: which files these are, and whether they may be read.

onnxruntime accepts hard links and older versions accepted any path, so the rules are checked here: the
location is relative without ``..``, the real file lies in the model's folder, is regular, is not hard-linked
elsewhere, and is long enough. The cache of the Hugging Face hub, where model and weights are both symbolic
links into one folder of blobs, is accepted by resolving against that folder.
"""

import stat
from collections.abc import Sequence
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from repstat.errors import InputRefusedError
from repstat_adapters.onnx.walk import all_tensors

_IN_MEMORY = "_ORT_MEM_ADDR_"
"""With it, onnxruntime marks weights that are at an address of its own process."""
_LONGEST = 200


def locate_weights(model: onnx.ModelProto, path: Path | None) -> tuple[Path | None, dict[str, Path]]:
    """Check every external tensor of `model` and return the folder to read from and the files by location.

    Locations in `model` are rewritten where the real files lie elsewhere than the links to them.

    Raises
    ------
    InputRefusedError
        A location breaks a rule, or a file is missing or too short.
    """
    outside = [(name, t) for name, t in all_tensors(model) if _is_external(t)]
    if path is None:
        if outside:
            raise InputRefusedError(
                what="the model in memory has no weights",
                place=outside[0][0],
                why="they are in an external file, whose folder is not known",
                fix="Give the path of the model file",
            )
        return None, {}
    here, blobs = path.parent.resolve(), path.resolve().parent
    files: dict[str, Path] = {}
    for name, tensor in outside:
        keys = [entry.key for entry in tensor.external_data]
        if len(set(keys)) < len(keys):
            why = "it says twice where they are, and readers differ in which they believe"
            raise _refused(path, name, why, "Do not use this model unless you know who made it")
        location = _entry(tensor, "location")
        if location not in files:
            files[location] = _checked_file(location, path, name)
        _check_length(tensor, files[location], path, name)
    if all(real.is_relative_to(here) for real in files.values()):
        return here, files
    _rewrite([tensor for _, tensor in outside], files, blobs, path)
    return blobs, files


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def _entry(tensor: onnx.TensorProto, key: str) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == key), "")


def _refused(path: Path, name: str, why: str, fix: str) -> InputRefusedError:
    return InputRefusedError(
        what="the model's weights cannot be used", path=path, place=f"tensor {name!r}", why=why, fix=fix
    )


def _checked_file(location: str, path: Path, name: str) -> Path:
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    absolute = posix.is_absolute() or bool(windows.drive or windows.root)
    unsafe = not location or "\0" in location or absolute or _IN_MEMORY in posix.parts
    if unsafe or ".." in posix.parts or ".." in windows.parts:
        why = f"location {location!r} is not a relative path inside the model's folder"
        raise _refused(path, name, why, "Do not use this model unless you know who made it")
    file = path.parent / location
    if not _exists(file):
        why = f"weights file {location[:_LONGEST]!r} is missing"
        raise _refused(path, name, why, "Copy it next to the model file")
    real, facts = file.resolve(), file.stat()
    if not stat.S_ISREG(facts.st_mode):
        why = f"weights file {location!r} is not a regular file"
        raise _refused(path, name, why, "Do not use this model unless you know who made it")
    here, blobs = path.parent.resolve(), path.resolve().parent
    if not real.is_relative_to(here) and not real.is_relative_to(blobs):
        why = f"weights file {location!r} is a link to {str(real)!r}, outside the model's folder"
        raise _refused(path, name, why, "Copy the weights next to the model file")
    if facts.st_nlink > 1 and here == blobs:
        why = f"weights file {location!r} is a hard link to a file that has {facts.st_nlink} names"
        raise _refused(path, name, why, "Make a copy of the weights next to the model file")
    return real


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a name that no file system takes
        return False


def _check_length(tensor: onnx.TensorProto, file: Path, path: Path, name: str) -> None:
    try:
        offset = int(_entry(tensor, "offset") or 0)
        length = int(_entry(tensor, "length") or _expected_bytes(tensor))
    except ValueError:
        raise _refused(path, name, "offset or length is not a number", "Export it again") from None
    size = file.stat().st_size
    if offset < 0 or length < 0 or offset + length > size:
        why = f"it ends at byte {offset + length}, but weights file {file.name!r} has {size} bytes"
        raise _refused(path, name, f"{why}; the file is truncated", "Copy it again")


def _expected_bytes(tensor: onnx.TensorProto) -> int:
    if tensor.data_type not in onnx.TensorProto.DataType.values() or tensor.data_type == 0:
        return 0
    itemsize: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(prod(tensor.dims)) * itemsize


def _rewrite(tensors: Sequence[onnx.TensorProto], files: dict[str, Path], blobs: Path, path: Path) -> None:
    """Point locations at the real files, all of them under `blobs`."""
    for location, real in files.items():
        if not real.is_relative_to(blobs):
            why = f"weights file {location!r} is not in the folder that the model file is linked to"
            raise _refused(path, location, why, "Copy model and weights to one folder")
    for tensor in tensors:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = files[entry.value].relative_to(blobs).as_posix()
