"""Run the samples through every checkpoint of a training and record the hidden activations in a store.

`repstat.plan` checks everything first; here the checkpoints are computed and written one by one, and those
that an interrupted run has finished are kept. `extract` is long by its documentation.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from repstat.adapter import Adapter, AdapterOptions, Array, InputSpec, Layer
from repstat.discovery import OneModel
from repstat.errors import InputRefusedError
from repstat.filling import checkpoint_of, remaining, told_how_to_go_on
from repstat.noise import FIRST_CONDITIONAL
from repstat.oddities import Oddities, UnitsOfLayers
from repstat.passes import NoiseOptions
from repstat.plan import Plan, plan_extraction, probe
from repstat.progress import Progress, Silent
from repstat.store import CheckpointWriter, OutputLock, StoreWriter, output_lock
from repstat.version import __version__


def extract(
    model: Any,
    inputs: str | PathLike[str] | Mapping[str, Array] | Array | None = None,
    *,
    store: str | PathLike[str],
    labels: str | PathLike[str] | Array | Sequence[Any] | None = None,
    layers: Sequence[str] | str = (),
    steps: Sequence[int] | int | None = None,
    metrics: str | PathLike[str] | Mapping[int, Mapping[str, float]] | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    cast: bool = False,
    noise_std: float | str | Mapping[str, float] | None = None,
    realizations: int | None = None,
    conditional_samples: int | None = None,
    conditional_realizations: int | None = None,
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
        Samples, ``(n_samples, ...)``, a mapping of them by input name, or a file of them: ``.npy``, ``.npz``
        (which may hold ``labels``), ``FILE.h5:DATASET`` or ``.csv``. None draws 1,024 standard normal samples
        from the model's signature and marks the store `synthetic`.
    store
        Path of the store to write.
    labels
        Class of each sample, or a file of them.
    layers
        Selectors, see `repstat.selection`; by default every hidden layer.
    steps
        Training step of each model; by default read from the file names.
    metrics
        Loss, accuracy, ... by step, or a ``.csv`` of them; a metric ``epoch`` becomes the checkpoint's epoch.
    batch_size
        Samples per forward pass; by default from a budget of bytes.
    dtype
        Store activations as ``float16``, ``float32`` or ``float64`` instead of the model's own dtype.
    cast
        Convert integer inputs to floating point where the model wants it.
    noise_std
        Make the network noisy: T = S + N(0, noise_std^2 I) after every hidden layer, whether it is recorded
        or not; or after single ones, ``{"L001": 0.005}``. Recorded is S, before the layer's own noise.
    realizations
        Noisy passes of every sample; by default 10.
    conditional_samples, conditional_realizations
        How many samples, chosen at random, are passed how often more, for h(T|X); by default 256, and 1,000
        times or what fits into 256 MiB. 0 for none.
    seed
        Of synthetic inputs, noise, and the choice of repeated samples.
    options
        Provider, threads, optimisation level.
    folder
        Keep one file per checkpoint in the folder `store`.
    resume, overwrite
        What to do where `store` exists: complete it, or replace it.
    progress
        Receives progress and notes. Without it, a `UserWarning` tells of layers that are left out, and of
        samples that must be run one at a time.

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
    options = options or AdapterOptions()
    with output_lock(store) as lock, OneModel(options) as opened:
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
            noise=NoiseOptions(
                noise_std=noise_std,
                realizations=realizations,
                conditional_samples=conditional_samples,
                conditional_realizations=conditional_realizations,
            ),
            seed=seed,
            options=options,
            opened=opened,
        )
        for note in plan.notes:
            (progress or Silent()).note(note)
        for note in plan.warned if progress is None else ():
            warnings.warn(note, stacklevel=2)
        return run_extraction(
            plan,
            store,
            folder=folder,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            lock=lock,
            opened=opened,
        )


def run_extraction(
    plan: Plan,
    output: str | PathLike[str],
    *,
    folder: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    lock: OutputLock | None = None,
    opened: OneModel | None = None,
) -> Path:
    """Compute what is missing of `plan` and write the store; return its path.

    Finished checkpoints of an interrupted run are kept and verified, and only the others computed. `lock` is
    that of `output`, where it was taken before the plan was made, and `opened` what the plan was made with.

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
        n_realizations=plan.passes.n_realizations,
        noise=plan.passes.noise,
        conditional=plan.passes.conditional,
        folder=folder,
        resume=resume,
        overwrite=overwrite,
        checkpoint_sha256=_file_hashes(plan),
        lock=lock,
    )
    with writer:
        todo = remaining(writer, output, zip(plan.models, plan.steps, strict=True), progress)
        if todo is None:
            return Path(output)
        progress.start("extracting", len(todo) * plan.passes.n_samples(plan.inputs.n_samples), "samples")
        oddities = Oddities(plan.layers)
        sources = [
            str(model) if isinstance(model, str | PathLike) else f"the model of step {step}"
            for model, step in zip(plan.models, plan.steps, strict=True)
        ]
        with OneModel(plan.options) as own:
            for model, step in todo:
                with told_how_to_go_on(writer, sources, plan.steps, step):
                    adapter = (opened or own).open(model)
                    metrics = plan.metrics.get(step, {})
                    record(plan, writer, adapter, model, step, metrics, progress, oddities)
        for note in oddities.notes(writer.records, plan.inputs.n_samples):
            progress.note(note)
        return writer.finish()


