"""Results to report on: of the fixture's training, and of it changed in ways that a page must bear."""

from dataclasses import replace
from pathlib import Path

import numpy as np

import repstat
from repstat.files import read_metrics
from repstat.results import Results, Row

N_SAMPLES = 512
HOSTILE = (
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=window.pwned=1>&amp;',
    "fc \U0001f680 $\\alpha$ %{x} {{7*7}} <b>bold</b>",
    "n" * 300,
    "</script><!-- \u202e ]]> \x1b[31m '; DROP",
)


def training(folder: Path, models: list[Path], data: Path, metrics: Path) -> Results:
    """Analyse the fixture's training on some of its samples."""
    with np.load(data) as arrays:
        inputs, labels = (arrays[name][:: 4096 // N_SAMPLES] for name in ("inputs", "labels"))
    store = repstat.extract(
        models, inputs, labels=labels, metrics=read_metrics(metrics), store=folder / "acts.h5"
    )
    return repstat.analyze(store)


def noisy(folder: Path, models: list[Path], data: Path) -> Results:
    """Analyse the same networks with noise in their layers."""
    few = np.random.default_rng(0).choice(4096, 64, replace=False)
    with np.load(data) as arrays:
        inputs, labels = arrays["inputs"][few], arrays["labels"][few]
    store = repstat.extract(
        models, inputs, labels=labels, store=folder / "noisy.h5", noise_std=0.1, realizations=20,
        conditional_samples=16, conditional_realizations=100,
    )  # fmt: skip
    return repstat.analyze(store)


def unlabelled(folder: Path, models: list[Path], data: Path) -> Results:
    """Analyse one checkpoint, and nobody knows the classes."""
    with np.load(data) as arrays:
        inputs = arrays["inputs"][::64]
    store = repstat.extract(models[-1], inputs, store=folder / "plain.h5")
    return repstat.analyze(store)


def renamed(results: Results, names: tuple[str, ...] = HOSTILE) -> Results:
    """Give the layers, the metrics and the files names that mean harm."""
    layers = dict(zip(results.layers, names, strict=False))
    known = dict(results.provenance)
    checkpoints = [c | {"source": names[i % len(names)]} for i, c in enumerate(known["checkpoints"])]
    return replace(
        results,
        layers=layers,
        rows=tuple(replace(row, layer_name=layers[row.layer]) for row in results.rows),
        metrics={f"loss {name}": v for name, v in zip(names, results.metrics.values(), strict=False)},
        provenance=known | {"checkpoints": checkpoints, "inputs_source": names[0], "store": names[1]},
    )


def seed_of(results: Results, seed: int) -> Results:
    """Move all information a little, as another seed of the training would."""
    rng = np.random.default_rng(seed)

    def moved(row: Row) -> Row:
        if row.value is None or row.units != "nats":
            return row
        return replace(row, value=max(0.0, row.value * (1 - 0.1 * rng.random())))

    return replace(results, rows=tuple(map(moved, results.rows)))
