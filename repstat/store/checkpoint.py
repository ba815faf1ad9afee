"""Take the activations of one checkpoint, and refuse what was not announced."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repstat.adapter import Layer
from repstat.errors import InputRefusedError
from repstat.store.builder import StoreFileBuilder
from repstat.store.header import Header, Table

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
        self._append(self._header.values_of(self._layer(key)), array, realization)

    def write_conditional(self, key: str, array: NDArray[Any]) -> None:
        """Append a batch of one layer's realizations of the repeated inputs.

        Parameters
        ----------
        key
            The layer. Layers may take turns in any order, also with `write`.
        array
            Shape (batch, *unit_shape), of the layer's dtype; the rows next in the order of (repeated input,
            realization): all realizations of the first input, then of the next. A batch may end anywhere.

        Raises
        ------
        InputRefusedError
            If the layer, dtype, shape or number of rows is not what was announced.
        ResourceError
            If the disk is full.
        """
        table = self._header.conditional_of(self._layer(key))
        if table is None:
            raise self._refuse(key, "no realizations of repeated inputs were announced for it")
        self._append(table, array, 0)

    def _layer(self, key: str) -> Layer:
        if key not in self._layers:
            raise self._refuse(key, f"the store has the layers {', '.join(self._layers)}")
        return self._layers[key]

    def _append(self, table: Table, array: NDArray[Any], stream: int) -> None:
        layer, array = table.layer, np.asarray(array)
        if array.dtype.newbyteorder("=") != layer.dtype.newbyteorder("="):
            raise self._refuse(table.key, f"found dtype {array.dtype}, expected {layer.dtype}")
        if array.ndim == 0 or array.shape[1:] != layer.unit_shape:
            expected = ", ".join(map(str, ("batch", *layer.unit_shape)))
            raise self._refuse(table.key, f"found shape {array.shape}, expected ({expected})")
        if not 0 <= stream < table.n_streams:
            raise self._refuse(table.key, f"there is no realization {stream}")
        n_rows = self._builder.n_rows(table.key, stream=stream) + len(array)
        if n_rows > table.n_rows:
            raise self._refuse(table.key, f"found {n_rows} {table.rows}, expected {table.n_rows}")
        with self._errors():
            self._builder.append(table.key, array.reshape(len(array), layer.n_units), stream=stream)

    def check_complete(self) -> None:
        """Refuse to end before every layer has every sample, and every realization of the repeated inputs.

        Raises
        ------
        InputRefusedError
            Naming the first layer that has not.
        """
        for key, table in self._header.tables.items():
            for stream in range(table.n_streams):
                n_rows = self._builder.n_rows(key, stream=stream)
                if n_rows != table.n_rows:
                    raise self._refuse(key, f"got {n_rows} of {table.n_rows} {table.rows}")

    def _refuse(self, key: str, why: str) -> InputRefusedError:
        step = self._header.checkpoints[0].step
        return InputRefusedError(
            what="the activations do not fit the store", place=f"step {step}, layer {key}", why=why
        )
