"""Models as users have them: what is inert, what is shared, and what has an odd input or output.

Nothing here needs one backend: `test_keras_torch` runs it a second time.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat.adapter import Array, Noise
from tests.optional import require

require(os.environ.get("KERAS_BACKEND", "tensorflow"))
require("keras")

from tests.adapters import keras_models as models  # noqa: E402
from tests.adapters.keras_models import (  # noqa: E402
    keras,
    layers,
    normal,
    opened,
    randomised,
    refusal,
    saved,
)

# Keras on PyTorch converts arrays in a way that NumPy 2 finds out of date.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

X = normal(5, 4)
IMAGES = normal(3, 8, 8, 3)
IDS = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 0], [9, 0, 0, 0, 0, 0]], np.int32)


@dataclass(frozen=True)
class Model:
    """A model, samples for it, and what is to be found: names, signatures, values by layer."""

    model: Any
    feeds: Mapping[str, Array]
    names: Sequence[str]
    signatures: Sequence[str]
    expected: Mapping[str, Array] = field(default_factory=dict)


def array(tensor: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.stop_gradient(tensor)))


def by_keras(model: Any, feeds: Any, *names: str) -> dict[str, Array]:
    """Return the outputs of layers in their order, by a sub-model of Keras' own."""
    outputs = models.until(model, *names)(feeds, training=False)
    return {f"L{i:03d}": array(value) for i, value in enumerate(outputs)}


def functional(*parts: Any, shape: tuple[int, ...] = (4,), **options: Any) -> Any:
    x = h = keras.Input(shape, name="x", **options)
    for part in parts:
        h = part(h)
    return keras.Model(x, h)


def weights_of(layer: Any) -> tuple[Array, Array]:
    kernel, bias = (array(weight) for weight in layer.weights)
    return kernel, bias


# ------------------------------------------------------------ inert outside of training


def preprocessing() -> Model:
    statistics = normal(50, 4, seed=3) * 3 + 2
    norm = layers.Normalization(name="norm")
    norm.adapt(statistics)
    fc = layers.Dense(6, activation="tanh", name="fc")
    model = functional(layers.Rescaling(0.5, offset=1.0), norm, fc, layers.Dense(2, name="out"))
    kernel, bias = weights_of(fc)
    given = (X * 0.5 + 1.0 - statistics.mean(axis=0)) / statistics.std(axis=0)
    return Model(
        model, {"x": X}, ["fc", "out"], ["linear>tanh", "linear"], {"L000": np.tanh(given @ kernel + bias)}
    )


def augmentation() -> Model:
    """Every layer that is random in training hands on what it is given."""
    model = functional(
        layers.RandomFlip(), layers.RandomRotation(0.2), layers.RandomZoom(0.2),
        layers.RandomTranslation(0.2, 0.2), layers.RandomContrast(0.2), layers.RandomBrightness(0.2),
        layers.Flatten(), layers.Dense(6, name="fc"), layers.GaussianNoise(0.5), layers.Activation("tanh"),
        layers.Dropout(0.5), layers.GaussianDropout(0.3), layers.AlphaDropout(0.3),
        layers.Dense(2, name="out"), shape=(8, 8, 3),
    )  # fmt: skip
    kernel, bias = weights_of(model.get_layer("fc"))
    hidden = np.tanh(IMAGES.reshape(3, -1) @ kernel + bias)
    return Model(model, {"x": IMAGES}, ["fc", "out"], ["linear>tanh", "linear"], {"L000": hidden})


def training_in_the_graph() -> Model:
    """In a functional model, how the model is called counts for more than how a layer was."""
    x = keras.Input((4,), name="x")
    h = layers.BatchNormalization()(layers.Dense(6, name="fc")(x), training=True)
    model = randomised(keras.Model(x, layers.Dense(2, name="out")(layers.Dropout(0.5)(h, training=True))))
    expected = {"L001": array(model(X, training=False))}
    return Model(model, {"x": X}, ["fc", "out"], ["linear", "linear"], expected)


