"""How activations are cut into chunks, and how many bytes a store will take."""

from collections.abc import Sequence
from math import ceil, prod

from repstat.adapter import Layer
from repstat.store.noise import Conditional

CHUNK_BYTES = 2**20
MAX_CHUNK_BYTES = 2**26

# Upper estimates of what HDF5 adds, from stores of 1 to 300 layers and 1 to 1,000 checkpoints.
_FILE_OVERHEAD = 16 * 2**10
_LAYER_OVERHEAD = 8 * 2**10
_CHECKPOINT_OVERHEAD = 4 * 2**10
_BYTES_PER_CHUNK = 32
_BYTES_PER_CHECKPOINT_AND_LAYER = 96


def chunk_shape(n_samples: int, n_units: int, itemsize: int) -> tuple[int, int, int, int]:
    """Cut samples into equal chunks of at most about 1 MiB; units only where one row exceeds that.

    Returns
    -------
    tuple of int
        Chunk lengths along (checkpoint, realization, sample, unit).
    """
    row = n_units * itemsize
    if row > CHUNK_BYTES:
        return 1, 1, 1, ceil(n_units / ceil(row / CHUNK_BYTES))
    rows = max(1, CHUNK_BYTES // row)
    return 1, 1, ceil(n_samples / ceil(n_samples / rows)), n_units


def conditional_chunk_shape(
    n_inputs: int, n_realizations: int, n_units: int, itemsize: int
) -> tuple[int, int, int, int]:
    """Cut repeated inputs into equal chunks of about 1 MiB; realizations only where one input exceeds that.

    Returns
    -------
    tuple of int
        Chunk lengths along (checkpoint, repeated input, realization, unit).
    """
    each = n_realizations * n_units * itemsize
    if each > CHUNK_BYTES:
        return chunk_shape(n_realizations, n_units, itemsize)
    inputs = CHUNK_BYTES // each
    return 1, ceil(n_inputs / ceil(n_inputs / inputs)), n_realizations, n_units


def stored_bytes(shape: Sequence[int], chunks: Sequence[int], itemsize: int) -> int:
    """Bytes of a chunked dataset with every chunk allocated."""
    return prod(chunks) * itemsize * n_chunks(shape, chunks)


def n_chunks(shape: Sequence[int], chunks: Sequence[int]) -> int:
    """Count the chunks that cover `shape`."""
    return prod(ceil(n / c) for n, c in zip(shape, chunks, strict=True))


def predicted_bytes(
    n_samples: int,
    layers: Sequence[Layer],
    n_checkpoints: int,
    n_realizations: int = 1,
    conditional: Conditional | None = None,
) -> int:
    """Bytes of one store file, known before anything is computed.

    An upper estimate: the values exactly as chunked, the metadata generously. Text of unusual length
    (names, provenance) is not known yet and not counted.
    """
    total = _FILE_OVERHEAD + 24 * n_samples + _CHECKPOINT_OVERHEAD * n_checkpoints
    for layer in layers:
        itemsize = layer.dtype.itemsize
        shape = (n_checkpoints, n_realizations, n_samples, layer.n_units)
        total += _table_bytes(shape, chunk_shape(n_samples, layer.n_units, itemsize), itemsize)
        total += 8 * layer.n_units
        if conditional is not None and layer.key in conditional.layers:
            repeated = (conditional.n, conditional.n_realizations, layer.n_units)
            chunks = conditional_chunk_shape(*repeated, itemsize)
            total += _table_bytes((n_checkpoints, *repeated), chunks, itemsize)
    if conditional is not None:
        total += _LAYER_OVERHEAD + 16 * conditional.n + 8 * conditional.n_realizations
    return total


def _table_bytes(shape: Sequence[int], chunks: Sequence[int], itemsize: int) -> int:
    """Bytes of values and of their records."""
    total = stored_bytes(shape, chunks, itemsize) + _BYTES_PER_CHUNK * n_chunks(shape, chunks)
    return total + _LAYER_OVERHEAD + _BYTES_PER_CHECKPOINT_AND_LAYER * shape[0]
