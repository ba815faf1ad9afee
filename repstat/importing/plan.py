"""Check activations that were made elsewhere before anything is written, and say how much that will be.

`plan_import` is long by its signature.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.adapter import Array, Layer
from repstat.errors import InputRefusedError, UsageError
from repstat.files import read_data
from repstat.importing.recordings import Recording
from repstat.inputs import Inputs, as_arrays, label_classes
from repstat.plan import STORED_DTYPES, unmatched_metrics
from repstat.selection import select_layers
from repstat.steps import assign_steps
from repstat.store import Samples, predicted_bytes
from repstat.tensors import Tensor
from repstat.version import __version__

UNKNOWN_INPUTS = "unknown (activations made elsewhere)"
"""What the store says of inputs that nobody gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """An import that was checked and can be run."""

    recordings: tuple[Recording, ...]
    steps: tuple[int, ...]
    metrics: Mapping[int, Mapping[str, float]]
    samples: Samples
    layers: tuple[Layer, ...]
    dtype: str | None
    command: str = ""
    notes: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Size of the store that will be written."""
        return predicted_bytes(self.samples.n, self.layers, len(self.steps), 1, None)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What two imports must share for one to resume the other."""
        return {
            "repstat": __version__,
            "made_by": "import",
            "inputs_sha256": self.samples.inputs_sha256,
            "layers": [
                f"{x.key} {x.signature} {'x'.join(map(str, x.unit_shape))} {x.dtype.name}"
                for x in self.layers
            ],
            "dtype": self.dtype or "native",
        }


def plan_import(
    recordings: Sequence[Recording],
    *,
    inputs: str | PathLike[str] | Mapping[str, Array] | Array | None = None,
    labels: str | PathLike[str] | Array | Sequence[Any] | None = None,
    layers: Sequence[str] = (),
    steps: Sequence[int] | int | None = None,
    metrics: str | PathLike[str] | Mapping[int, Mapping[str, float]] | None = None,
    dtype: str | None = None,
    cast: bool = False,
    mapped: Sequence[int] | None = None,
    command: str = "",
) -> ImportPlan:
    """Check that the checkpoints fit each other, and labels and inputs fit them.

    Parameters are those of `import_arrays`; `mapped` are the steps of arrays in memory.

    Raises
    ------
    UsageError, InputRefusedError
        Something does not fit; the message says what.
    """
    if dtype is not None and dtype not in STORED_DTYPES:
        raise UsageError(
            what=f"cannot store activations as {dtype!r}", fix=f"Choose {', '.join(STORED_DTYPES)}"
        )
    data = read_data(inputs, labels, metrics)
    recordings, steps = _in_order(recordings, steps if mapped is None else _only(mapped, steps))
    first = recordings[0]
    found = tuple(_layer(i, tensor) for i, tensor in enumerate(first.layers.values()))
    chosen = tuple(
        replace(layer, dtype=_stored_dtype(first, first.layers[layer.name], dtype, cast=cast))
        for layer in select_layers(found, layers)
    )
    n_samples = _n_samples(first, chosen)
    for recording in recordings[1:]:
        _check_same_layers(first, recording, chosen, n_samples)
    classes, class_names = _labels(recordings, data.labels, n_samples, data.labels_source)
    digest, entropy, source = _inputs(recordings, data.inputs, n_samples, data.inputs_source)
    samples = Samples(
        index=np.arange(n_samples, dtype=np.int64),
        labels=classes,
        inputs_sha256=digest,
        inputs_source=source,
        class_names=class_names,
        input_entropy=entropy,
    )
    merged = {
        step: {**recording.metrics, **data.metrics.get(step, {})}
        for step, recording in zip(steps, recordings, strict=True)
    }
    return ImportPlan(
        recordings=recordings,
        steps=steps,
        metrics=merged,
        samples=samples,
        layers=chosen,
        dtype=dtype,
        command=command,
        notes=(
            *dict.fromkeys(note for recording in recordings for note in recording.notes),
            *_conversions(chosen),
            *unmatched_metrics(data.metrics, steps),
        ),
    )


