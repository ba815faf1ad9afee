"""Noise inside a network that is ours: every number is a function of where it goes, and of nothing else.

Frameworks draw from streams, so that noise depends on the batch size, on the order of the samples and on what
was drawn before, and differs between frameworks and devices. Here a counter takes the place of the stream:
Philox4x32-10 (Salmon et al., SC'11, doi:10.1145/2063384.2063405) maps a key and a counter to four words of 32
bits.

- *Key* (64 bits): NumPy's ``SeedSequence`` of the seed, spawned at constants of ours, the letter and the
  ordinal of the layer's key (``L003``).
- *Counter* (four words): the block of four units; the low 32 bits of the sample; the low 32 bits of the
  realization; bits 32 to 47 of the sample, and above them those of the realization. No two draws share one.
- *Value*: one word each, as the uniform number (word + 1/2) / 2^32, through the inverse of the normal
  distribution. Nothing is rejected, so unit u always takes word u mod 4 of block u div 4.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from repstat.adapter import Layer, Noise
from repstat.errors import InputRefusedError, UsageError

BIT_GENERATOR = "philox4x32-10"
FARTHEST = 6.34
"""No standard normal number is farther from 0."""

_Words = NDArray[np.uint64]

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_SPAWN = 0x72657073, 0x6E6F6973
_HIGH_BITS, _INDEX_BITS = 16, 48
_SLICE = 1 << 14
"""Blocks at a time: some ten arrays of 128 KiB, which stay in the cache."""
_CHECKED_SAMPLES, _CHECKED_REALIZATIONS, _CHECKED_BLOCKS = (0, 1, 2**32), (0, 1, 2**32), (0, 1)
_RANGES = {name: np.finfo(name) for name in ("float16", "float32", "float64")}
_RANGES["bfloat16"] = _RANGES["float32"]


def philox(counter: Sequence[_Words], key: Sequence[int]) -> tuple[_Words, _Words, _Words, _Words]:
    """Return the four words of Philox4x32-10 for each counter.

    Parameters
    ----------
    counter
        Four arrays of words below 2^32, of shapes that broadcast.
    key
        Two words.
    """
    a, b, c, d = counter
    for number in range(_ROUNDS):
        left, right = (np.uint64((k + number * w) & 0xFFFFFFFF) for k, w in zip(key, _WEYL, strict=True))
        first, second = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b, c, d = (
            (second >> _HALF) ^ b ^ left,
            second & _LOW,
            (first >> _HALF) ^ d ^ right,
            first & _LOW,
        )
    return a, b, c, d


def standard_normal(
    seed: int, layer: str, realization: int | NDArray[np.int64], samples: NDArray[np.int64], n_units: int
) -> NDArray[np.float64]:
    """Return standard normal numbers of shape ``(n_samples, n_units)``.

    Beyond the result it takes a few MB.

    Parameters
    ----------
    seed
        Any number from 0.
    layer
        The layer's key: ``L003``.
    realization
        Which of the network's noisy passes: one number from 0 below 2^48, or one per sample.
    samples
        Global indices of the samples, from 0 and below 2^48.
    n_units
        Numbers per sample. The first ones are the same whatever this is.

    Raises
    ------
    UsageError
        An index is out of range, there is not one realization per sample, or the key is not that of a layer.
    """
    key = _key(seed, layer)
    rows = np.asarray(samples)
    passes = np.asarray(realization)
    _check_indices("sample", rows)
    _check_indices("realization", passes)
    if rows.ndim != 1 or passes.shape not in {(), rows.shape}:
        raise UsageError(
            what="noise needs one realization, or one per sample",
            why=f"found realizations of shape {passes.shape} for samples of shape {rows.shape}",
            fix="Give one number, or an array as long as the samples",
        )
    out = np.empty((len(rows), n_units))
    passes = np.broadcast_to(passes, rows.shape)
    for part, first, last in _slices(len(rows), -(-n_units // 4)):
        words = _words(key, rows[part], passes[part], np.arange(first, last))
        block = out[part, 4 * first : 4 * last]
        for i, word in enumerate(words):
            column = block[:, i::4]
            np.add(word[:, : column.shape[1]], 0.5, out=column)
        block *= 2.0**-32
        ndtri(block, out=block)
    return out


def checksum(seed: int, layers: Iterable[str]) -> str:
    """Return the SHA-256 of a few words of each layer, which tells whether two programs draw the same noise.

    The order of the layers does not matter.
    """
    digest = hashlib.sha256()
    samples, passes = np.meshgrid(_CHECKED_SAMPLES, _CHECKED_REALIZATIONS, indexing="ij")
    for layer in sorted(set(layers)):
        words = _words(_key(seed, layer), samples.ravel(), passes.ravel(), np.asarray(_CHECKED_BLOCKS))
        digest.update(f"{layer}\n".encode())
        digest.update(np.stack(words, axis=-1).astype("<u4").tobytes())
    return digest.hexdigest()


def check_noise(
    noise: Noise, layers: Sequence[Layer], n_samples: int, path: str | PathLike[str] | None = None
) -> dict[str, float]:
    """Return the positive standard deviations in the order of `layers`.

    Parameters
    ----------
    noise
        What was asked for.
    layers
        All layers of the model.
    n_samples
        Number of samples in the batch.
    path
        The model, for messages.

    Raises
    ------
    UsageError
        A key is not that of a hidden layer or residual join of the model, a standard deviation is not a
        number from 0, the layer's type cannot hold such noise, or there is not one realization per sample.
    InputRefusedError
        A layer's tensor is not floating point.
    """
    known = {layer.key: layer for layer in layers}
    for key, std in noise.noise_std.items():
        if key not in known:
            raise UsageError(
                what=f"noise is asked for in a layer {key!r} that the model does not have",
                path=path,
                why=f"its layers are {', '.join(known) or 'none'}",
                fix="Use the keys that layers() or repstat layers lists",
            )
        _check_level(known[key], std, path)
    shape = np.shape(noise.realization)
    if shape not in {(), (n_samples,)}:
        raise UsageError(
            what="noise needs one realization, or one per sample",
            path=path,
            why=f"found realizations of shape {shape} for {n_samples} samples",
            fix="Give one number, or an array as long as the batch",
        )
    stds = {key: float(noise.noise_std.get(key, 0.0)) for key in known}
    return {key: std for key, std in stds.items() if std > 0}


def _check_level(layer: Layer, std: float, path: str | PathLike[str] | None) -> None:
    place = f"layer {layer.key} ({layer.name})"
    if layer.kind == "output":
        raise UsageError(
            what="noise is asked for in an output of the model",
            path=path,
            place=place,
            why="noise goes into hidden layers, from where the network computes on",
            fix="Leave the layer out of noise_std",
        )
    if not np.isfinite(std) or std < 0:
        raise UsageError(
            what=f"noise_std {std!r} is not a number from 0",
            path=path,
            place=place,
            why="it is a standard deviation in activation units",
            fix="Give a positive number, or 0 for no noise",
        )
    if layer.source_dtype not in _RANGES:
        raise InputRefusedError(
            what="noise cannot be added to a layer that is not floating point",
            path=path,
            place=place,
            why=f"its tensor is {layer.source_dtype}, which would round the noise away or wrap around",
            fix="Leave the layer out of noise_std, or use the model before it was quantised",
        )
    limits = _RANGES[layer.source_dtype]
    if std and not float(limits.smallest_normal) <= std <= float(limits.max) / FARTHEST:
        raise UsageError(
            what=f"noise_std {std!r} is out of range",
            path=path,
            place=place,
            why=f"its tensor is {layer.source_dtype}, whose normal numbers go from "
            f"{limits.smallest_normal:.2g} to {limits.max:.2g}",
            fix="Give a standard deviation well inside",
        )


def _key(seed: int, layer: str) -> list[int]:
    if re.fullmatch(r"[LR][0-9]+", layer) is None:
        raise UsageError(
            what=f"{layer!r} is not the key of a layer",
            why="found no letter L or R followed by a number",
            fix="Use the keys that layers() or repstat layers lists",
        )
    if seed < 0:
        raise UsageError(what=f"the seed {seed} of the noise is negative", fix="Give a number from 0")
    sequence = np.random.SeedSequence(seed, spawn_key=(*_SPAWN, ord(layer[0]), int(layer[1:])))
    return [int(word) for word in sequence.generate_state(2, np.uint32)]


def _check_indices(name: str, indices: NDArray[np.int64]) -> None:
    if indices.size and indices.dtype.kind not in "iu":
        found = f"numbers of type {indices.dtype}"
    elif indices.size and (indices.min() < 0 or indices.max() >= 1 << _INDEX_BITS):
        found = f"{indices.min()} to {indices.max()}"
    else:
        return
    raise UsageError(
        what=f"a {name} of the noise is out of range",
        why=f"found {found}, expected integers from 0 to 2^{_INDEX_BITS} - 1",
        fix=f"Number the {name}s from 0",
    )


def _slices(n_rows: int, n_blocks: int) -> Iterator[tuple[slice, int, int]]:
    """Cut rows and blocks into pieces of at most `_SLICE` blocks."""
    height = max(1, _SLICE // max(1, n_blocks))
    for start in range(0, n_rows, height):
        for first in range(0, n_blocks, _SLICE):
            yield slice(start, start + height), first, min(first + _SLICE, n_blocks)


def _words(
    key: Sequence[int], samples: NDArray[np.int64], realizations: NDArray[np.int64], blocks: NDArray[np.int64]
) -> tuple[_Words, _Words, _Words, _Words]:
    """Return four arrays of words, ``(n_samples, n_blocks)`` each."""
    rows, passes = samples.astype(np.uint64)[:, None], realizations.astype(np.uint64)[:, None]
    high = (rows >> _HALF) | ((passes >> _HALF) << np.uint64(_HIGH_BITS))
    return philox((blocks.astype(np.uint64)[None], rows & _LOW, passes & _LOW, high), key)
