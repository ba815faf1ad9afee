"""The rows of one layer at one checkpoint, from each of the estimators and diagnostics."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.cell import Cell, Task, first_pass
from repstat.clustering import Clustering, Geometry
from repstat.clustering.constant_units import constant_units, of_count
from repstat.errors import UsageError
from repstat.estimators import Binning, NoisyMI, binned_mi, noise_profile, noisy_mi, sample_propagation_mi
from repstat.estimators.binned import edge_notes
from repstat.estimators.noise_profile import SCALES
from repstat.results import Estimate, Row
from repstat.scales import NoiseLevel
from repstat.store import Store
from repstat.wide import cell_numbers, fold, row_blocks

SAMPLE_PROPAGATION = "sample_propagation_mi"

SPACED_VALUES = 2**16
"""Activations of which the rounding is looked at."""


def network_rows(cell: Cell, store: Store, task: Task, seed: int) -> Iterator[Row]:
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


def measurement_rows(
    cell: Cell,
    labels: NDArray[np.int64] | None,
    task: Task,
    seed: int,
    input_entropy: float | None,
) -> Iterator[Row]:
    """Yield the information rows of one layer of a network without noise, read through noise."""
    settings, scales = task.settings, task.scales
    if "noisy" not in settings.estimators:
        return
    common = {
        "labels": labels,
        "tolerance": settings.tolerance,
        "seed": seed,
        "input_entropy": input_entropy,
        "device": settings.device,
    }
    found = _channels(cell, scales.noise_std, common)
    for level, std, channel in zip(scales.noise, scales.noise_std, found, strict=True):
        if isinstance(channel, UsageError):
            yield from _no_channel(cell, labels, level, std, channel)
            continue
        for quantity, estimate in (("mi_input", channel.input), ("mi_label", channel.label)):
            if estimate is not None:
                yield cell.row(
                    quantity,
                    "noisy_mi",
                    estimate,
                    {
                        "noise": level.text,
                        "tolerance": settings.tolerance,
                        "seed": seed,
                        "n_draws": channel.n_draws,
                    },
                    noise_std=channel.noise_std,
                    noise_model="measurement",
                )


def _channels(
    cell: Cell, noise_std: Sequence[float], common: Mapping[str, Any]
) -> list[NoisyMI | UsageError]:
    """Estimate all levels in one pass; where one of them is refused, each by itself.

    All but the ratio of noise and activations was checked before: no reason to lose the trajectory.
    """
    try:
        return [*noisy_mi(cell.values, noise_std, **common)]
    except UsageError as error:
        if len(noise_std) == 1:
            return [error]
        return [found for std in noise_std for found in _channels(cell, (std,), common)]


def _nothing(cell: Cell, error: UsageError) -> Estimate:
    why = f"{error.what}: {error.why}" if error.why else error.what
    return Estimate.undefined(why, n_samples=len(cell.values), n_units=cell.values.shape[-1])


def _no_channel(
    cell: Cell, labels: NDArray[np.int64] | None, level: NoiseLevel, std: float, error: UsageError
) -> Iterator[Row]:
    nothing = _nothing(cell, error)
    for quantity in ("mi_input",) if labels is None else ("mi_input", "mi_label"):
        yield cell.row(
            quantity, "noisy_mi", nothing, {"noise": level.text}, noise_std=std, noise_model="measurement"
        )


def binned_rows(
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


def clustering_rows(cell: Cell, found: Clustering, seed: int) -> Iterator[Row]:
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


def geometry_rows(cell: Cell, found: Geometry, seed: int) -> Iterator[Row]:
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


def constant_rows(cell: Cell) -> Iterator[Row]:
    """Yield how many units have one value for every sample, in the first pass of a noisy network."""
    if cell.wide is None:
        found = constant_units(first_pass(cell.values))
    else:
        folded = fold(cell.wide)
        found = of_count(folded.n_constant, len(cell.values), folded.n_units, folded.reason)
    yield cell.row("constant_units", "constant_units", found, {}, units="1")


def profile_rows(cell: Cell, task: Task, seed: int) -> Iterator[Row]:
    """Yield the effective number of clusters at every scale of the layer's profile."""
    if not task.scales.profile_std:
        return
    levels, subset_seed = task.scales.profile_std, task.settings.seed
    try:
        clusters = noise_profile(cell.values, levels, seed=seed, subset_seed=subset_seed).clusters
    except UsageError as error:  # as in `measurement_rows`
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
