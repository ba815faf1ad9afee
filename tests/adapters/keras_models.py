"""Models that the tests of the Keras adapter share."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat.adapter import Adapter, AdapterOptions, Array, Layer
from repstat.errors import RepstatError
from repstat_adapters.keras import open_model
from repstat_adapters.keras.framework import import_keras, quiet

KERAS = import_keras()
keras: Any = KERAS.keras
layers: Any = keras.layers


def opened(source: Any, **options: Any) -> Adapter:
    return open_model(source, AdapterOptions(**options))


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def randomised(model: Any, seed: int = 7) -> Any:
    """Give every weight another value than the initialiser's: biases are not zero, variances positive."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        fan_in = max(1, int(np.prod(weight.shape[:-1])))
        value = rng.standard_normal(weight.shape) / fan_in**0.5
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)
    return model


def mlp(seed: int = 7) -> Any:
    x = keras.Input((4,), name="x")
    h = layers.Dense(6, activation="tanh", name="fc1")(x)
    h = layers.Activation("relu")(layers.Dense(5, name="fc2")(h))
    return randomised(keras.Model(x, layers.Dense(3, name="out")(h)), seed)


@keras.saving.register_keras_serializable(package="repstat-tests")
class Subclassed(keras.Model):  # type: ignore[misc]
    """Activations that are functions, and no layer for the last weights."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.fc1, self.fc2 = layers.Dense(6), layers.Dense(5)
        self.norm = layers.BatchNormalization()
        self.drop = layers.Dropout(0.5)
        self.scale = self.add_weight(shape=(5, 3), name="projection")

    def call(self, inputs: Any, training: bool = False) -> Any:
        h = keras.ops.tanh(self.norm(self.fc1(inputs), training=training))
        h = keras.ops.relu(self.fc2(self.drop(h, training=training)))
        return keras.ops.matmul(h, self.scale)


def subclassed(seed: int = 7) -> Any:
    model = Subclassed()
    model(normal(2, 4))
    return randomised(model, seed)


def quietly(function: Callable[[], Any]) -> Any:
    with quiet():
        return function()


def saved(model: Any, folder: Path, name: str = "model.keras") -> Path:
    path = folder / name
    with quiet():
        model.save_weights(path) if name.endswith(".weights.h5") else model.save(path)
    return path


def layers_of(source: Any, **options: Any) -> dict[str, Layer]:
    adapter = opened(source, **options)
    found = {layer.key: layer for layer in adapter.layers()}
    adapter.close()
    return found


def values_of(source: Any, feeds: Mapping[str, Array], **options: Any) -> dict[str, Array]:
    adapter = opened(source, **options)
    n = len(next(iter(feeds.values())))
    values = adapter.run(feeds, adapter.layers(feeds), samples=np.arange(n))
    adapter.close()
    return values


def until(model: Any, *names: str) -> Any:
    """Keras' own way to the outputs of some layers of a functional model."""
    return keras.Model(model.input, [model.get_layer(name).output for name in names])


def checkpoint(model: Any, folder: Path, **others: Any) -> Path:
    """Save a model with `tf.train.Checkpoint`, under the name whose value is None or as ``model``."""
    tf = importlib.import_module("tensorflow")
    name = next((key for key, value in others.items() if value is None), "model")
    objects = {key: value for key, value in others.items() if value is not None}
    return Path(tf.train.Checkpoint(**{name: model}, **objects).save(str(folder / "ckpt")))


def saved_model(model: Any, folder: Path) -> Path:
    path = folder / "exported"
    quietly(lambda: model.export(path, verbose=False))
    return path


def refusal(source: Any, feeds: Any = None, **options: Any) -> str:
    """What a model is refused with when it is opened, or when its layers are asked for."""
    with pytest.raises(RepstatError) as caught:
        opened(source, **options).layers(feeds)
    return str(caught.value)


def other(units: int = 6, depth: int = 2, order: bool = False) -> Any:
    x = h = keras.Input((4,), name="x")
    names = ["fc2", "fc1"] if order else ["fc1", "fc2", "fc3"][:depth]
    for name, width in zip(names, [units, 6 if order else 5, 5], strict=False):
        h = layers.Dense(width, activation="tanh", name=name)(h)
    return randomised(keras.Model(x, layers.Dense(3, name="out")(h)), 9)


def stacked(*parts: Any, shape: tuple[int | None, ...] = (4,), **options: Any) -> Any:
    x = h = keras.Input(shape, name="x", **options)
    for part in parts:
        h = part(h)
    return randomised(keras.Model(x, h))
