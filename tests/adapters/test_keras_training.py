"""Extraction leaves a model, its training and the process as they were, also when it fails."""

import random
from typing import Any

import numpy as np
import pytest

from repstat.adapter import Array, Noise
from repstat.errors import InputRefusedError, RepstatError
from tests.optional import require

tf: Any = require("tensorflow")
require("keras")

from repstat_adapters.keras import ActivationNoise  # noqa: E402
from tests.adapters import keras_models as models  # noqa: E402
from tests.adapters.keras_models import keras, layers, normal, opened, saved  # noqa: E402

SEED = 11
X, Y = normal(24, 4), normal(24, 3, seed=1)


def network() -> Any:
    """Everything that training keeps: dropout, noise, statistics, losses of layers, frozen weights."""
    keras.utils.set_random_seed(SEED)
    x = keras.Input((4,), name="x")
    h = layers.Dense(6, activation="tanh", activity_regularizer="l2", name="fc1")(x)
    h = layers.Dropout(0.3)(ActivationNoise(0.1)(layers.BatchNormalization()(h)))
    frozen = layers.Dense(5, trainable=False, name="fc2")
    model = keras.Model(x, layers.Dense(3, name="out")(frozen(h)))
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


def fit(model: Any, callbacks: list[Any] | None = None) -> None:
    models.quietly(lambda: model.fit(X, Y, epochs=3, batch_size=8, verbose=0, callbacks=callbacks or []))


def state(model: Any) -> dict[str, Any]:
    """Everything that must be as it was, in a form that can be compared."""
    generators = [v for layer in model._flatten_layers() for v in layer.variables if "seed" in v.path]
    return {
        "weights": [np.asarray(v).tobytes() for v in model.variables],
        "optimizer": [np.asarray(v).tobytes() for v in model.optimizer.variables],
        "trainable": [(layer.name, layer.trainable) for layer in model._flatten_layers()],
        "losses": [float(loss) for loss in model.losses],
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tobytes(),  # noqa: NPY002
        "tensorflow": np.asarray(tf.random.get_global_generator().state).tobytes(),
        "seeds": [np.asarray(v).tobytes() for v in generators],
        "metrics": [float(np.asarray(v).sum()) for metric in model.metrics for v in metric.variables],
        "call": layers.Layer.__call__,
        "eager": tf.config.functions_run_eagerly(),
        "optimiser": tf.config.optimizer.get_experimental_options(),
        "visible": tf.config.get_visible_devices(),
        "policy": keras.config.dtype_policy().name,
        "built": [layer.built for layer in model._flatten_layers()],
    }


def extract(model: Any) -> dict[str, Array]:
    adapter = opened(model)
    found = adapter.layers({"x": X})
    values = adapter.run({"x": X}, found, samples=np.arange(24))
    noise = Noise({found[0].key: 0.3}, seed=1)
    adapter.run({"x": X}, found, samples=np.arange(24), noise=noise)
    adapter.close()
    return values


@pytest.fixture(scope="module")
def trained() -> Any:
    model = network()
    fit(model)
    model(X, training=True)  # losses of layers are now those of this call
    return model


def test_extraction_changes_nothing(trained: Any) -> None:
    before = state(trained)
    assert before["losses"]
    extract(trained)
    assert state(trained) == before


def test_a_mutant_that_calls_the_model_in_training_is_found_out(trained: Any) -> None:
    before = state(trained)
    trained(X, training=True)
    after = state(trained)
    assert after["weights"] != before["weights"]
    assert after["seeds"] != before["seeds"]


class Failing(layers.Layer):  # type: ignore[misc]
    """Fails inside the call that is watched."""

    fails = False

    def call(self, inputs: Any) -> Any:
        if not self.fails:
            return inputs
        message = "the layer fails"
        raise RuntimeError(message)


