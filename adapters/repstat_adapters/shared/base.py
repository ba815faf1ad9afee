"""Checks, probing, batches and noise around a framework that knows how to run one batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.adapter import Array, InputSpec, Layer, Noise
from repstat.errors import InputRefusedError, UsageError
from repstat_adapters.shared.feeds import check_feeds, chunks, take
from repstat_adapters.shared.noise import BatchNoise, plan_noise
from repstat_adapters.shared.probing import Placed, Plan


@dataclass(frozen=True)
class Forward:
    """A model made ready to return some tensors.

    Parameters
    ----------
    run
        Takes a batch and noise by target, in the shape of the tensors; returns the tensors by target, before
        their own noise. It raises InputRefusedError where the model fails, and `MisfitError` where a tensor
        has not the shape of its noise, since a sum would broadcast.
    noisy
        Targets whose noise it takes; that of other layers could not matter.
    """

    run: Callable[[Mapping[str, Array], Mapping[str, Array]], Mapping[str, Array]]
    noisy: Set[str]


class MisfitError(Exception):
    """A tensor's shape is not that of its noise."""

    def __init__(self, target: str, have: tuple[int, ...], want: tuple[int, ...]) -> None:
        super().__init__(target, have, want)
        self.target, self.have, self.want = target, have, want


class BatchedAdapter(ABC):
    """The part of `repstat.adapter.Adapter` that is the same for every framework.

    Parameters
    ----------
    path
        The model, for messages; None for one in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._plan: Plan | None = None
        self._closed = False

    @abstractmethod
    def inputs(self) -> Sequence[InputSpec]:
        """Return the inputs in the model's order."""

    @abstractmethod
    def provenance(self) -> Mapping[str, Any]:
        """See `repstat.adapter.Adapter`."""

    @abstractmethod
    def _make_plan(self, feeds: Mapping[str, Array] | None) -> Plan:
        """Find the layers and where their samples are, with a checked probe or one of its own."""

    @abstractmethod
    def _forward(self, wanted: Mapping[str, Placed], noise: BatchNoise) -> Forward:
        """Make the model ready to return the tensors of some layers, given by key, at least one."""

    def layers(self, probe: Mapping[str, Array] | None = None) -> Sequence[Layer]:
        """Layers in forward order, with shapes and batch axes learnt by running the model.

        Parameters
        ----------
        probe
            A few samples (one is enough, three tell more). Random ones are drawn if None.

        Raises
        ------
        InputRefusedError
            The probe does not fit the model, or the model fails on it.
        """
        self._require_open()
        feeds, n = (None, 1) if probe is None else check_feeds(probe, self.inputs())
        if n == 0:
            raise InputRefusedError(what="the probe has no samples", path=self._path, fix="Give at least one")
        self._plan = self._make_plan(feeds)
        return tuple(placed.layer for placed in self._plan.placed.values())

    def run(
        self,
        feeds: Mapping[str, Array],
        layers: Sequence[Layer],
        *,
        samples: NDArray[np.int64],
        noise: Noise | None = None,
    ) -> dict[str, Array]:
        """Activations of one batch by layer key, each ``(n_samples, *unit_shape)``, float16, 32 or 64.

        With noise they are S_l, what a layer is before its own noise. Noise is rounded to the type of the
        layer's tensor (in bfloat16 the sum is), which is felt where it is small beside the activation.

        Raises
        ------
        UsageError
            A layer is not one of this model's, or noise is asked for that cannot be
            (`repstat.noise.check_noise`).
        InputRefusedError
            The batch does not fit the model, the model fails on it, or a noisy layer is quantised.
        """
        self._require_open()
        checked, n = check_feeds(feeds, self.inputs())
        if len(samples) != n:
            raise InputRefusedError(
                what="the batch has another number of samples than it is said to have",
                why=f"found {n} samples and {len(samples)} indices",
                fix="Give one index per sample",
            )
        if self._plan is None:
            self._plan = self._make_plan(checked if n else None)
        placed = {layer.key: self._placed(self._plan, layer) for layer in layers}
        drawn = plan_noise(noise, self._plan, np.asarray(samples), self._path)
        if not placed:
            return {}
        try:
            return self._compute(checked, n, placed, self._plan.batch, drawn)
        except InputRefusedError:
            # If the noise does not fit because a layer's length is not the probe's, the clean model says so.
            if drawn.layers:
                self._compute(checked, n, drawn.placed, self._plan.batch, BatchNoise({}, samples))
            raise

    def close(self) -> None:
        """Release what the framework holds."""
        self._plan, self._closed = None, True

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError(what="the model was closed", path=self._path, fix="Open it again")

    def _placed(self, plan: Plan, layer: Layer) -> Placed:
        own = plan.placed.get(layer.key)
        if own is None or own.layer.signature != layer.signature or own.layer.unit_shape != layer.unit_shape:
            known = own.layer if own else None
            has = (
                f"its {known.key} is {known.signature} {known.unit_shape}"
                if known
                else "it has no such layer"
            )
            raise UsageError(
                what=f"layer {layer.key} ({layer.signature} {layer.unit_shape}) is not this model's",
                path=self._path,
                why=has,
                fix="Take the layers from layers() of this model, with a probe like the samples",
            )
        return own

    def _compute(
        self,
        feeds: Mapping[str, Array],
        n: int,
        placed: Mapping[str, Placed],
        batch: int | None,
        noise: BatchNoise,
    ) -> dict[str, Array]:
        forward = self._forward(placed, noise)
        drawn = noise.draw(forward.noisy)
        results = {key: np.empty((n, *p.layer.unit_shape), p.layer.dtype) for key, p in placed.items()}
        for start, stop, rows in chunks(n, batch):
            chunk = feeds if rows is None else take(feeds, self.inputs(), rows)
            try:
                values = forward.run(chunk, noise.cut(drawn, rows))
            except MisfitError as error:
                layer = noise.layers[error.target].placed.layer
                raise self._other_shape(layer, error.have, error.want, None) from None
            for key, p in placed.items():
                value = values[p.layer.target]
                want = p.layout.shape(stop - start if rows is None else len(rows), p.layer.unit_shape)
                if value.shape != want:
                    raise self._other_shape(p.layer, value.shape, want, p.layout.axis)
                if rows is None and p.layout.is_plain and _is_own(value, p.layer.dtype, results):
                    results[key] = value
                else:
                    results[key][start:stop] = p.layout.by_sample(value)[: stop - start]
        return results

    def _other_shape(
        self, layer: Layer, have: tuple[int, ...], want: tuple[int, ...], batch_axis: int | None
    ) -> InputRefusedError:
        differing = [axis for axis, (a, b) in enumerate(zip(have, want, strict=False)) if a != b]
        misses_samples = len(have) == len(want) and differing == [batch_axis]
        return InputRefusedError(
            what="the activation's shape depends on the samples",
            path=self._path,
            place=f"layer {layer.key} ({layer.name})",
            why=f"found a tensor of shape {have}, expected {want}",
            fix=f"It does not see every sample: leave it out, with the selector -{layer.key}"
            if misses_samples
            else "Pad the samples to one length, and list the layers with a probe of that length",
        )


def _is_own(value: Array, dtype: np.dtype[Any], taken: Mapping[str, Array]) -> bool:
    """Whether an array can be returned as it is: nobody else holds its memory, nor is it another layer's."""
    flags = value.flags
    own = type(value) is np.ndarray and flags.owndata and flags.c_contiguous and flags.writeable
    return own and value.dtype == dtype and all(value is not other for other in taken.values())
