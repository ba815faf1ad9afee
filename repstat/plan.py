"""Check an extraction against its first model before anything is computed, and say how much it will write.

`plan_extraction` is long by its signature: every option of an extraction passes through it once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from repstat.adapter import Adapter, AdapterOptions, Array, Layer, Predicting
from repstat.checkpoints import find_models
from repstat.discovery import OneModel
from repstat.errors import InputRefusedError, RepstatError, UsageError
from repstat.files import read_data
from repstat.inputs import Inputs, as_arrays, check_inputs, synthetic_inputs, with_labels
from repstat.numbers import whole_number
from repstat.passes import NoiseOptions, Passes, plan_passes
from repstat.selection import select_layers
from repstat.skipped import skipped_notes
from repstat.steps import assign_steps, unnamed_step
from repstat.store import Samples, predicted_bytes
from repstat.version import __version__

BATCH_BYTES = 1 << 24
"""Inputs and activations of one batch stay below this; the runtime needs a few times as much.

Batches of 64 MiB took a sixth more CPU time to extract: their memory is new to the processor every time."""
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
    model_keys: tuple[str, ...]
    provider: str
    dtype: str | None
    batch_size: int
    seed: int
    options: AdapterOptions
    passes: Passes
    command: str = ""
    notes: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Size of the store that will be written."""
        return predicted_bytes(
            self.inputs.n_samples,
            self.layers,
            len(self.models),
            self.passes.n_realizations,
            self.passes.conditional,
        )

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
            "repstat": __version__,
            "seed": self.seed if self.inputs.synthetic else None,
            "inputs_sha256": self.inputs_sha256,
            "layers": [
                f"{x.key} {x.signature} {'x'.join(map(str, x.unit_shape))} {x.dtype.name}"
                for x in self.layers
            ],
            "opt_level": self.options.opt_level,
            "provider": self.provider,
            "dtype": self.dtype or "native",
            "synthetic": self.inputs.synthetic,
        }


def plan_extraction(
    models: Sequence[Any],
    inputs: str | PathLike[str] | Mapping[str, Array] | Array | None = None,
    *,
    labels: str | PathLike[str] | Array | Sequence[Any] | None = None,
    layers: Sequence[str] = (),
    steps: Sequence[int] | int | None = None,
    metrics: str | PathLike[str] | Mapping[int, Mapping[str, float]] | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    cast: bool = False,
    seed: int = 0,
    noise: NoiseOptions | None = None,
    options: AdapterOptions | None = None,
    command: str = "",
    opened: OneModel | None = None,
) -> Plan:
    """Open the first model and check inputs, labels, layers and steps against it.

    Parameters are those of `extract`; `opened` keeps the first model open for `run_extraction`.

    Raises
    ------
    UsageError, InputRefusedError
        Something does not fit; the message says what.
    """
    if not models:
        raise UsageError(what="no model", why="at least one is needed", fix="Name a model file")
    if batch_size is not None:
        batch_size = whole_number("batch size", batch_size, 1)
    seed = whole_number("seed", seed, 0)
    if dtype is not None and dtype not in STORED_DTYPES:
        raise UsageError(
            what=f"cannot store activations as {dtype!r}", fix=f"Choose {', '.join(STORED_DTYPES)}"
        )
    options = options or AdapterOptions()
    data = read_data(inputs, labels, metrics)
    found_models = find_models(models)
    alone = found_models.models[0] if steps is None and len(found_models.models) == 1 else None
    step_notes = unnamed_step(Path(alone)) if isinstance(alone, str | PathLike) else ()
    models, steps = _in_order(found_models.models, steps)
    with OneModel(options) as own:
        adapter = (opened or own).open(models[0])
        specs = adapter.inputs()
        if not specs:
            raise InputRefusedError(
                what="the model has no input",
                path=models[0] if isinstance(models[0], str | PathLike) else None,
                why="its outputs are constants",
                fix="Give a model that takes samples",
            )
        if data.inputs is None:
            checked = synthetic_inputs(specs, seed=seed)
        else:
            named = as_arrays(data.inputs, data.inputs_source, [spec.name for spec in specs])
            checked = check_inputs(named, specs, source=data.inputs_source, cast=cast)
        checked = with_labels(checked, data.labels, data.labels_source)
        some = probe(adapter, checked)
        found = adapter.layers(some)
        chosen = _chosen(adapter, found, layers)
        passes = plan_passes(
            noise or NoiseOptions(), adapter, found, chosen, some, n_samples=checked.n_samples, seed=seed
        )
        chosen = _with_dtype(chosen, dtype)
        batch_size = batch_size or _fitting(
            adapter, checked, _batch_size(checked, chosen, [x for x in found if _noisy(x, passes)]), options
        )
        facts = adapter.provenance()
    batch_note = str(facts.get("run_batch_note", ""))
    warned = (*([batch_note] if batch_note else []), *skipped_notes(facts, noisy=passes.noise is not None))
    digest, entropy = checked.digest()
    return Plan(
        models=models,
        steps=steps,
        metrics=data.metrics,
        inputs=checked,
        inputs_sha256=digest,
        input_entropy=entropy,
        layers=chosen,
        model_keys=tuple(layer.key for layer in found),
        provider=str(facts.get("provider", "")),
        dtype=dtype,
        batch_size=batch_size,
        seed=seed,
        options=options,
        passes=passes,
        command=command,
        notes=(
            *found_models.notes,
            *step_notes,
            *checked.notes,
            *warned,
            *unmatched_metrics(data.metrics, steps),
        ),
        warned=warned,
    )


