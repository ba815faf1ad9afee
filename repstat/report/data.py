"""What the page's charts draw: the trajectories, histograms and coordinates of some runs, as JSON.

Numbers keep six digits, coordinates of scatter plots 16 bits of their range: more than a screen shows.
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.naming import printable
from repstat.report.methods import LABELS
from repstat.results import Histogram, Results, Scatter, Status
from repstat.trajectories import (
    TimeAxis,
    Trajectory,
    group_of,
    places_of,
    profile,
    spread,
    time_axis,
    trajectories,
)
from repstat.units import Units

STATUSES = tuple(Status)
_FIELDS = ("value", "std_error", "lower_bound", "upper_bound", "ceiling")
_LEVELS = 65535


def page_data(runs: Sequence[Results], names: Sequence[str], units: Units) -> dict[str, Any]:
    """Return everything that the charts and tables of a page show.

    Parameters
    ----------
    runs
        Results of one or more trainings.
    names
        What each is called.
    units
        Of information.
    """
    axis = time_axis(*runs)
    series = [trajectories(run) for run in runs]
    layers = {key: name for run in reversed(runs) for key, name in run.layers.items()}
    return {
        "units": units,
        "axis": {"name": axis.name, "linear": axis.linear, "ticks": [list(tick) for tick in axis.ticks]},
        "labels": LABELS,
        "statuses": [{"name": status.value, "advice": status.advice} for status in STATUSES],
        "layers": [{"key": key, "name": printable(layers[key])} for key in sorted(layers, key=_depth(runs))],
        "runs": [
            _run(run, name, found, axis, units) for run, name, found in zip(runs, names, series, strict=True)
        ],
        "spreads": _spreads(runs, names, series, axis, units),
    }


def _depth(runs: Sequence[Results]) -> Any:
    """Return the key that sorts layers as the first run that has them orders them."""
    order: dict[str, int] = {}
    for run in runs:
        for key in run.layers:
            order.setdefault(key, len(order))
    return lambda key: order[key]


def _run(
    run: Results, name: str, series: Sequence[Trajectory], axis: TimeAxis, units: Units
) -> dict[str, Any]:
    return {
        "name": printable(name),
        "group": printable(group_of(name)),
        "places": _numbers(places_of(run, axis)),
        "steps": list(run.steps),
        "epochs": list(run.epochs),
        "metrics": {printable(metric): _numbers(np.array(v)) for metric, v in run.metrics.items()},
        "series": [_series(trajectory, units) for trajectory in series],
        "histograms": [_histogram(h) for h in run.histograms if h.quantity == "distance"],
        "scatters": [_scatter(s) for s in run.scatters],
        "profiles": [_profile(run, layer) for layer in run.layers if profile(run, layer) is not None],
    }


def _series(found: Trajectory, units: Units) -> dict[str, Any]:
    fields = {name: _numbers(found.numbers(name, units)) for name in _FIELDS}
    shown = found.known[0].units
    return {
        "layer": found.layer,
        "quantity": found.quantity,
        "scale": printable(found.scale),
        "level": found.level,
        "noise_model": found.noise_model,
        "noise_std": found.noise_std,
        "units": units if shown == "nats" else shown,
        # A field that is the same everywhere, or nowhere, is sent once.
        **{name: values[0] if len(set(values)) == 1 else values for name, values in fields.items()},
        "status": [-1 if row is None else STATUSES.index(row.status) for row in found.rows],
        "reasons": {
            str(place): printable(row.reason)
            for place, row in enumerate(found.rows)
            if row is not None and row.reason
        },
    }


def _histogram(found: Histogram) -> dict[str, Any]:
    return {
        "layer": found.layer,
        "quantity": found.quantity,
        "relation": found.relation,
        "edges": _numbers(found.edges),
        "counts": found.counts.tolist(),
    }


def _scatter(found: Scatter) -> dict[str, Any]:
    """Return coordinates as whole numbers of 16 bits between the least and the greatest of each axis."""
    places = found.coordinates.astype(np.float64)
    finite = np.isfinite(places)
    # Beyond finite values: what leaves them out of the least and the greatest.
    axes = tuple(range(places.ndim - 1))
    some = finite.any(axis=axes)
    low = np.where(some, np.where(finite, places, np.inf).min(axis=axes), 0.0)
    high = np.where(some, np.where(finite, places, -np.inf).max(axis=axes), 0.0)
    # Halves first: the range of extreme activations can exceed the largest number.
    half = np.maximum(high / 2 - low / 2, np.finfo(np.float64).tiny)
    share = np.where(finite, (np.where(finite, places, 0.0) / 2 - low / 2) / half, 0.0)
    whole = np.clip(np.rint(share * (_LEVELS - 1)), 0, _LEVELS - 1).astype("<u2")
    whole[~finite] = _LEVELS
    return {
        "layer": found.layer,
        "axes": [printable(axis) for axis in found.axes],
        "labels": found.labels.tolist(),
        "samples": found.samples.tolist(),
        "low": _numbers(low),
        "high": _numbers(high),
        "shape": list(places.shape),
        "coordinates": base64.b64encode(whole.tobytes()).decode("ascii"),
        "shown": _numbers(found.shown),
    }


def _profile(run: Results, layer: str) -> dict[str, Any]:
    found = profile(run, layer)
    assert found is not None
    return {
        "layer": layer,
        "noise_std": _numbers(found.noise_std),
        "clusters": [_numbers(row) for row in found.clusters],
        "ceiling": _number(found.ceiling),
    }


def _spreads(
    runs: Sequence[Results],
    names: Sequence[str],
    series: Sequence[Sequence[Trajectory]],
    axis: TimeAxis,
    units: Units,
) -> list[dict[str, Any]]:
    """Return mean and spread over the seeds of each setting, of all that the charts of time draw."""
    gathered: dict[tuple[str, str, str, int], list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    for run, name, found in zip(runs, names, series, strict=True):
        places = places_of(run, axis)
        group = printable(group_of(name))
        for metric, values in run.metrics.items():
            gathered.setdefault((group, "", printable(metric), 0), []).append((places, np.array(values)))
        for trajectory in found:
            key = group, trajectory.layer, trajectory.quantity, trajectory.level
            if trajectory.quantity != "effective_clusters":
                gathered.setdefault(key, []).append((places, trajectory.numbers("value", units)))
    spreads = []
    for (group, layer, quantity, level), members in gathered.items():
        over = spread(members)
        if over is not None:
            spreads.append(
                {
                    "group": group,
                    "layer": layer,
                    "quantity": quantity,
                    "level": level,
                    "places": _numbers(over.values),
                    "mean": _numbers(over.mean),
                    "std": _numbers(over.std),
                    "n_runs": over.n_runs,
                }
            )
    return spreads


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [_number(value) for value in values.tolist()]