def test_a_failure_while_tracing_changes_nothing() -> None:
    class Broken(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.failing = layers.Dense(3), Failing()

        def call(self, inputs: Any) -> Any:
            return self.failing(self.fc(inputs))

    model = Broken()
    model(X)
    model.compile("adam", "mse")
    model.failing.fails = True
    before = state(model)
    with pytest.raises(InputRefusedError, match=r"cannot be traced.*RuntimeError.*the layer fails"):
        opened(model).layers({"inputs": X})
    assert state(model) == before
    model.failing.fails = False
    assert extract_by(model, "inputs")


def extract_by(model: Any, name: str) -> dict[str, Array]:
    adapter = opened(model)
    return adapter.run({name: X}, adapter.layers({name: X}), samples=np.arange(24))


def test_a_failure_while_running_changes_nothing(trained: Any) -> None:
    before = state(trained)
    adapter = opened(trained)
    found = adapter.layers()
    for feeds in ({"x": X[:, :3]}, {"y": X}, {"x": X.astype(np.float64)}):
        with pytest.raises(RepstatError):
            adapter.run(feeds, found, samples=np.arange(24))
    assert state(trained) == before


@pytest.mark.parametrize("record", [None, "always"])
def test_training_goes_the_same_way_with_and_without_extraction(record: str | None) -> None:
    plain = network()
    fit(plain)
    model = network()
    seen = []

    def at_the_end(epoch: int, logs: Any) -> None:
        seen.append(extract(model)["L000"])

    fit(model, [keras.callbacks.LambdaCallback(on_epoch_end=at_the_end)] if record else None)
    assert len(seen) == (3 if record else 0)
    for ours, theirs in zip(model.variables, plain.variables, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs)), ours.path
    for ours, theirs in zip(model.optimizer.variables, plain.optimizer.variables, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs)), ours.path
    if record:
        assert not np.array_equal(seen[0], seen[-1])
        assert np.array_equal(seen[-1], models.values_of(plain, {"x": X})["L000"])


def test_activations_in_a_callback_are_those_of_inference(trained: Any) -> None:
    """Moving statistics, no dropout and no noise of training."""
    values = extract(trained)
    hidden = np.asarray(models.until(trained, "fc1", "fc2")(X, training=False)[1])
    assert np.array_equal(values["L001"], hidden)


# ------------------------------------------------------------ noise of training


def test_noise_is_on_in_training_and_off_in_evaluation() -> None:
    layer = ActivationNoise(0.5, seed=3)
    zeros = np.zeros((400, 50), np.float32)
    noisy = np.asarray(layer(zeros, training=True))
    n = noisy.size
    assert abs(noisy.mean()) < 4 * 0.5 / n**0.5
    assert abs(noisy.std() - 0.5) < 4 * 0.5 / (2 * n) ** 0.5
    assert not np.array_equal(noisy, np.asarray(layer(zeros, training=True)))
    assert np.array_equal(np.asarray(layer(zeros, training=False)), zeros)
    assert np.array_equal(np.asarray(layer(zeros)), zeros)
    assert np.array_equal(np.asarray(ActivationNoise(0.0)(zeros, training=True)), zeros)


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf")])
def test_noise_std_is_a_standard_deviation(bad: float) -> None:
    with pytest.raises(ValueError, match="standard deviation from 0"):
        ActivationNoise(bad)


def noisy_network(noise_std: float | None) -> Any:
    x = keras.Input((4,), name="x")
    h = layers.Dense(6, activation="tanh", name="fc1")(x)
    h = h if noise_std is None else ActivationNoise(noise_std)(h)
    h = layers.Dense(5, name="fc2")(h)
    h = h if noise_std is None else ActivationNoise(noise_std)(h)
    h = layers.ReLU()(h)
    return models.randomised(keras.Model(x, layers.Dense(3, name="out")(h)))


def test_noise_of_training_changes_no_layer_and_no_value_of_extraction() -> None:
    plain, noisy = noisy_network(None), noisy_network(0.3)
    found = [
        [(x.key, x.name, x.signature, x.kind) for x in models.layers_of(model).values()]
        for model in (plain, noisy)
    ]
    assert found[0] == found[1]
    want, have = (models.values_of(model, {"x": X}) for model in (plain, noisy))
    assert all(np.array_equal(have[key], value) for key, value in want.items())
    for model in (plain, noisy):
        adapter = opened(model)
        noise = Noise({"L000": 0.3, "L001": 0.3}, seed=5)
        values = adapter.run({"x": X}, adapter.layers(), samples=np.arange(24), noise=noise)
        want = values if model is plain else want
        assert all(np.array_equal(want[key], value) for key, value in values.items())


def test_a_model_with_noise_is_saved_and_loaded_like_any(tmp_path: Any) -> None:
    model = noisy_network(0.25)
    again = models.quietly(lambda: keras.saving.load_model(saved(model, tmp_path)))
    found = [layer for layer in again.layers if isinstance(layer, ActivationNoise)]
    assert [layer.noise_std for layer in found] == [0.25, 0.25]
    want, have = models.values_of(model, {"x": X}), models.values_of(saved(model, tmp_path), {"x": X})
    assert all(np.array_equal(have[key], value) for key, value in want.items())
