"""One layer at one checkpoint through every estimator: the unit of work of an analysis.

A `Task` holds plain values only and opens the store itself, so that it can be computed in another process:
its outcome depends on the store, the settings and the seed, never on where or in which order it is computed.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.cell import Cell, Task, first_pass
from repstat.clustering import Clustering, clustering, geometry
from repstat.clustering.scatter import choose_points, project
from repstat.results import Row
from repstat.rows import (
    binned_rows,
    clustering_rows,
    constant_rows,
    geometry_rows,
    measurement_rows,
    network_rows,
    profile_rows,
)
from repstat.store import Store, open_store
from repstat.threads import one_blas_thread
from repstat.wide import is_wide, matrix_of


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
    with one_blas_thread():  # sums are rounded alike wherever the task runs
        return _compute(task, store)


def _compute(task: Task, store: Store | None) -> Outcome:
    store = store or _opened(task.store)
    view, checkpoint = store.layers[task.layer], store.checkpoints[store.steps.index(task.step)]
    activations = view.at(step=task.step)
    values = matrix_of(activations)
    wide = activations if is_wide(activations) else None
    cell = Cell(task.position, task.step, checkpoint.epoch, view.key, view.name, values, wide)
    labels, seed = store.samples.labels, task.seed(store)
    if store.noise is not None:
        rows = list(network_rows(cell, store, task, seed))
    else:
        rows = list(measurement_rows(cell, labels, task, seed, store.samples.input_entropy))
    rows += binned_rows(cell, labels, task, store.samples.input_entropy, noisy=store.noise is not None)
    rows += profile_rows(cell, task, seed)
    found = frame = None
    if "clustering" in task.settings.estimators:
        # One subset of the samples for the whole trajectory, where there are too many for all pairs.
        found = clustering(
            first_pass(values), labels, seed=task.settings.seed, distance_edges=task.scales.distance_edges
        )
        rows += clustering_rows(cell, found, task.settings.seed)
        shape = geometry(first_pass(values), labels, _outputs(store, task.step), seed=task.settings.seed)
        rows += geometry_rows(cell, shape, task.settings.seed)
        rows += constant_rows(cell)
        if task.scales.axes is not None:
            shown = first_pass(values)[choose_points(len(store.samples.index), task.settings.seed)]
            frame = Frame(task.scales.axes.names, *project(shown, task.scales.axes))
    return Outcome(tuple(rows), found, frame)


def _outputs(store: Store, step: int) -> NDArray[Any] | None:
    """Return the network's outputs at a step, if the store has one output layer."""
    outputs = [view for view in store.layers.values() if view.kind == "output"]
    return first_pass(outputs[0].at(step=step).read()) if len(outputs) == 1 else None
