"""What an analysis returns: estimates with their conditions, rows, and the trajectory of all of them.

A number never travels alone: an `Estimate` carries its error, ceiling, bounds and status. This module
knows no file format; `Results.save` hands over to the store package.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from repstat.errors import UsageError
from repstat.units import Units, from_nats

if TYPE_CHECKING:
    import xarray

    from repstat.plots.namespace import Plots

SATURATION_MARGIN_NATS = 0.1
"""An estimate this close to its ceiling reflects the ceiling, not the network (docs/estimators.md)."""


class Status(StrEnum):
    """Outcome of an estimate. Compares equal to its text (`Status.OK == "ok"`)."""

    OK = "ok"
    SATURATED = "saturated"
    UNDEFINED = "undefined"
    TOO_FEW_SAMPLES = "too_few_samples"
    TOO_FEW_REALIZATIONS = "too_few_realizations"
    TOLERANCE_NOT_REACHED = "tolerance_not_reached"

    @property
    def advice(self) -> str:
        """What the status means and what to change."""
        return _ADVICE[self]


_ADVICE = {
    Status.OK: "the estimate is below its ceiling and its error is within the tolerance",
    Status.SATURATED: (
        "the estimate is within 0.1 nat of its ceiling and cannot tell more: ln n for the input, which "
        "reflects the number of samples and not the network; H(Y) for the label; ln C of C realizations for "
        "the entropy given the input. Use more noise, wider bins, more samples or more realizations"
    ),
    Status.UNDEFINED: "the quantity has no value for these data; the reason is given with it",
    Status.TOO_FEW_SAMPLES: "too few samples for any statement; record more samples",
    Status.TOO_FEW_REALIZATIONS: (
        "too few noise realizations: the estimate is biased upward; extract with more realizations"
    ),
    Status.TOLERANCE_NOT_REACHED: (
        "the standard error is still above the tolerance; allow a larger tolerance or, from Python, more "
        "draws. Of a noisy network it is mostly that of the choice of repeated inputs: extract with more of "
        "them"
    ),
}


def saturates(value: float, ceiling: float) -> bool:
    """Whether `value` (nats) is too close to `ceiling` to say anything about the network.

    The margin is 0.1 nat, or half the ceiling where the ceiling itself is below 0.2 nat. A ceiling of zero
    leaves nothing to estimate: the value is exact and not called saturated.
    """
    return ceiling > 0 and value > ceiling - min(SATURATION_MARGIN_NATS, ceiling / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One estimated quantity, in nats unless it is a distance or a ratio.

    Parameters
    ----------
    value
        The estimate, never clamped; None when undefined.
    std_error
        Statistical standard error; 0.0 where the value is exact for the stored samples.
    lower_bound, upper_bound
        Rigorous bounds on the same quantity, if known.
    ceiling
        What the estimate cannot exceed whatever the truth (ln n, H(Y), ...).
    status, reason
        Outcome, and why if it is not `ok`.
    population_lower, population_upper
        Bracket of the population value when the samples are a random sample of one.
    n_samples, n_units
        What the estimate was computed from.
    """

    value: float | None
    std_error: float | None = None
    lower_bound: float | None = None
    upper_bound: float | None = None
    ceiling: float | None = None
    status: Status = Status.OK
    reason: str = ""
    population_lower: float | None = None
    population_upper: float | None = None
    n_samples: int
    n_units: int

    @classmethod
    def undefined(cls, reason: str, *, n_samples: int, n_units: int) -> Self:
        """Return an estimate without a value, with the reason."""
        return cls(value=None, status=Status.UNDEFINED, reason=reason, n_samples=n_samples, n_units=n_units)


