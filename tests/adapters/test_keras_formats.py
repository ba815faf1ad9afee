"""Every format of Keras and TensorFlow gives the live model's layers and activations, or says why not."""

import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from repstat.adapter import AdapterOptions
from repstat.errors import InputRefusedError, RepstatError, UsageError
from repstat_adapters import keras as entry
from tests.adapters.contract import AdapterContract, Case
from tests.optional import require

tf: Any = require("tensorflow")
require("keras")

from tests.adapters import keras_models as models  # noqa: E402
from tests.adapters.keras_models import keras, layers, layers_of, normal, opened, saved, values_of  # noqa: E402

X = normal(7, 4)


def checkpoint(model: Any, folder: Path, **others: Any) -> Path:
    name = next((key for key, value in others.items() if value is None), "model")
    objects = {key: value for key, value in others.items() if value is not None}
    return Path(tf.train.Checkpoint(**{name: model}, **objects).save(str(folder / "ckpt")))


def saved_model(model: Any, folder: Path) -> Path:
    path = folder / "exported"
    models.quietly(lambda: model.export(path, verbose=False))
    return path


FORMATS: dict[str, tuple[Callable[[Any, Path], Path], bool]] = {
    "keras": (lambda model, folder: saved(model, folder, "model.keras"), False),
    "h5": (lambda model, folder: saved(model, folder, "model.h5"), False),
    "weights.h5": (lambda model, folder: saved(model, folder, "model.weights.h5"), True),
    "keras with factory": (lambda model, folder: saved(model, folder, "model.keras"), True),
    "h5 with factory": (lambda model, folder: saved(model, folder, "model.h5"), True),
    "checkpoint": (checkpoint, True),
    "SavedModel": (saved_model, False),
}


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> str:
    return request.param  # type: ignore[no-any-return]


def stored(form: str, model: Any, folder: Path) -> tuple[Path, dict[str, Any]]:
    write, needs_factory = FORMATS[form]
    options = {"model_factory": lambda: models.mlp(seed=1)} if needs_factory else {}
    return write(model, folder), options


def test_a_format_holds_the_live_model(form: str, tmp_path: Path) -> None:
    model = models.mlp(seed=3)
    path, options = stored(form, model, tmp_path)
    assert entry.accepts(path)
    live, found = layers_of(model), layers_of(path, **options)
    assert [(x.key, x.name, x.kind, x.signature, x.unit_shape) for x in found.values()] == [
        (x.key, x.name, x.kind, x.signature, x.unit_shape) for x in live.values()
    ]
    want, have = values_of(model, {"x": X}), values_of(path, {"x": X}, **options)
    other = values_of(models.mlp(seed=1), {"x": X})
    for key, value in want.items():
        assert np.abs(have[key] - value).max() < 1e-6
        assert np.abs(have[key] - other[key]).max() > 1e-2  # not the weights that the factory made


def test_the_fingerprint_of_the_weights_does_not_depend_on_the_format(tmp_path: Path) -> None:
    model = models.mlp(seed=3)
    prints = {opened(model).provenance()["weights_sha256"]}
    for i, form in enumerate(FORMATS):
        folder = tmp_path / str(i)
        folder.mkdir()
        path, options = stored(form, model, folder)
        prints.add(opened(path, **options).provenance()["weights_sha256"])
    assert len(prints) == 1
    assert opened(models.mlp(seed=4)).provenance()["weights_sha256"] not in prints


def test_provenance_tells_files_versions_and_trust(form: str, tmp_path: Path) -> None:
    path, options = stored(form, models.mlp(), tmp_path)
    facts = opened(path, **options).provenance()
    names = [file["name"] for file in facts["files"]]
    expected = {
        "checkpoint": ["ckpt-1.index", "ckpt-1.data-00000-of-00001"],
        "SavedModel": [
            "saved_model.pb",
            "variables/variables.index",
            "variables/variables.data-00000-of-00001",
        ],
    }
    assert names == expected.get(form, [path.name])
    assert facts["sha256"] == facts["files"][0]["sha256"]
    assert facts["provider"] == "cpu"
    assert facts["trust_model"] is False
    assert facts["versions"]["tensorflow"] == tf.__version__


