"""Noise inside the network for one batch: drawn by `repstat.noise`, in the shape of each tensor."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repstat.adapter import Array, Noise
from repstat.errors import UsageError
from repstat.noise import check_noise, standard_normal
from repstat_adapters.shared.probing import Placed, Plan

_FED_AS = {"float16": np.float16, "float64": np.float64}


@dataclass(frozen=True)
class NoisyLayer:
    """A layer that gets noise, and how much."""

    placed: Placed
    std: float


@dataclass(frozen=True)
class BatchNoise:
    """The noise of one batch.

    Parameters
    ----------
    layers
        Layers with noise, by target, in forward order.
    samples
        Global indices, ``(n_samples,)``.
    seed, realization
        As in `repstat.adapter.Noise`.
    """

    layers: Mapping[str, NoisyLayer]
    samples: NDArray[np.int64]
    seed: int = 0
    realization: int | NDArray[np.int64] = 0

    @property
    def placed(self) -> dict[str, Placed]:
        """The noisy layers by key."""
        return {noisy.placed.layer.key: noisy.placed for noisy in self.layers.values()}

    def draw(self, targets: Set[str]) -> dict[str, Array]:
        """Return the noise of all samples for some targets, ``(n_samples, *unit_shape)`` each.

        It is drawn for the whole batch, since a draw costs the same for one sample as for a hundred.
        float16 and float64 as the layer's tensor, otherwise float32.
        """
        return {target: self._of(noisy) for target, noisy in self.layers.items() if target in targets}

    def cut(self, drawn: Mapping[str, Array], rows: Sequence[int] | None) -> dict[str, Array]:
        """Return drawn noise of some rows (all if None), shaped like the tensors of one run of the model."""
        fed = {}
        for target, values in drawn.items():
            chosen = values if rows is None else values[np.asarray(rows, dtype=np.intp)]
            shaped = self.layers[target].placed.layout.from_samples(chosen)
            fed[target] = np.ascontiguousarray(shaped)
        return fed

    def _of(self, noisy: NoisyLayer) -> Array:
        layer = noisy.placed.layer
        values = standard_normal(self.seed, layer.key, self.realization, self.samples, layer.n_units)
        dtype = _FED_AS.get(layer.source_dtype, np.float32)
        values = values.astype(np.result_type(dtype, np.float32), copy=False)
        values *= noisy.std
        return values.astype(dtype, copy=False).reshape(len(values), *layer.unit_shape)


def plan_noise(noise: Noise | None, plan: Plan, samples: NDArray[np.int64], path: Path | None) -> BatchNoise:
    """Check what was asked for, and find the tensors.

    Raises
    ------
    UsageError, InputRefusedError
        As `repstat.noise.check_noise`; also for a layer that cannot be recorded, or the same tensor twice.
    """
    if noise is None:
        return BatchNoise({}, samples)
    for skipped in plan.skipped:
        if skipped["layer"] in noise.noise_std:
            raise UsageError(
                what="noise is asked for in a layer whose samples cannot be told apart",
                path=path,
                place=f"layer {skipped['layer']} ({skipped['name']})",
                why=skipped["why"],
                fix="Leave the layer out of noise_std",
            )
    stds = check_noise(noise, [p.layer for p in plan.placed.values()], len(samples), path)
    layers = dict[str, NoisyLayer]()
    for key, std in stds.items():
        placed = plan.placed[key]
        twin = layers.setdefault(placed.layer.target, NoisyLayer(placed, std)).placed.layer.key
        if twin != key:
            raise UsageError(
                what="noise is asked for twice in one tensor",
                path=path,
                place=f"layers {twin} and {key}",
                why=f"both are {placed.layer.target!r}",
                fix="Give noise to one of them",
            )
    return BatchNoise(layers, samples, noise.seed, noise.realization)
