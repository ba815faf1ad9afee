"""Batches: what one must look like, chosen samples of it, and random ones to try a model out."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

import numpy as np

from repstat.adapter import Array, InputSpec, is_numeric
from repstat.errors import InputRefusedError

FREE_LENGTHS = (8, 32, 224)
"""Lengths tried for the free axes of a probe, in this order."""
ID_LIMITS = (16, 2)
"""Integer probes stay below these, in this order: within any vocabulary, then within a flag."""
_PROBE_SEED = 20_170_302


def check_feeds(feeds: Mapping[str, Array], specs: Sequence[InputSpec]) -> tuple[dict[str, Array], int]:
    """Return a batch in native byte order and C order, and its number of samples.

    An input of rank 0 takes either one number or one per sample, all the same.

    Raises
    ------
    InputRefusedError
        A name, dtype or shape does not fit, or inputs differ in their number of samples.
    """
    names = [spec.name for spec in specs]
    _check_names(list(feeds), names)
    checked, lengths = {}, {}
    for spec in specs:
        array = np.asarray(feeds[spec.name])
        numeric = is_numeric(array.dtype)
        native = array.dtype.newbyteorder("=") if numeric else array.dtype
        strict = spec.declared or native.kind == spec.dtype.kind == "f" or not numeric
        if native != spec.dtype and strict:
            raise InputRefusedError(
                what=f"input {spec.name!r} has the wrong dtype",
                why=f"found {native}, expected {spec.dtype}",
                fix=f"Convert the samples to {spec.dtype}",
            )
        array = np.ascontiguousarray(array, native) if array.ndim else array.astype(native)
        if spec.declared and not spec.shape:
            array, length = _scalar(array, spec)
        else:
            _check_shape(array, spec)
            length = array.shape[spec.batch_axis]
        checked[spec.name] = array
        if length is not None:
            lengths[spec.name] = length
    if len(set(lengths.values())) > 1:
        raise InputRefusedError(
            what="the inputs differ in their number of samples",
            why=", ".join(f"{name} has {n}" for name, n in lengths.items()),
            fix="Give every input the same samples",
        )
    return checked, next(iter(lengths.values()), 1)


def _check_names(found: Sequence[str], expected: Sequence[str]) -> None:
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if missing or extra:
        close = [c for name in extra for c in get_close_matches(name, expected, n=1, cutoff=0.4)]
        raise InputRefusedError(
            what="the inputs do not have the model's names",
            why=f"found {', '.join(map(repr, found)) or 'none'}, expected {', '.join(map(repr, expected))}",
            fix=f"Did you mean {close[0]!r}?" if close else "Use the model's input names",
        )


def _scalar(array: Array, spec: InputSpec) -> tuple[Array, int | None]:
    if array.ndim == 0:
        return array, None
    if array.ndim == 1 and len(array) and (array == array[0]).all():
        return array[0:1].reshape(()), len(array)
    raise InputRefusedError(
        what=f"input {spec.name!r} is one number for the whole batch",
        why=f"found an array of shape {array.shape}, expected a scalar or equal values",
        fix="Give the same value for every sample",
    )


def _check_shape(array: Array, spec: InputSpec) -> None:
    expected = [None if i == spec.batch_axis else n for i, n in enumerate(spec.shape)]
    fits = array.ndim == len(expected) and all(
        want in (None, have) for have, want in zip(array.shape, expected, strict=True)
    )
    fits = fits or (not spec.declared and array.ndim > spec.batch_axis)
    if not fits:
        words = ["samples" if i == spec.batch_axis else str(n or "?") for i, n in enumerate(spec.shape)]
        raise InputRefusedError(
            what=f"input {spec.name!r} has the wrong shape",
            why=f"found {array.shape}, expected ({', '.join(words)})",
            fix="Reshape the samples to what the model takes",
        )


def differences(spec: InputSpec, array: Array) -> Iterator[str]:
    """Say how a batch differs from what the model's weights suggest."""
    if spec.declared:
        return
    if array.dtype != spec.dtype:
        yield f"input {spec.name!r} may have the wrong dtype: found {array.dtype}, expected {spec.dtype}"
    as_guessed = len(spec.shape) == array.ndim and all(
        want in (None, have) for want, have in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not as_guessed:
        words = ", ".join(["samples", *(str(n or "?") for n in spec.shape[1:])])
        yield f"input {spec.name!r} may have the wrong shape: found {array.shape}, expected ({words})"


def take(feeds: Mapping[str, Array], specs: Sequence[InputSpec], rows: Sequence[int]) -> dict[str, Array]:
    """Return chosen samples of a batch."""
    index = np.asarray(rows, dtype=np.intp)
    return {
        spec.name: np.ascontiguousarray(np.take(feeds[spec.name], index, axis=spec.batch_axis))
        if spec.shape
        else feeds[spec.name]
        for spec in specs
    }


def n_samples(feeds: Mapping[str, Array], specs: Sequence[InputSpec]) -> int:
    """Return the number of samples in a batch."""
    return min((feeds[s.name].shape[s.batch_axis] for s in specs if s.shape), default=1)


def chunks(n: int, batch: int | None) -> Iterator[tuple[int, int, Sequence[int] | None]]:
    """Yield start, stop and rows to run; rows past the end repeat the last one; None is the batch."""
    if batch is None:
        yield from [(0, n, None)] if n else []
        return
    for start in range(0, n, batch):
        rows = [min(row, n - 1) for row in range(start, start + batch)]
        yield start, min(start + batch, n), rows


def draw_probes(specs: Sequence[InputSpec], n: int) -> Iterator[dict[str, Array]]:
    """Batches of `n` random samples to try in turn: longer free axes, then smaller integers."""
    free = any(None in spec.sample_shape for spec in specs)
    ids = any(spec.dtype.kind in "iu" for spec in specs)
    for limit in ID_LIMITS if ids else ID_LIMITS[:1]:
        for length in FREE_LENGTHS if free else FREE_LENGTHS[:1]:
            rng = np.random.default_rng(_PROBE_SEED)
            yield {spec.name: _draw(spec, n, length, limit, rng) for spec in specs}


def _draw(spec: InputSpec, n: int, length: int, limit: int, rng: np.random.Generator) -> Array:
    shape = [length if k is None else k for k in spec.shape]
    if shape:
        shape[spec.batch_axis] = n
    if spec.dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape), dtype=spec.dtype)
    return np.asarray(rng.integers(0, 2 if spec.dtype.kind == "b" else limit, shape), dtype=spec.dtype)
