"""Where activations come from: the hash of the weights."""

import hashlib
from collections.abc import Iterable

import numpy as np

from repstat.adapter import Array


def weights_sha256(weights: Iterable[tuple[str, Array]]) -> str:
    """Fingerprint of all weights in the order in which the model makes them.

    Each counts with its own name (``kernel``), shape, type and bytes. Names of layers do not: Keras counts
    them up in every process. The same weights agree whatever file they came from.
    """
    entries = []
    for name, value in weights:
        digest = sha256_of(value)
        entries.append(
            f"{name.rpartition('/')[2].partition(':')[0]}|{value.dtype.name}|{value.shape}|{digest}"
        )
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()


def sha256_of(value: Array) -> str:
    """SHA-256 of an array's bytes, little-endian."""
    array = np.ascontiguousarray(value)
    if array.dtype.isbuiltin == 1 and array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return hashlib.sha256(array.tobytes()).hexdigest()
