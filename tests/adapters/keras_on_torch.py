"""Run in a process of its own by `test_keras_torch`: Keras takes its backend from the environment once.

python -m tests.adapters.keras_on_torch FOLDER        # needs KERAS_BACKEND=torch
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from repstat.adapter import Noise
from repstat.errors import RepstatError
from tests.adapters import keras_models as models
from tests.adapters.keras_models import keras, layers, normal, opened


class Random(layers.Layer):  # type: ignore[misc]
    """Draws numbers whatever it is told."""

    def call(self, inputs: Any) -> Any:
        return inputs + keras.random.normal(keras.ops.shape(inputs))


class Counting(layers.Layer):  # type: ignore[misc]
    """Changes its own state."""

    def build(self, shape: Any) -> None:
        self.calls = self.add_weight(shape=(), initializer="ones", trainable=False, name="calls")

    def call(self, inputs: Any) -> Any:
        self.calls.assign_add(1.0)
        return inputs * self.calls


class Failing(layers.Layer):  # type: ignore[misc]
    """Fails once it is told to."""

    fails = False

    def call(self, inputs: Any) -> Any:
        if self.fails:
            message = "the layer fails"
            raise RuntimeError(message)
        return inputs


class Convolving(layers.Layer):  # type: ignore[misc]
    """A function of Keras, and the same with PyTorch's own: axes moved before the activation, by name."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(3, 3, 2, 3), name="kernel")

    def call(self, inputs: Any) -> Any:
        import torch

        h = keras.ops.relu(keras.ops.conv(inputs, self.kernel, data_format="channels_last"))
        first = torch.permute(input=inputs, dims=(0, 3, 1, 2))
        own = torch.nn.functional.conv2d(first, torch.permute(self.kernel.value, (3, 2, 0, 1)))
        return h + keras.ops.tanh(torch.permute(dims=(0, 2, 3, 1), input=own))


def axes_of_functions() -> dict[str, Any]:
    """Where the channels of convolutions outside of layers are recorded, and whether the values are right."""
    x = keras.Input((6, 5, 2), name="x")
    model = models.randomised(keras.Model(x, layers.GlobalAveragePooling2D()(Convolving()(x))))
    batch = normal(3, 6, 5, 2)
    values = models.values_of(model, {"x": batch})
    want = keras.ops.conv(batch, model.layers[1].kernel, data_format="channels_last")
    want = np.moveaxis(models.quietly(lambda: keras.ops.convert_to_numpy(want.detach())), -1, 1)
    off = max(np.abs(values["L000"] - want.clip(0)).max(), np.abs(values["L001"] - np.tanh(want)).max())
    return {"shapes": [values[key].shape for key in ("L000", "L001")], "off": float(off)}


class InPlace(layers.Layer):  # type: ignore[misc]
    """Changes what it is given, and goes on with the result or with what it was given."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def call(self, inputs: Any) -> Any:
        import torch

        if self.way == "result":
            return torch.relu_(inputs)
        inputs.mul_(2.0)
        return torch.tanh(inputs) if self.way == "argument, activated" else inputs


def in_place() -> dict[str, Any]:
    """Signature of the layer before, how far its values are off, and how far its noise is felt behind it."""
    import torch

    wrapped = layers.TorchModuleWrapper(torch.nn.ReLU(inplace=True))
    found = {}
    for name, layer, activation in (
        ("result", InPlace("result"), lambda h: h.clip(0)),
        ("argument", InPlace("argument"), None),
        ("argument, activated", InPlace("argument, activated"), lambda h: np.tanh(2 * h)),
        ("wrapped", wrapped, lambda h: h.clip(0)),
    ):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(5), layer, layers.Dense(2)])
        x = normal(3, 4)
        model(x)
        models.randomised(model)
        (kernel, bias), batch = model.layers[0].get_weights(), {opened(model).inputs()[0].name: x}
        adapter = opened(model)
        layer_list = adapter.layers(batch)
        values = adapter.run(batch, layer_list, samples=np.arange(3))
        noisy = adapter.run(batch, layer_list, samples=np.arange(3), noise=Noise({"L000": 1.0}, seed=1))
        h = x @ kernel + bias
        off = [] if activation is None else [float(np.abs(values["L000"] - activation(h)).max())]
        felt = float(np.abs(noisy["L001"] - values["L001"]).max())
        found[name] = [[x.signature for x in layer_list], off, felt]
    return found


def of_pytorch(folder: Path) -> dict[str, Any]:
    """A module of PyTorch inside a model, its file, and a lookup that leaves PyTorch."""
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    wrapper = layers.TorchModuleWrapper(net, name="net")
    model = keras.Sequential([keras.Input((4,)), wrapper, layers.Dense(2, name="out")])
    x = normal(3, 4)
    model(x)
    adapter = opened(model)
    feeds = {adapter.inputs()[0].name: x}
    found = adapter.layers(feeds)
    values = adapter.run(feeds, found, samples=np.arange(3))
    with torch.no_grad():
        hidden = torch.tanh(net[0](torch.tensor(x))).numpy()
    ids = keras.Input((2,), dtype="int64", name="ids")
    looked = layers.Embedding(4, 3)(layers.IntegerLookup(vocabulary=[3, 5])(ids))
    words = keras.Model(ids, layers.Dense(2)(layers.Flatten()(looked)))
    return {
        "layers": [[layer.name, layer.signature] for layer in found],
        "off": float(np.abs(values["L000"] - hidden).max()),
        "file": said(lambda: opened(models.saved(model, folder, "wrapped.keras"))),
        "lookup": said(lambda: opened(words).layers()),
    }


def own_export(folder: Path) -> dict[str, Any]:
    """The model's own ONNX file; the second activation is behind functions of Keras."""
    from tests.adapters import onnx_models

    x = keras.Input((4,), name="x")
    h = keras.ops.tanh(layers.Dense(5, name="fc1")(x) * 2 + 1)
    h = keras.ops.clip(layers.Dense(5, name="fc2")(h), -0.5, 0.5)
    model = models.randomised(keras.Model(x, layers.Dense(2, name="out")(h)))
    batch = normal(3, 4)
    model(batch)
    path = folder / "own.onnx"
    models.quietly(lambda: model.export(path, format="onnx", verbose=False))
    theirs = onnx_models.opened(path)
    found, ours = theirs.layers(), models.values_of(model, {"x": batch})
    values = theirs.run({theirs.inputs()[0].name: batch}, found, samples=np.arange(3))
    return {
        "ours": [layer.signature for layer in models.layers_of(model).values()],
        "theirs": [layer.signature for layer in found],
        "off": max(float(np.abs(ours[key] - value).max()) for key, value in values.items()),
    }


