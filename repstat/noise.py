"""Noise inside a network that is ours: every number is a function of where it goes, and of nothing else.

Frameworks draw from streams, so that noise depends on the batch size, on the order of the samples and on what
was drawn before, and differs between frameworks and devices. Here a counter decides: `repstat.philox` maps a
key and a counter to four words of 64 bits.

- *Key* (two words): NumPy's ``SeedSequence`` of the seed, spawned at constants of ours, the letter and the
  ordinal of the layer's key (``L003``).
- *Counter* (four words): sample + 1; the realization; the block of eight units; 0. From realization 2^40 on,
  where few samples have many realizations: realization + 1; sample + 2^63; the block; 0. So what is drawn
  together mostly has counters that follow one another, which is fast. No two draws share one.
- *Value*: the transform of Box and Muller (1958, doi:10.1214/aoms/1177706645) of each word, in float32. Its
  low half l gives the radius r = sqrt(-2 ln u) with u = (l + 1/2) / 2^32, its high half h, with a sign,
  the angle t = pi h / 2^31. Word q of block j gives unit 8 j + q, r cos t, and unit 8 j + 4 + q, r sin t.
  Nothing is rejected.

Each step is rounded to float32: numbers near 0 are some 10^-7 apart, and one in 2^25 is 0. That is fine
enough for networks in float64 too. The words are the same everywhere; the last bits of a number are those of
NumPy's float32 log, sine and cosine on the machine.
"""

import hashlib
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from math import prod
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from repstat.adapter import Layer, Noise
from repstat.errors import InputRefusedError, UsageError
from repstat.philox import Rows, Words

BIT_GENERATOR = "philox4x64-10 box-muller"
FARTHEST = 6.77
"""No standard normal number is farther from 0."""
FIRST_CONDITIONAL = 2**40
"""Realization number of the first pass of repeated inputs. From here on counters follow realizations."""

_Floats = NDArray[np.float32]

_UNITS = 8
"""Of one block."""
_SPAWN = 0x72657073, 0x6E6F6973
_INDEX_BITS = 48
_SLICE = 1 << 13
"""Blocks at a time: words of 256 KiB and three arrays of half of that, which stay in the cache."""
_GROUP = 8
"""Blocks of a sample at a time, where there are many samples: the fewer, the longer the stream of each."""
_NARROW = 16
"""Up to so many units are written one after the other."""
_REPEATED = np.uint64(1 << 63)
_CHECKED_SAMPLES, _CHECKED_REALIZATIONS, _CHECKED_BLOCKS = (0, 1, 2**32), (0, 1, FIRST_CONDITIONAL), (0, 1)
_RANGES = {name: np.finfo(name) for name in ("float16", "float32", "float64")}
_RANGES["bfloat16"] = _RANGES["float32"]


class _Local(threading.local):
    """Room for each thread: fresh memory would cost a small draw a third of its time."""

    def __init__(self) -> None:
        self.words = np.empty(4 * _SLICE, np.uint64)
        self.floats = np.empty((3, 4 * _SLICE), np.float32)


_local = _Local()


