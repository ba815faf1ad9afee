"""One layer at one checkpoint through every estimator: the unit of work of an analysis.

A `Task` holds plain values only and opens the store itself, so that it can be computed in another process:
its outcome depends on the store, the settings and the seed, never on where or in which order it is computed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repstat.clustering import Clustering, Geometry, clustering, geometry
from repstat.clustering.scatter import Axes, choose_points, project
from repstat.errors import UsageError
from repstat.estimators import Binning, NoisyMI, binned_mi, noise_profile, noisy_mi, sample_propagation_mi
from repstat.estimators.binned import edge_notes
from repstat.estimators.noise_profile import SCALES
from repstat.results import Estimate, Row, Status
from repstat.scales import NoiseLevel
from repstat.store import ActivationView, Store, open_store
from repstat.wide import cell_numbers, fold, is_wide, matrix_of, row_blocks

SAMPLE_PROPAGATION = "sample_propagation_mi"

SPACED_VALUES = 2**16
"""Activations of which the rounding is looked at."""

Conditional = Literal["sampled", "linearised"]
"""How h(T|X) of a noisy network is found: from the density of the realizations, or from their covariance."""


_TOO_LARGE = "it exceeds the largest floating-point number, 1.8e308"


def _finite(number: float | None) -> float | None:
    return number if number is not None and isfinite(number) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to compute: noise levels, binnings, estimators, error and seed."""

    noise: tuple[NoiseLevel, ...]
    binnings: tuple[Binning, ...]
    estimators: tuple[str, ...]
    tolerance: float
    seed: int
    device: str = "cpu"
    conditional: Conditional = "sampled"


@dataclass(frozen=True, slots=True)
class Scales:
    """What all checkpoints of one layer share: noise levels, the same in activation units, edges, axes."""

    noise: tuple[NoiseLevel, ...]
    noise_std: tuple[float, ...]
    bin_edges: tuple[Any, ...]
    distance_edges: NDArray[np.float64]
    profile_std: tuple[float, ...] = ()
    axes: Axes | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One layer at one checkpoint: where a row belongs."""

    checkpoint: int
    step: int
    epoch: float | None
    layer: str
    layer_name: str
    values: NDArray[Any] = field(repr=False)
    wide: ActivationView | None = field(default=None, repr=False)
    """If the layer is too wide to be held: `values` are then coordinates (`repstat.wide`)."""

    def row(
        self,
        quantity: str,
        estimator: str,
        estimate: Estimate,
        params: Mapping[str, Any],
        *,
        units: str = "nats",
        noise_std: float | None = None,
        noise_model: Literal["", "measurement", "network"] = "",
    ) -> Row:
        """Return `estimate` as a row of this cell: all its numbers finite, or missing with a reason."""
        if estimate.value is not None and not isfinite(estimate.value):
            estimate = Estimate.undefined(_TOO_LARGE, n_samples=estimate.n_samples, n_units=estimate.n_units)
        reason = estimate.reason
        if self.wide is not None and estimate.status is Status.UNDEFINED:
            reason = fold(self.wide).reason or reason
        return Row(
            checkpoint=self.checkpoint,
            step=self.step,
            epoch=self.epoch,
            layer=self.layer,
            layer_name=self.layer_name,
            quantity=quantity,
            estimator=estimator,
            value=estimate.value,
            std_error=_finite(estimate.std_error),
            lower_bound=_finite(estimate.lower_bound),
            upper_bound=_finite(estimate.upper_bound),
            ceiling=estimate.ceiling,
            status=estimate.status,
            units=units,
            n_samples=estimate.n_samples,
            n_units=estimate.n_units if self.wide is None else self.wide.shape[-1],
            noise_std=noise_std,
            noise_model=noise_model,
            params=params,
            reason=reason,
            population_lower=estimate.population_lower,
            population_upper=estimate.population_upper,
        )


@dataclass(frozen=True, slots=True)
class Task:
    """What to compute: a layer at a step of a store, at a position of the trajectory analysed."""

    store: Path
    layer: str
    step: int
    position: int
    settings: Settings
    scales: Scales

    def seed(self, store: Store) -> int:
        """Return the task's own seed; it stays when other layers or steps are analysed with it or not."""
        key = [self.settings.seed, list(store.layers).index(self.layer), self.step]
        return int(np.random.SeedSequence(key).generate_state(1)[0])


