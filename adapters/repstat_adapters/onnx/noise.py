"""Noise inside the network for one batch: drawn by `repstat.noise`, in the shape of each tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repstat.adapter import Array, Layer, Noise
from repstat.errors import UsageError
from repstat.noise import check_noise, standard_normal
from repstat_adapters.onnx.ports import NoisyTensor, Port
from repstat_adapters.onnx.probing import Placed, Plan

_DTYPES = {"tensor(float16)": np.float16, "tensor(double)": np.float64}


@dataclass(frozen=True)
class NoisyLayer:
    """A layer that gets noise, and how much."""

    placed: Placed
    std: float

    @property
    def tensor(self) -> NoisyTensor:
        """What the graph must know of it."""
        rank = len(self.placed.layout.shape(1, self.placed.layer.unit_shape))
        return NoisyTensor(self.placed.type_name, rank)


@dataclass(frozen=True)
class BatchNoise:
    """The noise of one batch.

    Parameters
    ----------
    layers
        Layers with noise, by the name of their tensor.
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
    def tensors(self) -> dict[str, NoisyTensor]:
        """What the graph must know of the noisy tensors, by name."""
        return {target: noisy.tensor for target, noisy in self.layers.items()}

    @property
    def placed(self) -> dict[str, Placed]:
        """The noisy layers by key."""
        return {noisy.placed.layer.key: noisy.placed for noisy in self.layers.values()}

    def draw(self, ports: Mapping[str, Port]) -> dict[str, Array]:
        """Return the noise of all samples by tensor, ``(n_samples, *unit_shape)`` each.

        It is drawn for the whole batch, since a draw costs the same for one sample as for a hundred.
        """
        return {target: self._of(self.layers[target]) for target in ports}

    def cut(
        self, drawn: Mapping[str, Array], ports: Mapping[str, Port], rows: Sequence[int] | None
    ) -> dict[str, Array]:
        """Return what to feed for one run of the model: drawn noise of some rows, shaped like the tensors."""
        fed = {}
        for target, values in drawn.items():
            chosen = values if rows is None else values[np.asarray(rows, dtype=np.intp)]
            shaped = self.layers[target].placed.layout.from_samples(chosen)
            fed[ports[target].fed] = np.ascontiguousarray(shaped)
        return fed

    def misfit(
        self, fed: Mapping[str, Array], ports: Mapping[str, Port], shapes: Sequence[Array]
    ) -> tuple[Layer, tuple[int, ...], tuple[int, ...]] | None:
        """Return a layer whose tensor has not the shape of its noise, so that the sum may have broadcast."""
        for (target, port), shape in zip(ports.items(), shapes, strict=True):
            have, want = tuple(shape.tolist()), fed[port.fed].shape
            if have != want:
                return self.layers[target].placed.layer, have, want
        return None

    def _of(self, noisy: NoisyLayer) -> Array:
        layer = noisy.placed.layer
        values = standard_normal(self.seed, layer.key, self.realization, self.samples, layer.n_units)
        values *= noisy.std
        dtype = _DTYPES.get(noisy.placed.type_name, np.float32)
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
