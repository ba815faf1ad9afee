"""Feature maps are recorded channels first, whatever way a model was written and saved."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat.adapter import Adapter, AdapterOptions, Array, Noise
from repstat_adapters.shared.axes import channels_last
from repstat_adapters.shared.graph import Axes, Call, index
from repstat_adapters.shared.layout import BatchLayout
from tests.adapters import onnx_models
from tests.optional import require

tf: Any = require("tensorflow")
require("keras")
require("tf2onnx")

from tests.adapters import keras_models as models  # noqa: E402
from tests.adapters.keras_models import keras, layers, normal, opened, randomised, stacked  # noqa: E402

ROUNDING = 2e-5
N = 5


def followed(calls: Sequence[Call], axes: Axes | None = None) -> Mapping[str, int]:
    return channels_last(index(calls, ["x"], [calls[-1].output[0]], axes=axes))


def test_what_keeps_a_feature_map_hands_its_order_on() -> None:
    calls = [
        Call("Conv", ["x", "w"], ["a"]),
        Call("Relu", ["a"], ["b"]),
        Call("MaxPool", ["b"], ["c"]),
        Call("Add", ["c", "d"], ["e"]),
        Call("Reshape", ["e"], ["f"]),
        Call("Relu", ["f"], ["g"]),
    ]
    assert followed(calls, Axes({0: 2})) == {"a": 2, "b": 2, "c": 2, "e": 2}
    assert followed(calls) == {}  # channels first


@pytest.mark.parametrize(
    ("order", "last"), [((0, 2, 3, 1), {"b": 2, "c": 2}), ((0, 3, 1, 2), {}), ((0, 1, 3, 2), {}), ((), {})]
)
def test_a_transposition_that_moves_the_channels_to_the_end(order: tuple[int, ...], last: Any) -> None:
    calls = [
        Call("Conv", ["x", "w"], ["a"]),
        Call("Transpose", ["a"], ["b"]),
        Call("Relu", ["b"], ["c"]),
    ]
    assert followed(calls, Axes(orders={1: order})) == last


def test_an_axis_of_length_one_that_only_the_framework_needs() -> None:
    """TensorFlow convolves sequences as images of one row, and takes the axis away again."""
    calls = [Call("Conv", ["x", "w"], ["a"]), Call("Squeeze", ["a"], ["b"]), Call("Tanh", ["b"], ["c"])]
    assert followed(calls, Axes({0: 2}, ranks={"a": 4, "b": 3})) == {"a": 2, "b": 1, "c": 1}
    assert followed(calls, Axes({0: 2})) == {"a": 2}


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (BatchLayout(0, spatial=2), (4, 5, 6, 3)),
        (BatchLayout(1, spatial=1), (5, 4, 3)),
        (BatchLayout(0, 2, spatial=2), (8, 5, 6, 3)),
        (BatchLayout(0, 2, sample_major=False, spatial=1), (8, 5, 3)),
        (BatchLayout(None, spatial=2), (5, 6, 3)),
    ],
)
def test_the_layout_is_undone_for_noise(layout: BatchLayout, shape: tuple[int, ...]) -> None:
    value = np.arange(np.prod(shape)).reshape(shape)
    values = layout.by_sample(value)
    channels = values.ndim - 1 - layout.spatial
    assert values.shape[channels] == 3
    assert layout.shape(len(values), values.shape[1:]) == shape
    assert np.array_equal(layout.from_samples(values), value)


class Functions(keras.Model):  # type: ignore[misc]
    """Convolutions of Keras' and TensorFlow's functions, with a residual join."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.add_weight(shape=(3, 3, 2, 3), name="first")
        self.second = self.add_weight(shape=(3, 3, 3, 3), name="second")
        self.head = layers.Dense(2)

    def call(self, inputs: Any) -> Any:
        h = keras.ops.relu(keras.ops.conv(inputs, self.first, padding="same", data_format="channels_last"))
        h = keras.ops.tanh(tf.nn.conv2d(h, self.second, 1, "SAME") + h)
        return self.head(keras.ops.mean(h, axis=(1, 2)))


def functions() -> Any:
    model = Functions()
    model(normal(1, 8, 7, 2))
    return randomised(model)


def residual() -> Any:
    x = keras.Input((8, 7, 2), name="x")
    stem = layers.Conv2D(3, 3, padding="same", activation="relu", name="stem")(x)
    block = layers.BatchNormalization()(layers.Conv2D(3, 3, padding="same", name="block")(stem))
    join = layers.ReLU()(layers.Add()([block, stem]))
    on_last = layers.Dense(4, activation="tanh", name="dense")(join)
    return randomised(keras.Model(x, layers.Dense(2, name="out")(layers.GlobalAveragePooling2D()(on_last))))


