"""Put activations that were made elsewhere into a store: no model is run, and none is needed.

`repstat.importing.plan` reads what the files declare and refuses what does not fit before anything is
written; here they are copied block by block, and those that an interrupted run has finished are kept.
`import_arrays` is long by its documentation.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from repstat.adapter import Array, Layer
from repstat.filling import checkpoint_of, remaining, told_how_to_go_on
from repstat.importing.plan import ImportPlan, plan_import, refused
from repstat.importing.recordings import Recording, as_checkpoints
from repstat.oddities import Oddities
from repstat.progress import Progress, Silent
from repstat.store import StoreWriter
from repstat.version import __version__

_EXACT = {2: 2**11, 4: 2**24, 8: 2**53}
"""Floats of so many bytes hold every integer up to this."""


def import_arrays(
    checkpoints: Mapping[int, Mapping[str, Array]] | Sequence[str | PathLike[str]] | str | PathLike[str],
    *,
    store: str | PathLike[str],
    inputs: str | PathLike[str] | Mapping[str, Array] | Array | None = None,
    labels: str | PathLike[str] | Array | Sequence[Any] | None = None,
    layers: Sequence[str] | str = (),
    steps: Sequence[int] | int | None = None,
    metrics: str | PathLike[str] | Mapping[int, Mapping[str, float]] | None = None,
    dtype: str | None = None,
    cast: bool = False,
    folder: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write activations that were made elsewhere, of a network without noise, to a store.

    Parameters
    ----------
    checkpoints
        ``{step: {layer: array}}``, each array ``(n_samples, ...)`` with the same samples in the same order;
        the first mapping gives the order of the layers, all of which are hidden ones. Or files, one per
        checkpoint: ``.npz``, ``.safetensors``, or a folder of ``.npy``; or patterns of such. The names
        ``labels``, ``inputs``, ``step`` and ``epoch`` are no layers, nor are single numbers, which become
        metrics.
    store
        Path of the store to write.
    inputs
        The samples, ``(n_samples, ...)``, a mapping or a file of them. They are not stored, only hashed and
        counted: without them H(X) is unknown, and the ceiling of I(X;T) is ln n.
    labels
        Class of each sample, or a file of them; by default the ``labels`` of the first checkpoint.
    layers
        Selectors, see `repstat.selection`; by default every array.
    steps
        Training step of each file; by default its ``step``, or the number in its name.
    metrics
        Loss, accuracy, ... by step, or a ``.csv`` of them; a metric ``epoch`` becomes the checkpoint's epoch.
    dtype
        Store activations as ``float16``, ``float32`` or ``float64`` instead of their own dtype.
    cast
        Convert integers and booleans to floating point.
    folder
        Keep one file per checkpoint in the folder `store`.
    resume, overwrite
        What to do where `store` exists: complete it, or replace it.
    progress
        Receives progress and notes.

    Returns
    -------
    Path
        The store, ready for `repstat.open_store`.

    Raises
    ------
    RepstatError
        One of its kinds; the message says what was found, what was expected and what to do.
    """
    plan = plan_import(
        as_checkpoints(checkpoints),
        inputs=inputs,
        labels=labels,
        layers=[layers] if isinstance(layers, str) else layers,
        steps=steps,
        metrics=metrics,
        dtype=dtype,
        cast=cast,
        mapped=list(checkpoints) if isinstance(checkpoints, Mapping) else None,
    )
    for note in plan.notes:
        (progress or Silent()).note(note)
    return run_import(plan, store, folder=folder, resume=resume, overwrite=overwrite, progress=progress)


def run_import(
    plan: ImportPlan,
    output: str | PathLike[str],
    *,
    folder: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Copy what is missing of `plan` and write the store; return its path.

    Raises
    ------
    UsageError
        `output` exists and neither `resume` nor `overwrite` is given.
    InputRefusedError
        A file is damaged, or a value cannot be held by the dtype asked for.
    ResourceError, LockedError
        No space, or another process writes the same store.
    """
    progress = progress or Silent()
    hashes = {step: recording.sha256() for step, recording in zip(plan.steps, plan.recordings, strict=True)}
    writer = StoreWriter(
        Path(output),
        samples=plan.samples,
        layers=plan.layers,
        steps=plan.steps,
        identity=plan.identity,
        folder=folder,
        resume=resume,
        overwrite=overwrite,
        checkpoint_sha256=hashes,
    )
    with writer:
        todo = remaining(writer, output, zip(plan.recordings, plan.steps, strict=True), progress)
        if todo is None:
            return Path(output)
        progress.start("importing", len(todo) * len(plan.layers) * plan.samples.n, "activations")
        oddities = Oddities(plan.layers)
        sources = [str(recording.path or recording.name) for recording in plan.recordings]
        for recording, step in todo:
            with told_how_to_go_on(writer, sources, plan.steps, step):
                _record(plan, writer, recording, step, hashes[step], progress, oddities)
        for note in oddities.notes(writer.records, plan.samples.n):
            progress.note(note)
        return writer.finish()


def _record(
    plan: ImportPlan,
    writer: StoreWriter,
    recording: Recording,
    step: int,
    sha256: str,
    progress: Progress,
    oddities: Oddities,
) -> None:
    """Copy one checkpoint and commit it."""
    checkpoint = checkpoint_of(
        step,
        plan.metrics[step],
        source=recording.name,
        sha256=sha256,
        provenance={
            "repstat": __version__,
            "command": plan.command,
            "import": {"source": recording.name, "sha256": sha256},
        },
    )
    with writer.checkpoint(checkpoint) as part, oddities.watch(step) as seen:
        for layer in plan.layers:
            for block in recording.layers[layer.name].blocks():
                values = _converted(block, layer, recording, step)
                part.write(layer.key, values)
                seen[layer.key].add(values)
                progress.advance(len(block))


def _converted(block: Array, layer: Layer, recording: Recording, step: int) -> Array:
    """Return a block in the layer's dtype, or refuse values that it does not hold."""
    if block.dtype == layer.dtype:
        return block
    if block.dtype.kind in "iu":
        exact = _EXACT[layer.dtype.itemsize]
        lost = block.size and max(int(block.max()), -int(block.min())) > exact
        why = f"integers above {exact} are not all distinct in {layer.dtype}"
        converted = block.astype(layer.dtype)
    else:
        with np.errstate(over="ignore"):
            converted = block.astype(layer.dtype)
        lost = bool(np.any(np.isinf(converted) & np.isfinite(block)))
        why = f"some values exceed the range of {layer.dtype}"
    if lost:
        raise refused(recording, layer.name, f"{why} (step {step})", "Choose a wider --dtype")
    return converted
