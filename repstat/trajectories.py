"""Series along a training, as they are drawn: numbers of one quantity of one layer, and the axis of time.

The one place that turns rows into arrays for figures and reports. Nothing is computed here but places on an
axis and, over several runs, a mean and a spread.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, log10

import numpy as np
from numpy.typing import NDArray

from repstat.results import INFORMATION_FIELDS, Results, Row, Status
from repstat.units import NATS_PER_BIT, Units

DIMENSIONS = ("noise", "binning", "scale")
"""Parameters that tell the rows of one quantity of one layer and checkpoint apart."""

ZERO_GAP = 0.5
"""Decades between the place of zero on a logarithmic axis and the first positive time."""

_SPELLED = 4
_INFORMATION = frozenset(INFORMATION_FIELDS)


def scale_of(row: Row) -> str:
    """Return the noise level, binning or profile scale of a row as it was asked for; empty without one."""
    return next((str(row.params[name]) for name in DIMENSIONS if name in row.params), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One quantity of one layer at one scale, over the checkpoints.

    Parameters
    ----------
    layer, layer_name, quantity
        As in the rows.
    scale
        Noise level, binning or profile scale as it was asked for; empty without one.
    level
        Place of `scale` among those of the same layer and quantity: 0 is the first, of ``auto`` the finest.
    noise_model, noise_std
        As in the rows.
    rows
        One per checkpoint of the results, None where there is none.
    """

    layer: str
    layer_name: str
    quantity: str
    scale: str
    level: int
    noise_model: str
    noise_std: float | None
    rows: tuple[Row | None, ...]

    @property
    def known(self) -> tuple[Row, ...]:
        """The rows that exist, in the order of checkpoints."""
        return tuple(row for row in self.rows if row is not None)

    def numbers(self, name: str, units: Units = "nats") -> NDArray[np.float64]:
        """Return a field over the checkpoints, information in `units`; NaN where it is missing."""
        values = (None if row is None else getattr(row, name) for row in self.rows)
        array = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        inform = name in _INFORMATION and bool(self.known) and self.known[0].units == "nats"
        return array / NATS_PER_BIT if inform and units == "bits" else array

    def are(self, status: Status) -> NDArray[np.bool_]:
        """Return at which checkpoints the status is `status`."""
        return np.array([row is not None and row.status is status for row in self.rows])


def trajectories(results: Results, quantity: str = "", layer: str = "") -> tuple[Trajectory, ...]:
    """Return the trajectories of a quantity (or of all), of a layer (or of all), by layer and scale."""
    found: dict[tuple[str, str, str], list[Row | None]] = {}
    n = len(results.steps)
    for row in results.rows:
        if quantity in ("", row.quantity) and layer in ("", row.layer):
            key = row.layer, row.quantity, scale_of(row)
            found.setdefault(key, [None] * n)[row.checkpoint] = row
    order = {key: place for place, key in enumerate(results.layers)}
    levels: dict[tuple[str, str], int] = {}
    series = []
    for key, rows in sorted(found.items(), key=lambda item: order[item[0][0]]):
        level = levels.get(key[:2], 0)
        levels[key[:2]] = level + 1
        some = next(row for row in rows if row is not None)
        series.append(
            Trajectory(
                layer=key[0],
                layer_name=some.layer_name,
                quantity=key[1],
                scale=key[2],
                level=level,
                noise_model=some.noise_model,
                noise_std=some.noise_std,
                rows=tuple(rows),
            )
        )
    return tuple(series)


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """The axis of a training: logarithmic, with a place for zero.

    Parameters
    ----------
    name
        ``epoch`` where every checkpoint has one and they rise, ``step`` otherwise.
    values
        Epochs or steps, shape ``(n_checkpoints,)``.
    places
        Where they are drawn: their log10, and zero `ZERO_GAP` before the first positive one; the values
        themselves if the axis is `linear`.
    ticks
        Places and texts.
    linear
        Whether the positive values span too little for decades to tell anything.
    """

    name: str
    values: NDArray[np.float64]
    places: NDArray[np.float64]
    ticks: tuple[tuple[float, str], ...]
    linear: bool


def time_axis(*runs: Results) -> TimeAxis:
    """Return the axis that all `runs` share: their checkpoints together, each once."""
    by_epoch = all(_rising(run.epochs) for run in runs)
    name = "epoch" if by_epoch else "step"
    values = np.unique(np.concatenate([_times(run, name) for run in runs]))
    positive = values[values > 0]
    if positive.size < 2 or positive[-1] < 10.0 * positive[0]:
        ticks = _linear_ticks(float(values[0]), float(values[-1]))
        return TimeAxis(name, values, values, ticks, linear=True)
    return TimeAxis(name, values, _log_places(values, float(positive[0])), _log_ticks(values), linear=False)


