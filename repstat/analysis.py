"""Every layer at every checkpoint through the estimators and diagnostics: the trajectory of numbers.

Layer by layer: a first pass over the checkpoints fixes what must be common to a trajectory (noise levels, bin
and histogram edges), a second one computes. One cell, a layer at a checkpoint, depends on nothing but its
values, these settings and the seed.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repstat.clustering import Clustering, clustering, distance_edges
from repstat.errors import UsageError
from repstat.estimators import Binning, binned_mi, noisy_mi
from repstat.progress import Progress, Silent
from repstat.results import Estimate, Histogram, Results, Row
from repstat.scales import NoiseLevel, parse_noise, pooled_std
from repstat.selection import select_layers
from repstat.store import LayerView, Store, open_store
from repstat.version import __version__

ESTIMATORS = ("noisy", "binned", "clustering")
DEFAULT_BINNING = "count:30"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to compute: noise levels, binnings, estimators, error and seed."""

    noise: tuple[NoiseLevel, ...]
    binnings: tuple[Binning, ...]
    estimators: tuple[str, ...]
    tolerance: float
    seed: int


@dataclass(frozen=True, slots=True)
class Scales:
    """What all checkpoints of one layer share: noise levels in activation units and edges."""

    noise_std: tuple[float, ...]
    bin_edges: tuple[Any, ...]
    distance_edges: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cell:
    """One layer at one checkpoint: where a row belongs."""

    checkpoint: int
    step: int
    epoch: float | None
    layer: str
    layer_name: str
    values: NDArray[Any] = field(repr=False)

    def row(
        self,
        quantity: str,
        estimator: str,
        estimate: Estimate,
        *,
        units: str = "nats",
        noise_std: float | None = None,
        noise_model: Literal["", "measurement", "network"] = "",
        **params: Any,
    ) -> Row:
        """Return `estimate` as a row of this cell."""
        return Row(
            checkpoint=self.checkpoint,
            step=self.step,
            epoch=self.epoch,
            layer=self.layer,
            layer_name=self.layer_name,
            quantity=quantity,
            estimator=estimator,
            value=estimate.value,
            std_error=estimate.std_error,
            lower_bound=estimate.lower_bound,
            upper_bound=estimate.upper_bound,
            ceiling=estimate.ceiling,
            status=estimate.status,
            units=units,
            n_samples=estimate.n_samples,
            n_units=estimate.n_units,
            noise_std=noise_std,
            noise_model=noise_model,
            params=params,
            reason=estimate.reason,
            population_lower=estimate.population_lower,
            population_upper=estimate.population_upper,
        )


