"""The layers of a Keras model are those that a person would write down, whatever way it was written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat.adapter import Layer
from repstat.errors import InputRefusedError
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
    saved,
    stacked,
)


def listed(model: Any, **options: Any) -> list[tuple[str, str, str]]:
    return [(x.name, x.signature, x.kind[0]) for x in layers_of(model, **options).values()]


@pytest.mark.parametrize(
    ("activation", "word"),
    [
        ("relu", "relu"), ("tanh", "tanh"), ("gelu", "gelu"), ("silu", "silu"), ("hard_silu", "hardswish"),
        ("relu6", "clip"), ("softmax", "softmax"), ("leaky_relu", "leakyrelu"), ("mish", "mish"),
    ],
)  # fmt: skip
def test_an_activation_inside_a_layer_and_behind_it_are_the_same(activation: str, word: str) -> None:
    """Inside, as a layer of its own, as a layer given as an activation, and as a function."""
    kinds = [
        [layers.Dense(5, activation=activation, name="fc")],
        [layers.Dense(5, name="fc"), layers.Activation(activation)],
        [layers.Dense(5, name="fc", activation=layers.Activation(activation))],
    ]
    weights, values = None, []
    for parts in kinds:
        model = stacked(*parts, layers.Dense(2, name="out"))
        weights = weights or model.get_weights()
        model.set_weights(weights)
        assert listed(model) == [("fc", f"linear>{word}", "h"), ("out", "linear", "o")]
        values.append(models.values_of(model, {"x": normal(5, 4)})["L000"])
    assert all(np.abs(value - values[0]).max() < 1e-6 for value in values)


def test_an_activation_of_ones_own_ends_the_layer_under_its_name() -> None:
    def squashed(x: Any) -> Any:
        return keras.ops.tanh(x) ** 3

    model = stacked(layers.Dense(5, activation=squashed, name="fc"), layers.Dense(2, name="out"))
    assert listed(model)[0] == ("fc", "linear>squashed", "h")
    want = np.asarray(models.until(model, "fc", "out")(normal(3, 4))[0])
    assert np.array_equal(models.values_of(model, {"x": normal(3, 4)})["L000"], want)


def test_layers_of_images() -> None:
    model = stacked(
        layers.Rescaling(1 / 255),
        layers.Conv2D(4, 3, activation="relu", name="conv"),
        layers.DepthwiseConv2D(3, name="depth"),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.SeparableConv2D(6, 3, name="sep"),
        layers.MaxPooling2D(),
        layers.Activation("tanh"),
        layers.Conv2DTranspose(3, 2, strides=2, name="up"),
        layers.GroupNormalization(3),
        layers.LeakyReLU(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, activation="softmax", name="out"),
        shape=(16, 16, 3),
    )
    assert listed(model) == [
        ("conv", "conv>relu", "h"),
        ("depth", "conv>clip", "h"),
        ("sep#0", "conv", "h"),
        ("sep#1", "conv>maxpool>tanh", "h"),
        ("up", "convtranspose>groupnormalization>leakyrelu", "h"),
        ("out", "linear>softmax", "o"),
    ]
    extracts(model, (16, 16, 3))


def extracts(model: Any, shape: tuple[int, ...], n: int = 3, ids: bool = False) -> dict[str, Layer]:
    """Every listed layer extracts, and the last one is what Keras computes."""
    adapter = opened(model)
    name = adapter.inputs()[0].name
    batch = (
        np.random.default_rng(0).integers(0, 9, (n, *shape)).astype(np.int32) if ids else normal(n, *shape)
    )
    found = adapter.layers({name: batch})
    values = adapter.run({name: batch}, found, samples=np.arange(n))
    assert list(values) == [layer.key for layer in found]
    assert all(values[x.key].shape == (n, *x.unit_shape) and np.isfinite(values[x.key]).all() for x in found)
    assert adapter.provenance()["skipped"] == []
    assert adapter.provenance()["run_batch"] is None
    last = [x for x in found if x.kind == "output"][-1]
    want = np.asarray(keras.ops.convert_to_numpy(model(batch, training=False)))
    assert np.abs(values[last.key] - want).max() < 1e-5
    return {x.key: x for x in found}


def test_layers_of_sequences() -> None:
    model = stacked(
        layers.Embedding(10, 4),
        layers.Conv1D(5, 3, padding="causal", activation="relu", name="conv"),
        layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both"),
        layers.TimeDistributed(layers.Dense(4, activation="tanh"), name="each"),
        layers.GRU(4, return_sequences=True, name="gru"),
        layers.SimpleRNN(3, return_sequences=True, name="rnn"),
        layers.LayerNormalization(),
        layers.LSTM(3, name="lstm"),
        layers.Dense(2, name="out"),
        shape=(7,),
        dtype="int32",
    )
    assert listed(model) == [
        ("conv", "conv>relu", "h"),
        ("both", "lstm", "h"),
        ("each", "linear>tanh", "h"),
        ("gru", "gru", "h"),
        ("rnn", "rnn>layernormalization", "h"),
        ("lstm", "lstm", "h"),
        ("out", "linear", "o"),
    ]
    found = extracts(model, (7,), ids=True)
    assert found["L001"].unit_shape == (7, 6)
    assert found["L005"].unit_shape == (3,)


@pytest.mark.parametrize("reduce", ["max", "min", "sum"])
def test_a_reduction_is_no_op_of_the_same_name(reduce: str) -> None:
    """TensorFlow calls them Max, Min and Sum, as ONNX calls ops on each element."""

    def reduced(h: Any) -> Any:
        return getattr(keras.ops, reduce)(h, axis=1)

    model = stacked(layers.Conv1D(4, 3, name="conv"), reduced, layers.Dense(2, name="out"), shape=(9, 3))
    assert listed(model) == [("conv", "conv", "h"), ("out", "linear", "o")]
    assert extracts(model, (9, 3))["L000"].unit_shape == (4, 7)


def test_lengths_that_are_left_open_are_those_of_the_samples(tmp_path: Path) -> None:
    """With batch and length unknown, `TimeDistributed` makes a graph that mixes samples and times."""
    models = {
        (5,): stacked(
            layers.TimeDistributed(layers.Dense(4, activation="relu"), name="each"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(6, activation="tanh", name="fc"),
            shape=(None, 5),
        ),
        (6, 6, 1): stacked(
            layers.TimeDistributed(layers.Conv2D(3, 3, activation="relu"), name="each"),
            layers.TimeDistributed(layers.Flatten()),
            layers.LSTM(5, name="fc"),
            shape=(None, 6, 6, 1),
        ),
    }
    for shape, model in models.items():
        for length in (1, 2, 3, 7):
            found = extracts(model, (length, *shape))
            assert found["L000"].unit_shape[0] == length
        assert [name for name, _, _ in listed(model)] == ["each", "fc"]
        adapter = opened(saved(model, tmp_path, f"{len(shape)}.keras"))
        (name,) = (spec.name for spec in adapter.inputs())
        first = adapter.layers({name: normal(3, 4, *shape)})
        have = adapter.run({name: normal(3, 4, *shape)}, first, samples=np.arange(3))
        assert np.abs(have["L001"] - np.asarray(model(normal(3, 4, *shape)))).max() < 1e-6


def test_samples_of_another_length_than_those_that_layers_were_listed_with() -> None:
    model = stacked(layers.GRU(4, name="gru"), layers.Dense(2, name="out"), shape=(None, 3))
    adapter = opened(model)
    (name,) = (spec.name for spec in adapter.inputs())
    found = adapter.layers()
    for length in (2, 9, 5):
        batch = normal(3, length, 3)
        have = adapter.run({name: batch}, found, samples=np.arange(3))
        assert np.abs(have["L001"] - np.asarray(model(batch))).max() < 1e-6


def test_a_length_that_is_refused_leaves_the_other_usable() -> None:
    """The model has as many ops as its samples are long."""

    class Unrolled(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc = layers.Dense(4, activation="tanh")

        def call(self, x: Any) -> Any:
            return self.fc(sum(x[:, t] * (t + 1) for t in range(x.shape[1])))

    model = Unrolled()
    model(normal(2, 3, 5))
    adapter = opened(model)
    (name,) = (spec.name for spec in adapter.inputs())
    found = adapter.layers({name: normal(3, 3, 5)})
    want = np.asarray(model(normal(4, 3, 5)))
    for _ in range(2):
        with pytest.raises(
            InputRefusedError, match="have another length than those that the layers were found"
        ):
            adapter.run({name: normal(4, 6, 5)}, found, samples=np.arange(4))
        have = adapter.run({name: normal(4, 3, 5)}, found, samples=np.arange(4))
        assert np.abs(have["L000"] - want).max() < 1e-6


def test_a_mask_goes_the_way_that_keras_sends_it() -> None:
    model = stacked(
        layers.Embedding(10, 4, mask_zero=True), layers.LSTM(3, name="lstm"), shape=(7,), dtype="int32"
    )
    assert listed(model) == [("lstm", "lstm", "o")]
    extracts(model, (7,), ids=True)


def test_layers_of_attention() -> None:
    x = keras.Input((6, 8), name="x")
    a = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    h = layers.LayerNormalization()(layers.Add(name="add1")([x, a]))
    f = layers.Dense(8, name="fc2")(layers.Dense(16, activation="gelu", name="fc1")(h))
    h = layers.LayerNormalization()(layers.Add(name="add2")([h, f]))
    model = randomised(keras.Model(x, layers.Dense(2, name="out")(layers.GlobalAveragePooling1D()(h))))
    assert listed(model) == [
        ("attention/query", "linear", "h"),
        ("attention/key", "linear", "h"),
        ("attention/value", "linear", "h"),
        ("attention/attention_output", "linear", "h"),
        ("add1", "add>layernormalization", "r"),
        ("fc1", "linear>gelu", "h"),
        ("fc2", "linear", "h"),
        ("add2", "add>layernormalization", "r"),
        ("out", "linear", "o"),
    ]
    extracts(model, (6, 8))


@pytest.mark.parametrize(
    ("name", "n_layers", "n_joins", "some"),
    [
        (
            "MobileNetV3Small", 54, 6,
            {"L000": ("conv", "conv>hardswish"), "L001": ("expanded_conv_depthwise", "conv>relu"),
             "R000": ("expanded_conv_2_add", "add"), "L053": ("logits", "conv>softmax")},
        ),
        (
            "ResNet50", 54, 16,
            {"L000": ("conv1_conv", "conv>relu"), "L003": ("conv2_block1_3_conv", "conv"),
             "R000": ("conv2_block1_add", "add>relu"), "L053": ("predictions", "linear>softmax")},
        ),
    ],
)  # fmt: skip
def test_real_architectures(name: str, n_layers: int, n_joins: int, some: dict[str, tuple[str, str]]) -> None:
    """Convolutions and the classifier, counted by their weights, and the joins of the blocks."""
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(64, 64, 3), classes=10)
    stock = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
    assert sum(isinstance(layer, stock) for layer in model.layers) == n_layers
    found = extracts(model, (64, 64, 3), n=2)
    assert [key[0] for key in found].count("L") == n_layers
    assert [key[0] for key in found].count("R") == n_joins
    for key, (layer, signature) in some.items():
        assert (found[key].name, found[key].signature) == (layer, signature)


class Written(keras.Model):  # type: ignore[misc]
    """As tutorials write it: functions of TensorFlow, and a function of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = layers.Dense(5), layers.Dense(5), layers.Dense(2)
        self.inner = keras.Sequential([layers.Dense(5, activation="tanh")], name="inner")

    @tf.function
    def block(self, h: Any) -> Any:
        return tf.nn.gelu(self.fc1(h))

    def call(self, x: Any) -> Any:
        h = self.block(x)
        h = tf.nn.relu(self.fc2(h) + h)
        return self.fc3(self.inner(self.inner(h)))


