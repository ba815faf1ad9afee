"""Weights from a file go into the model that a factory builds, all of them, or are refused."""

import sys
import types
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from repstat.errors import UsageError
from tests.optional import require

tf: Any = require("tensorflow")
require("keras")

from tests.adapters import keras_models as models  # noqa: E402
from tests.adapters.keras_models import (  # noqa: E402
    checkpoint,
    keras,
    layers,
    normal,
    opened,
    other,
    refusal,
    saved,
    saved_model,
    stacked,
    values_of,
)

X = normal(7, 4)


@pytest.mark.parametrize("name", ["model.weights.h5", "ckpt"])
def test_weights_alone_need_a_factory(name: str, tmp_path: Path) -> None:
    model = models.mlp()
    path = checkpoint(model, tmp_path) if name == "ckpt" else saved(model, tmp_path, name)
    text = refusal(path)
    assert "holds weights and no model" in text
    assert "--model-factory package.module:function" in text


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (lambda: other(units=8), ["has shape (4, 6) where the model has (4, 8)"]),
        (lambda: other(depth=1), ["layers/dense_2/vars/0", "beyond the model's"]),
        (lambda: other(depth=3), ["it lacks layers/dense_3/vars/0"]),
    ],
)
def test_weights_of_another_network_are_refused(
    factory: Callable[[], Any], words: list[str], tmp_path: Path
) -> None:
    for name in ("model.weights.h5", "model.keras"):
        text = refusal(saved(models.mlp(), tmp_path, name), model_factory=factory)
        assert "weights do not fit the model that the factory builds" in text
        assert all(word in text for word in words)
        assert "a partial restore would leave random weights" in text
    for path in (saved(models.mlp(), tmp_path, "model.h5"), checkpoint(models.mlp(), tmp_path)):
        assert "do not fit the model that the factory builds" in refusal(path, model_factory=factory)


def test_a_checkpoint_that_lacks_a_layer_says_how_much(tmp_path: Path) -> None:
    short = stacked(layers.Dense(6, name="fc1"), layers.Dense(5, name="fc2"))
    longer = stacked(*(layers.Dense(n) for n in (6, 5, 2)))
    path = checkpoint(short, tmp_path)
    assert "it has nothing for 2 of the model's variables" in refusal(path, model_factory=lambda: longer)


def test_layers_in_another_order_are_refused_where_their_shapes_agree(tmp_path: Path) -> None:
    """Keras goes by class and order, and would load them wrongly without a word."""
    model = other(order=True, units=6)
    square = [layer for layer in model.layers if layer.name.startswith("fc")]
    assert [layer.name for layer in square] == ["fc2", "fc1"]
    x = h = keras.Input((6,), name="x")
    for name in ("a", "b"):
        h = layers.Dense(6, name=name)(h)
    right = keras.Model(x, h)

    def swapped() -> Any:
        x = h = keras.Input((6,), name="x")
        for name in ("b", "a"):
            h = layers.Dense(6, name=name)(h)
        return keras.Model(x, h)

    def renamed() -> Any:
        x = h = keras.Input((6,), name="x")
        for name in ("first", "second"):
            h = layers.Dense(6, name=name)(h)
        return keras.Model(x, h)

    for name in ("model.weights.h5", "model.h5"):
        path = saved(right, tmp_path, name)
        assert "layers are in another order" in refusal(path, model_factory=swapped)
        want = values_of(right, {"x": normal(3, 6)})
        have = values_of(path, {"x": normal(3, 6)}, model_factory=renamed)
        assert all(np.array_equal(have[key], value) for key, value in want.items())