def places_of(run: Results, axis: TimeAxis) -> NDArray[np.float64]:
    """Return where the checkpoints of one run are drawn on an axis made for it and others."""
    return axis.places[np.searchsorted(axis.values, _times(run, axis.name))]


def _rising(epochs: Sequence[float | None]) -> bool:
    known = [epoch for epoch in epochs if epoch is not None and isfinite(epoch) and epoch >= 0]
    return len(known) == len(epochs) and all(a < b for a, b in pairwise(known))


def _times(run: Results, name: str) -> NDArray[np.float64]:
    return np.asarray(run.epochs if name == "epoch" else run.steps, dtype=np.float64)


def _log_places(values: NDArray[np.float64], smallest: float) -> NDArray[np.float64]:
    safe = np.where(values > 0, values, 1.0)
    places: NDArray[np.float64] = np.where(values > 0, np.log10(safe), log10(smallest) - ZERO_GAP)
    return places


def _log_ticks(values: NDArray[np.float64]) -> tuple[tuple[float, str], ...]:
    positive = values[values > 0]
    low, high = floor(log10(positive[0])), ceil(log10(positive[-1]))
    zero = [(log10(positive[0]) - ZERO_GAP, "0")] if values[0] == 0 else []
    digits = (1, 2, 5) if high - low <= 2 else (1,)
    decades = [digit * 10.0**power for power in range(low, high + 1) for digit in digits]
    shown = [tick for tick in decades if positive[0] * 0.999 <= tick <= positive[-1] * 1.001]
    return (*zero, *((log10(tick), _text(tick)) for tick in shown))


def _linear_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    if low == high:
        return ((low, _text(low)),)
    spacing = 10.0 ** floor(log10(high - low))
    spacing = next(s for s in (spacing / 5, spacing / 2, spacing, 2 * spacing) if (high - low) / s <= 6)
    first, last = ceil(low / spacing), floor(high / spacing)
    return tuple((k * spacing, _text(k * spacing)) for k in range(first, last + 1))


def _text(value: float) -> str:
    power = round(log10(value)) if value > 0 else 0
    if power > _SPELLED and abs(value - 10.0**power) < 1e-6 * value:
        return "10" + "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(power))
    return f"{value:,.10g}"


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean of several runs at the checkpoints that all of them have, with its spread.

    Parameters
    ----------
    values
        Epochs or steps, shape ``(n_common,)``.
    mean, std
        Over the runs; the sample standard deviation, which is of seeds and not an error of estimation.
    n_runs
        How many runs.
    """

    values: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    n_runs: int


def group_of(name: str) -> str:
    """Return what the seeds of one setting share: the name of a run without a number at its end.

    ``tanh-s1`` and ``tanh-s2`` are of one group, ``vgg16`` and ``vgg19`` are not.
    """
    return re.sub(r"(?:[-_. ]+s?|(?<=seed)|(?<=run)|(?<=rep))[0-9]+$", "", name) or name


def spread(runs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Spread | None:
    """Return mean and spread of runs, each given as times and values; None if fewer than two or none common.

    A checkpoint where a run has no value is left out.
    """
    finite = [dict(zip(t[keep].tolist(), v[keep].tolist(), strict=True)) for t, v in runs
              for keep in [np.isfinite(v)]]  # fmt: skip
    if len(finite) < 2:
        return None
    common = sorted(set.intersection(*(set(run) for run in finite)))
    if not common:
        return None
    values = np.array([[run[t] for t in common] for run in finite])
    return Spread(np.array(common), values.mean(axis=0), values.std(axis=0, ddof=1), len(finite))


@dataclass(frozen=True, slots=True)
class Profile:
    """Effective numbers of clusters of one layer, over noise scales and checkpoints.

    Parameters
    ----------
    noise_std
        Shape ``(n_scales,)``, rising, in activation units.
    clusters
        Shape ``(n_checkpoints, n_scales)``; NaN where undefined.
    std_error
        Of `clusters`, of the same shape.
    ceiling
        Samples told apart.
    """

    noise_std: NDArray[np.float64]
    clusters: NDArray[np.float64]
    std_error: NDArray[np.float64]
    ceiling: float


def profile(results: Results, layer: str) -> Profile | None:
    """Return the noise-scale profile of a layer, None if it was not computed."""
    levels = [t for t in trajectories(results, "effective_clusters", layer) if t.noise_std is not None]
    if not levels:
        return None
    levels.sort(key=lambda t: t.noise_std or 0.0)
    ceilings = [row.ceiling for t in levels for row in t.known if row.ceiling is not None]
    return Profile(
        np.array([t.noise_std for t in levels], dtype=np.float64),
        np.stack([t.numbers("value") for t in levels], axis=1),
        np.stack([t.numbers("std_error") for t in levels], axis=1),
        max(ceilings, default=float("nan")),
    )
