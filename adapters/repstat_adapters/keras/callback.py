"""Record a Keras model while ``fit`` trains it."""

from collections.abc import Mapping
from os import PathLike
from typing import Any, Literal

import keras

from repstat.adapter import Array
from repstat.errors import UsageError
from repstat.recording import Recorder


class RecordActivations(keras.callbacks.Callback):  # type: ignore[misc]
    """Records hidden activations during ``model.fit`` (`repstat.recording.Recorder`).

    The step is the count of the optimizer's updates. The untrained model is recorded too. With several calls
    of ``fit`` one callback goes on with its store.

    Parameters
    ----------
    inputs
        Samples, ``(n_samples, ...)``, a mapping of them by input name, or a file of them.
    store
        Path of the store to write; it is made one file when the training ends.
    when
        ``batch``: after each update that is due, with the running means that Keras has then. ``epoch``: at
        the ends of epochs that are due, with the metrics of validation.
    options
        As of `repstat.Recorder`: ``labels``, ``layers``, ``every``, ``per_decade``, ``steps``, ``noise_std``,
        ``resume``, ``overwrite``, ``on_error`` and others.
    """

    def __init__(
        self,
        inputs: str | PathLike[str] | Mapping[str, Array] | Array,
        *,
        store: str | PathLike[str],
        when: Literal["batch", "epoch"] = "batch",
        **options: Any,
    ) -> None:
        super().__init__()
        if when not in ("batch", "epoch"):
            raise UsageError(what=f"unknown when {when!r}", fix="Choose batch or epoch")
        self._inputs, self._store, self._when, self._options = inputs, store, when, options
        self._recorder: Recorder | None = None
        self._epoch = 0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Open the store, and record the model as it is."""
        if self._recorder is not None:  # a training before this one failed
            self._recorder.__exit__(RuntimeError, None, None)
        self._recorder = Recorder(self.model, self._inputs, store=self._store, **self._options)
        self._options |= {"resume": True, "overwrite": False}
        self._recorder.record(self._step())

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Note which epoch it is."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record after an update."""
        if self._when == "batch" and self._recorder is not None:
            per_epoch = self.params.get("steps")
            epoch = self._epoch + (batch + 1) / per_epoch if per_epoch else None
            self._recorder.record(self._step(), epoch=epoch, metrics=logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record after an epoch."""
        if self._when == "epoch" and self._recorder is not None:
            self._recorder.record(self._step(), epoch=epoch + 1, metrics=logs)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Make one store of what was recorded."""
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None

    def _step(self) -> int:
        return int(self.model.optimizer.iterations)
