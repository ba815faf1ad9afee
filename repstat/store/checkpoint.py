"""Take the activations of one checkpoint, and refuse what was not announced."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.errors import InputRefusedError
from repstat.store.builder import StoreFileBuilder
from repstat.store.header import Header

Errors = Callable[[], AbstractContextManager[None]]
"""Turns failures of the disk into errors that say what is kept."""


class CheckpointWriter:
    """Takes the activations of one checkpoint, batch by batch. Made by `StoreWriter.checkpoint`."""

    def __init__(self, builder: StoreFileBuilder, header: Header, errors: Errors) -> None:
        self._builder, self._header, self._errors = builder, header, errors
        self._layers = {layer.key: layer for layer in header.layers}

    def write(self, key: str, array: NDArray[Any], *, realization: int = 0) -> None:
        """Append a batch of one layer's activations.

        Parameters
        ----------
        key
            The layer. Layers may take turns in any order.
        array
            Shape (batch, *unit_shape), of the layer's dtype; the samples next in order.
        realization
            The noisy pass it belongs to.

        Raises
        ------
        InputRefusedError
            If the layer, dtype, shape or number of samples is not what was announced.
        ResourceError
            If the disk is full.
        """
        layer = self._layers.get(key)
        if layer is None:
            raise self._refuse(key, f"the store has the layers {', '.join(self._layers)}")
        array = np.asarray(array)
        if array.dtype.newbyteorder("=") != layer.dtype.newbyteorder("="):
            raise self._refuse(key, f"found dtype {array.dtype}, expected {layer.dtype}")
        if array.ndim == 0 or array.shape[1:] != layer.unit_shape:
            expected = ", ".join(map(str, ("batch", *layer.unit_shape)))
            raise self._refuse(key, f"found shape {array.shape}, expected ({expected})")
        if not 0 <= realization < self._header.n_realizations:
            raise self._refuse(key, f"there is no realization {realization}")
        n_rows = self._builder.n_rows(key, realization=realization) + len(array)
        if n_rows > self._header.samples.n:
            raise self._refuse(key, f"found {n_rows} samples, expected {self._header.samples.n}")
        with self._errors():
            rows = array.reshape(len(array), layer.n_units)
            self._builder.append(key, rows, realization=realization)

    def check_complete(self) -> None:
        """Refuse to end before every layer has every sample.

        Raises
        ------
        InputRefusedError
            Naming the first layer that has not.
        """
        for key in self._layers:
            for realization in range(self._header.n_realizations):
                n_rows = self._builder.n_rows(key, realization=realization)
                if n_rows != self._header.samples.n:
                    raise self._refuse(key, f"got {n_rows} of {self._header.samples.n} samples")

    def _refuse(self, key: str, why: str) -> InputRefusedError:
        step = self._header.checkpoints[0].step
        return InputRefusedError(
            what="the activations do not fit the store", place=f"step {step}, layer {key}", why=why
        )