def _file_hashes(plan: Plan) -> dict[int, str]:
    """Return the SHA-256 of each model file by step, to notice one that changed since an interruption."""
    hashes = {}
    for model, step in zip(plan.models, plan.steps, strict=True):
        if isinstance(model, str | PathLike) and Path(model).is_file():
            with Path(model).open("rb") as file:
                hashes[step] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def record(
    plan: Plan,
    writer: StoreWriter,
    adapter: Adapter,
    model: Any,
    step: int,
    metrics: Mapping[str, float],
    progress: Progress,
    oddities: Oddities | None = None,
) -> None:
    """Run all samples through one checkpoint and commit it. A metric ``epoch`` is the checkpoint's epoch."""
    specs = _matching_inputs(plan, adapter, model)
    layers = _matching_layers(plan, adapter, model)
    facts = dict(adapter.provenance())
    checkpoint = checkpoint_of(
        step,
        metrics,
        source=Path(model).name if isinstance(model, str | PathLike) else type(model).__name__,
        sha256=str(facts.get("sha256", "")),
        weights_sha256=str(facts.get("weights_sha256", "")),
        provenance={
            "repstat": __version__,
            "command": plan.command,
            "adapter": facts,
            "batch_size": plan.batch_size,
            "seed": plan.seed,
            "trust_model": plan.options.trust_model,
        },
    )
    watching = oddities.watch(step) if oddities else nullcontext()
    with writer.checkpoint(checkpoint) as part, watching as seen:
        for realization in range(plan.passes.n_realizations):
            shown = seen if realization == 0 else None
            _record_all(plan, adapter, specs, layers, part, realization, progress, shown)
        _record_repeated(plan, adapter, specs, layers, part, progress)


def _record_all(
    plan: Plan,
    adapter: Adapter,
    specs: Sequence[InputSpec],
    layers: Sequence[Layer],
    part: CheckpointWriter,
    realization: int,
    progress: Progress,
    seen: UnitsOfLayers | None,
) -> None:
    """Run all samples through once."""
    n = plan.inputs.n_samples
    for start in range(0, n, plan.batch_size):
        stop = min(start + plan.batch_size, n)
        batch = plan.inputs.batch(specs, start, stop)
        samples = np.arange(start, stop, dtype=np.int64)
        values = adapter.run(batch, layers, samples=samples, noise=plan.passes.at(realization))
        for layer in plan.layers:
            array = values[layer.key].astype(layer.dtype, copy=False)
            part.write(layer.key, array, realization=realization)
            if seen is not None:
                seen[layer.key].add(array)
        progress.advance(stop - start)


def _record_repeated(
    plan: Plan,
    adapter: Adapter,
    specs: Sequence[InputSpec],
    layers: Sequence[Layer],
    part: CheckpointWriter,
    progress: Progress,
) -> None:
    """Run the repeated inputs through, each as often as asked for, with noise that no other pass has."""
    conditional = plan.passes.conditional
    if conditional is None:
        return
    wanted = [layer for layer in layers if layer.key in conditional.layers]
    total = conditional.n * conditional.n_realizations
    for start in range(0, total, plan.batch_size):
        at, realization = np.divmod(
            np.arange(start, min(start + plan.batch_size, total)), conditional.n_realizations
        )
        samples = conditional.samples[at]
        noise = plan.passes.at(FIRST_CONDITIONAL + realization)
        values = adapter.run(plan.inputs.rows(specs, samples), wanted, samples=samples, noise=noise)
        for layer in plan.layers:
            if layer.key in values:
                part.write_conditional(layer.key, values[layer.key].astype(layer.dtype, copy=False))
        progress.advance(len(at))


def _matching_inputs(plan: Plan, adapter: Adapter, model: Any) -> Sequence[InputSpec]:
    """Return this checkpoint's inputs if the plan's samples fit them, or refuse it."""
    specs = adapter.inputs()
    have = {spec.name: spec.sample_shape for spec in specs}
    want = {name: array.shape[1:] for name, array in plan.inputs.arrays.items()}
    fits = have.keys() == want.keys() and all(
        len(spec.sample_shape) == len(want[spec.name])
        and all(a is None or a == b for a, b in zip(spec.sample_shape, want[spec.name], strict=True))
        for spec in specs
        if spec.declared
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
    found = {layer.key: layer for layer in adapter.layers(probe(adapter, plan.inputs))}
    if list(found) != list(plan.model_keys):
        raise InputRefusedError(
            what="the checkpoint's layers differ from the first one's",
            path=str(model) if isinstance(model, str | PathLike) else None,
            why=f"found {', '.join(found)}, expected {', '.join(plan.model_keys)}",
            fix="Extract models of different architecture into different stores",
        )
    place = str(model) if isinstance(model, str | PathLike) else None
    for wanted in plan.layers:
        here = found.get(wanted.key)
        if here is None or _facts(here) != _facts(wanted):
            raise InputRefusedError(
                what="the checkpoint's layers differ from the first one's",
                path=place,
                place=f"layer {wanted.key}",
                why=f"found {_facts(here) if here else 'none'}, expected {_facts(wanted)}",
                fix="Extract models of different architecture into different stores",
            )
    return tuple(found[wanted.key] for wanted in plan.layers)


def _facts(layer: Layer) -> str:
    """Return what a layer must share with the same layer of other checkpoints."""
    return f"{layer.signature} {layer.unit_shape} {layer.source_dtype}"
