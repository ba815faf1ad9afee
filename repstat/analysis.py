"""Every layer at every checkpoint through the estimators and diagnostics: the trajectory of numbers.

Layer by layer, a first pass over the checkpoints fixes what must be common to a trajectory (noise levels,
bin and histogram edges); then each layer at each checkpoint is a task of its own (`repstat.compute`).
`analyze` is long by its documentation.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import nullcontext
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from math import isfinite
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.cell import Conditional, Settings, Task
from repstat.clustering import Clustering
from repstat.clustering.scatter import choose_points
from repstat.compute import Outcome, compute
from repstat.errors import ResourceError, UsageError
from repstat.estimators import Backend, Binning, rise
from repstat.numbers import whole_number
from repstat.progress import Progress, Silent
from repstat.results import Histogram, Results, Row, Scatter, Status
from repstat.scales import AUTO, parse_noise
from repstat.selection import select_layers
from repstat.shared_scales import fix_scales
from repstat.store import Store, open_store
from repstat.threads import one_blas_thread
from repstat.version import __version__
from repstat.workers import process_pool

ESTIMATORS = ("noisy", "binned", "clustering", "profile")
DEFAULT_BINNING = "count:30"


def analyze(
    store: Store | str | PathLike[str],
    *,
    noise_std: str | float | Iterable[str | float] = "auto",
    binning: str | Binning | Sequence[str | Binning] = DEFAULT_BINNING,
    estimators: str | Sequence[str] = ESTIMATORS,
    layers: Sequence[str] | str = ("all",),
    steps: Sequence[int] | None = None,
    tolerance: float = 0.01,
    seed: int = 0,
    conditional: Conditional = "sampled",
    workers: int = 1,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Results:
    """Estimate mutual information and clustering for every layer of a store at every checkpoint.

    Parameters
    ----------
    store
        An open store, or the path of one.
    noise_std
        Noise levels for `repstat.noisy_mi`, of a network without noise: numbers in activation units, ``0.1x``
        for a multiple of the layer's pooled standard deviation over the trajectory, or ``auto``: two such
        multiples for each layer, chosen so that the trajectory is neither saturated nor empty
        (`repstat.autoscale`). The store of a noisy network has noise of its own.
    binning
        One or more binnings, or their text: ``szt``, ``width:0.07``, ``count:30``, ``quantile:30``.
    estimators
        Any of ``noisy``, ``binned``, ``clustering`` and ``profile``.
    layers
        Selectors, see `repstat.selection`; by default every layer in the store.
    steps
        Checkpoints to analyse; by default all.
    tolerance
        Standard error to reach, in nats.
    seed
        Seed of the noise and of subsets of pairs. The same whatever the number of workers.
    conditional
        For the store of a noisy network, how h(T|X) enters I(X;T): ``sampled``, from the density of the
        realizations, or ``linearised``, from their covariance, which serves where noise is small.
    workers
        Processes that compute, each one layer at one checkpoint at a time. A script that asks for more than
        one must guard its own code by ``if __name__ == "__main__":``.
    executor
        Computes instead of processes started here; its workers must see the store under the same path.
    device
        ``cpu``, or ``cuda`` for the products of `repstat.noisy_mi`.
    progress
        Receives progress and notes.

    Returns
    -------
    Results
        Information in nats. The store is not changed.

    Raises
    ------
    UsageError
        An option is not understood, or names a layer or step that is not there.
    StoreDamagedError
        The store is not sound; each layer is hashed while it is read.
    """
    settings = _settings(noise_std, binning, estimators, tolerance, seed, device, conditional)
    pool = process_pool(workers) if executor is None and workers > 1 else nullcontext(executor)
    opened = nullcontext(store) if isinstance(store, Store) else open_store(store)
    with opened as source, pool as runner:
        return _analyze(source, settings, layers, steps, runner, progress or Silent())


def _settings(
    noise_std: str | float | Iterable[str | float],
    binning: str | Binning | Sequence[str | Binning],
    estimators: str | Sequence[str],
    tolerance: float,
    seed: int,
    device: str,
    conditional: Conditional,
) -> Settings:
    if isinstance(estimators, str):
        estimators = [word.strip() for word in estimators.split(",")]
    if unknown := [name for name in estimators if name not in ESTIMATORS]:
        raise UsageError(
            what=f"no estimator is called {unknown[0]!r}",
            why=f"the estimators are {', '.join(ESTIMATORS)}",
            fix="Choose some of them",
        )
    if not estimators:
        raise UsageError(
            what="no estimator", why=f"they are {', '.join(ESTIMATORS)}", fix="Choose some of them"
        )
    if not isinstance(tolerance, int | float) or not (isfinite(tolerance) and tolerance > 0):
        raise UsageError(
            what=f"tolerance {tolerance!r} is not a positive number",
            why="it is the standard error to reach, in nats",
            fix="Give for example 0.01",
        )
    seed = whole_number("seed", seed, 0, "Give for example 0")
    if conditional not in ("sampled", "linearised"):
        raise UsageError(
            what=f"conditional {conditional!r} is not known", fix="Choose 'sampled' or 'linearised'"
        )
    Backend.open(device)  # fails here rather than in each task
    specs = [binning] if isinstance(binning, str | Binning) else binning
    return Settings(
        noise=parse_noise(noise_std),
        binnings=tuple(
            dict.fromkeys(spec if isinstance(spec, Binning) else Binning.parse(spec) for spec in specs)
        ),
        estimators=tuple(dict.fromkeys(estimators)),
        tolerance=tolerance,
        seed=seed,
        device=device,
        conditional=conditional,
    )


def _analyze(
    store: Store,
    settings: Settings,
    layers: Sequence[str] | str,
    steps: Sequence[int] | None,
    executor: Executor | None,
    progress: Progress,
) -> Results:
    if store.noise is None and store.n_realizations > 1:
        raise UsageError(
            what="cannot analyse several realizations",
            path=store.path,
            why=f"the store holds {store.n_realizations} passes per sample and does not say of which noise",
            fix="Extract with --noise-std, or without noise",
        )
    if store.noise is not None and settings.noise != (AUTO,):
        raise UsageError(
            what="--noise-std for the store of a noisy network",
            path=store.path,
            why="its activations hold the noise of earlier layers, and that of their own is known",
            fix="Leave out --noise-std, or extract without noise to measure through noise of your choice",
        )
    selectors = [layers] if isinstance(layers, str) else layers
    views = select_layers(tuple(store.layers.values()), selectors)
    chosen = _choose_steps(store, steps)
    progress.start("analysing", len(views) * len(chosen), "layers × checkpoints")
    tasks = (
        Task(store.path, view.key, step, position, settings, scales)
        for view in views
        for scales in [fix_scales(store, view, settings)]
        for position, step in enumerate(chosen)
    )
    outcomes = _computed(tasks, store, executor, progress)
    per_layer = [outcomes[i : i + len(chosen)] for i in range(0, len(outcomes), len(chosen))]
    per_layer_keys = [view.key for view in views]
    labels = store.samples.labels
    checkpoints = [store.checkpoints[store.steps.index(step)] for step in chosen]
    names = dict.fromkeys(name for c in checkpoints for name in c.metrics)
    rows = [row for outcome in outcomes for row in outcome.rows]
    rows += [row for position in range(len(chosen)) for row in _rises(rows, per_layer_keys, position)]
    return Results(
        rows=tuple(sorted(rows, key=lambda row: row.checkpoint)),
        histograms=tuple(
            histogram
            for view, found in zip(views, per_layer, strict=True)
            for histogram in _stack_histograms(view.key, [o.clustering for o in found if o.clustering])
        ),
        scatters=tuple(
            scatter
            for view, found in zip(views, per_layer, strict=True)
            for scatter in _stack_scatters(view.key, found, store, settings.seed)
        ),
        steps=tuple(chosen),
        epochs=tuple(c.epoch for c in checkpoints),
        metrics={n: tuple(c.metrics.get(n, float("nan")) for c in checkpoints) for n in names},
        layers={view.key: view.name for view in views},
        n_samples=len(store.samples.index),
        n_classes=0 if labels is None else len(np.unique(labels)),
        synthetic=store.synthetic,
        provenance=_provenance(store, settings, per_layer_keys, chosen),
    )


def _rises(rows: Sequence[Row], layers: Sequence[str], position: int) -> Iterator[Row]:
    """Yield by how much I(X;T) of a noisy network rises from each layer to the next, at one checkpoint."""
    known = {
        row.layer: row
        for row in rows
        if row.checkpoint == position
        and row.quantity == "mi_input"
        and row.noise_model == "network"
        and row.value is not None
    }
    for before, after in pairwise(known[key] for key in layers if key in known):
        step = rise(before, after)
        if step is not None:
            yield replace(
                after,
                quantity="mi_input_rise",
                value=step[0],
                std_error=step[1],
                ceiling=None,
                status=Status.OK,
                reason="",
                population_lower=None,
                population_upper=None,
                params={"from_layer": before.layer},
            )


def _computed(
    tasks: Iterable[Task], store: Store, executor: Executor | None, progress: Progress
) -> list[Outcome]:
    """Return the outcomes in the order of the tasks."""
    outcomes = []
    # Held by this thread for all: threads of an executor that each set and lifted the limit, which belongs to
    # the process, would change how the sums of the others are rounded.
    with one_blas_thread():
        here = (compute(task, store) for task in tasks)
        for outcome in here if executor is None else _run_in(executor, tasks):
            outcomes.append(outcome)
            progress.advance(1)
    return outcomes


def _run_in(executor: Executor, tasks: Iterable[Task]) -> Iterator[Outcome]:
    futures = [executor.submit(compute, task) for task in tasks]
    try:
        for future in futures:
            yield future.result()
    except BrokenExecutor:
        raise ResourceError(
            what="a worker process died",
            why="the system may have run out of memory",
            fix="Use fewer --workers",
        ) from None
    finally:
        for future in futures:
            future.cancel()


def _choose_steps(store: Store, steps: Sequence[int] | None) -> tuple[int, ...]:
    if steps is None:
        return store.steps
    if not steps:
        raise UsageError(
            what="no step", why=f"the steps are {', '.join(map(str, store.steps))}", fix="Choose some"
        )
    if missing := [step for step in steps if step not in store.steps]:
        raise UsageError(
            what=f"no checkpoint at step {missing[0]}",
            path=store.path,
            why=f"the steps are {', '.join(map(str, store.steps))}",
            fix="Choose some of them",
        )
    return tuple(step for step in store.steps if step in set(steps))


def _stack_histograms(layer: str, clusterings: Sequence[Clustering]) -> Iterator[Histogram]:
    """Yield one histogram per quantity and relation; a checkpoint without pairs has zeros."""
    for quantity, summaries in (
        ("distance", [found.distances for found in clusterings]),
        ("cosine", [found.cosines for found in clusterings]),
    ):
        for relation in dict.fromkeys(name for summary in summaries for name in summary):
            edges = next(summary[relation].edges for summary in summaries if relation in summary)
            empty = np.zeros(len(edges) - 1, np.int64)
            counts = [summary[relation].counts if relation in summary else empty for summary in summaries]
            yield Histogram(layer, quantity, relation, edges, np.stack(counts))


def _stack_scatters(layer: str, found: Sequence[Outcome], store: Store, seed: int) -> Iterator[Scatter]:
    """Yield the frames of a layer as one scatter, if clustering was asked for."""
    frames = [outcome.frame for outcome in found if outcome.frame is not None]
    if not frames:
        return
    samples, labels = choose_points(len(store.samples.index), seed), store.samples.labels
    yield Scatter(
        layer,
        frames[0].axes,
        samples,
        np.full(len(samples), -1, np.int64) if labels is None else labels[samples],
        _single(np.stack([frame.coordinates for frame in frames])),
        np.array([frame.shown for frame in frames]),
    )


def _single(coordinates: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return coordinates in single precision, which is more than any picture shows; NaN beyond its range."""
    with np.errstate(over="ignore"):
        found = coordinates.astype(np.float32)
    found[np.isinf(found)] = np.nan
    return found