def frozen_normalisation() -> Model:
    norm = layers.BatchNormalization(trainable=False, name="norm")
    model = randomised(functional(layers.Dense(6, name="fc"), norm, layers.Dense(2, name="out")))
    return Model(model, {"x": X}, ["fc", "out"], ["linear", "linear"], by_keras(model, X, "norm", "out"))


class FineTuned(keras.Model):  # type: ignore[misc]
    """Normalisation that is called with training=True, and that Keras keeps from it since it is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.out = layers.Dense(6), layers.BatchNormalization(), layers.Dense(2)
        self.norm.trainable = False

    def call(self, x: Any) -> Any:
        return self.out(self.norm(self.fc(x), training=True))


def frozen_and_called_in_training() -> Model:
    model = FineTuned()
    model(X)
    randomised(model)
    expected = {"L001": array(model(X))}
    return Model(model, {"x": X}, [model.fc.name, model.out.name], ["linear", "linear"], expected)


# ------------------------------------------------------------ layers shared, nested and of one name


class OneName(keras.Model):  # type: ignore[misc]
    """Two layers with weights and two without, each pair of one name: their paths do not tell them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = layers.Dense(4, name="fc"), layers.Dense(4, name="fc")
        self.relu, self.again = layers.ReLU(name="act"), layers.ReLU(name="act")

    def call(self, x: Any) -> Any:
        return self.again(self.second(self.relu(self.first(x))))


def one_name() -> Model:
    model = OneName()
    model(X)
    randomised(model)
    first = array(keras.ops.relu(model.first(X)))
    expected = {"L000": first, "L001": array(model(X))}
    return Model(model, {"x": X}, ["fc#0", "fc#1"], ["linear>relu", "linear>relu"], expected)


def one_name_in_two_parents() -> Model:
    def part(name: str) -> Any:
        inner = [keras.Input((4,)), layers.Dense(4, name="fc"), layers.Activation("tanh", name="act")]
        return keras.Sequential(inner, name=name)

    model = randomised(functional(part("left"), part("right"), layers.Dense(2, name="out")))
    expected = by_keras(model, X, "left", "right", "out")
    return Model(model, {"x": X}, ["left/fc", "right/fc", "out"], ["linear>tanh"] * 2 + ["linear"], expected)


def nested_and_called_again() -> Model:
    """A model in a model in a model, each called twice: four calls of one layer, each with its own values."""
    i = keras.Input((4,))
    inner = keras.Model(i, layers.Dense(4, activation="tanh", name="fc")(i), name="inner")
    i = keras.Input((4,))
    middle = keras.Model(i, inner(inner(i)), name="middle")
    x = keras.Input((4,), name="x")
    model = randomised(keras.Model(x, layers.Dense(2, name="out")(middle(middle(x)))))
    kernel, bias = weights_of(inner.get_layer("fc"))
    expected, here = {}, X
    for key in ("L000", "L001", "L002", "L003"):
        expected[key] = here = np.tanh(here @ kernel + bias)
    names = [*(f"middle/inner/fc#{n}" for n in range(4)), "out"]
    return Model(model, {"x": X}, names, ["linear>tanh"] * 4 + ["linear"], expected)


# ------------------------------------------------------------ sequences


def masked(mask: bool = True) -> Any:
    return randomised(
        functional(
            layers.Embedding(10, 4, mask_zero=mask),
            layers.GRU(3, return_sequences=True, name="gru"),
            layers.LSTM(3, name="lstm"),
            layers.Dense(2, name="out"),
            shape=(6,),
            dtype="int32",
        )
    )


def mask() -> Model:
    model = masked()
    expected = by_keras(model, IDS, "gru", "lstm", "out")
    assert np.abs(array(masked(mask=False)(IDS)) - expected["L002"]).max() > 1e-3
    return Model(model, {"x": IDS}, ["gru", "lstm", "out"], ["gru", "lstm", "linear"], expected)


