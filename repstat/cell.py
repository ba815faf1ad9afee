"""One layer at one checkpoint: what is computed of it, on which scales, and where its rows belong."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repstat.clustering.scatter import Axes
from repstat.estimators import Binning
from repstat.results import Estimate, Row, Status
from repstat.scales import NoiseLevel
from repstat.store import ActivationView, Store
from repstat.wide import fold

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


def first_pass(values: NDArray[Any]) -> NDArray[Any]:
    """Return the activations of the first noisy pass, (n_samples, n_units), or of the only one."""
    return np.asarray(values[0] if values.ndim == 3 else values)
