"""A noisy network, extracted and analysed: time and memory of one checkpoint; noise beside a forward pass."""

import json
import sys
import time

import numpy as np

import repstat
from benchmarks.cases import FIXTURE, STORE, checkpoints
from benchmarks.measure import Settings, interleaved
from benchmarks.report import Table, megabytes, seconds
from benchmarks.trajectory import run_apart
from repstat.adapter import Noise
from repstat.discovery import open_model
from repstat.noise import standard_normal

STEP = 26_000
LEVELS = (0.005, 0.05)
REPEATED, REALIZATIONS = 256, 1000
NOISY_STORE = STORE.with_name("noisy.h5")


def extract_noisy(std: float) -> float:
    """Return wall seconds of the extraction of one checkpoint."""
    (model,) = [path for path in checkpoints() if int(path.stem.split("-")[1]) == STEP]
    data = np.load(FIXTURE / "data.npz")
    start = time.perf_counter()
    repstat.extract(
        model,
        data["inputs"],
        labels=data["labels"],
        store=NOISY_STORE,
        noise_std=std,
        conditional_samples=REPEATED,
        conditional_realizations=REALIZATIONS,
        overwrite=True,
    )
    return time.perf_counter() - start


def analyse_noisy() -> tuple[float, list[tuple[float, float, float]]]:
    """Return wall seconds of the analysis, and value, error and bias of I(X;T) of each layer."""
    start = time.perf_counter()
    results = repstat.analyze(NOISY_STORE, estimators="noisy")
    wall = time.perf_counter() - start
    rows = [row for row in results.rows if row.quantity == "mi_input"]
    return wall, [(row.value or 0.0, row.std_error or 0.0, row.params["bias"]) for row in rows]


def _passes(repeats: int) -> tuple[float, float, float]:
    """Return seconds of a clean and of a noisy pass of 4,096 samples, and of the noise alone."""
    adapter = open_model(checkpoints()[0], repstat.AdapterOptions(threads=1))
    inputs, rows = np.load(FIXTURE / "data.npz")["inputs"], np.arange(4096)
    feeds = {adapter.inputs()[0].name: inputs}
    layers = adapter.layers({name: array[:3] for name, array in feeds.items()})
    noise = Noise({layer.key: 0.005 for layer in layers if layer.kind == "hidden"}, 0)
    # One mode after the other: a change of mode builds another session.
    (clean,) = interleaved([lambda: adapter.run(feeds, layers, samples=rows)], repeats)
    (noisy,) = interleaved([lambda: adapter.run(feeds, layers, samples=rows, noise=noise)], repeats)
    draws = [(layer.key, layer.n_units) for layer in layers if layer.key in noise.noise_std]
    (drawn,) = interleaved([lambda: [standard_normal(0, key, 0, rows, n) for key, n in draws]], repeats)
    return clean, noisy, drawn


def table(settings: Settings) -> Table:
    """Measure one checkpoint of the fixture as a noisy network."""
    rows = []
    for std in LEVELS[:1] if settings.quick else LEVELS:
        extracted, extract_memory = run_apart("benchmarks.network", "extract", str(std))
        (wall, layers), memory = run_apart("benchmarks.network", "analyse")
        rows.append(
            [
                f"{std:g}",
                f"{extracted:.1f} s",
                megabytes(extract_memory),
                f"{wall:.1f} s",
                megabytes(memory),
                ", ".join(f"{value:.3f}" for value, _, _ in layers),
                ", ".join(f"{error:.3f}" for _, error, _ in layers),
                ", ".join(f"{bias:.3f}" for _, _, bias in layers),
            ]
        )
    clean, noisy, drawn = _passes(settings.repeats)
    before = f"""The fixture at step {STEP:,}: 4,096 inputs in 10 noisy passes, {REPEATED} of them
{REALIZATIONS:,} times more; five layers, one process, tolerance 0.01. *bias*: by how much I(X;T) may be
too large for too few realizations."""
    after = f"""One pass of 4,096 samples: {seconds(clean)} without noise, {seconds(noisy)} with it, of which
its numbers take {seconds(drawn)}."""
    columns = (
        *("noise_std|", "extract|", "memory|", "analyze|", "memory|"),
        *("I(X;T) of the layers, nats", "error", "bias"),
    )
    return Table("A noisy network", before, columns, rows, after)


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    print(json.dumps(extract_noisy(float(words[0])) if verb == "extract" else analyse_noisy()))