def encoder_and_decoder() -> Model:
    """Of a layer that returns several tensors the first one that is used is the layer."""
    x = keras.Input((5, 3), name="x")
    sequence, *state = layers.LSTM(4, return_sequences=True, return_state=True, name="encoder")(x)
    h = layers.LSTM(4, name="decoder")(sequence, initial_state=state)
    model = randomised(keras.Model(x, layers.Dense(2, name="out")(h)))
    batch = normal(4, 5, 3)
    by_hand = keras.Model(x, [sequence, h])(batch, training=False)
    expected = {f"L{i:03d}": array(value) for i, value in enumerate(by_hand)}
    names, signatures = ["encoder", "decoder", "out"], ["lstm", "lstm", "linear"]
    return Model(model, {"x": batch}, names, signatures, expected)


def state_alone() -> Model:
    x = keras.Input((5, 3), name="x")
    *_, cell = layers.LSTM(4, return_sequences=True, return_state=True, name="encoder")(x)
    model = randomised(keras.Model(x, layers.Dense(2, name="out")(cell)))
    batch = normal(4, 5, 3)
    expected = {"L000": array(keras.Model(x, cell)(batch, training=False))}
    return Model(model, {"x": batch}, ["encoder", "out"], ["lstm", "linear"], expected)


# ------------------------------------------------------------ training, outputs, types


class OwnStep(keras.Model):  # type: ignore[misc]
    """Functional, with its own training."""

    def train_step(self, data: Any) -> Any:
        raise AssertionError


def own_training_step() -> Model:
    x = keras.Input((4,), name="x")
    h = layers.Dense(6, activation="tanh", name="fc")(x)
    model = randomised(OwnStep(x, layers.Dense(2, name="out")(h)))
    model.compile("sgd", "mse")
    expected = by_keras(model, X, "fc", "out")
    return Model(model, {"x": X}, ["fc", "out"], ["linear>tanh", "linear"], expected)