def test_a_subclassed_model_as_tutorials_write_it() -> None:
    model = Written()
    model(normal(2, 4))
    assert [x[1:] for x in listed(model)] == [
        ("linear>gelu", "h"),
        ("linear", "h"),
        ("add>relu", "r"),
        ("linear>tanh", "h"),
        ("linear>tanh", "h"),
        ("linear", "o"),
    ]
    names = [x[0] for x in listed(model)]
    assert names[3].startswith("inner/dense")
    assert (names[3][-2:], names[4][-2:]) == ("#0", "#1")
    extracts(model, (4,))


def test_python_conditions_on_values_in_a_function_of_tensorflow() -> None:
    class Conditional(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = layers.Dense(5, activation="tanh"), layers.Dense(2)

        @tf.function
        def call(self, x: Any) -> Any:
            h = self.fc1(x)
            if tf.shape(h)[0] > 100:
                h = h / 2.0
            return self.fc2(h)

    model = Conditional()
    model(normal(2, 4))
    assert [x[1:] for x in listed(model)] == [("linear>tanh", "h"), ("linear", "o")]
    extracts(model, (4,))
    adapter: Any = opened(model)
    before = adapter.run({"x": normal(3, 4)}, adapter.layers(), samples=np.arange(3))
    randomised(model, 5)
    assert adapter.reload(model)
    after = adapter.run({"x": normal(3, 4)}, adapter.layers(), samples=np.arange(3))
    assert np.abs(after["L001"] - before["L001"]).max() > 1e-2
    assert np.abs(after["L001"] - np.asarray(model(normal(3, 4)))).max() < 1e-6