INFORMATION_FIELDS = (
    "value",
    "std_error",
    "lower_bound",
    "upper_bound",
    "ceiling",
    "population_lower",
    "population_upper",
)
"""Fields of a row that carry its unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One quantity of one layer at one checkpoint, by one estimator with one set of parameters.

    `units` is ``nats``, ``bits``, ``activation`` (distances) or ``1`` (ratios, probabilities). `params` are
    the estimator's parameters, enough to compute the number again. `noise_model` is ``measurement``
    (noise added to stored activations), ``network`` (noise in every hidden layer) or empty.
    """

    checkpoint: int
    step: int
    epoch: float | None
    layer: str
    layer_name: str
    quantity: str
    estimator: str
    value: float | None
    std_error: float | None
    lower_bound: float | None
    upper_bound: float | None
    ceiling: float | None
    status: Status
    units: str
    n_samples: int
    n_units: int
    noise_std: float | None
    noise_model: Literal["", "measurement", "network"]
    params: Mapping[str, Any]
    reason: str = ""
    population_lower: float | None = None
    population_upper: float | None = None

    def to_dict(self, units: Units = "nats") -> dict[str, Any]:
        """Return the row as plain values, information in `units`; a missing number is None."""
        row = self.in_units(units)
        return {f.name: getattr(row, f.name) for f in fields(row)} | {
            "status": row.status.value,
            "params": dict(row.params),
        }

    def in_units(self, units: Units) -> Self:
        """Return the row with its information in `units`; distances and ratios stay as they are."""
        if units == "nats" or self.units != "nats":
            return self
        converted: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else from_nats(value, units)
            for name in INFORMATION_FIELDS
        }
        return replace(self, units=units, **converted)


ROW_FIELDS = tuple(f.name for f in fields(Row))