def test_names_that_were_counted_on_are_no_other_order(tmp_path: Path) -> None:
    """Keras counts names through a process: those of a second model are shifted, to its siblings' names."""

    def sequential() -> Any:
        return keras.Sequential([keras.Input((6,), name="x"), *(layers.Dense(6) for _ in range(3))])

    class Subclassed(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (layers.Dense(6) for _ in range(3))

        def call(self, x: Any) -> Any:
            return self.third(self.second(self.first(x)))

    def subclassed() -> Any:
        model = Subclassed()
        model(np.zeros((1, 6), np.float32))
        return model

    def counted(factory: Callable[[], Any], before: int) -> Callable[[], Any]:
        def build() -> Any:
            keras.backend.clear_session()
            for _ in range(before):
                layers.Dense(1)
            return factory()

        return build

    cases = [
        (sequential, ("model.weights.h5", "model.h5", "model.keras")),
        (subclassed, ("model.weights.h5",)),
    ]
    for factory, names in cases:
        trained = counted(factory, before=1)()
        assert [layer.name for layer in trained.layers] == ["dense_1", "dense_2", "dense_3"]
        want = values_of(trained, {"x": normal(3, 6)})
        for name in names:
            path = saved(trained, tmp_path, name)
            for shift in (0, 2):
                have = values_of(path, {"x": normal(3, 6)}, model_factory=counted(factory, before=shift))
                assert all(np.array_equal(have[key], value) for key, value in want.items())


def test_a_checkpoint_is_found_under_any_name(tmp_path: Path) -> None:
    """`expect_partial` with a wrong name leaves random weights, silently; here every name is tried."""
    model = models.mlp(seed=3)
    want = values_of(model, {"x": X})
    for name in ("net", "generator"):
        folder = tmp_path / name
        path = checkpoint(model, folder, **{name: None}, step=tf.Variable(3))
        have = values_of(path, {"x": X}, model_factory=models.mlp)
        assert all(np.array_equal(have[key], value) for key, value in want.items())
    whole = Path(tf.train.Checkpoint(model).write(str(tmp_path / "whole")))
    have = values_of(whole, {"x": X}, model_factory=models.mlp)
    assert all(np.array_equal(have[key], value) for key, value in want.items())


def test_of_two_models_in_a_checkpoint_the_one_called_model_is_meant(tmp_path: Path) -> None:
    first, second = models.mlp(seed=3), models.mlp(seed=4)
    path = Path(tf.train.Checkpoint(ema=second, model=first).save(str(tmp_path / "ckpt")))
    have = values_of(path, {"x": X}, model_factory=models.mlp)
    want = values_of(first, {"x": X})
    assert all(np.array_equal(have[key], value) for key, value in want.items())
    path = Path(tf.train.Checkpoint(ema=second, net=first).save(str(tmp_path / "both")))
    text = refusal(path, model_factory=models.mlp)
    assert "'ema' and 'net' both fit" in text
    assert "tf.train.Checkpoint(model=...)" in text


def test_a_compiled_models_checkpoint_with_its_optimizer(tmp_path: Path) -> None:
    """The variables are stored under the optimizer's name then."""
    model = models.mlp(seed=3)
    model.compile("adam", "mse")
    models.quietly(lambda: model.fit(X, normal(7, 3), verbose=0))
    path = checkpoint(model, tmp_path, optimizer=model.optimizer)
    have = values_of(path, {"x": X}, model_factory=models.mlp)
    want = values_of(model, {"x": X})
    assert all(np.array_equal(have[key], value) for key, value in want.items())


def test_a_compiled_models_weights_go_with_a_factory_that_compiles_and_one_that_does_not(
    tmp_path: Path,
) -> None:
    def fitted(seed: int = 1) -> Any:
        model = models.mlp(seed=seed)
        model.compile("adam", "mse", metrics=["mae"])
        models.quietly(lambda: model.fit(X, normal(7, 3), verbose=0))
        return model

    model = fitted(seed=3)
    want = values_of(model, {"x": X})
    for name in ("a.weights.h5", "a.keras", "a.h5"):
        path = saved(model, tmp_path, name)
        for factory in (fitted, models.mlp):
            have = values_of(path, {"x": X}, model_factory=factory)
            assert all(np.array_equal(have[key], value) for key, value in want.items())
    path = saved(models.mlp(seed=3), tmp_path, "b.weights.h5")
    assert values_of(path, {"x": X}, model_factory=fitted)


def test_a_message_after_a_takeover_names_the_new_file(tmp_path: Path) -> None:
    first, second = (saved(models.mlp(seed=s), tmp_path, f"{s}.keras") for s in (3, 4))
    adapter: Any = opened(first)
    assert adapter.reload(second)
    with pytest.raises(UsageError, match=r"4\.keras"):
        adapter.run({"x": X}, [replace(adapter.layers()[0], key="L009")], samples=np.arange(7))


def test_a_checkpoint_without_the_model_is_refused(tmp_path: Path) -> None:
    path = Path(tf.train.Checkpoint(table=tf.Variable(tf.zeros((4, 6)))).save(str(tmp_path / "ckpt")))
    text = refusal(path, model_factory=models.mlp)
    assert "do not fit the model" in text
    assert "table" in text


def test_an_unbuilt_model_is_refused_before_it_has_random_weights(tmp_path: Path) -> None:
    path = checkpoint(models.subclassed(), tmp_path)
    text = refusal(path, model_factory=models.Subclassed)
    assert "returned a model without weights" in text
    assert "Call it once in the factory" in text
    text = refusal(models.Subclassed())
    assert "has no weights yet" in text


def test_a_mutant_that_restores_nothing_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a format's loader promises, the weights must have come from the file."""
    model = models.mlp(seed=3)
    path = saved(model, tmp_path, "model.weights.h5")
    monkeypatch.setattr(keras.Model, "load_weights", lambda *args, **kwargs: None)
    assert "it has nothing for" in refusal(path, model_factory=models.mlp)


def test_a_checkpoint_that_tensorflow_does_not_restore_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `expect_partial`, or for a model that is not built, it restores nothing and says nothing."""
    path = checkpoint(models.mlp(seed=3), tmp_path)
    status = types.SimpleNamespace(expect_partial=int, assert_existing_objects_matched=int)
    monkeypatch.setattr(tf.train.Checkpoint, "read", lambda *args: status)
    text = refusal(path, model_factory=models.mlp)
    assert "do not fit the model" in text
    assert "it has nothing for fc1/kernel" in text


@pytest.mark.parametrize("name", ["model.weights.h5", "model.keras"])
def test_a_file_from_which_one_array_was_lost_is_refused(name: str, tmp_path: Path) -> None:
    path = saved(models.mlp(), tmp_path, name)
    weights = path
    if name.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            weights = Path(archive.extract("model.weights.h5", tmp_path))
    with h5py.File(weights, "a") as file:
        del file["layers/dense_1/vars/1"]
    if name.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            kept = {entry: archive.read(entry) for entry in ("config.json", "metadata.json")}
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(weights, "model.weights.h5")
            for entry, text in kept.items():
                archive.writestr(entry, text)
    assert "it lacks layers/dense_1/vars/1" in refusal(path, model_factory=models.mlp)
    if name.endswith(".keras"):
        assert "cannot load the model" in refusal(path)


def test_a_factory_says_what_is_wrong_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(models.mlp(), tmp_path, "model.weights.h5")
    broken = "def broken():\n    raise KeyError('depth')\n"
    text = f"from tests.adapters.keras_models import mlp\n\nWIDTH = 3\n{broken}"
    (tmp_path / "mymodels.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert values_of(path, {"x": X}, model_factory="mymodels:mlp")
    assert sys.path == before
    for factory, words in {
        "mymodels": ["cannot read the model factory", "train:build_model"],
        "nowhere:f": ["cannot import the module", "nowhere"],
        "mymodels:mpl": ["there is no model factory", "Did you mean mlp?"],
        "mymodels:WIDTH": ["is not a function", "found int"],
        "mymodels:broken": ["the model factory mymodels:broken failed", "KeyError: 'depth'"],
        "builtins:list": ["did not return a Keras model", "builtins.list"],
    }.items():
        text = refusal(path, model_factory=factory)
        assert all(word in text for word in words)


def test_a_live_model_and_a_saved_model_take_no_factory(tmp_path: Path) -> None:
    assert "a live model needs no model factory" in refusal(models.mlp(), model_factory=models.mlp)
    assert "holds its graph" in refusal(saved_model(models.mlp(), tmp_path), model_factory=models.mlp)
