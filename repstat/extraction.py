"""Run the samples through every checkpoint of a training and record the hidden activations in a store.

Two steps: `plan_extraction` opens the first model, checks everything against it and says how many bytes will
be written; `run_extraction` computes and writes what is missing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan, nan
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from repstat.adapter import Adapter, AdapterOptions, Array, InputSpec, Layer
from repstat.discovery import open_model
from repstat.errors import InputRefusedError, UsageError
from repstat.inputs import Inputs, check_inputs, synthetic_inputs, with_labels
from repstat.progress import Progress, Silent
from repstat.selection import select_layers
from repstat.steps import assign_steps
from repstat.store import Checkpoint, Samples, StoreWriter, predicted_bytes
from repstat.version import __version__

BATCH_BYTES = 1 << 26
"""Inputs and activations of one batch stay below this; the runtime needs a few times as much."""
MAX_BATCH = 4096
PROBE_SAMPLES = 3
STORED_DTYPES = ("float16", "float32", "float64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An extraction that was checked against its first model and can be run."""

    models: tuple[Any, ...]
    steps: tuple[int, ...]
    metrics: Mapping[int, Mapping[str, float]]
    inputs: Inputs
    inputs_sha256: str
    input_entropy: float
    layers: tuple[Layer, ...]
    dtype: str | None
    batch_size: int
    seed: int
    options: AdapterOptions
    command: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def n_bytes(self) -> int:
        """Size of the store that will be written."""
        return predicted_bytes(self.inputs.n_samples, self.layers, len(self.models))

    @property
    def samples(self) -> Samples:
        """The store's table of samples."""
        return Samples(
            index=np.arange(self.inputs.n_samples, dtype=np.int64),
            labels=self.inputs.labels,
            inputs_sha256=self.inputs_sha256,
            inputs_source=self.inputs.source,
            synthetic=self.inputs.synthetic,
            class_names=self.inputs.class_names,
            input_entropy=self.input_entropy,
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        """What two extractions must share for one to resume the other."""
        return {
            "inputs_sha256": self.inputs_sha256,
            "layers": [
                f"{x.key} {x.signature} {'x'.join(map(str, x.unit_shape))} {x.dtype.name}"
                for x in self.layers
            ],
            "opt_level": self.options.opt_level,
            "provider": self.options.provider,
            "dtype": self.dtype or "native",
            "synthetic": self.inputs.synthetic,
        }


def plan_extraction(
    models: Sequence[Any],
    inputs: Mapping[str, Array] | Array | None = None,
    *,
    labels: Array | Sequence[Any] | None = None,
    layers: Sequence[str] = (),
    steps: Sequence[int] | None = None,
    metrics: Mapping[int, Mapping[str, float]] | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    cast: bool = False,
    seed: int = 0,
    options: AdapterOptions | None = None,
    inputs_source: str = "arrays",
    labels_source: str = "labels",
    command: str = "",
) -> Plan:
    """Open the first model and check inputs, labels, layers and steps against it.

    Parameters are those of `extract`.

    Raises
    ------
    UsageError, InputRefusedError
        Something does not fit; the message says what.
    """
    if not models:
        raise UsageError(what="no model", why="at least one is needed", fix="Name a model file")
    if batch_size is not None and batch_size < 1:
        raise UsageError(what=f"batch size {batch_size} is too small", fix="Give at least 1")
    if dtype is not None and dtype not in STORED_DTYPES:
        raise UsageError(
            what=f"cannot store activations as {dtype!r}", fix=f"Choose {', '.join(STORED_DTYPES)}"
        )
    options = options or AdapterOptions()
    models, steps = _in_order(models, steps)
    adapter = open_model(models[0], options)
    try:
        specs = adapter.inputs()
        if inputs is None:
            checked = synthetic_inputs(specs, seed=seed)
        else:
            named = inputs if isinstance(inputs, Mapping) else {"inputs": np.asarray(inputs)}
            checked = check_inputs(named, specs, source=inputs_source, cast=cast)
        checked = with_labels(checked, labels, labels_source)
        found = adapter.layers(_probe(adapter, checked))
        chosen = _with_dtype(select_layers(found, layers), dtype)
    finally:
        adapter.close()
    digest, entropy = checked.digest()
    return Plan(
        models=models,
        steps=steps,
        metrics=metrics or {},
        inputs=checked,
        inputs_sha256=digest,
        input_entropy=entropy,
        layers=chosen,
        dtype=dtype,
        batch_size=batch_size or _batch_size(checked, chosen),
        seed=seed,
        options=options,
        command=command,
        notes=(*checked.notes, *_unmatched_metrics(metrics, steps)),
    )


def run_extraction(
    plan: Plan,
    output: str | PathLike[str],
    *,
    folder: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Compute what is missing of `plan` and write the store; return its path.

    Finished checkpoints of an interrupted run are kept and verified, and only the others computed.

    Raises
    ------
    UsageError
        `output` exists and neither `resume` nor `overwrite` is given.
    InputRefusedError
        A checkpoint's layers differ from the first one's.
    ResourceError, LockedError
        No space, or another process writes the same store.
    """
    progress = progress or Silent()
    writer = StoreWriter(
        Path(output),
        samples=plan.samples,
        layers=plan.layers,
        steps=plan.steps,
        identity=plan.identity,
        folder=folder,
        resume=resume,
        overwrite=overwrite,
        checkpoint_sha256=_file_hashes(plan),
    )
    with writer:
        if writer.complete:
            progress.note(f"{output} is complete already: nothing to do")
            return Path(output)
        if writer.done:
            progress.note(f"resuming: {len(writer.done)} of {len(plan.steps)} checkpoints are there")
        todo = [(m, s) for m, s in zip(plan.models, plan.steps, strict=True) if s not in writer.done]
        progress.start("extracting", len(todo) * plan.inputs.n_samples, "samples")
        for model, step in todo:
            _record(plan, writer, model, step, progress)
        return writer.finish()


def extract(
    model: Any,
    inputs: Mapping[str, Array] | Array | None = None,
    *,
    store: str | PathLike[str],
    labels: Array | Sequence[Any] | None = None,
    layers: Sequence[str] | str = (),
    steps: Sequence[int] | None = None,
    metrics: Mapping[int, Mapping[str, float]] | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    cast: bool = False,
    seed: int = 0,
    options: AdapterOptions | None = None,
    folder: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Record the hidden activations of one model, or of the checkpoints of a training, in a store.

    Parameters
    ----------
    model
        A model file, or several: the checkpoints of one training.
    inputs
        Samples, ``(n_samples, ...)``, or a mapping of them by input name. None draws 1,024 standard normal
        samples from the model's signature and marks the store `synthetic`.
    store
        Path of the store to write.
    labels
        Class of each sample.
    layers
        Selectors, see `repstat.selection`; by default every hidden layer.
    steps
        Training step of each model; by default read from the file names.
    metrics
        Loss, accuracy, ... by step; a metric ``epoch`` becomes the checkpoint's epoch.
    batch_size
        Samples per forward pass; by default from a budget of bytes.
    dtype
        Store activations as ``float16``, ``float32`` or ``float64`` instead of the model's own dtype.
    cast
        Convert integer inputs to floating point where the model wants it.
    seed
        Seed of synthetic inputs.
    options
        Provider, threads, optimisation level.
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
    several = isinstance(model, Sequence) and not isinstance(model, str | bytes)
    plan = plan_extraction(
        list(model) if several else [model],
        inputs,
        labels=labels,
        layers=[layers] if isinstance(layers, str) else layers,
        steps=steps,
        metrics=metrics,
        batch_size=batch_size,
        dtype=dtype,
        cast=cast,
        seed=seed,
        options=options,
    )
    for note in plan.notes:
        (progress or Silent()).note(note)
    return run_extraction(plan, store, folder=folder, resume=resume, overwrite=overwrite, progress=progress)


def _in_order(models: Sequence[Any], steps: Sequence[int] | None) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Return models and steps sorted by step."""
    paths = [Path(m) if isinstance(m, str | PathLike) else Path(f"model-{i}") for i, m in enumerate(models)]
    assigned = assign_steps(paths, steps)
    pairs = sorted(zip(assigned, range(len(models)), strict=True))
    return tuple(models[i] for _, i in pairs), tuple(step for step, _ in pairs)


def _probe(adapter: Adapter, inputs: Inputs) -> dict[str, Array]:
    return inputs.batch(adapter.inputs(), 0, min(PROBE_SAMPLES, inputs.n_samples))


def _with_dtype(layers: Sequence[Layer], dtype: str | None) -> tuple[Layer, ...]:
    return tuple(layers) if dtype is None else tuple(replace(x, dtype=np.dtype(dtype)) for x in layers)


def _batch_size(inputs: Inputs, layers: Sequence[Layer]) -> int:
    per_sample = sum(x.n_units * x.dtype.itemsize for x in layers)
    per_sample += sum(a[:1].nbytes for a in inputs.arrays.values())
    return int(np.clip(BATCH_BYTES // max(per_sample, 1), 1, min(MAX_BATCH, inputs.n_samples)))


def _unmatched_metrics(
    metrics: Mapping[int, Mapping[str, float]] | None, steps: Sequence[int]
) -> tuple[str, ...]:
    missing = [step for step in steps if step not in metrics] if metrics else []
    if not missing:
        return ()
    return (f"no metrics for {len(missing)} of {len(steps)} checkpoints, the first at step {missing[0]}",)


def _file_hashes(plan: Plan) -> dict[int, str]:
    """Return the SHA-256 of each model file by step, to notice one that changed since an interruption."""
    hashes = {}
    for model, step in zip(plan.models, plan.steps, strict=True):
        if isinstance(model, str | PathLike) and Path(model).is_file():
            with Path(model).open("rb") as file:
                hashes[step] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _record(plan: Plan, writer: StoreWriter, model: Any, step: int, progress: Progress) -> None:
    """Run all samples through one checkpoint and commit it."""
    adapter = open_model(model, plan.options)
    try:
        layers = _matching_layers(plan, adapter, model)
        facts = dict(adapter.provenance())
        metrics = dict(plan.metrics.get(step, {}))
        epoch = metrics.pop("epoch", nan)
        checkpoint = Checkpoint(
            step=step,
            epoch=None if isnan(epoch) else epoch,
            source=Path(model).name if isinstance(model, str | PathLike) else type(model).__name__,
            sha256=str(facts.get("sha256", "")),
            weights_sha256=str(facts.get("weights_sha256", "")),
            metrics=metrics,
            provenance={
                "repstat": __version__,
                "command": plan.command,
                "adapter": facts,
                "batch_size": plan.batch_size,
                "seed": plan.seed,
            },
        )
        specs = _matching_inputs(plan, adapter, model)
        n = plan.inputs.n_samples
        with writer.checkpoint(checkpoint) as part:
            for start in range(0, n, plan.batch_size):
                stop = min(start + plan.batch_size, n)
                batch = plan.inputs.batch(specs, start, stop)
                values = adapter.run(batch, layers, samples=np.arange(start, stop, dtype=np.int64))
                for layer in plan.layers:
                    part.write(layer.key, values[layer.key].astype(layer.dtype, copy=False))
                progress.advance(stop - start)
    finally:
        adapter.close()


def _matching_inputs(plan: Plan, adapter: Adapter, model: Any) -> Sequence[InputSpec]:
    """Return this checkpoint's inputs if the plan's samples fit them, or refuse it."""
    specs = adapter.inputs()
    have = {spec.name: spec.sample_shape for spec in specs}
    want = {name: array.shape[1:] for name, array in plan.inputs.arrays.items()}
    fits = have.keys() == want.keys() and all(
        len(have[name]) == len(shape)
        and all(a is None or a == b for a, b in zip(have[name], shape, strict=True))
        for name, shape in want.items()
    )
    if not fits:
        raise InputRefusedError(
            what="the checkpoint's inputs differ from the first one's",
            path=str(model) if isinstance(model, str | PathLike) else None,
            why=f"found {have}, expected {want}",
            fix="Extract models of different inputs into different stores",
        )
    return specs


def _matching_layers(plan: Plan, adapter: Adapter, model: Any) -> tuple[Layer, ...]:
    """Return this checkpoint's layers that are the plan's, or refuse it."""
    found = {layer.key: layer for layer in adapter.layers(_probe(adapter, plan.inputs))}
    place = str(model) if isinstance(model, str | PathLike) else None
    for wanted in plan.layers:
        here = found.get(wanted.key)
        if here is None or (here.signature, here.unit_shape) != (
            wanted.signature,
            wanted.unit_shape,
        ):
            described = f"{here.signature} {here.unit_shape}" if here else "missing"
            raise InputRefusedError(
                what="the checkpoint's layers differ from the first one's",
                path=place,
                place=f"layer {wanted.key}",
                why=f"found {described}, expected {wanted.signature} {wanted.unit_shape}",
                fix="Extract models of different architecture into different stores",
            )
    return tuple(found[wanted.key] for wanted in plan.layers)