@dataclass(frozen=True, slots=True)
class Frame:
    """Coordinates of some samples at one checkpoint, (n_points, n_axes), and the variance that they show."""

    axes: tuple[str, ...]
    coordinates: NDArray[np.float64]
    shown: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a task gives: rows, and if clustering was asked for the pair summaries and a frame."""

    rows: tuple[Row, ...]
    clustering: Clustering | None
    frame: Frame | None


@lru_cache(maxsize=1)
def _opened(path: Path) -> Store:
    # A worker process computes many tasks of one store; opening checks the whole file each time.
    return open_store(path)


def compute(task: Task, store: Store | None = None) -> Outcome:
    """Compute one task, from `store` if it is open here already."""
    store = store or _opened(task.store)
    view, checkpoint = store.layers[task.layer], store.checkpoints[store.steps.index(task.step)]
    activations = view.at(step=task.step)
    values = matrix_of(activations)
    wide = activations if is_wide(activations) else None
    cell = Cell(task.position, task.step, checkpoint.epoch, view.key, view.name, values, wide)
    labels, seed = store.samples.labels, task.seed(store)
    if store.noise is not None:
        rows = list(_network_rows(cell, store, task, seed))
    else:
        rows = list(_measurement_rows(cell, labels, task, seed, store.samples.input_entropy))
    rows += _binned_rows(cell, labels, task, store.samples.input_entropy, noisy=store.noise is not None)
    rows += _profile_rows(cell, task, seed)
    found = frame = None
    if "clustering" in task.settings.estimators:
        # One subset of the samples for the whole trajectory, where there are too many for all pairs.
        found = clustering(
            first_pass(values), labels, seed=task.settings.seed, distance_edges=task.scales.distance_edges
        )
        rows += _clustering_rows(cell, found, task.settings.seed)
        shape = geometry(first_pass(values), labels, _outputs(store, task.step), seed=task.settings.seed)
        rows += _geometry_rows(cell, shape, task.settings.seed)
        if task.scales.axes is not None:
            shown = first_pass(values)[choose_points(len(store.samples.index), task.settings.seed)]
            frame = Frame(task.scales.axes.names, *project(shown, task.scales.axes))
    return Outcome(tuple(rows), found, frame)


def _outputs(store: Store, step: int) -> NDArray[Any] | None:
    """Return the network's outputs at a step, if the store has one output layer."""
    outputs = [view for view in store.layers.values() if view.kind == "output"]
    return first_pass(outputs[0].at(step=step).read()) if len(outputs) == 1 else None


def first_pass(values: NDArray[Any]) -> NDArray[Any]:
    """Return the activations of the first noisy pass, (n_samples, n_units), or of the only one."""
    return np.asarray(values[0] if values.ndim == 3 else values)