_OF_A_FILE = ("files", "sha256", "weights_sha256")


def _provenance(
    store: Store, settings: Settings, layers: Sequence[str], steps: Sequence[int]
) -> dict[str, Any]:
    return {
        "repstat": __version__,
        "numpy": np.__version__,
        "store": str(store.path),
        "inputs_sha256": store.samples.inputs_sha256,
        "inputs_source": store.samples.inputs_source,
        "input_entropy": store.samples.input_entropy,
        "options": {
            "noise_std": [level.text for level in settings.noise],
            "binning": [str(binning) for binning in settings.binnings],
            "estimators": list(settings.estimators),
            "tolerance": settings.tolerance,
            "seed": settings.seed,
            "conditional": settings.conditional,
            "device": settings.device,
            "layers": list(layers) if len(layers) < len(store.layers) else None,
            "steps": list(steps) if len(steps) < len(store.steps) else None,
        },
        "noise": None if store.noise is None else {"seed": store.noise.seed, "std": store.noise.noise_std},
        "extraction": _extraction(store),
        "checkpoints": [
            {
                "step": c.step,
                "source": c.source,
                "sha256": c.sha256,
                "weights_sha256": c.weights_sha256,
                "activations_sha256": _activations_hash(store, layers, c.step),
            }
            for c in store.checkpoints
        ],
    }


def _activations_hash(store: Store, layers: Sequence[str], step: int) -> str:
    """Return one hash of all layers analysed at a checkpoint."""
    hashes = "".join(store.layers[key].at(step=step).sha256 for key in layers)
    return sha256(hashes.encode()).hexdigest()


def _extraction(store: Store) -> list[dict[str, Any]]:
    """Return how the activations were made, each way once: without what differs between files of models."""
    found: list[dict[str, Any]] = []
    for record in store.provenance:
        adapter = record.get("adapter")
        shared = dict(record)
        if isinstance(adapter, Mapping):
            shared["adapter"] = {name: value for name, value in adapter.items() if name not in _OF_A_FILE}
        if shared not in found:
            found.append(shared)
    return found
