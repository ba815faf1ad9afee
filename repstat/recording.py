"""Record a model while it trains: an extraction that gets its checkpoints one at a time.

`Recorder.__init__` is long by its options, each of which is passed on once.
"""

import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from repstat.adapter import AdapterOptions, Array
from repstat.discovery import OneModel
from repstat.errors import RepstatError, UsageError
from repstat.extraction import record
from repstat.files import read_data
from repstat.inputs import as_arrays
from repstat.numbers import metric_number, step_number
from repstat.passes import NoiseOptions
from repstat.plan import plan_extraction
from repstat.progress import Silent
from repstat.schedule import Schedule
from repstat.store import StoreWriter


class Recorder:
    """Records the hidden activations of a live model at chosen steps of its training.

    A checkpoint is complete on the disk before `record` returns; `close` makes one store of them. After a
    crash they are in ``<store>.parts/``, which `repstat.open_store` and ``repstat analyze`` read, and
    where ``resume=True`` goes on. The training is not disturbed: weights, buffers, gradients, modes and the
    states of random generators are afterwards what they were. A context manager.

    Parameters
    ----------
    model
        The live model: a ``torch.nn.Module`` or a ``keras.Model``. Of several processes only one must record.
    inputs
        Samples, ``(n_samples, ...)``, a mapping of them by input name, or a file of them; the same at every
        checkpoint.
    store
        Path of the store to write.
    labels, layers, batch_size, dtype, cast, seed, options, folder
        As for `repstat.extract`.
    noise_std, realizations, conditional_samples, conditional_realizations
        As for `repstat.extract`.
    every, per_decade, steps
        When to record (`repstat.schedule.Schedule`); without any, at each call of `record`.
    resume
        Go on with a recording that was interrupted. Where the training goes on from an earlier step than it
        had reached, what was recorded from that step on is dropped.
    overwrite
        Replace `store`.
    on_error
        ``raise``, or ``warn``: record no more and let the training go on.

    Raises
    ------
    RepstatError
        Whatever is wrong with the model, inputs, options or the output, before the training begins.
    """

    def __init__(
        self,
        model: Any,
        inputs: str | PathLike[str] | Mapping[str, Array] | Array | None = None,
        *,
        store: str | PathLike[str],
        labels: str | PathLike[str] | Array | Sequence[Any] | None = None,
        layers: Sequence[str] | str = (),
        every: int | None = None,
        per_decade: int | None = None,
        steps: Collection[int] | None = None,
        batch_size: int | None = None,
        dtype: str | None = None,
        cast: bool = False,
        noise_std: float | str | Mapping[str, float] | None = None,
        realizations: int | None = None,
        conditional_samples: int | None = None,
        conditional_realizations: int | None = None,
        seed: int = 0,
        options: AdapterOptions | None = None,
        folder: bool = False,
        resume: bool = False,
        overwrite: bool = False,
        on_error: Literal["raise", "warn"] = "raise",
    ) -> None:
        if on_error not in ("raise", "warn"):
            raise UsageError(what=f"unknown on_error {on_error!r}", fix="Choose raise or warn")
        self._schedule = Schedule(every=every, per_decade=per_decade, steps=steps)
        options = options or AdapterOptions()
        with ExitStack() as stack:  # a recorder that is refused leaves the model as it was
            self._opened = stack.enter_context(OneModel(options))
            self._plan = plan_extraction(
                [model],
                inputs,
                labels=labels,
                layers=[layers] if isinstance(layers, str) else layers,
                steps=[0],
                batch_size=batch_size,
                dtype=dtype,
                cast=cast,
                noise=NoiseOptions(
                    noise_std=noise_std,
                    realizations=realizations,
                    conditional_samples=conditional_samples,
                    conditional_realizations=conditional_realizations,
                ),
                seed=seed,
                options=options,
                opened=self._opened,
            )
            for note in self._plan.warned:
                warnings.warn(note, stacklevel=3)
            self._writer = StoreWriter(
                Path(store),
                samples=self._plan.samples,
                layers=self._plan.layers,
                steps=None,
                identity=self._plan.identity,
                n_realizations=self._plan.passes.n_realizations,
                noise=self._plan.passes.noise,
                conditional=self._plan.passes.conditional,
                folder=folder,
                resume=resume,
                overwrite=overwrite,
            )
            stack.enter_context(self._writer)
            self._held = stack.pop_all()
        self._model, self._on_error = model, on_error
        self._last: int | None = None
        self._stopped = self._closed = False
        self._found = self._writer.done

    @property
    def recorded(self) -> tuple[int, ...]:
        """Steps that are on the disk."""
        return tuple(sorted(self._writer.done))

    def record(
        self, step: int, *, epoch: float | None = None, metrics: Mapping[str, Any] | None = None
    ) -> bool:
        """Record the model as it is now, if `step` is due.

        Parameters
        ----------
        step
            Optimizer updates so far; from call to call it grows.
        epoch
            Passes over the training data so far.
        metrics
            Loss, accuracy, ... by name: numbers, or tensors and arrays of one number.

        Returns
        -------
        bool
            Whether a checkpoint was recorded now: none is after an error that `on_error` made a warning.

        Raises
        ------
        UsageError
            `step` does not grow, or the recorder was closed.
        RepstatError
            The model cannot be run or the disk is full, unless `on_error` is ``warn``.
        """
        if self._stopped:
            return False
        try:
            return self._record(step, epoch, metrics or {})
        except RepstatError as error:
            if self._on_error == "raise":
                raise
            self._stopped = True
            warnings.warn(f"repstat records no more: {error}", stacklevel=2)
            return False

    def _record(self, step: int, epoch: float | None, metrics: Mapping[str, Any]) -> bool:
        if self._closed:
            raise UsageError(
                what=f"cannot record step {step!r}",
                why="the recorder was closed",
                fix="Record before close(), within the with block; a new Recorder with resume=True goes on",
            )
        step = step_number(step)
        if self._last is not None and step <= self._last:
            raise UsageError(
                what=f"step {step} comes after step {self._last}",
                why="steps count optimizer updates, which only grow",
                fix="Record with the count of updates, not with the number of the batch within its epoch",
            )
        if self._last is not None:
            last = self._last
        elif self._found:
            self._drop_what_was_given_up(step)
            last = step - 1
        else:
            last = -1
        due = self._schedule.due(step, last) and step not in self._writer.done
        if due:
            values = {name: metric_number(name, value) for name, value in metrics.items()}
            if epoch is not None:
                values["epoch"] = metric_number("epoch", epoch)
            adapter = self._opened.open(self._model)
            record(self._plan, self._writer, adapter, self._model, step, values, Silent())
        self._last = step
        return due

    def _drop_what_was_given_up(self, step: int) -> None:
        """Forget what was recorded by a training that goes on from before it."""
        there = self._writer.finished.get(step)
        now = self._opened.open(self._model).provenance().get("weights_sha256")
        same = there is not None and there.weights_sha256 == now
        first = step + 1 if same else step
        if dropped := self._writer.drop_from(first):
            warnings.warn(
                f"the training goes on at step {step}: {len(dropped)} checkpoints that were recorded from "
                f"there on were dropped, the last at step {max(dropped)}",
                stacklevel=4,
            )

    def close(self) -> Path:
        """Make one store of the checkpoints, and return its path.

        Raises
        ------
        StoreIncompleteError
            Nothing was recorded.
        ResourceError
            The disk is full; the checkpoints are kept.
        """
        try:
            return self._writer.finish()
        finally:
            self._release()

    def _release(self) -> None:
        self._closed = True
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; where the training failed, keep what was recorded for ``resume=True``."""
        if kind is None:
            self.close()
        else:
            self._release()


def samples_of(inputs: str | PathLike[str] | Mapping[str, Array] | Array) -> Mapping[str, Array]:
    """Return the samples that a recorder would take, for who must know their shapes before there is one."""
    data = read_data(inputs, None, None)
    return as_arrays(data.inputs, data.inputs_source)
