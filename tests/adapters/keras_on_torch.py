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
    }
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