def _in_order(
    recordings: Sequence[Recording], given: Sequence[int] | int | None
) -> tuple[tuple[Recording, ...], tuple[int, ...]]:
    """Return recordings and steps sorted by step."""
    inside = [recording.step for recording in recordings]
    if given is None and any(step is not None for step in inside):
        silent = [recording.name for recording in recordings if recording.step is None]
        if silent:
            raise UsageError(
                what="some files say their step and some do not",
                why=f"there is no array 'step' in {', '.join(silent[:3])}",
                fix="Add it there, or give --steps 0,100,...",
            )
        given = [step for step in inside if step is not None]
    steps = assign_steps([Path(r.path or r.name) for r in recordings], given, noun="checkpoint")
    order = sorted(range(len(steps)), key=lambda i: steps[i])
    return tuple(recordings[i] for i in order), tuple(steps[i] for i in order)


def _only(mapped: Sequence[int], steps: Sequence[int] | int | None) -> Sequence[int]:
    if steps is not None:
        raise UsageError(
            what="steps are given twice",
            why="the mapping has them as keys",
            fix="Leave out the argument steps",
        )
    return mapped


def _layer(position: int, tensor: Tensor) -> Layer:
    return Layer(
        key=f"L{position:03d}",
        name=tensor.name,
        op="array",
        kind="hidden",
        unit_shape=tensor.shape[1:],
        dtype=tensor.dtype,
        source_dtype=tensor.source_dtype,
        signature=tensor.name,
        target=tensor.name,
    )


def _stored_dtype(recording: Recording, tensor: Tensor, dtype: str | None, *, cast: bool) -> np.dtype[Any]:
    """Return the dtype in the store, or refuse numbers that are no activations."""
    kind, size = tensor.dtype.kind, tensor.dtype.itemsize
    if kind == "f" and (dtype or size <= 8):
        return np.dtype(dtype) if dtype else tensor.dtype
    if kind in "iub" and cast:
        return np.dtype(dtype or ("float32" if size <= 2 else "float64"))
    fix = f"Leave it out with --layers '-{tensor.name}'"
    if kind == "f":
        fix = "Pass --dtype float64"
    elif kind in "iub":
        fix += ", name it 'labels' if it is the class of each sample, or pass --cast to convert it"
    elif kind == "c":
        fix += ", or save real and imaginary parts as units of their own"
    elif kind == "V":
        fix += ", or save it as float32; NumPy has no name for bfloat16 and float8"
    raise refused(
        recording, tensor.name, f"found {tensor.source_dtype}, expected float16, float32 or float64", fix
    )


def _n_samples(recording: Recording, layers: Sequence[Layer]) -> int:
    """Return the number of samples, which all layers must share."""
    first = recording.layers[layers[0].name]
    for layer in layers:
        tensor = recording.layers[layer.name]
        if 0 in tensor.shape:
            why = f"its shape is {tensor.shape}, expected (samples, ...) with at least one of each"
            raise refused(recording, layer.name, why, f"Leave it out with --layers '-{layer.name}'")
        if tensor.shape[0] != first.shape[0]:
            raise refused(
                recording, layer.name,
                f"it has {tensor.shape[0]} samples, and {first.name!r} has {first.shape[0]}",
                f"Put the samples on the first axis, or leave it out with --layers '-{layer.name}'",
            )  # fmt: skip
    return first.shape[0]


def _check_same_layers(
    first: Recording, recording: Recording, layers: Sequence[Layer], n_samples: int
) -> None:
    """Refuse a checkpoint whose layers are not those of the first one."""
    if recording.layers.keys() != first.layers.keys():
        lacks = [repr(name) for name in first.layers if name not in recording.layers]
        more = [repr(name) for name in recording.layers if name not in first.layers]
        words = [f"it lacks {', '.join(lacks[:5])}"] if lacks else []
        words += [f"it has {', '.join(more[:5])} besides"] if more else []
        raise _differs(first, recording, "", " and ".join(words))
    for layer in layers:
        have, want = recording.layers[layer.name], first.layers[layer.name]
        shape = (n_samples, *layer.unit_shape)
        if have.shape != shape or have.source_dtype != want.source_dtype:
            why = f"found {have.source_dtype} {have.shape}, expected {want.source_dtype} {shape}"
            raise _differs(first, recording, layer.name, why)