class Heads(keras.Model):  # type: ignore[misc]
    """A dictionary of outputs, one of which is a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = layers.Dense(6, activation="tanh", name="trunk")
        self.policy, self.worth = layers.Dense(2, name="policy"), layers.Dense(3, name="worth")

    def call(self, x: Any) -> Any:
        h = self.trunk(x)
        return {"worth": self.worth(h), "embedding": h, "policy": self.policy(h)}


def dictionary_of_outputs() -> Model:
    model = Heads()
    model(X)
    made = randomised(model)(X)
    expected = {f"L{i:03d}": array(made[name]) for i, name in enumerate(("embedding", "worth", "policy"))}
    return Model(model, {"x": X}, ["trunk", "worth", "policy"], ["linear>tanh", "linear", "linear"], expected)


def of_type(policy: str) -> Model:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        fc = layers.Dense(6, activation="tanh", name="fc")
        model = randomised(functional(fc, layers.Dense(2, name="out")))
    finally:
        keras.config.set_dtype_policy(before)
    outputs = models.until(model, "fc", "out")(X, training=False)
    wide = "float64" if policy == "float64" else "float32"
    expected = {f"L{i:03d}": array(keras.ops.cast(value, wide)) for i, value in enumerate(outputs)}
    assert all(value.dtype == wide for value in expected.values())
    return Model(model, {"x": X}, ["fc", "out"], ["linear>tanh", "linear"], expected)


def policy_float64() -> Model:
    return of_type("float64")


def policy_mixed_bfloat16() -> Model:
    return of_type("mixed_bfloat16")


LIVE: list[Callable[[], Model]] = [
    frozen_and_called_in_training, one_name, own_training_step, dictionary_of_outputs,
]  # fmt: skip
STORED: list[Callable[[], Model]] = [
    preprocessing, augmentation, training_in_the_graph, frozen_normalisation, one_name_in_two_parents,
    nested_and_called_again, mask, encoder_and_decoder, state_alone, policy_float64, policy_mixed_bfloat16,
]  # fmt: skip


def check(case: Model, source: Any) -> None:
    """The layers are those of `case`, with its values, and noise in the first reaches the last."""
    adapter = opened(source)
    found = adapter.layers(case.feeds)
    assert [layer.name for layer in found] == list(case.names)
    assert [layer.signature for layer in found] == list(case.signatures)
    samples = np.arange(len(next(iter(case.feeds.values()))))
    values = adapter.run(case.feeds, found, samples=samples)
    for key, want in case.expected.items():
        assert values[key].dtype == want.dtype
        assert np.abs(values[key] - want).max() < 1e-6, key
    noisy = adapter.run(case.feeds, found, samples=samples, noise=Noise({"L000": 0.5}, seed=1))
    last = found[-1].key
    assert np.array_equal(noisy["L000"], values["L000"])
    assert np.abs(noisy[last] - values[last]).max() > 1e-3
    adapter.close()


@pytest.mark.parametrize("make", [*LIVE, *STORED], ids=lambda make: make.__name__)
def test_a_model_has_the_layers_and_values_that_keras_gives_it(make: Callable[[], Model]) -> None:
    case = make()
    before = [array(variable).tobytes() for variable in case.model.variables]
    check(case, case.model)
    assert [array(variable).tobytes() for variable in case.model.variables] == before


@pytest.mark.parametrize("make", STORED, ids=lambda make: make.__name__)
def test_its_file_gives_the_same(make: Callable[[], Model], tmp_path: Path) -> None:
    case = make()
    check(case, saved(case.model, tmp_path))


# ------------------------------------------------------------ a Sequential without an Input


@pytest.mark.parametrize("name", [None, "model.keras", "model.h5"])
def test_a_sequential_that_its_first_call_built_takes_any_batch_and_length(
    name: str | None, tmp_path: Path
) -> None:
    """Keras notes the batch of the first call as if it were declared, and takes others nevertheless."""
    plain = keras.Sequential([layers.Dense(6, activation="tanh"), layers.Dense(2)])
    plain(X[:1])
    words = keras.Sequential([layers.Embedding(10, 4), layers.GRU(3), layers.Dense(2)])
    words(IDS[:2])
    for model, samples in ((plain, X), (words, IDS), (words, IDS[:, :4])):
        source = model if name is None else saved(model, tmp_path, name)
        adapter = opened(source)
        spec = adapter.inputs()[0]
        assert (spec.name, spec.shape[0], spec.declared) == ("input", None, False)
        assert spec.dtype == samples.dtype
        found = adapter.layers({"input": samples})
        assert adapter.provenance()["run_batch"] is None
        have = adapter.run({"input": samples}, found, samples=np.arange(len(samples)))
        assert np.abs(have["L001"] - array(model(samples))).max() < 1e-6


def test_a_batch_that_is_meant_stays() -> None:
    """A state belongs to as many samples as the model was built for."""
    stateful = keras.Sequential([layers.LSTM(4, stateful=True), layers.Dense(2)])
    stateful(np.zeros((2, 5, 3), np.float32))
    named = keras.Sequential([keras.Input(batch_shape=(3, 4), name="x"), layers.Dense(2)])
    assert [opened(model).inputs()[0].shape[0] for model in (stateful, named)] == [2, 3]


def test_a_sequential_that_was_never_called_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([layers.Dense(6), layers.Dense(2)])
    for source in (model, saved(model, tmp_path)):
        text = refusal(source)
        assert "has no weights yet" in text
        assert "a Sequential without an Input" in text
        assert "Call it once" in text


def test_a_model_without_a_call_names_the_models_in_it() -> None:
    class Adversarial(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.generator = keras.Sequential([keras.Input((4,)), layers.Dense(4)], name="generator")

        def train_step(self, data: Any) -> Any:
            return {}

    text = refusal(Adversarial())
    assert "the model cannot be called" in text
    assert "it only holds generator" in text
    assert "Give one of the models that it holds" in text
