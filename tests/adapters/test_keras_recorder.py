"""Recording a Keras training: the training ends as it would have, and the store holds what it was."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repstat
from repstat.errors import InputRefusedError, UsageError
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


class Subclassed(keras.Model):  # type: ignore[misc]
    """Makes its weights, and those of a model inside, when it is first called."""

    def __init__(self) -> None:
        super().__init__()
        layers = keras.layers
        self.first = layers.Dense(8, activation="relu")
        self.drop = layers.Dropout(0.3)
        self.inner = keras.Sequential([layers.Dense(5), layers.BatchNormalization()])
        self.last = layers.Dense(2)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.last(self.drop(self.inner(self.first(x)), training=training))


class BuildsItself(Subclassed):
    """Makes layers in ``build``, and computes with a weight of its own."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="random_normal", name="scale")
        super().build(shape)

    def call(self, x: Any, training: bool = False) -> Any:
        return super().call(x * self.scale, training=training)


def without_input() -> Any:
    layers = keras.layers
    return keras.Sequential(
        [layers.Dense(8), layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.3), layers.Dense(2)]
    )


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


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("make", [without_input, Subclassed, BuildsItself])
def test_a_model_that_fit_builds_is_recorded_from_the_start_and_trained_to_the_bit(
    tmp_path: Path, make: Any, eager: bool
) -> None:
    def trained(callbacks: list[Any]) -> Any:
        keras.utils.set_random_seed(3)
        model = make()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"], run_eagerly=eager)
        return weights(train(callbacks, model))

    class Built(keras.callbacks.Callback):  # type: ignore[misc]
        """What the first update finds."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.first = [v.numpy() for v in self.model.weights] if epoch == 0 else self.first

    built = Built()
    np.savez(tmp_path / "x.npz", inputs=X.astype(np.float64))
    record = RecordActivations(tmp_path / "x.npz", store=tmp_path / "a.h5", every=4, cast=True)
    plain, watched = trained([]), trained([record, built])
    assert all(np.array_equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert any(np.ptp(values) > 0 for values in built.first)
    with repstat.open_store(tmp_path / "a.h5") as store:
        assert store.steps == (0, 4, 8, 12)
        assert len({c.weights_sha256 for c in store.checkpoints}) == 4
        step_0 = store.layers["L000"].at(step=0).read()
    keras.utils.set_random_seed(3)
    fresh = make()
    fresh(X)
    for values, variable in zip(built.first, fresh.weights, strict=True):
        np.testing.assert_array_equal(values, variable.numpy())
    assert step_0.shape[0] == N


def test_a_second_fit_goes_on_with_the_store_whether_keras_is_told_so_or_not(tmp_path: Path) -> None:
    for first, name in ((1, "a.h5"), (0, "b.h5")):
        record = RecordActivations(X, store=tmp_path / name, every=2)
        model = train([record], epochs=1)
        train([record], model, epochs=first + 2, first=first)
        with repstat.open_store(tmp_path / name) as store:
            assert store.steps == (0, 2, 4, 6, 8, 10, 12)
            assert [c.epoch for c in store.checkpoints] == [None, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]


def test_every_counts_epochs_where_epochs_are_recorded(tmp_path: Path) -> None:
    record = RecordActivations(X, store=tmp_path / "a.h5", when="epoch", every=np.int64(3))
    model = train([record], epochs=5)  # its end is not due, nor is the start of the next fit
    train([record], model, epochs=4)
    with repstat.open_store(tmp_path / "a.h5") as store:
        assert store.steps == (0, 12, 24, 36)
        assert [c.epoch for c in store.checkpoints] == [None, 3.0, 6.0, 9.0]


def test_log_spaced_and_given_steps_count_updates_where_epochs_are_recorded(tmp_path: Path) -> None:
    for name, when in (("a.h5", {"per_decade": 1}), ("b.h5", {"steps": [0, 3, 10]})):
        train([RecordActivations(X, store=tmp_path / name, when="epoch", **when)], epochs=4)
        with repstat.open_store(tmp_path / name) as store:
            assert store.steps == (0, 4, 12)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": [-5]}, "step -5 is negative"),
        ({"steps": []}, "steps is empty: nothing would be recorded"),
        ({"steps": [5, 3, -1], "when": "epoch"}, "step -1 is negative"),
        ({"every": 0, "when": "epoch"}, "every 0 is not a whole number of at least 1"),
        ({"every": 2, "steps": [1], "when": "epoch"}, "exclude each other"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_before_the_training(
    tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        RecordActivations(X, store=tmp_path / "a.h5", **options)


def test_a_model_that_cannot_be_built_from_the_samples_is_refused_in_words(tmp_path: Path) -> None:
    class Odd(Subclassed):
        def call(self, x: Any, training: bool = False) -> Any:
            return super().call(keras.ops.concatenate([x, x[:, :1]], axis=3), training=training)

    model = Odd()
    model.compile("sgd", "mse")
    with pytest.raises(InputRefusedError):
        train([RecordActivations(X, store=tmp_path / "a.h5")], model)
    assert list(tmp_path.iterdir()) == []


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