def _differs(first: Recording, recording: Recording, layer: str, why: str) -> InputRefusedError:
    return InputRefusedError(
        what=f"the arrays differ from those of {first.name}",
        path=recording.path or recording.name,
        place=repr(layer)[:200] if layer else "",
        why=why,
        fix="Import checkpoints of one network and the same samples; other ones into a store of their own",
    )


def _labels(
    recordings: Sequence[Recording], labels: Array | Sequence[Any] | None, n_samples: int, source: str
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Return the class of each sample: as given, or as the files agree on."""
    if labels is not None:
        return label_classes(labels, n_samples, source)
    known: tuple[NDArray[np.int64], tuple[str, ...]] | None = None
    holder = recordings[0]
    for recording in recordings:
        if recording.labels is None:
            continue
        place = str(recording.path or recording.name)
        if int(np.prod(recording.labels.shape)) != n_samples:
            raise refused(
                recording, recording.labels.name,
                f"found labels of shape {recording.labels.shape} for {n_samples} samples",
                "Save one class per sample; turn one-hot rows into classes with argmax(axis=1)",
            )  # fmt: skip
        found = label_classes(recording.labels.read(), n_samples, place)
        if known is not None and (known[1] != found[1] or not np.array_equal(known[0], found[0])):
            raise refused(
                recording, recording.labels.name, f"its labels are not those of {holder.name}",
                "Save the same samples in the same order at every checkpoint, or give --labels",
            )  # fmt: skip
        if known is None:
            known, holder = found, recording
    return known or (None, ())


def _inputs(
    recordings: Sequence[Recording],
    inputs: Mapping[str, Array] | Array | None,
    n_samples: int,
    source: str,
) -> tuple[str, float | None, str]:
    """Return hash, entropy and origin of the inputs."""
    if inputs is not None:
        return (*_digest(as_arrays(inputs, source), n_samples, source), source)
    digest, entropy, source = "", None, UNKNOWN_INPUTS
    for recording in recordings:
        if recording.inputs is None:
            continue
        place = str(recording.path or recording.name)
        here, h_x = _digest({"inputs": recording.inputs.read()}, n_samples, place)
        if digest and here != digest:
            raise refused(
                recording, "inputs", f"they are not those of {source}",
                "Save the same samples in the same order at every checkpoint",
            )  # fmt: skip
        if not digest:
            digest, entropy, source = here, h_x, recording.name
    return digest, entropy, source


def _digest(arrays: Mapping[str, Array], n_samples: int, source: str) -> tuple[str, float]:
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" or array.ndim == 0 or len(array) != n_samples:
            raise InputRefusedError(
                what="the inputs do not fit the activations",
                path=source,
                place=repr(name)[:200],
                why=f"found {array.dtype} {array.shape}, expected numbers of shape ({n_samples}, ...)",
                fix="Give the samples whose activations these are, in the same order",
            )
    return Inputs(arrays=arrays, source=source).digest()


def _conversions(layers: Sequence[Layer]) -> list[str]:
    """Return a note for each kind of conversion."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for layer in layers:
        if layer.source_dtype != layer.dtype.name:
            kinds.setdefault((layer.source_dtype, layer.dtype.name), []).append(layer.name)
    return [
        f"{', '.join(names[:5])}{' and more' if len(names) > 5 else ''} converted from {have} to {want}"
        for (have, want), names in kinds.items()
    ]


def refused(recording: Recording, name: str, why: str, fix: str) -> InputRefusedError:
    """Return the error of one array that cannot be imported."""
    return InputRefusedError(
        what="cannot import the array",
        path=recording.path or recording.name,
        place=repr(name)[:200],
        why=why,
        fix=fix,
    )
