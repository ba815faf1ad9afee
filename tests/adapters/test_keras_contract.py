"""The Keras adapter keeps the contract on models of every kind."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat.adapter import Array
from tests.adapters.contract import AdapterContract, Case
from tests.optional import require

require(os.environ.get("KERAS_BACKEND", "tensorflow"))
require("keras")

from tests.adapters import keras_models as models  # noqa: E402
from tests.adapters.keras_models import keras, layers, normal, opened, randomised  # noqa: E402

# Keras on PyTorch converts arrays in a way that NumPy 2 finds out of date.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

N = 7
Made = tuple[Any, dict[str, Array], str, dict[str, Array]]
"""Model, batch, kinds of its layers (h, r, o), and activations computed by Keras itself."""


def values(tensor: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.stop_gradient(tensor)))


def by_keras(model: Any, feeds: Any, **targets: str) -> dict[str, Array]:
    """Activations of some layers by key, with a sub-model."""
    outputs = models.until(model, *targets.values())(feeds, training=False)
    return dict(zip(targets, map(values, outputs), strict=True))


def channels_first(expected: dict[str, Array]) -> dict[str, Array]:
    """Feature maps as they are recorded; Keras has their channels last."""
    return {key: np.moveaxis(value, -1, 1) for key, value in expected.items()}


def plain() -> Made:
    x = normal(N, 4)
    model = models.mlp()
    return model, {"x": x}, "hho", by_keras(model, x, L000="fc1", L002="out")


def functional_activations() -> Made:
    model, x = models.subclassed(), normal(N, 4)
    return model, {"inputs": x}, "hho", {"L002": values(model(x, training=False))}


def sequential() -> Made:
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5), layers.BatchNormalization(), layers.ReLU(), layers.Dense(2)]
    )
    x = normal(N, 4)
    return randomised(model), {"input": x}, "ho", {"L001": values(model(x, training=False))}


def shared_layer() -> Made:
    x = keras.Input((4,), name="x")
    again = layers.Dense(4, activation="tanh", name="again")
    model = randomised(keras.Model(x, layers.Dense(2, name="out")(again(again(again(x))))))
    batch = normal(N, 4)
    kernel, bias = map(np.asarray, model.get_layer("again").get_weights())
    expected, here = {}, batch
    for key in ("L000", "L001", "L002"):
        here = np.tanh(here @ kernel + bias)
        expected[key] = here
    return model, {"x": batch}, "hhho", expected


def residual() -> Made:
    x = keras.Input((4,), name="x")
    stem = layers.Dense(4, activation="relu", name="stem")(x)
    block = layers.Dense(4, name="fc2")(layers.Dense(6, activation="relu", name="fc1")(stem))
    join = layers.ReLU(name="join")(layers.Add()([block, stem]))
    model = randomised(keras.Model(x, layers.Dense(2, name="head")(join)))
    batch = normal(N, 4)
    return model, {"x": batch}, "hhhro", by_keras(model, batch, L002="fc2", R000="join", L003="head")


def nested() -> Made:
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(5, activation="tanh")], name="inner")
    x = keras.Input((4,), name="x")
    h = inner(layers.Dense(5, activation="relu", name="fc1")(x))
    model = randomised(keras.Model(x, layers.Dense(2, name="out")(h)))
    batch = normal(N, 4)
    return model, {"x": batch}, "hho", by_keras(model, batch, L000="fc1", L001="inner", L002="out")


def several_outputs() -> Made:
    x = keras.Input((4,), name="x")
    trunk = layers.Dense(5, activation="tanh", name="trunk")(x)
    heads = {"policy": layers.Dense(2, name="policy")(trunk), "value": layers.Dense(3, name="value")(trunk)}
    model = randomised(keras.Model(x, {**heads, "trunk": trunk}))
    batch = normal(N, 4)
    return model, {"x": batch}, "hoo", by_keras(model, batch, L000="trunk", L001="value", L002="policy")


def two_inputs() -> Made:
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    left, right = layers.Dense(5, "tanh", name="left")(a), layers.Dense(5, "tanh", name="right")(b)
    both = layers.Concatenate()([left, right])
    model = randomised(keras.Model([a, b], layers.Dense(2, name="head")(both)))
    feeds = {"a": normal(N, 4), "b": normal(N, 3, seed=2)}
    return model, feeds, "hho", by_keras(model, list(feeds.values()), L000="left", L001="right", L002="head")


def dictionary_of_inputs() -> Made:
    a, b = keras.Input((4,), name="zebra"), keras.Input((3,), name="ape")
    left, right = layers.Dense(5, "tanh", name="left")(a), layers.Dense(5, "tanh", name="right")(b)
    both = layers.Concatenate()([left, right])
    model = randomised(keras.Model({"zebra": a, "ape": b}, layers.Dense(2, name="head")(both)))
    feeds = {"ape": normal(N, 3), "zebra": normal(N, 4, seed=2)}
    return model, feeds, "hho", {"L002": values(model(feeds, training=False))}


def ids() -> Made:
    x = keras.Input((3,), dtype="int32", name="ids")
    flat = layers.Flatten()(layers.Embedding(16, 4)(x))
    model = randomised(keras.Model(x, layers.Dense(2, name="out")(layers.Dense(5, "tanh", name="fc1")(flat))))
    batch = np.random.default_rng(3).integers(0, 16, (N, 3)).astype(np.int32)
    return model, {"ids": batch}, "ho", by_keras(model, batch, L000="fc1", L001="out")


def fixed_batch() -> Made:
    x = keras.Input(batch_shape=(3, 4), name="x")
    model = randomised(keras.Model(x, layers.Dense(2, name="out")(layers.Dense(5, "tanh", name="fc1")(x))))
    return model, {"x": normal(N, 4)}, "ho", {}


def double() -> Made:
    x = keras.Input((4,), dtype="float64", name="x")
    h = layers.Dense(5, "relu", dtype="float64", name="fc1")(x)
    model = randomised(keras.Model(x, layers.Dense(2, dtype="float64", name="out")(h)))
    batch = normal(N, 4, dtype=np.float64)
    return model, {"x": batch}, "ho", by_keras(model, batch, L000="fc1", L001="out")


def half() -> Made:
    x = keras.Input((4,), dtype="float16", name="x")
    h = layers.Dense(5, "relu", dtype="float16", name="fc1")(x)
    model = randomised(keras.Model(x, layers.Dense(2, dtype="float16", name="out")(h)))
    return model, {"x": normal(N, 4, dtype=np.float16)}, "ho", {}


def cnn() -> Made:
    x = keras.Input((6, 6, 1), name="x")
    h = layers.ReLU(name="r1")(layers.BatchNormalization()(layers.Conv2D(3, 3, name="c1")(x)))
    h = layers.Flatten()(layers.MaxPooling2D()(h))
    model = randomised(keras.Model(x, layers.Dense(2, name="head")(h)))
    batch = normal(N, 6, 6, 1)
    return model, {"x": batch}, "ho", channels_first(by_keras(model, batch, L000="r1", L001="head"))


def recurrent() -> Made:
    x = keras.Input((5, 3), name="x")
    h = layers.LSTM(4, name="lstm")(layers.GRU(4, return_sequences=True, name="gru")(x))
    model = randomised(keras.Model(x, layers.Dense(2, name="out")(h)))
    batch = normal(N, 5, 3)
    return model, {"x": batch}, "hho", by_keras(model, batch, L000="gru", L001="lstm", L002="out")


def free_length() -> Made:
    x = keras.Input((None, 3), name="x")
    h = layers.GlobalAveragePooling1D()(layers.Conv1D(4, 3, activation="tanh", name="c1")(x))
    model = randomised(keras.Model(x, layers.Dense(2, name="out")(h)))
    batch = normal(N, 8, 3)
    return model, {"x": batch}, "ho", channels_first(by_keras(model, batch, L000="c1", L001="out"))


def noisy_training() -> Made:
    from repstat_adapters.keras import ActivationNoise

    x = keras.Input((4,), name="x")
    h = ActivationNoise(0.3)(layers.Dense(5, "tanh", name="fc1")(x))
    model = randomised(keras.Model(x, layers.Dense(2, name="out")(ActivationNoise(0.2)(h))))
    return model, {"x": normal(N, 4)}, "ho", by_keras(model, normal(N, 4), L000="fc1", L001="out")


KINDS = {"h": "hidden", "r": "residual", "o": "output"}
MAKERS: list[Callable[[], Made]] = [
    plain, functional_activations, sequential, shared_layer, residual, nested, several_outputs, two_inputs,
    dictionary_of_inputs, ids, fixed_batch, double, half, cnn, recurrent, free_length, noisy_training,
]  # fmt: skip


def keys_of(kinds: str) -> list[str]:
    counts = {"L": 0, "R": 0}
    keys = []
    for kind in kinds:
        first = "R" if kind == "r" else "L"
        keys.append(f"{first}{counts[first]:03d}")
        counts[first] += 1
    return keys


def case_of(made: Made, source: Any, files: tuple[Path, ...] = (), **options: Any) -> Case:
    _, feeds, kinds, expected = made
    return Case(
        open=lambda: opened(source, **options),
        feeds=feeds,
        keys=keys_of(kinds),
        kinds=[KINDS[kind] for kind in kinds],
        files=files,
        expected=expected,
    )


@cache
def made(maker: Callable[[], Made]) -> Made:
    """One model of each kind; the contract proves that none is changed."""
    return maker()


class TestLive(AdapterContract):
    @pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
    def case(self, request: pytest.FixtureRequest) -> Case:
        here = made(request.param)
        return case_of(here, here[0])