def analyze(
    store: Store | str | PathLike[str],
    *,
    noise_std: str | float | Sequence[str | float] = "auto",
    binning: str | Binning | Sequence[str | Binning] = DEFAULT_BINNING,
    estimators: Sequence[str] = ESTIMATORS,
    layers: Sequence[str] | str = ("all",),
    steps: Sequence[int] | None = None,
    tolerance: float = 0.01,
    seed: int = 0,
    progress: Progress | None = None,
) -> Results:
    """Estimate mutual information and clustering for every layer of a store at every checkpoint.

    Parameters
    ----------
    store
        An open store, or the path of one.
    noise_std
        Noise levels for `repstat.noisy_mi`: numbers in activation units, ``0.1x`` for a multiple of the
        layer's pooled standard deviation over the trajectory, or ``auto`` (``0.05x`` and ``0.2x``).
    binning
        One or more binnings, or their text: ``szt``, ``width:0.07``, ``count:30``, ``quantile:30``.
    estimators
        Any of ``noisy``, ``binned`` and ``clustering``.
    layers
        Selectors, see `repstat.selection`; by default every layer in the store.
    steps
        Checkpoints to analyse; by default all.
    tolerance
        Standard error to reach, in nats.
    seed
        Seed of the noise and of subsets of pairs.
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
    settings = _settings(noise_std, binning, estimators, tolerance, seed)
    opened = nullcontext(store) if isinstance(store, Store) else open_store(store)
    with opened as source:
        return _analyze(source, settings, layers, steps, progress or Silent())


def _settings(
    noise_std: str | float | Sequence[str | float],
    binning: str | Binning | Sequence[str | Binning],
    estimators: Sequence[str],
    tolerance: float,
    seed: int,
) -> Settings:
    if unknown := [name for name in estimators if name not in ESTIMATORS]:
        raise UsageError(
            what=f"no estimator is called {unknown[0]!r}",
            why=f"the estimators are {', '.join(ESTIMATORS)}",
            fix="Choose some of them",
        )
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise UsageError(
            what=f"tolerance {tolerance} is not a positive number",
            why="it is the standard error to reach, in nats",
            fix="Give for example 0.01",
        )
    specs = [binning] if isinstance(binning, str | Binning) else binning
    return Settings(
        noise=parse_noise(noise_std),
        binnings=tuple(spec if isinstance(spec, Binning) else Binning.parse(spec) for spec in specs),
        estimators=tuple(estimators),
        tolerance=tolerance,
        seed=seed,
    )


def _analyze(
    store: Store,
    settings: Settings,
    layers: Sequence[str] | str,
    steps: Sequence[int] | None,
    progress: Progress,
) -> Results:
    selectors = [layers] if isinstance(layers, str) else layers
    views = select_layers(tuple(store.layers.values()), selectors)
    chosen = _choose_steps(store, steps)
    labels = store.samples.labels
    progress.start("analysing", len(views) * len(chosen), "layers × checkpoints")
    rows: list[Row] = []
    histograms: list[Histogram] = []
    for ordinal, view in enumerate(views):
        scales = _fix_scales(view, chosen, settings)
        clusterings = []
        for position, step in enumerate(chosen):
            checkpoint = store.checkpoints[store.steps.index(step)]
            cell = Cell(position, step, checkpoint.epoch, view.key, view.name, view.at(step=step).read())
            seed = int(np.random.SeedSequence([settings.seed, ordinal, step]).generate_state(1)[0])
            rows += _information(cell, labels, scales, settings, seed, store.samples.input_entropy)
            if "clustering" in settings.estimators:
                found = clustering(cell.values, labels, seed=seed, distance_edges=scales.distance_edges)
                rows += _clustering_rows(cell, found)
                clusterings.append(found)
            progress.advance(1)
        histograms += _stack_histograms(view.key, clusterings)
    checkpoints = [store.checkpoints[store.steps.index(step)] for step in chosen]
    names = dict.fromkeys(name for c in checkpoints for name in c.metrics)
    return Results(
        rows=tuple(sorted(rows, key=lambda row: row.checkpoint)),
        histograms=tuple(histograms),
        steps=tuple(chosen),
        epochs=tuple(c.epoch for c in checkpoints),
        metrics={n: tuple(c.metrics.get(n, float("nan")) for c in checkpoints) for n in names},
        layers={view.key: view.name for view in views},
        n_samples=len(store.samples.index),
        n_classes=0 if labels is None else len(np.unique(labels)),
        synthetic=store.synthetic,
        provenance=_provenance(store, settings),
    )


def _choose_steps(store: Store, steps: Sequence[int] | None) -> tuple[int, ...]:
    if steps is None:
        return store.steps
    if missing := [step for step in steps if step not in store.steps]:
        raise UsageError(
            what=f"no checkpoint at step {missing[0]}",
            path=store.path,
            why=f"the steps are {', '.join(map(str, store.steps))}",
            fix="Choose some of them",
        )
    return tuple(step for step in store.steps if step in set(steps))


def _fix_scales(view: LayerView, steps: Sequence[int], settings: Settings) -> Scales:
    def blocks() -> Iterator[NDArray[Any]]:
        return (view.at(step=step).read() for step in steps)

    needs_spread = "noisy" in settings.estimators and any(n.relative for n in settings.noise)
    spread = pooled_std(blocks()) if needs_spread else 0.0
    return Scales(
        noise_std=tuple(level.std(spread) for level in settings.noise),
        bin_edges=tuple(
            binning.edges(blocks()) if "binned" in settings.estimators else None
            for binning in settings.binnings
        ),
        distance_edges=distance_edges(blocks()) if "clustering" in settings.estimators else np.empty(0),
    )


def _information(
    cell: Cell,
    labels: NDArray[np.int64] | None,
    scales: Scales,
    settings: Settings,
    seed: int,
    input_entropy: float | None,
) -> Iterator[Row]:
    """Yield the information rows of one cell."""
    for level, std in zip(settings.noise, scales.noise_std, strict=True):
        if "noisy" not in settings.estimators:
            break
        found = noisy_mi(
            cell.values,
            std,
            labels=labels,
            tolerance=settings.tolerance,
            seed=seed,
            input_entropy=input_entropy,
        )
        for quantity, estimate in (("mi_input", found.input), ("mi_label", found.label)):
            if estimate is not None:
                yield cell.row(
                    quantity,
                    "noisy_mi",
                    estimate,
                    noise_std=std,
                    noise_model="measurement",
                    noise=level.text,
                    tolerance=settings.tolerance,
                    seed=seed,
                    n_draws=found.n_draws,
                )
    for binning, edges in zip(settings.binnings, scales.bin_edges, strict=True):
        if "binned" not in settings.estimators:
            break
        binned = binned_mi(cell.values, labels, binning=binning, edges=edges, input_entropy=input_entropy)
        for quantity, estimate in (
            ("binned_mi_input", binned.input),
            ("binned_mi_label", binned.label),
        ):
            if estimate is not None:
                yield cell.row(quantity, "binned_mi", estimate, binning=str(binning), n_cells=binned.n_cells)


def _clustering_rows(cell: Cell, found: Clustering) -> Iterator[Row]:
    """Yield the rows of the clustering diagnostics of one cell."""
    for quantity, estimate in found.estimates.items():
        units = "activation" if quantity.endswith("_distance") else "1"
        yield cell.row(
            quantity,
            "clustering",
            estimate,
            units=units,
            n_total=found.n_total,
            n_singletons=found.n_singletons,
            n_zero_vectors=found.n_zero_vectors,
        )


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


def _provenance(store: Store, settings: Settings) -> dict[str, Any]:
    return {
        "repstat": __version__,
        "store": str(store.path),
        "inputs_sha256": store.samples.inputs_sha256,
        "inputs_source": store.samples.inputs_source,
        "options": {
            "noise_std": [level.text for level in settings.noise],
            "binning": [str(binning) for binning in settings.binnings],
            "estimators": list(settings.estimators),
            "tolerance": settings.tolerance,
            "seed": settings.seed,
        },
        "checkpoints": [
            {"step": c.step, "source": c.source, "sha256": c.sha256, "weights_sha256": c.weights_sha256}
            for c in store.checkpoints
        ],
    }
