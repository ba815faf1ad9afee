"""Models that are refused, and what others take: inputs, types, devices, threads."""

from typing import Any

import numpy as np
import pytest

from repstat.adapter import Noise
from repstat.errors import DeviceUnavailableError, InputRefusedError, UsageError
from tests.optional import require

tf: Any = require("tensorflow")
require("keras")

from tests.adapters import keras_models as models  # noqa: E402
from tests.adapters.keras_models import (  # noqa: E402
    keras,
    layers,
    layers_of,
    normal,
    opened,
    randomised,
    refusal,
    stacked,
)


def test_a_model_that_is_random_outside_of_training_is_refused() -> None:
    class Sampling(layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="sampling")
            self.seed_generator = keras.random.SeedGenerator(1)

        def call(self, inputs: Any) -> Any:
            return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.seed_generator)

    text = refusal(stacked(layers.Dense(4), Sampling(), layers.Dense(2)))
    assert "the model is not deterministic" in text
    assert "in sampling" in text
    assert "outside of training" in text


def test_a_model_that_normalises_by_its_batch_is_refused() -> None:
    class Batchy(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm = layers.Dense(4), layers.BatchNormalization(name="norm")

        def call(self, inputs: Any) -> Any:
            return self.norm(self.fc(inputs), training=True)

    model = Batchy()
    model(normal(2, 4))
    text = refusal(model)
    assert "layer norm" in text
    assert "training=True" in text


def test_a_model_that_counts_its_calls_is_refused() -> None:
    class Counting(layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

        def call(self, inputs: Any) -> Any:
            self.calls.assign_add(1.0)
            return inputs * self.calls

    model = stacked(layers.Dense(4), Counting(), layers.Dense(2))
    before = [np.asarray(w).copy() for w in model.weights]
    assert "a state that it changes on the way" in refusal(model)
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(before, model.weights, strict=True))


def test_a_model_that_needs_real_values_while_traced_says_so() -> None:
    class Numpy(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc = layers.Dense(4)

        def call(self, inputs: Any) -> Any:
            return self.fc(np.tanh(inputs.numpy()))

    model = Numpy()
    model(tf.constant(normal(2, 4)))
    text = refusal(model)
    assert "cannot be traced as a graph" in text
    assert "without NumPy" in text


def test_a_stateful_layer_starts_anew_with_every_batch() -> None:
    model = keras.Sequential(
        [keras.Input(batch_shape=(2, 5, 3)), layers.LSTM(4, stateful=True), layers.Dense(2)]
    )
    model = randomised(model)
    batch = normal(2, 5, 3)
    state = np.asarray(model.layers[0].states[0]).copy()
    first = models.values_of(model, {"input": batch})
    again = models.values_of(model, {"input": batch})
    assert all(np.array_equal(again[key], value) for key, value in first.items())
    assert np.array_equal(np.asarray(model.layers[0].states[0]), state)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_low_precision_keeps_its_name(policy: str) -> None:
    x = keras.Input((4,), dtype="float32" if policy.startswith("mixed") else policy, name="x")
    h = layers.Dense(5, activation="tanh", dtype=policy, name="fc1")(x)
    model = randomised(keras.Model(x, layers.Dense(2, dtype=policy, name="out")(h)))
    source = policy.removeprefix("mixed_")
    found = layers_of(model)
    assert {x.source_dtype for x in found.values()} == {source}
    assert {x.dtype.name for x in found.values()} == {"float16" if source == "float16" else "float32"}
    adapter = opened(model)
    assert adapter.inputs()[0].dtype == np.float32
    batch = normal(9, 4)
    values = adapter.run({"x": batch}, adapter.layers(), samples=np.arange(9))
    kernel, bias = (np.asarray(w, dtype=np.float64) for w in model.get_layer("fc1").get_weights())
    assert np.abs(values["L000"] - np.tanh(batch @ kernel + bias)).max() < 2e-2
    noise = Noise({"L000": 0.5}, seed=1)
    noisy = adapter.run({"x": batch}, adapter.layers(), samples=np.arange(9), noise=noise)
    assert np.array_equal(noisy["L000"], values["L000"])
    assert np.abs(noisy["L001"].astype(np.float32) - values["L001"]).max() > 0.05


def test_undeclared_inputs_take_samples_of_any_shape_and_of_integers() -> None:
    class Lookup(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.table, self.fc = layers.Embedding(16, 4), layers.Dense(2, activation="tanh")

        def call(self, ids: Any) -> Any:
            return self.fc(keras.ops.mean(self.table(ids), axis=1))

    model = Lookup()
    model(np.zeros((2, 5), np.int32))
    adapter = opened(model)
    spec = adapter.inputs()[0]
    assert (spec.name, spec.dtype, spec.shape, spec.declared) == ("ids", np.int32, (None, 5), False)
    assert [x.key for x in adapter.layers()] == ["L000"]
    for length, dtype in ((5, np.int32), (3, np.int64)):
        batch = np.random.default_rng(0).integers(0, 16, (4, length)).astype(dtype)
        values = adapter.run({"ids": batch}, adapter.layers({"ids": batch}), samples=np.arange(4))
        assert np.abs(values["L000"] - np.asarray(model(batch))).max() < 1e-6


def test_a_model_of_two_arguments_needs_real_samples() -> None:
    class Two(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = layers.Dense(3, activation="tanh"), layers.Dense(3, activation="tanh")

        def call(self, left: Any, right: Any) -> Any:
            return self.left(left) + self.right(right)

    model = Two()
    feeds = {"left": normal(4, 5), "right": normal(4, 2, seed=1)}
    model(**feeds)
    adapter = opened(model)
    assert [spec.name for spec in adapter.inputs()] == ["left", "right"]
    text = refusal(model)
    assert "but received input with shape (None, 8)" in text
    assert "Give real samples with --inputs" in text
    values = adapter.run(feeds, adapter.layers(feeds), samples=np.arange(4))
    assert [value.shape for value in values.values()] == [(4, 3)] * 3  # and their sum


def test_inputs_that_are_no_numbers_are_refused() -> None:
    x = keras.Input((3,), dtype="string", name="words")
    model = keras.Model(x, layers.Dense(2)(layers.Embedding(5, 2)(layers.Hashing(5)(x))))
    with pytest.raises(InputRefusedError, match=r"not a numeric tensor.*input 'words'.*found string"):
        opened(model)


def test_the_names_that_keras_counts_up_are_not_the_inputs_names() -> None:
    for _ in range(2):  # the second copy has other numbers
        x = keras.Input((4,))
        assert opened(keras.Model(x, layers.Dense(2)(x))).inputs()[0].name == "input"
    a, b = keras.Input((4,)), keras.Input((3,))
    model = keras.Model([a, b], layers.Dense(2)(layers.Concatenate()([a, b])))
    assert [spec.name for spec in opened(model).inputs()] == ["input_0", "input_1"]


def test_devices_are_those_that_are_there() -> None:
    model = models.mlp()
    for provider in ("auto", "cpu", "CPU"):
        assert opened(model, provider=provider).provenance()["provider"] == "cpu"
    with pytest.raises(DeviceUnavailableError, match="no provider 'tpu'"):
        opened(model, provider="tpu")
    if not tf.config.list_physical_devices("GPU"):
        with pytest.raises(DeviceUnavailableError, match="TensorFlow finds no GPU"):
            opened(model, provider="cuda")


def test_a_gpu_that_is_not_there_is_an_error_and_nobodys_devices_are_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TensorFlow would place the model on the CPU without a word."""
    model = models.mlp()
    for name in ("set_visible_devices", "set_soft_device_placement"):
        monkeypatch.setattr(tf.config, name, lambda *args: pytest.fail("a setting of the process"))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *args: [])
    with pytest.raises(DeviceUnavailableError, match=r"TensorFlow finds no GPU.*--provider cpu"):
        opened(model, provider="cuda")
    facts = models.values_of(model, {"x": normal(3, 4)}, provider="cpu")
    assert facts.keys() == models.values_of(model, {"x": normal(3, 4)}, provider="auto").keys()


def test_threads_are_kept_or_refused() -> None:
    """TensorFlow takes threads once in the life of a process."""
    model = models.mlp()
    running = opened(model).provenance()["threads"]
    assert opened(model, threads=running).provenance()["threads"] == running
    with pytest.raises(
        UsageError, match=f"cannot use {running + 1} threads any more.*started with {running}"
    ):
        opened(model, threads=running + 1)


def test_a_shape_that_depends_on_the_samples_is_refused() -> None:
    model = stacked(
        layers.Conv1D(4, 3, name="c1"), layers.GlobalMaxPooling1D(), layers.Dense(2), shape=(None, 3)
    )
    adapter = opened(model)
    found = adapter.layers({"x": normal(2, 8, 3)})
    with pytest.raises(InputRefusedError, match="the activation's shape depends on the samples"):
        adapter.run({"x": normal(2, 9, 3)}, found, samples=np.arange(2))
    with pytest.raises(InputRefusedError, match="the activation's shape depends on the samples"):
        adapter.run({"x": normal(2, 9, 3)}, found[1:], samples=np.arange(2), noise=Noise({"L000": 1.0}, 0))
