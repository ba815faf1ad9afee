"""All of a store file but its activations, as one value object, and the hash that covers it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from h5py import h5a

from repstat.adapter import Layer
from repstat.store.noise import Conditional, NoiseRecord
from repstat.store.rules import SCALE_ATTRIBUTES
from repstat.store.schema import CONDITIONAL, Checkpoint, Samples
from repstat.store.values import ValueRecord
from repstat.version import __version__

Records = Mapping[str, Sequence[ValueRecord]]
"""By key of a table of values, one record per checkpoint."""

DIGEST = "metadata_sha256"
CREATOR = f"repstat {__version__}"


@dataclass(frozen=True, slots=True)
class Table:
    """The values of a layer that are stored and hashed together: of all samples, or of the repeated inputs.

    Parameters
    ----------
    layer
        Whose they are.
    shape
        Of one checkpoint, without the units: (realizations, samples), or (repeated inputs, realizations).
    conditional
        They are of the repeated inputs.
    """

    layer: Layer
    shape: tuple[int, int]
    conditional: bool = False

    @property
    def key(self) -> str:
        """Where they are: a path below ``/layers``."""
        return f"{self.layer.key}/{CONDITIONAL}" if self.conditional else self.layer.key

    @property
    def rows(self) -> str:
        """What a row is, for messages."""
        return "realizations of repeated inputs" if self.conditional else "samples"

    @property
    def n_streams(self) -> int:
        """Parts of equal length along the first axis that may be written in turns and are hashed apart."""
        return 1 if self.conditional else self.shape[0]

    @property
    def n_rows(self) -> int:
        """Rows of one stream."""
        return self.shape[0] * self.shape[1] // self.n_streams


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
    created_at, creator
        When and by what the file was written.
    noise
        Of a noisy network.
    conditional
        Of a noisy network with repeated inputs.
    """

    samples: Samples
    layers: tuple[Layer, ...]
    checkpoints: tuple[Checkpoint, ...]
    identity: Mapping[str, Any] = field(default_factory=dict)
    n_realizations: int = 1
    created_at: str = ""
    creator: str = CREATOR
    noise: NoiseRecord | None = None
    conditional: Conditional | None = None

    @property
    def schema_version(self) -> tuple[int, int]:
        """The version of the format that such a file has: the lowest with all that is in it."""
        return (1, 0) if self.noise is None else (1, 1)

    def values_of(self, layer: Layer) -> Table:
        """Return where the values of all samples are."""
        return Table(layer, (self.n_realizations, self.samples.n))

    def conditional_of(self, layer: Layer) -> Table | None:
        """Return where the realizations of the repeated inputs are, if the layer has any."""
        repeated = self.conditional
        if repeated is None or layer.key not in repeated.layers:
            return None
        return Table(layer, (repeated.n, repeated.n_realizations), conditional=True)

    @property
    def tables(self) -> Mapping[str, Table]:
        """All values by key, layers in forward order."""
        found = [table(layer) for layer in self.layers for table in (self.values_of, self.conditional_of)]
        return {table.key: table for table in found if table is not None}

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
    values = np.empty(attribute.shape or (), attribute.dtype)  # no shape: an attribute without a value
    attribute.read(values)
    return values


def _summary(values: np.ndarray[Any, Any]) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return f"{_type(values.dtype)} {_shape(values.shape)} {digest}"


def _type(dtype: np.dtype[Any]) -> str:
    return f"{dtype.kind}{dtype.itemsize}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "-"