def _network_rows(cell: Cell, store: Store, task: Task, seed: int) -> Iterator[Row]:
    """Yield the information rows of one layer of a noisy network."""
    settings = task.settings
    if "noisy" not in settings.estimators or store.noise is None:
        return
    std = store.noise.noise_std.get(cell.layer)
    labels = store.samples.labels
    reason = ""
    if std is None:
        reason = (
            "the layer has no noise of its own, which the estimator needs; where none reaches it either, "
            "I(X;T) is infinite or ln n"
        )
    elif store.n_realizations == 1 and store.conditional is None:
        reason = (
            "a single noisy pass does not tell h(T|X), nor whether noise of another layer reaches this one: "
            "extract with more realizations"
        )
    else:
        reason = _lost_in_rounding(cell.values, std)
    if std is None or reason:
        n_samples, n_units = first_pass(cell.values).shape
        nothing = Estimate.undefined(reason, n_samples=n_samples, n_units=n_units)
        for quantity in ("mi_input",) if labels is None else ("mi_input", "mi_label"):
            known = {"noise": "none" if std is None else f"{std:g}"}
            yield cell.row(quantity, SAMPLE_PROPAGATION, nothing, known, noise_std=std, noise_model="network")
        return
    repeated = store.layers[cell.layer].at(step=task.step).conditional
    samples = None if repeated is None or store.conditional is None else store.conditional.samples
    found = sample_propagation_mi(
        cell.values if cell.values.ndim == 3 else cell.values[None],
        None if repeated is None else repeated.read(),
        noise_std=std,
        conditional_samples=samples,
        labels=labels,
        tolerance=settings.tolerance,
        seed=seed,
        input_entropy=store.samples.input_entropy,
        device=settings.device,
    )
    linear = settings.conditional == "linearised"
    params = {
        "noise": f"{std:g}",
        "tolerance": settings.tolerance,
        "seed": seed,
        "n_draws": found.n_draws,
        "n_recorded": found.n_recorded,
        "n_repeated": found.n_repeated,
        "n_conditional": found.n_conditional,
        "conditional": settings.conditional,
        "halvings": ";".join(f"{r},{c}:{value:.6g}" for r, c, value in found.halvings),
    }
    for quantity, estimate in (
        ("mi_input", found.linearised if linear else found.input),
        ("mi_label", found.label),
        ("conditional_entropy", found.conditional_entropy),
        ("mi_input_linearised", found.linearised),
    ):
        if estimate is not None:
            bias = found.label_bias if quantity == "mi_label" else found.bias
            yield cell.row(
                quantity,
                SAMPLE_PROPAGATION,
                estimate,
                params | {"bias": bias},
                noise_std=std,
                noise_model="network",
            )


