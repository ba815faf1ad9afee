"""What all checkpoints of one layer share, fixed in a first pass over its trajectory: levels, edges, axes.

Only so can a slider along the trajectory compare like with like.
"""

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.autoscale import MAX_CHECKPOINTS, pick_levels
from repstat.cell import Scales, Settings, first_pass
from repstat.clustering import distance_edges
from repstat.clustering.scatter import MAX_CHECKPOINTS as FITTED_CHECKPOINTS
from repstat.clustering.scatter import Axes, choose_points, fit_axes
from repstat.estimators.noise_profile import SCALES
from repstat.scales import AUTO, NoiseLevel, pooled_std, rounded_std
from repstat.store import ActivationView, LayerView, Store
from repstat.wide import is_wide, matrix_of, row_blocks


def fix_scales(store: Store, view: LayerView, settings: Settings) -> Scales:
    """Return the noise levels, edges and axes of one layer, common to all checkpoints of the store."""
    steps, estimators = store.steps, settings.estimators

    def blocks() -> Iterator[NDArray[Any]]:
        """Yield what is clustered: the activations, of a noisy network those of the first pass."""
        return (first_pass(matrix_of(view.at(step=step))) for step in steps)

    def passes() -> Iterator[NDArray[Any]]:
        """Yield what is binned: all passes."""
        for step in steps:
            for block in row_blocks(view.at(step=step)):
                yield from block.reshape(-1, *block.shape[-2:])

    noise: tuple[NoiseLevel, ...] = ()
    profile, spread = "profile" in estimators and store.noise is None, 0.0
    if store.noise is None:
        noise = settings.noise
        relative = "noisy" in estimators and any(level.relative for level in noise)
        if relative or profile:
            spread = pooled_std(blocks()) * sqrt(_share_of_units(view.at(step=steps[0])))
        if relative:
            noise = tuple(dict.fromkeys(_levels(view, steps, noise, spread)))
    clustered = "clustering" in estimators
    return Scales(
        noise=noise,
        noise_std=tuple(level.std(spread) for level in noise),
        bin_edges=tuple(
            binning.edges(passes()) if "binned" in estimators else None for binning in settings.binnings
        ),
        distance_edges=distance_edges(blocks()) if clustered else np.empty(0),
        profile_std=_profile_levels(spread * sqrt(view.n_units)) if profile else (),
        axes=_axes(view, steps, len(store.samples.index), settings.seed) if clustered else None,
    )


def _profile_levels(distance: float) -> tuple[float, ...]:
    """Return the noise levels of a profile for a layer of this root mean square distance from the mean."""
    # A constant layer has no scale; any noise gives one cluster.
    return tuple(rounded_std(scale * (distance or 1.0)) for scale in SCALES)


def _axes(view: LayerView, steps: Sequence[int], n_samples: int, seed: int) -> Axes | None:
    if is_wide(view.at(step=steps[0])):
        return None  # its coordinates are those of one checkpoint
    points = choose_points(n_samples, seed)
    some = np.unique(np.linspace(0, len(steps) - 1, FITTED_CHECKPOINTS).round().astype(int))
    return fit_axes(first_pass(view.at(step=steps[i]).read())[points] for i in some)


def _share_of_units(view: ActivationView) -> float:
    """Return the columns of `matrix_of` per unit: in a wide layer fewer hold the variance of all units."""
    return len(view) / view.shape[-1] if is_wide(view) else 1.0


def _levels(
    view: LayerView, steps: Sequence[int], noise: Sequence[NoiseLevel], spread: float
) -> Iterator[NoiseLevel]:
    """Yield the noise levels of a layer, those that ``auto`` stands for in its place."""
    for level in noise:
        if level != AUTO:
            yield level
            continue
        some = np.unique(np.linspace(0, len(steps) - 1, MAX_CHECKPOINTS).round().astype(int))
        yield from pick_levels((matrix_of(view.at(step=steps[i])) for i in some), spread)
