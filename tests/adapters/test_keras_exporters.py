"""One network in Keras and in ONNX: equal keys, signatures and activations, clean and noisy."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from repstat.adapter import Adapter, AdapterOptions, Array, Noise
from tests.adapters import onnx_models
from tests.adapters.test_onnx_exporters import CNNS, FOLDER, MLPS, ROUNDING, make
from tests.optional import require

require("tensorflow")
require("keras")

from tests.adapters import keras_models as models  # noqa: E402
from tests.adapters import test_keras_contract as contract  # noqa: E402
from tests.adapters.keras_models import keras, layers, opened  # noqa: E402

__all__ = ["make"]  # a fixture


@pytest.fixture(scope="module")
def inputs() -> dict[str, Array]:
    with np.load(FOLDER / "inputs.npz") as arrays:
        return dict(arrays)


def found(adapter: Adapter) -> list[tuple[str, str, str]]:
    return [(x.key, x.kind, x.signature) for x in adapter.layers()]


def runs(adapter: Adapter, x: Array, noise: Noise | None = None) -> dict[str, Array]:
    feeds = {adapter.inputs()[0].name: x}
    return adapter.run(feeds, adapter.layers(), samples=np.arange(len(x)), noise=noise)


@pytest.mark.parametrize("export", MLPS)
def test_the_mlp_of_the_fixtures(export: str, make: ModuleType, inputs: dict[str, Array]) -> None:
    ours, theirs = opened(make.keras_mlp()), onnx_models.opened(FOLDER / export)
    assert found(ours) == found(theirs)
    assert [x.name for x in ours.layers()] == [x.name for x in theirs.layers()] == ["fc1", "fc2", "out"]
    noises = [None, *(Noise({"L000": 0.3, "L001": 0.1}, seed, realization=5) for seed in (7, 8))]
    results = [(runs(ours, inputs["mlp"], n), runs(theirs, inputs["mlp"], n)) for n in noises]
    for a, b in results:
        assert all(np.abs(b[key] - value).max() < ROUNDING for key, value in a.items())
    assert np.abs(results[1][0]["L002"] - results[2][0]["L002"]).max() > 1e-2  # another seed, another noise
    with np.load(FOLDER / "expected.npz") as expected:
        assert all(np.abs(results[0][0][key] - expected[key]).max() < ROUNDING for key in expected)


def keras_cnn() -> Any:
    """Build the CNN of the fixtures with the weights of its export; channels last."""
    graph = onnx.load(FOLDER / "cnn.dynamo-unoptimised.onnx").graph
    w = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    x = h = keras.Input((10, 10, 1), name="x")
    for block, filters in ((0, 3), (1, 4)):
        conv = layers.Conv2D(filters, 3, name=f"{block}.0")
        norm = layers.BatchNormalization(epsilon=1e-5)
        h = layers.ReLU()(norm(conv(h)))
        h = layers.MaxPooling2D()(h) if block == 0 else h
        conv.set_weights([w[f"{block}.0.weight"].transpose(2, 3, 1, 0), w[f"{block}.0.bias"]])
        names = ("weight", "bias", "running_mean", "running_var")
        norm.set_weights([w[f"{block}.1.{name}"] for name in names])
    head = layers.Dense(2, name="3")
    model = keras.Model(x, head(layers.Flatten()(h)))
    by_position = w["3.weight"].reshape(2, 4, 2, 2).transpose(2, 3, 1, 0).reshape(16, 2)
    head.set_weights([by_position, w["3.bias"]])
    return model


@pytest.mark.parametrize("export", CNNS)
def test_the_cnn_of_the_fixtures(export: str, inputs: dict[str, Array]) -> None:
    """Keras takes channels last; the units of its feature maps, and the noise in them, are as in ONNX."""
    ours, theirs = opened(keras_cnn()), onnx_models.opened(FOLDER / export)
    assert found(ours) == found(theirs)
    assert [x.name for x in ours.layers()] == [x.name for x in theirs.layers()]
    for noise in (None, Noise({"L000": 0.3, "L001": 0.1}, 7, realization=5)):
        a = runs(ours, inputs["cnn"].transpose(0, 2, 3, 1), noise)
        b = runs(theirs, inputs["cnn"], noise)
        assert all(np.abs(a[key] - value).max() < 4 * ROUNDING for key, value in b.items())
        assert a["L000"].shape == (7, 3, 8, 8)


def test_pytorch_and_keras_alike(make: ModuleType, inputs: dict[str, Array]) -> None:
    require("torch")
    from repstat_adapters.pytorch import open_model as open_torch

    for ours, theirs, x in (
        (make.keras_mlp(), make._torch_mlp(), inputs["mlp"]),
        (keras_cnn(), make._torch_cnn(), inputs["cnn"]),
    ):
        images = x.ndim == 4
        a, b = opened(ours), open_torch(theirs, AdapterOptions())
        assert found(a) == found(b)
        assert [layer.name for layer in a.layers()] == [layer.name for layer in b.layers()]
        for noise in (None, Noise({"L000": 0.3, "L001": 0.1}, 7, realization=5)):
            own, other = runs(a, x.transpose(0, 2, 3, 1) if images else x, noise), runs(b, x, noise)
            assert all(np.abs(own[key] - value).max() < 4 * ROUNDING for key, value in other.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("middle", "words", "exports"),
    [
        (lambda: [layers.LayerNormalization(), layers.ReLU()], "layernormalization>relu", "both"),
        (lambda: [layers.LayerNormalization(scale=False, center=False)], "layernormalization", "both"),
        (lambda: [layers.RMSNormalization()], "rmsnormalization", "both"),
        (lambda: [layers.Activation("log_sigmoid")], "logsigmoid", "both"),
        (lambda: [layers.Activation("softplus")], "softplus", "both"),
        (lambda: [layers.Activation("hard_tanh")], "clip", "both"),
        (lambda: [layers.Activation("celu")], "celu", "saved model"),
        (lambda: [layers.Activation("hard_shrink")], "shrink", "saved model"),
        (lambda: [layers.Activation("soft_shrink")], "shrink", "saved model"),
    ],
)
def test_what_graphs_spell_as_several_ops_is_one(
    middle: Callable[[], list[Any]], words: str, exports: str, tmp_path: Path
) -> None:
    """tf2onnx writes some with ops that onnxruntime lacks, or with the shape of the batch."""
    require("tf2onnx")
    x = inner = keras.Input((12,), name="x")
    first = layers.Dense(6)(inner)
    for part in middle():
        first = part(first)
    join = layers.LayerNormalization()(layers.Add()([layers.Dense(6)(first), first]))
    model = models.randomised(keras.Model(x, layers.Dense(2)(join)))
    batch = models.normal(40, 12)
    live = opened(model)
    want = [f"linear>{words}", "linear", "add>layernormalization", "linear"]
    assert [layer.signature for layer in live.layers()] == want
    sources = [opened(models.saved_model(model, tmp_path))]
    if exports == "both":
        path = tmp_path / "model.onnx"
        models.quietly(lambda: model.export(path, format="onnx", verbose=False))
        sources.append(onnx_models.opened(path))
    for source in sources:
        assert [layer.signature for layer in source.layers()] == want
        for noise in (None, Noise({"L000": 0.3, "L001": 0.3}, seed=3)):
            a, b = runs(live, batch, noise), runs(source, batch, noise)
            assert all(np.abs(b[key] - value).max() < 4 * ROUNDING for key, value in a.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "maker",
    [contract.shared_layer, contract.residual, contract.nested, contract.ids, contract.noisy_training],
)
def test_a_model_and_its_own_export(maker: Callable[[], contract.Made], tmp_path: Path) -> None:
    require("tf2onnx")
    model, feeds, _, _ = maker()
    (x,) = feeds.values()
    path = tmp_path / "model.onnx"
    model(x)
    models.quietly(lambda: model.export(path, format="onnx", verbose=False))
    ours, theirs = opened(model), onnx_models.opened(path)
    assert found(ours) == found(theirs)
    hidden = [layer.key for layer in ours.layers() if layer.kind == "hidden"]
    for noise in (None, Noise(dict.fromkeys(hidden, 0.3), seed=3)):
        a, b = runs(ours, x, noise), runs(theirs, x, noise)
        assert all(np.abs(b[key] - value).max() < 2 * ROUNDING for key, value in a.items())