def _lost_in_rounding(values: NDArray[Any], std: float) -> str:
    """Return why noise so small never was in the network, or is none beside the rounding of the store."""
    some = values.reshape(-1)[:: max(1, values.size // SPACED_VALUES)]
    sizes = np.abs(some[np.isfinite(some) & (some != 0.0)])
    step = float(np.median(np.spacing(sizes))) if sizes.size else 0.0
    if std >= step:
        return ""
    return (
        f"noise_std {std:g} is below the rounding of the {values.dtype.name} activations, {step:.2g}: added "
        "to them it is lost. Extract with more noise, or with more precision"
    )


def _measurement_rows(
    cell: Cell,
    labels: NDArray[np.int64] | None,
    task: Task,
    seed: int,
    input_entropy: float | None,
) -> Iterator[Row]:
    """Yield the information rows of one layer of a network without noise, read through noise."""
    settings, scales = task.settings, task.scales
    channels: list[NoisyMI] = []
    if "noisy" in settings.estimators:
        try:
            channels = noisy_mi(
                cell.values,
                scales.noise_std,
                labels=labels,
                tolerance=settings.tolerance,
                seed=seed,
                input_entropy=input_entropy,
                device=settings.device,
            )
        except UsageError as error:
            # All but the ratio of noise and activations was checked before: no reason to lose the trajectory.
            yield from _no_channels(cell, labels, scales, error)
            return
    for level, found in zip(scales.noise, channels, strict="noisy" in settings.estimators):
        for quantity, estimate in (("mi_input", found.input), ("mi_label", found.label)):
            if estimate is not None:
                yield cell.row(
                    quantity,
                    "noisy_mi",
                    estimate,
                    {
                        "noise": level.text,
                        "tolerance": settings.tolerance,
                        "seed": seed,
                        "n_draws": found.n_draws,
                    },
                    noise_std=found.noise_std,
                    noise_model="measurement",
                )


def _nothing(cell: Cell, error: UsageError) -> Estimate:
    why = f"{error.what}: {error.why}" if error.why else error.what
    return Estimate.undefined(why, n_samples=len(cell.values), n_units=cell.values.shape[-1])


def _no_channels(
    cell: Cell, labels: NDArray[np.int64] | None, scales: Scales, error: UsageError
) -> Iterator[Row]:
    nothing = _nothing(cell, error)
    for level, std in zip(scales.noise, scales.noise_std, strict=True):
        for quantity in ("mi_input",) if labels is None else ("mi_input", "mi_label"):
            yield cell.row(
                quantity, "noisy_mi", nothing, {"noise": level.text}, noise_std=std, noise_model="measurement"
            )


def _binned_rows(
    cell: Cell, labels: NDArray[np.int64] | None, task: Task, input_entropy: float | None, *, noisy: bool
) -> Iterator[Row]:
    """Yield the rows of binned activations, of all noisy passes where there are several."""
    settings = task.settings
    if "binned" not in settings.estimators:
        return
    several = noisy and cell.values.ndim == 3
    for binning, edges in zip(settings.binnings, task.scales.bin_edges, strict=True):
        if cell.wide is None or fold(cell.wide).reason:
            binned = binned_mi(
                cell.values,
                labels,
                binning=binning,
                edges=edges,
                input_entropy=input_entropy,
                realizations=several,
            )
        else:
            numbers = cell_numbers(cell.wide, binning, edges)
            binned = replace(
                binned_mi(numbers, labels, binning=Binning.width(1.0), input_entropy=input_entropy),
                notes=edge_notes(row_blocks(cell.wide), binning, edges, own_edges=False),
            )
        for quantity, estimate in (
            ("binned_mi_input", binned.input),
            ("binned_mi_label", binned.label),
        ):
            if estimate is not None:
                params = {"binning": str(binning), "n_cells": binned.n_cells} | _notes(binned.notes)
                yield cell.row(quantity, "binned_mi", estimate, params)


def _clustering_rows(cell: Cell, found: Clustering, seed: int) -> Iterator[Row]:
    """Yield the rows of the clustering diagnostics of one cell."""
    params = {
        "n_total": found.n_total,
        "seed": seed,
        "n_singletons": found.n_singletons,
        "n_zero_vectors": found.n_zero_vectors,
    } | _notes(found.notes)
    for quantity, estimate in found.estimates.items():
        units = "activation" if quantity.endswith("_distance") else "1"
        yield cell.row(quantity, "clustering", estimate, params, units=units)


def _geometry_rows(cell: Cell, found: Geometry, seed: int) -> Iterator[Row]:
    """Yield the rows of neural collapse, neighbours, silhouette and dimension."""
    searched: dict[str, Any] = {"n_total": found.n_total, "seed": seed, "n_queries": found.n_queries}
    params: dict[str, dict[str, Any]] = {
        "knn_agreement": searched | {"k": found.k, "chance": found.chance},
        "silhouette": searched,
        "participation_ratio": {"n_total": found.n_total, "seed": seed},
    }
    for quantity, estimate in found.estimates.items():
        estimator = quantity if quantity in params else "neural_collapse"
        yield cell.row(quantity, estimator, estimate, params.get(quantity, {}), units="1")


def _profile_rows(cell: Cell, task: Task, seed: int) -> Iterator[Row]:
    """Yield the effective number of clusters at every scale of the layer's profile."""
    if not task.scales.profile_std:
        return
    levels, subset_seed = task.scales.profile_std, task.settings.seed
    try:
        clusters = noise_profile(cell.values, levels, seed=seed, subset_seed=subset_seed).clusters
    except UsageError as error:  # as in `_measurement_rows`
        clusters = (_nothing(cell, error),) * len(levels)
    common = {"seed": seed, "subset_seed": subset_seed, "n_total": len(cell.values)}
    for scale, std, estimate in zip(SCALES, levels, clusters, strict=True):
        yield cell.row(
            "effective_clusters",
            "noise_profile",
            estimate,
            {"scale": f"{scale:.3g}"} | common,
            units="1",
            noise_std=std,
            noise_model="measurement",
        )


def _notes(notes: tuple[str, ...]) -> dict[str, Any]:
    return {"notes": "; ".join(notes)} if notes else {}
