"""All of a store file but its activations, as one value object, and the hash that covers it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from h5py import h5a

from repstat.adapter import Layer
from repstat.store.rules import SCALE_ATTRIBUTES
from repstat.store.schema import SCHEMA_VERSION, Checkpoint, Samples
from repstat.store.values import ValueRecord
from repstat.version import __version__

Records = Mapping[str, Sequence[ValueRecord]]
"""By layer key, one record per checkpoint."""

DIGEST = "metadata_sha256"
CREATOR = f"repstat {__version__}"


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What a file says of its activations.

    Parameters
    ----------
    samples, layers, checkpoints
        Layers in forward order, checkpoints by increasing step.
    identity
        What must be equal for two files to be of one trajectory, beside samples and layers.
    n_realizations
        Noisy passes per sample; 1 for a deterministic network.
    created_at, creator, schema_version
        When and by what the file was written, in which version of the format.
    """

    samples: Samples
    layers: tuple[Layer, ...]
    checkpoints: tuple[Checkpoint, ...]
    identity: Mapping[str, Any] = field(default_factory=dict)
    n_realizations: int = 1
    created_at: str = ""
    creator: str = CREATOR
    schema_version: tuple[int, int] = SCHEMA_VERSION

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the checkpoints."""
        return tuple(checkpoint.step for checkpoint in self.checkpoints)


def metadata_digest(file: h5py.File) -> str:
    """Hash everything in the file but the activations (store-format.md, section 4)."""
    digest = hashlib.sha256()
    for path, item in sorted(_objects(file, "/")):
        for line in _lines(path, item):
            digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def _objects(group: h5py.Group, path: str) -> Iterator[tuple[str, Any]]:
    yield path, group
    for name in group:
        item, below = group[name], f"{path.rstrip('/')}/{name}"
        if isinstance(item, h5py.Group):
            yield from _objects(item, below)
        else:
            yield below, item


def _lines(path: str, item: Any) -> Iterator[str]:
    yield path
    for name in sorted(item.attrs):
        if name not in SCALE_ATTRIBUTES and name != DIGEST:
            yield f"@{name} {_summary(raw_attribute(item, name))}"
    if isinstance(item, h5py.Dataset):
        if path.startswith("/layers/") and path.endswith("/value"):
            yield f"={_type(item.dtype)} {_shape(item.shape)} -"
        else:
            yield f"={_summary(item[...])}"


def raw_attribute(item: Any, name: str) -> np.ndarray[Any, Any]:
    """Read an attribute with the padding of its text, which h5py's own way strips."""
    attribute = h5a.open(item.id, name.encode())
    values = np.empty(attribute.shape, attribute.dtype)
    attribute.read(values)
    return values


def _summary(values: np.ndarray[Any, Any]) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return f"{_type(values.dtype)} {_shape(values.shape)} {digest}"


def _type(dtype: np.dtype[Any]) -> str:
    return f"{dtype.kind}{dtype.itemsize}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "-"
