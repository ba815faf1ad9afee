"""The layers of a Keras model are those that a person would write down, whatever way it was written."""

from typing import Any

import numpy as np
import pytest

from repstat.adapter import Layer, Noise
from repstat.errors import DeviceUnavailableError, InputRefusedError, RepstatError, UsageError
from tests.optional import require

tf: Any = require("tensorflow")
require("keras")

from tests.adapters import keras_models as models  # noqa: E402
from tests.adapters.keras_models import keras, layers, layers_of, normal, opened, randomised  # noqa: E402


def listed(model: Any, **options: Any) -> list[tuple[str, str, str]]:
    return [(x.name, x.signature, x.kind[0]) for x in layers_of(model, **options).values()]


def stacked(*parts: Any, shape: tuple[int | None, ...] = (4,), **options: Any) -> Any:
    x = h = keras.Input(shape, name="x", **options)
    for part in parts:
        h = part(h)
    return randomised(keras.Model(x, h))


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


def refusal(model: Any, feeds: Any = None) -> str:
    with pytest.raises(RepstatError) as caught:
        opened(model).layers(feeds)
    return str(caught.value)


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
    assert "Matrix size-incompatible" in text
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