_DIMENSIONS = ("noise", "binning", "scale")
"""Parameters that tell rows of one quantity apart."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of pairs of samples over fixed edges, of one layer along the trajectory.

    Parameters
    ----------
    layer
        Layer key.
    quantity
        ``distance`` or ``cosine``.
    relation
        ``within`` a class, ``between`` classes, or ``all`` pairs where there are no labels.
    edges
        Bin edges, shape ``(n_bins + 1,)``, the same for every checkpoint.
    counts
        Pairs per bin, shape ``(n_checkpoints, n_bins)``.
    """

    layer: str
    quantity: str
    relation: str
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scatter:
    """Coordinates of some samples of one layer along the trajectory, in axes common to all checkpoints.

    Parameters
    ----------
    layer
        Layer key.
    axes
        Names of the axes: ``unit 0``, ... up to three units, ``PC 1`` and ``PC 2`` otherwise.
    samples
        Which samples of the store, shape ``(n_points,)``.
    labels
        Their classes as in the store, shape ``(n_points,)``; -1 without labels.
    coordinates
        In activation units, shape ``(n_checkpoints, n_points, n_axes)``, single precision; NaN where not
        finite or beyond its range.
    shown
        Share of these samples' variance that the axes show, shape ``(n_checkpoints,)``; NaN without any.
    """

    layer: str
    axes: tuple[str, ...]
    samples: NDArray[np.int64]
    labels: NDArray[np.int64]
    coordinates: NDArray[np.floating]
    shown: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything an analysis found, along the trajectory.

    Parameters
    ----------
    rows
        One per checkpoint, layer and quantity.
    histograms
        Pair distances and cosines.
    scatters
        Coordinates of some samples, one per layer; empty in files of schema 1.0.
    steps, epochs
        The trajectory's axis.
    metrics
        Losses and accuracies recorded with the checkpoints, by name, NaN where missing.
    layers
        Layer name by key, in forward order.
    n_classes
        Number of classes, 0 without labels.
    synthetic
        Whether the inputs were drawn by repstat instead of given.
    provenance
        Store, versions, options and seed: enough to compute the results again.
    """

    rows: tuple[Row, ...]
    histograms: tuple[Histogram, ...] = ()
    scatters: tuple[Scatter, ...] = ()
    steps: tuple[int, ...]
    epochs: tuple[float | None, ...]
    metrics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    layers: Mapping[str, str]
    n_samples: int
    n_classes: int
    synthetic: bool
    provenance: Mapping[str, Any]

    def to_rows(self, units: Units = "nats") -> list[dict[str, Any]]:
        """Return every row as a dict of plain values, in the order of the columns of ``--csv``."""
        return [row.to_dict(units) for row in self.rows]

    def select(self, **wanted: Any) -> tuple[Row, ...]:
        """Return the rows whose fields equal `wanted`: ``results.select(layer="L002", quantity="mi_input")``.

        A name that is no field of a row is looked up in the row's `params`.
        """

        def matches(row: Row) -> bool:
            return all(
                (getattr(row, name) if name in ROW_FIELDS else row.params.get(name)) == value
                for name, value in wanted.items()
            )

        return tuple(row for row in self.rows if matches(row))

    @property
    def plot(self) -> "Plots":
        """Figures by matplotlib: ``results.plot.information_plane(ax=...)`` and so on (`repstat.plots`)."""
        from repstat.plots.namespace import Plots

        return Plots(self)

    def to_xarray(self, units: Units = "nats") -> "xarray.Dataset":
        """Return the estimates as an `xarray.Dataset`; needs the package xarray.

        Each quantity is a variable over ``(layer, checkpoint)`` with its ``_std_error`` and ``_status``
        beside it. Measurement-noise quantities also have the dimension ``noise`` (the noise level as it
        was asked for, ``0.1`` or ``0.1x``), binned ones ``binning``, the profile of effective clusters
        ``scale``. Undefined values are NaN.

        Raises
        ------
        UsageError
            xarray is not installed.
        """
        try:
            import xarray
        except ImportError:
            raise UsageError(
                what="xarray is not installed", fix="Install it with pip install 'repstat[xarray]'"
            ) from None
        cells: dict[tuple[str, str], dict[tuple[int, int, str], Row]] = {}
        layer_index = {key: i for i, key in enumerate(self.layers)}
        for row in self.rows:
            dimension = next((name for name in _DIMENSIONS if name in row.params), "")
            level = str(row.params.get(dimension, ""))
            variable = cells.setdefault((row.quantity, dimension), {})
            variable[layer_index[row.layer], row.checkpoint, level] = row.in_units(units)
        levels = {
            dimension: list(
                dict.fromkeys(level for (_, d), v in cells.items() if d == dimension for *_, level in v)
            )
            for dimension in (*_DIMENSIONS, "")
        }
        data: dict[str, Any] = {}
        for (quantity, dimension), variable in cells.items():
            shape = (len(self.layers), len(self.steps), max(1, len(levels[dimension])))
            value, error = np.full(shape, np.nan), np.full(shape, np.nan)
            status = np.full(shape, "", dtype="<U24")
            for (layer, checkpoint, level), row in variable.items():
                at = layer, checkpoint, levels[dimension].index(level)
                value[at] = np.nan if row.value is None else row.value
                error[at] = np.nan if row.std_error is None else row.std_error
                status[at] = row.status.value
            dims = ("layer", "checkpoint", *([dimension] if dimension else []))
            for suffix, array in (("", value), ("_std_error", error), ("_status", status)):
                data[quantity + suffix] = (dims, array if dimension else array[..., 0])
        coords: dict[str, Any] = {
            "layer": list(self.layers),
            "layer_name": ("layer", list(self.layers.values())),
            "step": ("checkpoint", list(self.steps)),
            "epoch": ("checkpoint", [np.nan if e is None else e for e in self.epochs]),
        } | {d: levels[d] for d in _DIMENSIONS if levels[d]}
        for name, values in self.metrics.items():
            data[f"metric_{name}"] = ("checkpoint", list(values))
        return xarray.Dataset(data, coords, {"units": units, "synthetic": int(self.synthetic)})

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the results to an HDF5 file (docs/store-format.md) and return its path.

        Raises
        ------
        UsageError
            The file exists and `overwrite` is False, or its folder cannot be written.
        """
        from repstat.store.results_file import save_results

        return save_results(self, Path(path), overwrite=overwrite)