def made_for_inference() -> Any:
    """A model whose weights PyTorch does not watch, not even for changes in place."""
    import torch

    with torch.inference_mode():
        return stacked(layers.Dense(4, activation="relu"), layers.Dense(2))


def stacked(*parts: Any) -> Any:
    x = h = keras.Input((4,), name="x")
    for part in parts:
        h = part(h)
    return keras.Model(x, h)


def said(function: Callable[[], Any]) -> str:
    try:
        function()
    except RepstatError as error:
        return str(error)
    return "nothing was refused"


def undisturbed() -> dict[str, bool]:
    """What is as before after an extraction, and after one that failed."""
    failing = Failing()
    model = stacked(
        layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5), failing, layers.Dense(2)
    )
    import torch

    def state() -> list[Any]:
        weights = models.quietly(lambda: [keras.ops.convert_to_numpy(v).tobytes() for v in model.variables])
        modes = [module.training for module in model.modules()]
        process = [torch.get_rng_state().tolist(), torch.get_num_threads(), layers.Layer.__call__]
        return [*weights, *modes, *process]

    before = state()
    models.values_of(model, {"x": normal(3, 4)})
    well = state() == before
    failing.fails = True
    text = said(lambda: opened(model).layers())
    return {"after": well, "failed": state() == before and "the layer fails" in text}


def main(folder: Path) -> None:
    """Write what the test compares."""
    with np.load(folder / "inputs.npz") as arrays:
        x = arrays["x"]
    results = {}
    for name, options in (
        ("model.keras", {}),
        ("model.h5", {}),
        ("model.weights.h5", {"model_factory": lambda: models.mlp(seed=1)}),
    ):
        adapter = opened(folder / name, **options)
        found = adapter.layers()
        for kind, noise in (("clean", None), ("noisy", Noise({"L000": 0.3, "L001": 0.2}, seed=7))):
            values = adapter.run({"x": x}, found, samples=np.arange(len(x)), noise=noise)
            np.savez(folder / f"{name}.{kind}.npz", **values)
        results[name] = [[a.key, a.name, a.kind, a.signature] for a in found]
    facts = adapter.provenance()
    wrong = folder / "model.weights.h5"
    texts = {
        "random": said(lambda: opened(stacked(layers.Dense(4), Random(), layers.Dense(2))).layers()),
        "counting": said(lambda: opened(stacked(layers.Dense(4), Counting(), layers.Dense(2))).layers()),
        "checkpoint": said(lambda: opened(folder / "ckpt-1", model_factory=models.mlp)),
        "cuda": said(lambda: opened(models.mlp(), provider="cuda")),
        "inference": said(lambda: opened(made_for_inference()).layers()),
        "weights": said(lambda: opened(wrong, model_factory=lambda: stacked(layers.Dense(3)))),
    }
    report = {
        "layers": results,
        "backend": facts["backend"],
        "versions": facts["versions"],
        "weights_sha256": facts["weights_sha256"],
        "texts": texts,
        "undisturbed": undisturbed(),
        "axes": axes_of_functions(),
        "in place": in_place(),
        "of pytorch": of_pytorch(folder),
        "own export": own_export(folder),
    }
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