def _in_order(
    models: Sequence[Any], steps: Sequence[int] | int | None
) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Return models and steps sorted by step."""
    paths = [Path(m) if isinstance(m, str | PathLike) else Path(f"model-{i}") for i, m in enumerate(models)]
    assigned = assign_steps(paths, steps)
    pairs = sorted(zip(assigned, range(len(models)), strict=True))
    return tuple(models[i] for _, i in pairs), tuple(step for step, _ in pairs)


def probe(adapter: Adapter, inputs: Inputs) -> dict[str, Array]:
    """Return the first few samples: enough for a model to show the shapes it leaves open."""
    return inputs.batch(adapter.inputs(), 0, min(PROBE_SAMPLES, inputs.n_samples))


def _chosen(adapter: Adapter, found: Sequence[Layer], selectors: Sequence[str]) -> tuple[Layer, ...]:
    """Select layers; where that fails, the reason may be what the adapter skipped."""
    try:
        return select_layers(found, selectors)
    except RepstatError as error:
        for note in skipped_notes(adapter.provenance()):
            error.add_note(f"{note[0].upper()}{note[1:]}.")
        raise


def _with_dtype(layers: Sequence[Layer], dtype: str | None) -> tuple[Layer, ...]:
    return tuple(layers) if dtype is None else tuple(replace(x, dtype=np.dtype(dtype)) for x in layers)


def _noisy(layer: Layer, passes: Passes) -> bool:
    return passes.noise is not None and layer.key in passes.noise.noise_std


def _batch_size(inputs: Inputs, layers: Sequence[Layer], noisy: Sequence[Layer]) -> int:
    per_sample = sum(x.n_units * x.dtype.itemsize for x in layers)
    per_sample += sum(x.n_units * 8 for x in noisy)
    per_sample += sum(a[:1].nbytes for a in inputs.arrays.values())
    return int(np.clip(BATCH_BYTES // max(per_sample, 1), 1, min(MAX_BATCH, inputs.n_samples)))


def _fitting(adapter: Adapter, inputs: Inputs, batch_size: int, options: AdapterOptions) -> int:
    """Halve a batch until what lies between the layers fits too, as far as that can be predicted."""
    known: object = adapter
    if options.max_memory is not None and isinstance(known, Predicting):
        specs = adapter.inputs()
        while batch_size > 1 and (
            known.predicted_bytes(inputs.batch(specs, 0, batch_size)) > options.max_memory // 2
        ):
            batch_size //= 2
    return batch_size


def unmatched_metrics(
    metrics: Mapping[int, Mapping[str, float]] | None, steps: Sequence[int]
) -> tuple[str, ...]:
    """Return a note about checkpoints that have no metrics, if some have."""
    missing = [step for step in steps if step not in metrics] if metrics else []
    if not missing:
        return ()
    return (f"no metrics for {len(missing)} of {len(steps)} checkpoints, the first at step {missing[0]}",)
