"""The samples that are run through a model, and their labels: read, checked against the model, hashed.

Accepted are ``.npy`` (memory-mapped), ``.npz`` (keys are the model's input names, or ``inputs`` and
``labels``), ``FILE.h5:DATASET`` and ``.csv``; never a pickle. Without inputs, `synthetic_inputs` draws
standard normal ones and says so.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.adapter import Array, InputSpec, is_numeric
from repstat.datasets import refuse_dataset
from repstat.errors import InputRefusedError

SYNTHETIC_SAMPLES = 1024
FREE_LENGTH = 8
"""Length given to a free axis (other than the batch) of a synthetic input."""
MAX_IDS = 8
"""Synthetic integer inputs are drawn below this, small enough for any vocabulary."""
BLOCK_BYTES = 1 << 24
EXACT_INTEGERS = 2**53
"""Floats of this size and above no longer tell neighbouring integers apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Checked samples, ready to be fed to a model.

    Parameters
    ----------
    arrays
        By input name, each ``(n_samples, ...)`` on the model's batch-first view.
    labels
        Integer class of each sample, or None.
    class_names
        Names of the classes where the labels were strings.
    source
        Where they come from, for people.
    synthetic
        Whether repstat drew them.
    cast
        Whether integers are converted to floating point.
    notes
        What was converted on the way.
    """

    arrays: Mapping[str, Array]
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    source: str
    synthetic: bool = False
    cast: bool = False
    notes: tuple[str, ...] = ()

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))

    def batch(self, specs: Sequence[InputSpec], start: int, stop: int) -> dict[str, Array]:
        """Return samples ``start:stop`` in the model's dtypes, native byte order and batch axis."""
        return {
            spec.name: np.ascontiguousarray(np.moveaxis(self._cut(spec, start, stop), 0, spec.batch_axis))
            for spec in specs
        }

    def _cut(self, spec: InputSpec, start: int, stop: int) -> Array:
        rows = self.arrays[spec.name][start:stop]
        return np.asarray(rows, _fed_dtype(spec, rows.dtype, cast=self.cast))

    def rows(self, specs: Sequence[InputSpec], rows: NDArray[np.int64]) -> dict[str, Array]:
        """Return chosen samples, increasing and perhaps repeated, as `batch` does."""
        start, stop = int(rows[0]), int(rows[-1]) + 1
        batch = self.batch(specs, start, stop)
        return {
            spec.name: np.ascontiguousarray(np.take(batch[spec.name], rows - start, axis=spec.batch_axis))
            for spec in specs
        }

    def digest(self) -> tuple[str, float]:
        """Return the SHA-256 of all inputs and the entropy H(X) of the multiset of samples, in nats.

        H(X) is ln n when all samples differ; duplicates lower it, and with it the ceiling of I(X;T).
        """
        whole = hashlib.sha256()
        rows: dict[bytes, int] = {}
        for name in sorted(self.arrays):
            array = self.arrays[name]
            whole.update(f"{name}|{array.dtype.newbyteorder('=').str}|{array.shape}".encode())
        names = sorted(self.arrays)
        for start, stop in self._blocks():
            parts = [self._bytes(name, start, stop) for name in names]
            for part in parts:
                whole.update(part.tobytes())
            for row in zip(*parts, strict=True):
                key = hashlib.blake2b(b"".join(r.tobytes() for r in row), digest_size=16).digest()
                rows[key] = rows.get(key, 0) + 1
        counts = np.fromiter(rows.values(), dtype=np.float64)
        total = self.n_samples
        return whole.hexdigest(), float(np.log(total) - counts @ np.log(counts) / total)

    def _blocks(self) -> Sequence[tuple[int, int]]:
        per_sample = sum(a.dtype.itemsize * int(np.prod(a.shape[1:])) for a in self.arrays.values())
        size = max(1, BLOCK_BYTES // max(per_sample, 1))
        return [(s, min(s + size, self.n_samples)) for s in range(0, self.n_samples, size)]

    def _bytes(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        block = np.asarray(self.arrays[name][start:stop])
        if block.dtype.kind == "f":
            block = block + 0.0  # -0.0 and 0.0 are one input
        block = np.ascontiguousarray(block, block.dtype.newbyteorder("="))
        return block.reshape(len(block), -1).view(np.uint8)


def as_arrays(inputs: Mapping[str, Any] | Any, source: str, names: Sequence[str] = ()) -> dict[str, Array]:
    """Return what a caller gives as arrays by name; one alone is called ``inputs``.

    Parameters
    ----------
    inputs
        One array, or several by name.
    source
        Where they come from, for messages.
    names
        The model's inputs, if it has several.

    Raises
    ------
    InputRefusedError
        It is a list where the model has several inputs, cannot be read as an array (a tensor with a gradient,
        say), is masked, or is a data set.
    """
    if isinstance(inputs, list | tuple) and len(names) > 1:
        keys = ", ".join(f"{name!r}: ..." for name in names)
        raise InputRefusedError(
            what="the inputs have no names",
            path=source,
            why=f"found a {type(inputs).__name__} of {len(inputs)}, and the model has {len(names)} inputs",
            fix=f"Pass a dictionary of arrays by input name, {{{keys}}}",
        )
    arrays = {}
    for name, value in (inputs if isinstance(inputs, Mapping) else {"inputs": inputs}).items():
        if isinstance(value, np.ma.MaskedArray):
            raise InputRefusedError(
                what=f"input {name!r} is masked",
                path=source,
                why="a model does not see the mask",
                fix="Select the samples first and pass a plain array",
            )
        refuse_dataset(value, f"input {name!r}", source)
        try:
            arrays[name] = np.asanyarray(value)
        except (TypeError, ValueError, RuntimeError) as error:  # a tensor says what it lacks
            raise InputRefusedError(
                what=f"input {name!r} cannot be read as an array",
                path=source,
                why=" ".join(str(error).split()),
                fix="Pass arrays of shape (samples, ...); of a PyTorch tensor, x.detach().cpu().float()",
            ) from None
    return arrays


def synthetic_inputs(
    specs: Sequence[InputSpec], *, n_samples: int = SYNTHETIC_SAMPLES, seed: int = 0
) -> Inputs:
    """Draw standard normal inputs (small non-negative ids for integer inputs) from a model's signature."""
    rng = np.random.default_rng(np.random.SeedSequence([0x72657073, seed]))
    arrays: dict[str, Array] = {}
    notes = []
    for spec in specs:
        shape = (n_samples, *(FREE_LENGTH if n is None else n for n in spec.sample_shape))
        if not spec.declared:
            notes.append(
                f"the model does not say what input {spec.name!r} is: {spec.dtype} of shape {shape[1:]} was "
                "guessed from its weights"
            )
        elif None in spec.sample_shape:
            notes.append(f"free lengths of input {spec.name!r} were set to {FREE_LENGTH}: {shape[1:]}")
        if spec.dtype.kind == "f":
            arrays[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        elif spec.dtype.kind == "b":
            arrays[spec.name] = rng.integers(0, 2, shape).astype(bool)
        elif spec.dtype.kind in "iu":
            arrays[spec.name] = rng.integers(0, MAX_IDS, shape).astype(spec.dtype)
            notes.append(f"integer input {spec.name!r} was drawn from 0 to {MAX_IDS - 1}")
        else:
            raise InputRefusedError(
                what=f"cannot draw synthetic values for input {spec.name!r}",
                why=f"its dtype is {spec.dtype}",
                fix="Give samples with --inputs",
            )
    source = f"{n_samples} synthetic samples, seed {seed}"
    return Inputs(arrays=arrays, source=source, synthetic=True, notes=tuple(notes))


def check_inputs(
    arrays: Mapping[str, Array], specs: Sequence[InputSpec], *, source: str, cast: bool = False
) -> Inputs:
    """Check arrays against a model's inputs.

    Parameters
    ----------
    arrays
        By input name, each ``(n_samples, ...)``. One array under the name ``inputs`` (or ``x``) stands for
        the only input of a model that has just one.
    specs
        The model's inputs.
    source
        Where the arrays come from, for messages and provenance.
    cast
        Also convert integers to floating point.

    Raises
    ------
    InputRefusedError
        A name, shape or dtype does not fit the model; no samples; not as many in one input as in another.
    """
    arrays = _by_name(arrays, specs, source)
    notes = []
    for spec in specs:
        array = arrays[spec.name]
        _check_numeric(array, spec, source)
        _check_shape(array, spec, source)
        if note := _check_dtype(array, spec, source, cast=cast):
            notes.append(note)
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InputRefusedError(
            what="the inputs do not have the same number of samples",
            path=source,
            why=", ".join(f"{name} has {n}" for name, n in lengths.items()),
            fix="Give every input the same samples in the same order",
        )
    if 0 in lengths.values():
        raise InputRefusedError(
            what="there are no samples", path=source, why="found 0", fix="Give at least one"
        )
    return Inputs(arrays=arrays, source=source, cast=cast, notes=tuple(notes))


def with_labels(inputs: Inputs, labels: Array | Sequence[Any] | None, source: str = "labels") -> Inputs:
    """Attach one label per sample: integers, booleans, whole floats, or strings.

    Raises
    ------
    InputRefusedError
        Labels of another length, shape or kind.
    """
    if labels is None:
        return inputs
    classes, names = label_classes(labels, inputs.n_samples, source)
    return replace(inputs, labels=classes, class_names=names)


def label_classes(
    labels: Array | Sequence[Any], n_samples: int, source: str = "labels"
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the class of each sample, ``(n_samples,)``, and the names of the classes if labels are strings.

    Raises
    ------
    InputRefusedError
        Labels of another length, shape or kind.
    """
    refuse_dataset(labels, "what is given for labels", source)
    array = np.asarray(labels)
    if array.ndim == 2 and 1 in array.shape:
        array = array.ravel()
    if array.ndim != 1:
        raise InputRefusedError(
            what="labels have the wrong shape",
            path=source,
            why=f"found {array.shape}, expected ({n_samples},)",
            fix="Give one class per sample; turn one-hot rows into classes with argmax(axis=1)",
        )
    if len(array) != n_samples:
        raise InputRefusedError(
            what="labels have another length than the inputs",
            path=source,
            why=f"found {len(array)} labels for {n_samples} samples",
            fix="Give one label per sample, in the same order",
        )
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind == "U":
        names, classes = np.unique(array, return_inverse=True)
        return classes.astype(np.int64), tuple(names.tolist())
    whole = array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.floor(array)).all()
    large = array.dtype.kind in "uf" and array.size and np.abs(array).max() >= EXACT_INTEGERS
    if not (whole or array.dtype.kind in "iub") or large:
        raise InputRefusedError(
            what="labels are not classes",
            path=source,
            why=f"found {array.dtype} values{' of 2^53 and above' if large else ''}, expected whole numbers",
            fix="Give the class of each sample; bin a continuous target first",
        )
    return array.astype(np.int64), ()


def _by_name(arrays: Mapping[str, Array], specs: Sequence[InputSpec], source: str) -> dict[str, Array]:
    names = [spec.name for spec in specs]
    if len(names) == 1 and len(arrays) == 1 and next(iter(arrays)) in {"inputs", "x", "X", "arr_0"}:
        return {names[0]: next(iter(arrays.values()))}
    missing = [name for name in names if name not in arrays]
    extra = [name for name in arrays if name not in names]
    if missing or extra:
        close = get_close_matches(extra[0], names, n=1, cutoff=0.4) if extra and missing else []
        raise InputRefusedError(
            what="the inputs do not have the model's names",
            path=source,
            why=f"found {', '.join(map(repr, arrays)) or 'none'}, expected {', '.join(map(repr, names))}",
            fix=f"Rename {extra[0]!r} to {close[0]!r}" if close else "Use the model's input names as keys",
        )
    return {name: arrays[name] for name in names}


def _shape_text(shape: Sequence[int | str | None]) -> str:
    inner = ", ".join("?" if n is None else str(n) for n in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def _check_shape(array: Array, spec: InputSpec, source: str) -> None:
    if not spec.declared and array.ndim:
        return
    expected: tuple[int | None, ...] = (None, *spec.sample_shape)
    fits = array.ndim == len(expected) and all(
        want is None or have == want for have, want in zip(array.shape, expected, strict=True)
    )
    if not fits:
        raise InputRefusedError(
            what=f"input {spec.name!r} has the wrong shape",
            path=source,
            why=f"found {array.shape}, expected {_shape_text(('samples', *spec.sample_shape))}",
            fix="Reshape the samples to what the model takes",
        )


def _check_numeric(array: Array, spec: InputSpec, source: str) -> None:
    if not is_numeric(array.dtype) and array.dtype != spec.dtype:
        raise InputRefusedError(
            what=f"input {spec.name!r} has the wrong dtype",
            path=source,
            why=f"found {array.dtype}, expected {spec.dtype}",
            fix=f"Save the samples as {spec.dtype}",
        )


def _fed_dtype(spec: InputSpec, have: np.dtype[Any], *, cast: bool) -> np.dtype[Any]:
    """Return what samples are converted to: where the model declares nothing, only from float to float."""
    both_float = have.kind == spec.dtype.kind == "f"
    if spec.declared or both_float or (cast and spec.dtype.kind == "f" and have.kind in "iub"):
        return spec.dtype
    return have.newbyteorder("=")


def _check_dtype(array: Array, spec: InputSpec, source: str, *, cast: bool) -> str:
    """Refuse a conversion that could change the meaning; return a note about one that was made."""
    have, want = array.dtype.newbyteorder("="), _fed_dtype(spec, array.dtype, cast=cast)
    if have == want:
        return ""
    both_float = have.kind == "f" and want.kind == "f"
    widening = np.can_cast(have, want, "safe") and have.kind == want.kind
    integers = have.kind in "iu" and want.kind in "iu" and _fits(array, want)
    to_float = want.kind == "f" and have.kind in "iub" and cast
    if both_float or widening or integers or to_float:
        return f"input {spec.name!r} was converted from {have} to {want}"
    to_cast = want.kind == "f" and have.kind in "iub"
    raise InputRefusedError(
        what=f"input {spec.name!r} has the wrong dtype",
        path=source,
        why=f"found {have}, expected {want}",
        fix="Pass --cast to convert the values as they are; scale them first if the model was trained on scaled values"  # noqa: E501
        if to_cast
        else f"Save the samples as {want}",
    )


def _fits(array: Array, want: np.dtype[Any]) -> bool:
    limits = np.iinfo(want)
    return bool(array.size == 0 or (int(array.min()) >= limits.min and int(array.max()) <= limits.max))