class TestFiles(AdapterContract):
    @pytest.fixture(params=["keras", "weights.h5", "checkpoint", "SavedModel"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Case:
        path, options = stored(request.param, models.mlp(seed=3), tmp_path)
        files = opened(path, **options).provenance()["files"]
        folder = path if path.is_dir() else path.parent
        expected = values_of(models.mlp(seed=3), {"x": X})
        return Case(
            open=lambda: opened(path, **options),
            feeds={"x": X},
            keys=["L000", "L001", "L002"],
            kinds=["hidden", "hidden", "output"],
            files=[folder / file["name"] for file in files],
            expected=expected,
        )


def test_a_subclassed_model_from_its_file_and_from_its_weights(tmp_path: Path) -> None:
    model = models.subclassed(seed=3)
    want = values_of(model, {"inputs": X})
    for name, options in (
        ("model.keras", {}),
        ("model.weights.h5", {"model_factory": lambda: models.subclassed(seed=1)}),
    ):
        have = values_of(saved(model, tmp_path, name), {"inputs": X}, **options)
        assert all(np.array_equal(have[key], value) for key, value in want.items())
    prefix = checkpoint(model, tmp_path)
    have = values_of(prefix, {"inputs": X}, model_factory=lambda: models.subclassed(seed=1))
    assert all(np.array_equal(have[key], value) for key, value in want.items())


def test_formats_are_told_by_content_not_by_suffix(tmp_path: Path) -> None:
    model = models.mlp(seed=3)
    want = values_of(model, {"x": X})
    for name in ("model.keras", "model.h5", "model.weights.h5"):
        path = saved(model, tmp_path, name)
        renamed = path.rename(tmp_path / f"{name.replace('.', '-')}.bin")
        assert entry.accepts(renamed)
        options = {"model_factory": models.mlp} if "weights" in name else {}
        have = values_of(renamed, {"x": X}, **options)
        assert all(np.array_equal(have[key], value) for key, value in want.items())


def test_what_is_not_ours_is_not_accepted(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "notes.index").write_text("a text file that is called an index")
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with h5py.File(tmp_path / "acts.h5", "w") as file:
        file["layers/L000/value"] = np.zeros(3)
        file.attrs["schema"] = "something else"
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file["vars"] = h5py.ExternalLink("acts.h5", "layers")
    for path in (*tmp_path.iterdir(), tmp_path, tmp_path / "nothing"):
        assert not entry.accepts(path)
    assert not entry.accepts(object())
    assert not entry.accepts("model in memory")


def test_a_checkpoint_goes_by_its_prefix_and_by_its_index(tmp_path: Path) -> None:
    prefix = checkpoint(models.mlp(seed=3), tmp_path)
    want = values_of(prefix, {"x": X}, model_factory=models.mlp)
    have = values_of(f"{prefix}.index", {"x": X}, model_factory=models.mlp)
    assert all(np.array_equal(have[key], value) for key, value in want.items())


# ------------------------------------------------------------ weights that do not fit


def refusal(source: Any, **options: Any) -> str:
    with pytest.raises(RepstatError) as caught:
        opened(source, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model.weights.h5", "ckpt"])
def test_weights_alone_need_a_factory(name: str, tmp_path: Path) -> None:
    model = models.mlp()
    path = checkpoint(model, tmp_path) if name == "ckpt" else saved(model, tmp_path, name)
    text = refusal(path)
    assert "holds weights and no model" in text
    assert "--model-factory package.module:function" in text


def other(units: int = 6, depth: int = 2, order: bool = False) -> Any:
    x = h = keras.Input((4,), name="x")
    names = ["fc2", "fc1"] if order else ["fc1", "fc2", "fc3"][:depth]
    for name, width in zip(names, [units, 6 if order else 5, 5], strict=False):
        h = layers.Dense(width, activation="tanh", name=name)(h)
    return models.randomised(keras.Model(x, layers.Dense(3, name="out")(h)), 9)


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


# ------------------------------------------------------------ damaged and strange files


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.weights.h5"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.98])
def test_truncated_files_are_refused(name: str, kept: float, tmp_path: Path) -> None:
    path = saved(models.mlp(), tmp_path, name)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    options = {"model_factory": models.mlp} if "weights" in name else {}
    with pytest.raises((InputRefusedError, UsageError), match=r"cannot read|not a Keras model|cannot load"):
        opened(path, **options)


def test_a_checkpoint_without_its_shard_is_refused(tmp_path: Path) -> None:
    path = checkpoint(models.mlp(), tmp_path)
    next(tmp_path.glob("*.data-*")).unlink()
    assert "cannot read the weights" in refusal(path, model_factory=models.mlp)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model not found"):
        opened(tmp_path / "nothing.keras")


def test_weights_do_not_lead_out_of_their_file(tmp_path: Path) -> None:
    model = models.mlp()
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["k"] = np.ones((4, 6), np.float32)
    path = saved(model, tmp_path, "model.weights.h5")
    place = "layers/dense/vars/0"

    def linked(file: Any) -> None:
        file[place] = h5py.ExternalLink("secret.h5", "k")

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((4, 6), np.float32)
        layout[:] = h5py.VirtualSource("secret.h5", "k", (4, 6))
        file.create_virtual_dataset(place, layout)

    def external(file: Any) -> None:
        file.create_dataset(place, (4, 6), np.float32, external=[("secret.h5", 0, 96)])

    def bomb(file: Any) -> None:
        file.create_dataset(place, (1 << 40,), np.float32, chunks=(1024,))

    for attack, words in {
        linked: "it is a link",
        virtual: "its values are in another file",
        external: "its values are in another file",
        bomb: "it declares 4398046511104 bytes and stores 0",
    }.items():
        evil = Path(shutil.copy(path, tmp_path / "evil.weights.h5"))
        with h5py.File(evil, "a") as file:
            del file[place]
            attack(file)
        text = refusal(evil, model_factory=models.mlp)
        assert "not as Keras writes them" in text
        assert place in text
        assert words in text


def test_an_archive_that_unpacks_into_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", b"\0" * 10_000_000)
    assert "bytes packed into" in refusal(path)


# ------------------------------------------------------------ files that run code


def with_lambda() -> Any:
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Lambda(lambda t: t * 2)(layers.Dense(5, name="fc1")(x)))


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_code_in_a_file_runs_only_if_the_user_trusts_it(name: str, tmp_path: Path) -> None:
    path = saved(with_lambda(), tmp_path, name)
    text = refusal(path)
    assert "the model would run code from its file" in text
    assert "--trust-model" in text
    assert "--model-factory" in text
    adapter = opened(path, trust_model=True)
    assert adapter.provenance()["trust_model"] is True
    assert [layer.key for layer in adapter.layers()] == ["L000"]


def test_a_factory_goes_round_code_in_a_file(tmp_path: Path) -> None:
    path = saved(with_lambda(), tmp_path)
    assert [x.key for x in layers_of(path, model_factory=with_lambda).values()] == ["L000"]


def test_an_old_keras_does_not_load_whole_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [saved(models.mlp(), tmp_path, name) for name in ("model.keras", "model.h5")]
    weights = saved(models.mlp(), tmp_path, "model.weights.h5")
    monkeypatch.setattr(keras, "__version__", "3.11.2")
    for path in paths:
        text = refusal(path)
        assert "too old to load a whole model safely" in text
        assert "found 3.11.2" in text
        assert "CVE-2025-9905" in text
        assert opened(path, trust_model=True)
    assert opened(weights, model_factory=models.mlp)


def test_layers_that_nobody_registered_need_a_factory(tmp_path: Path) -> None:
    class Private(layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any) -> Any:
            return inputs + 1

    def build() -> Any:
        x = keras.Input((4,), name="x")
        return keras.Model(x, Private()(layers.Dense(5, name="fc1")(x)))

    path = saved(build(), tmp_path)
    text = refusal(path)
    assert "has layers that Keras does not know" in text
    assert "--model-factory" in text
    assert layers_of(path, model_factory=build)


def writer(folder: Path) -> Path:
    class Writer(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(tf.ones((4, 3)))

        def __call__(self, x: Any) -> Any:
            with tf.control_dependencies([tf.io.write_file(str(folder / "written"), "x")]):
                return tf.identity(x @ self.w)

    module = Writer()
    signature = tf.function(module.__call__, input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
    path = folder / "writer"
    tf.saved_model.save(module, str(path), signatures=signature)
    return path


def test_a_saved_model_that_touches_files_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = writer(tmp_path)
    (tmp_path / "written").unlink(missing_ok=True)
    monkeypatch.setattr(tf.saved_model, "load", lambda *args: pytest.fail("loaded"))
    text = refusal(path)
    assert "may read or write files" in text
    assert "WriteFile" in text
    assert not (tmp_path / "written").exists()
    monkeypatch.undo()
    assert layers_of(path, trust_model=True)


def test_a_saved_model_with_a_lookup_table_is_refused(tmp_path: Path) -> None:
    class Table(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            init = tf.lookup.KeyValueTensorInitializer([1, 2], [3, 4])
            self.table = tf.lookup.StaticHashTable(init, 0)

        def __call__(self, x: Any) -> Any:
            return self.table.lookup(x)

    module = Table()
    signature = tf.function(module.__call__, input_signature=[tf.TensorSpec((None,), tf.int32, name="x")])
    tf.saved_model.save(module, str(tmp_path / "table"), signatures=signature)
    assert "lookup tables or files" in refusal(tmp_path / "table")


def test_a_saved_model_without_a_usual_signature_says_so(tmp_path: Path) -> None:
    module = tf.Module()
    module.w = tf.Variable(tf.ones((4, 3)))
    spec = [tf.TensorSpec((None, 4), tf.float32, name="x")]
    functions = {
        "one": tf.function(lambda x: {"y": tf.nn.relu(x @ module.w)}, input_signature=spec),
        "two": tf.function(lambda x: {"y": x @ module.w}, input_signature=spec),
    }
    signatures = {key: value.get_concrete_function() for key, value in functions.items()}
    tf.saved_model.save(module, str(tmp_path / "both"), signatures=signatures)
    text = refusal(tmp_path / "both")
    assert "which signature" in text
    assert "one, two" in text
    tf.saved_model.save(module, str(tmp_path / "single"), signatures={"one": signatures["one"]})
    found = layers_of(tmp_path / "single")
    assert [(x.key, x.signature) for x in found.values()] == [("L000", "linear>relu")]
    (tmp_path / "single" / "saved_model.pb").write_bytes(b"\x08\x01\x12\xff\xff")
    assert "cannot read the SavedModel" in refusal(tmp_path / "single")


# ------------------------------------------------------------ further checkpoints


def test_further_checkpoints_are_taken_over(form: str, tmp_path: Path) -> None:
    paths = []
    for seed in (3, 4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        path, options = stored(form, models.mlp(seed=seed), folder)
        paths.append(path)
    adapter: Any = opened(paths[0], **options)
    adapter.layers()
    before = adapter.provenance()
    taken = adapter.reload(paths[1])
    assert taken == (form != "SavedModel")
    if not taken:
        assert adapter.provenance() == before
        return
    want = values_of(models.mlp(seed=4), {"x": X})
    have = adapter.run({"x": X}, adapter.layers(), samples=np.arange(7))
    assert all(np.array_equal(have[key], value) for key, value in want.items())
    after = adapter.provenance()
    assert after["weights_sha256"] == opened(models.mlp(seed=4)).provenance()["weights_sha256"]
    assert after["sha256"] != before["sha256"]
    adapter.close()


def test_another_architecture_is_opened_anew(tmp_path: Path) -> None:
    adapter: Any = opened(saved(models.mlp(), tmp_path))
    want = adapter.run({"x": X}, adapter.layers(), samples=np.arange(7))
    (tmp_path / "b").mkdir()
    assert adapter.reload(saved(other(units=8), tmp_path / "b")) is False
    assert adapter.reload(saved(models.mlp(), tmp_path, "model.h5")) is False
    assert adapter.reload(models.mlp()) is False
    (tmp_path / "strange.bin").write_bytes(b"something else")
    assert adapter.reload(tmp_path / "strange.bin") is False
    assert adapter.reload(tmp_path / "nothing.keras") is False
    have = adapter.run({"x": X}, adapter.layers(), samples=np.arange(7))
    assert all(np.array_equal(have[key], value) for key, value in want.items())


def test_a_failed_takeover_leaves_no_half_loaded_model(tmp_path: Path) -> None:
    adapter: Any = opened(saved(models.mlp(), tmp_path, "a.weights.h5"), model_factory=models.mlp)
    found = adapter.layers()
    with pytest.raises(InputRefusedError, match="do not fit"):
        adapter.reload(saved(other(units=8), tmp_path, "b.weights.h5"))
    with pytest.raises(UsageError, match="was closed"):
        adapter.run({"x": X}, found, samples=np.arange(7))


def test_a_live_model_is_read_again(tmp_path: Path) -> None:
    model = models.mlp(seed=3)
    adapter: Any = opened(model)
    first = adapter.run({"x": X}, adapter.layers(), samples=np.arange(7))
    models.randomised(model, 4)
    frozen = adapter.run({"x": X}, adapter.layers(), samples=np.arange(7))
    assert all(np.array_equal(frozen[key], value) for key, value in first.items())
    assert adapter.reload(model) is True
    have = adapter.run({"x": X}, adapter.layers(), samples=np.arange(7))
    want = values_of(models.mlp(seed=4), {"x": X})
    assert all(np.array_equal(have[key], value) for key, value in want.items())
    assert adapter.reload(models.mlp()) is False


def test_options_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    path = saved(models.mlp(), tmp_path)
    with pytest.raises(UsageError, match="opt level 'all' has no meaning for Keras"):
        entry.open_model(path, AdapterOptions(opt_level="all"))
    with pytest.raises(UsageError, match="threads"):
        entry.open_model(path, AdapterOptions(threads=0))
