"""Recording a Keras training: the training ends as it would have, and the store holds what it was."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repstat
from repstat.errors import UsageError
from tests.optional import require

keras = require("keras")
from repstat_adapters.keras import RecordActivations  # noqa: E402 - it needs keras

N = 64
X = np.random.default_rng(1).normal(size=(N, 6)).astype(np.float32)
Y = (X.sum(axis=1) > 0).astype(np.int32)


def network() -> Any:
    """With everything that a careless look would move: batch statistics, dropout, seeds."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.Dropout(0.3),
            layers.Dense(5, activation="tanh"),
            layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


def train(callbacks: list[Any], model: Any = None, epochs: int = 3, first: int = 0) -> Any:
    model = network() if model is None else model
    model.fit(
        X, Y, batch_size=16, epochs=epochs, initial_epoch=first, validation_data=(X[:8], Y[:8]), verbose=0,
        callbacks=callbacks,
    )  # fmt: skip
    return model


def weights(model: Any) -> list[np.ndarray]:
    variables = [*model.variables, *model.optimizer.variables]
    return [variable.numpy() for variable in variables]


class Careless(keras.callbacks.Callback):  # type: ignore[misc]
    """A mutant: what one would write without thinking."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model(X, training=True)


def test_a_training_with_a_recorder_ends_with_the_same_weights_to_the_bit(tmp_path: Path) -> None:
    record = RecordActivations(X, labels=Y, store=tmp_path / "a.h5", every=4, noise_std=0.1)
    plain, watched, careless = (weights(train(callbacks)) for callbacks in ([], [record], [Careless()]))
    assert all(np.array_equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(plain, careless, strict=True))
    with repstat.open_store(tmp_path / "a.h5") as store:
        assert store.steps == (0, 4, 8, 12)
        assert [c.epoch for c in store.checkpoints] == [None, 1.0, 2.0, 3.0]
        assert [np.isnan(c.metrics["loss"]) for c in store.checkpoints] == [True, False, False, False]
        assert len({c.weights_sha256 for c in store.checkpoints}) == 4


def test_epochs_are_recorded_with_their_validation_and_the_last_one_is_the_model(tmp_path: Path) -> None:
    record = RecordActivations(X, store=tmp_path / "a.h5", when="epoch")
    model = train([record])
    with repstat.open_store(tmp_path / "a.h5") as store:
        assert store.steps == (0, 4, 8, 12)
        assert all(c.metrics["val_loss"] > 0 for c in store.checkpoints[1:])
        last = store.layers["L001"].at(step=12).read()
    part = keras.Model(model.inputs, model.layers[-2].output)
    np.testing.assert_allclose(last, keras.ops.convert_to_numpy(part([X], training=False)), atol=1e-6)


def test_a_second_fit_goes_on_with_the_store(tmp_path: Path) -> None:
    record = RecordActivations(X, store=tmp_path / "a.h5", every=4)
    model = train([record], epochs=1)
    train([record], model, epochs=3, first=1)
    with repstat.open_store(tmp_path / "a.h5") as store:
        assert store.steps == (0, 4, 8, 12)


def test_a_failed_training_keeps_what_was_recorded(tmp_path: Path) -> None:
    class Fail(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                msg = "the training died"
                raise RuntimeError(msg)

    record = RecordActivations(X, store=tmp_path / "a.h5", every=4)
    model = network()
    with pytest.raises(RuntimeError, match="died"):
        train([record, Fail()], model)
    with repstat.open_store(tmp_path / "a.h5.parts") as store:
        assert store.steps == (0, 4, 8)
    train([record], model, epochs=3, first=2)
    with repstat.open_store(tmp_path / "a.h5") as store:
        assert store.steps == (0, 4, 8, 12)


def test_an_unknown_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown when 'never'. Choose batch or epoch"):
        RecordActivations(X, store=tmp_path / "a.h5", when="never")  # type: ignore[arg-type]


def test_the_page_s_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "recording.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python keras\n(.*?)^```$", page, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    with repstat.open_store(tmp_path / "keras.h5") as store:
        assert store.steps[:5] == (0, 1, 2, 3, 6)