def sequence() -> Any:
    return stacked(
        layers.Conv1D(4, 3, padding="causal", activation="relu", name="c1"),
        layers.Conv1D(5, 3, name="c2"), layers.MaxPooling1D(), layers.Activation("tanh"),
        layers.GlobalAveragePooling1D(), layers.Dense(2, name="out"), shape=(9, 3),
    )  # fmt: skip


def image() -> Any:
    return stacked(
        layers.SeparableConv2D(3, 3, activation="relu", name="sep"),
        layers.Conv2DTranspose(4, 2, strides=2, activation="elu", name="up"),
        layers.GlobalMaxPooling2D(), layers.Dense(2, name="out"), shape=(8, 7, 2),
    )  # fmt: skip


def volume() -> Any:
    return stacked(
        layers.Conv3D(3, 2, activation="relu", name="c"), layers.Flatten(), layers.Dense(2, name="out"),
        shape=(5, 4, 3, 2),
    )  # fmt: skip


def test_pytorch_and_its_export_agree_on_axes_moved_before_the_activation(tmp_path: Path) -> None:
    torch = require("torch")
    from repstat_adapters.pytorch import open_model as open_torch

    class Moved(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.image, self.line = torch.nn.Conv2d(2, 3, 3), torch.nn.Conv1d(3, 4, 2)

        def forward(self, x: Any) -> Any:
            h = torch.relu(self.image(x).permute(0, 2, 3, 1))
            return torch.tanh(self.line(h.mean(2).transpose(1, 2)).swapaxes(2, 1)).sum(1)

    torch.manual_seed(0)
    model, x = Moved().eval(), normal(N, 2, 8, 7)
    path = tmp_path / "model.onnx"
    models.quietly(lambda: torch.onnx.export(model, (torch.from_numpy(x),), path, dynamo=False))
    forms = [open_torch(model, AdapterOptions()), onnx_models.opened(path)]
    probes = [form.layers({form.inputs()[0].name: x}) for form in forms]
    found = [[(layer.signature, layer.unit_shape) for layer in probe] for probe in probes]
    assert found[0] == found[1] == [("conv>relu", (3, 6, 5)), ("conv>tanh", (4, 5))]
    values, others = (runs(form, x, Noise({"L000": 0.3}, seed=3)) for form in forms)
    assert all(np.abs(others[key] - value).max() < ROUNDING for key, value in values.items())
    with torch.no_grad():
        image = torch.relu(model.image(torch.from_numpy(x))).numpy()
    assert np.abs(values["L000"] - image).max() < ROUNDING


FORMS: list[tuple[Callable[[], Any], tuple[int, ...], dict[str, tuple[int, ...]]]] = [
    (functions, (8, 7, 2), {"L000": (3, 8, 7), "L001": (3, 8, 7), "R000": (3, 8, 7)}),
    (residual, (8, 7, 2), {"L000": (3, 8, 7), "L001": (3, 8, 7), "R000": (3, 8, 7), "L002": (8, 7, 4)}),
    (sequence, (9, 3), {"L000": (4, 9), "L001": (5, 3)}),
    (image, (8, 7, 2), {"L000": (2, 6, 5), "L001": (3, 6, 5), "L002": (4, 12, 10)}),
    (volume, (5, 4, 3, 2), {"L000": (3, 4, 3, 2)}),
]


def runs(adapter: Adapter, x: Array, noise: Noise | None) -> dict[str, Array]:
    feeds = {adapter.inputs()[0].name: x}
    return adapter.run(feeds, adapter.layers(feeds), samples=np.arange(len(x)), noise=noise)


@pytest.mark.parametrize(("maker", "shape", "units"), FORMS)
def test_a_model_its_saved_model_and_its_export_agree(
    maker: Callable[[], Any], shape: tuple[int, ...], units: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    """Clean and with noise, layer by layer: the graph of Keras, that of TensorFlow, and ONNX."""
    model, x = maker(), normal(N, *shape)
    exported = tmp_path / "model.onnx"
    model(x)  # or Keras does not export it
    models.quietly(lambda: model.export(exported, format="onnx", verbose=False))
    forms = [opened(model), opened(models.saved_model(model, tmp_path)), onnx_models.opened(exported)]
    found = [{layer.key: layer.unit_shape for layer in adapter.layers()} for adapter in forms]
    assert all(found[0][key] == unit_shape for key, unit_shape in units.items())
    assert found[1] == found[0]
    assert found[2] == found[0]
    hidden = dict.fromkeys(units, 0.3)
    for noise in (None, Noise(hidden, seed=3, realization=2)):
        first, *others = (runs(adapter, x, noise) for adapter in forms)
        for other in others:
            assert all(np.abs(other[k] - v).max() < ROUNDING for k, v in first.items())
    clean = runs(forms[0], x, None)
    assert max(np.abs(clean[key] - first[key]).max() for key in clean) > 0.1  # the noise was felt
