"""Record a Keras model while ``fit`` trains it."""

from collections.abc import Mapping
from contextlib import suppress
from os import PathLike
from typing import Any, Literal

import keras

from repstat.adapter import Array
from repstat.errors import UsageError
from repstat.recording import Recorder, samples_of
from repstat.schedule import Schedule


class RecordActivations(keras.callbacks.Callback):  # type: ignore[misc]
    """Records hidden activations during ``model.fit`` (`repstat.recording.Recorder`).

    The step is the count of the optimizer's updates. The untrained model is recorded too; one that has no
    weights before ``fit`` makes them from the shape of `inputs`, the same that ``fit`` would have made. With
    several calls of ``fit`` one callback goes on with its store, its steps and its epochs.

    Parameters
    ----------
    inputs
        Samples, ``(n_samples, ...)``, a mapping of them by input name, or a file of them.
    store
        Path of the store to write; it is made one file when the training ends.
    when
        ``batch``: after each update that is due, with the running means that Keras has then. ``epoch``: at
        the ends of epochs that are due, with the metrics of validation; there ``every`` counts epochs, while
        ``per_decade`` and ``steps`` count updates as always: due is the first end of an epoch after each.
    options
        As of `repstat.Recorder`: ``labels``, ``layers``, ``every``, ``per_decade``, ``steps``, ``noise_std``,
        ``resume``, ``overwrite``, ``on_error`` and others.

    Raises
    ------
    UsageError
        `when`, ``every``, ``per_decade`` or ``steps`` cannot be; the rest is checked when ``fit`` begins.
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
        Schedule(**{name: options.get(name) for name in ("every", "per_decade", "steps")})
        self._epochs = Schedule(every=options.pop("every", None)) if when == "epoch" else Schedule()
        self._inputs, self._store, self._when, self._options = inputs, store, when, options
        self._recorder: Recorder | None = None
        self._begun = False
        self._at: int | None = None  # the step seen last, at which `_passes` epochs had passed
        self._passes = self._before = 0.0
        self._epoch = 0.0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Open the store."""
        if self._recorder is not None:  # a training before this one failed
            self._recorder.__exit__(RuntimeError, None, None)
        if not self.model.built:
            _make_weights(self.model, self._inputs)
        self._recorder = Recorder(self.model, self._inputs, store=self._store, **self._options)
        self._options |= {"resume": True, "overwrite": False}
        self._begun = False

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record the model as it is when the training begins, and note which epoch it is."""
        if not self._begun:
            self._begin(epoch)
        self._epoch = epoch + self._before

    def _begin(self, epoch: int) -> None:
        """Record before the first update; `epoch` is Keras' count, which each ``fit`` begins anew."""
        self._begun = True
        step = self._step()
        goes_on = step == self._at
        self._before = max(0.0, self._passes - epoch) if goes_on else 0.0
        if self._recorder is None or (goes_on and self._when == "epoch"):
            return  # the end of that epoch was recorded if it was due
        self._recorder.record(step, epoch=self._passes if goes_on else None)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record after an update."""
        if self._when == "batch" and self._recorder is not None:
            per_epoch = self.params.get("steps")
            epoch = self._epoch + (batch + 1) / per_epoch if per_epoch else None
            self._recorder.record(self._reached(epoch), epoch=epoch, metrics=logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record after an epoch."""
        done = self._epoch + 1
        due = self._epochs.due(int(done), int(done) - 1)
        step = self._reached(done)
        if self._when == "epoch" and self._recorder is not None and due:
            self._recorder.record(step, epoch=done, metrics=logs)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Make one store of what was recorded."""
        if self._recorder is not None:
            if not self._begun:  # there was no epoch left to train
                self._begin(0)
            self._recorder.close()
            self._recorder = None

    def _reached(self, passes: float | None) -> int:
        """Return the step, and note how many epochs have passed if that is known."""
        self._at = self._step()
        self._passes = self._passes if passes is None else passes
        return self._at

    def _step(self) -> int:
        return int(self.model.optimizer.iterations)


class _Call(keras.Operation):  # type: ignore[misc]
    """A model's call, which Keras can follow by shapes alone."""

    def __init__(self, model: Any) -> None:
        super().__init__(name="call")
        self._model = model

    def call(self, inputs: Any) -> Any:
        """Call the model as Keras' own building does."""
        return self._model(inputs, training=False)


def _make_weights(model: Any, inputs: str | PathLike[str] | Mapping[str, Array] | Array) -> None:
    """Let a model make its weights, which ``fit`` would do only while it computes the first update.

    Keras' initializers have drawn their seeds when the layers were made, and following a call by shapes moves
    no generator: the weights are those that ``fit`` would have made.
    """
    samples = samples_of(inputs)
    # Floating inputs have Keras' own precision in `fit`; any other, such as indices, stay as they are.
    specs = {
        name: keras.KerasTensor(
            (None, *array.shape[1:]), keras.config.floatx() if array.dtype.kind == "f" else array.dtype.name
        )
        for name, array in samples.items()
    }
    with suppress(Exception):  # the user's code may raise anything; what has no weights the recorder refuses
        _Call(model).compute_output_spec(specs if len(specs) > 1 else next(iter(specs.values())))
