"""Activations made elsewhere, one checkpoint per file, folder or mapping: which arrays are layers.

An array called ``labels`` (or ``y``, if it has one value per sample and is no float) is the class of each
sample, ``inputs`` the samples themselves; single numbers are ``step``, ``epoch`` and metrics. Everything
else is a layer.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, prod
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from repstat.checkpoints import matching
from repstat.errors import InputRefusedError, UsageError
from repstat.naming import natural_key
from repstat.numbers import whole
from repstat.tensors import Tensor, of_array, read_npy, read_npz, read_safetensors

FORMATS = "an .npz, a folder of .npy files or a .safetensors file"
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """The activations of one checkpoint, unread.

    Parameters
    ----------
    name
        Of the file or folder.
    path
        Where it is, if it is on the disk.
    layers
        By name, in forward order.
    labels, inputs
        What else is in it.
    step
        If it says so itself.
    metrics
        Single numbers by name, ``epoch`` among them.
    notes
        What was left out.
    """

    name: str
    path: Path | None
    layers: Mapping[str, Tensor]
    labels: Tensor | None = None
    inputs: Tensor | None = None
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def sha256(self) -> str:
        """Return a hash: of the file; of a folder or mapping by names and arrays."""
        whole = hashlib.sha256()
        if self.path is not None and self.path.is_file():
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        arrays = [*self.layers.values(), *filter(None, (self.labels, self.inputs))]
        for tensor in sorted(arrays, key=lambda tensor: tensor.name):
            part = hashlib.sha256()
            for block in tensor.blocks():
                part.update(block.tobytes())
            name = tensor.name.encode("utf-8", "replace")
            whole.update(f"{len(name)}|{tensor.dtype.str}|{tensor.shape}|{part.hexdigest()}|".encode() + name)
        return whole.hexdigest()


def read_recording(path: Path) -> Recording:
    """Return what one file or folder holds, told by its content.

    Raises
    ------
    UsageError
        There is no such file, or its kind is not known.
    InputRefusedError
        It is damaged, unsafe, or holds no layer.
    """
    try:
        if path.is_dir():
            return _read_folder(path)
        return _sorted_out(path.name, path, _read_file(path))
    except PermissionError as error:
        raise UsageError(
            what="cannot open the file", path=error.filename or path, why="permission denied",
            fix="Check who may read it",
        ) from None  # fmt: skip


def of_mapping(step: object, arrays: object) -> Recording:
    """Return arrays in memory as a recording.

    Raises
    ------
    UsageError
        `step` is not a step, or `arrays` not a mapping of arrays by layer name.
    InputRefusedError
        An array is masked or of Python objects; there is no layer.
    """
    number = whole(step)
    if number is None or not isinstance(arrays, Mapping):
        raise UsageError(
            what="cannot tell steps and layers",
            why=f"found {step!r}: {type(arrays).__name__}",
            fix="Give {step: {layer: array}}, for a single checkpoint {0: {layer: array}}",
        )
    tensors = [_of_memory(str(name), value, number) for name, value in arrays.items()]
    found = _sorted_out(f"arrays of step {step}", None, tensors)
    if found.step not in {None, step}:
        raise UsageError(
            what="two steps for one checkpoint",
            why=f"it is given as step {step}, and its array 'step' is {found.step}",
            fix="Give one of them",
        )
    return found


def _of_memory(name: str, value: Any, step: int) -> Tensor:
    place = f"step {step}, {name!r}"
    if isinstance(value, np.ma.MaskedArray):
        raise InputRefusedError(
            what="an array is masked", place=place, why="a mask has no meaning in a joint distribution",
            fix="Select the samples first and pass a plain array",
        )  # fmt: skip
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputRefusedError(
            what="cannot be read as an array", place=place, why=" ".join(str(error).split()),
            fix="Pass numeric arrays of shape (samples, ...)",
        ) from None  # fmt: skip
    if array.dtype.hasobject:
        raise InputRefusedError(
            what="an array holds Python objects", place=place, why=f"found dtype {array.dtype}",
            fix="Pass numeric arrays of shape (samples, ...)",
        )  # fmt: skip
    return of_array(name, array)


def _read_file(path: Path) -> Sequence[Tensor]:
    if not path.is_file():
        raise UsageError(
            what="cannot import activations",
            path=path,
            why="a device, socket or pipe was found" if path.exists() else "there is no such file",
            fix="Check the spelling and the working directory",
        )
    with path.open("rb") as file:
        head = file.read(16)
    suffix = path.suffix.lower()
    if not head:
        raise _refused(path, "the file is empty", "Save it again")
    if head.startswith(b"\x93NUMPY"):
        raise UsageError(
            what="cannot import activations",
            path=path,
            why="a .npy file holds one layer, and each file named is one checkpoint",
            fix="Name the folder of a checkpoint's .npy files, or save them together with numpy.savez",
        )
    if suffix == ".npz" or head.startswith(b"PK\x03\x04"):
        return read_npz(path)
    if suffix == ".safetensors":
        return _in_order_of_names(read_safetensors(path))
    why, fix = f"expected {FORMATS}", "Save the activations with numpy.savez, one array per layer"
    if head.startswith(_HDF5):
        why = f"it is an HDF5 file, {why}"
        fix = f"Type repstat analyze {path.name} if it is a store; save other arrays with numpy.savez"
    raise UsageError(what="cannot tell the format of the activations", path=path, why=why, fix=fix)


def _read_folder(path: Path) -> Recording:
    files = sorted(path.iterdir(), key=lambda file: natural_key(file.name))
    arrays = [file for file in files if file.suffix.lower() == ".npy" and file.is_file()]
    others = [file for file in files if file not in set(arrays) and not file.name.startswith(".")]
    if not arrays:
        found = f"found {', '.join(file.name for file in others[:3])}" if others else "it is empty"
        raise UsageError(
            what="no activations",
            path=path,
            why=f"a folder of .npy files, one per layer, was expected, {found}",
            fix=f"Name the checkpoints themselves, for example {path}/*" if others else "Name another folder",
        )
    notes = (f"{path.name}/: left alone {', '.join(file.name for file in others[:5])}",) if others else ()
    tensors = [read_npy(file, file.name[:-4]) for file in arrays]
    return _sorted_out(path.resolve().name, path, tensors, notes)


def _in_order_of_names(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Sort as a person counts: the writers of safetensors order arrays by type and name."""
    return sorted(tensors, key=lambda tensor: natural_key(tensor.name))