def standard_normal(
    seed: int, layer: str, realization: int | NDArray[np.int64], samples: NDArray[np.int64], n_units: int
) -> _Floats:
    """Return standard normal numbers of shape ``(n_samples, n_units)``.

    Beyond the result it takes a few MB. Samples that follow one another are fastest, as are, from
    `FIRST_CONDITIONAL` on, realizations of one sample.

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
    out = np.empty((len(rows), n_units), np.float32)
    n_blocks = -(-n_units // _UNITS)
    first, second = _counters(rows, passes)
    for part, width in _parts(len(rows), n_blocks):
        drawn = Rows(key, first[part], second[part])
        for start in range(0, n_blocks, width):
            blocks = range(start, min(start + width, n_blocks))
            here = out[part, _UNITS * blocks.start : _UNITS * blocks.stop]
            shape = len(blocks), len(here), 4
            words = _local.words[: prod(shape)].reshape(shape)
            drawn.draw(blocks, words)
            _lay_out(_box_muller(words), here)
    return out


def checksum(seed: int, layers: Iterable[str]) -> str:
    """Return the SHA-256 of a few words of each layer, which tells whether two programs draw the same noise.

    The order of the layers does not matter.
    """
    digest = hashlib.sha256()
    samples, passes = np.meshgrid(_CHECKED_SAMPLES, _CHECKED_REALIZATIONS, indexing="ij")
    counters = _counters(samples.ravel(), passes.ravel())
    for layer in sorted(set(layers)):
        words = np.empty((len(_CHECKED_BLOCKS), samples.size, 4), np.uint64)
        Rows(_key(seed, layer), *counters).draw(range(len(_CHECKED_BLOCKS)), words)
        digest.update(f"{layer}\n".encode())
        digest.update(words.astype("<u8").tobytes())
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


@lru_cache(maxsize=1024)
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
    return [int(word) for word in sequence.generate_state(2, np.uint64)]


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


def _counters(samples: NDArray[np.int64], realizations: NDArray[np.int64]) -> tuple[Words, Words]:
    """Return the first two words of the counter of each sample."""
    rows, passes = samples.astype(np.uint64), realizations.astype(np.uint64)
    repeated = passes >= FIRST_CONDITIONAL
    if repeated.any():
        first = np.where(repeated, passes, rows) + np.uint64(1)
        return first, np.where(repeated, rows | _REPEATED, passes)
    return rows + np.uint64(1), np.broadcast_to(passes, rows.shape)


def _parts(n_rows: int, n_blocks: int) -> Iterator[tuple[slice, int]]:
    """Cut the rows into parts, and say of how many blocks to take at a time."""
    height = max(1, min(n_rows, _SLICE // max(1, min(n_blocks, _GROUP))))
    for start in range(0, n_rows, height):
        yield slice(start, start + height), _SLICE // height


def _box_muller(words: Words) -> tuple[_Floats, _Floats]:
    """Return two normal numbers for each word, at a place that the next call uses again."""
    # One array without gaps for every function: the same instructions, whatever the shape.
    halves = words.astype("<u8", copy=False).reshape(-1)
    radius, sine, cosine = _local.floats[:, : halves.size]
    np.copyto(radius, halves.view("<u4")[::2], casting="unsafe")
    np.copyto(sine, halves.view("<i4")[1::2], casting="unsafe")
    radius += np.float32(0.5)
    radius *= np.float32(2.0**-32)
    np.log(radius, out=radius)
    radius *= np.float32(-2.0)
    np.sqrt(radius, out=radius)
    sine *= np.float32(np.pi / 2**31)
    np.cos(sine, out=cosine)
    np.sin(sine, out=sine)
    cosine *= radius
    sine *= radius
    return cosine.reshape(words.shape), sine.reshape(words.shape)


def _lay_out(halves: tuple[_Floats, _Floats], out: _Floats) -> None:
    """Write numbers, ``(n_blocks, n_rows, 4)`` for either half of the blocks, to ``(n_rows, n_units)``."""
    n_rows, n_units = out.shape
    if n_units <= _NARROW:
        for unit in range(n_units):
            block, place = divmod(unit, _UNITS)
            out[:, unit] = halves[place // 4][block, :, place % 4]
        return
    # Four numbers move as one of 16 bytes, which is several times as fast.
    n_quads = -(-n_units // 4)
    whole = n_units % 4 == 0
    quads = out.view(np.complex128) if whole else np.empty((n_rows, n_quads), np.complex128)
    for i, half in enumerate(halves):
        quads[:, i::2] = half.view(np.complex128)[: (n_quads + 1 - i) // 2, :, 0].T
    if not whole:
        out[:] = quads.view(np.float32)[:, :n_units]