def _sorted_out(
    name: str, path: Path | None, tensors: Sequence[Tensor], notes: tuple[str, ...] = ()
) -> Recording:
    """Tell layers from labels, inputs and single numbers."""
    by_name = {tensor.name: tensor for tensor in tensors}
    if len(by_name) < len(tensors):
        raise _refused(path, "two arrays have the same name", "Give each array a name of its own", name)
    labels = by_name.pop("labels", None)
    if (y := by_name.get("y")) is not None and _are_classes(y):
        if labels is not None:
            raise _refused(path, "found both 'labels' and 'y'", "Keep one of them", name)
        labels = by_name.pop("y")
    inputs = by_name.pop("inputs", None)
    step = _step(by_name.pop("step", None), path, name)
    metrics: dict[str, float] = {}
    skipped = []
    for key in [
        key for key, x in by_name.items() if x.shape == () or (key == "epoch" and prod(x.shape) == 1)
    ]:
        tensor = by_name.pop(key)
        if tensor.dtype.kind in "fiub" and tensor.dtype.itemsize <= 8:
            metrics[key] = float(tensor.read().reshape(()))
        else:
            skipped.append(key)
    if not isfinite(metrics.get("epoch", 0.0)):
        del metrics["epoch"]
    if not by_name:
        raise _refused(
            path, f"found {', '.join(t.name for t in tensors[:8]) or 'no arrays'}, and no activations",
            "Save one array per layer, (samples, ...)", name,
        )  # fmt: skip
    if skipped:
        notes = (*notes, f"{name}: left out {', '.join(skipped)}, no numbers")
    return Recording(
        name=name, path=path, layers=by_name, labels=labels, inputs=inputs, step=step, metrics=metrics,
        notes=notes,
    )  # fmt: skip


def _are_classes(y: Tensor) -> bool:
    """Whether an array called ``y`` is labels, and not the output of a network."""
    one_each = len(y.shape) == 1 or (len(y.shape) == 2 and y.shape[1] == 1)
    return one_each and y.dtype.kind in "biuUS"


def _step(tensor: Tensor | None, path: Path | None, name: str) -> int | None:
    if tensor is None:
        return None
    one = prod(tensor.shape) == 1 and tensor.dtype.kind in "fiu" and tensor.dtype.itemsize <= 8
    value = tensor.read().reshape(()).item() if one else None
    if value is None or not isfinite(value) or value != int(value) or value < 0:
        found = f"{tensor.dtype} of shape {tensor.shape}" if value is None else repr(value)
        raise _refused(path, f"its step is {found}, expected one whole number from 0", "Correct it", name)
    return int(value)


def _refused(path: Path | None, why: str, fix: str, name: str = "") -> InputRefusedError:
    return InputRefusedError(
        what="cannot import activations", path=path, place="" if path else name, why=why, fix=fix
    )


def as_checkpoints(source: object) -> tuple[Recording, ...]:
    """Return the recordings of ``{step: {layer: array}}``, or of files, folders and patterns of them."""
    if isinstance(source, Mapping) and source:
        return tuple(of_mapping(step, arrays) for step, arrays in source.items())
    paths = [source] if isinstance(source, str | PathLike) else source
    if not isinstance(paths, Sequence) or not paths or not all(isinstance(p, str | PathLike) for p in paths):
        raise UsageError(
            what="no activations",
            why=f"found {type(source).__name__}",
            fix="Give files, or {step: {layer: array}}",
        )
    named = [Path(path) for path in paths]
    return tuple(read_recording(file) for path in named for file in matching(path) or [path])
