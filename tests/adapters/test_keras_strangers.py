"""Damaged files and files from strangers are refused before they do harm."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from repstat.errors import InputRefusedError, UsageError
from tests.optional import require

tf: Any = require("tensorflow")
require("keras")

from tests.adapters import keras_models as models  # noqa: E402
from tests.adapters.keras_models import (  # noqa: E402
    checkpoint,
    keras,
    layers,
    layers_of,
    opened,
    refusal,
    saved,
)


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

    for name in ("model.keras", "model.h5"):
        path = saved(build(), tmp_path, name)
        text = refusal(path)
        assert "has layers that Keras does not know" in text
        assert "it knows no Private: nothing imported has registered it" in text
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


def test_a_saved_model_with_random_augmentation_is_refused_since_keras_exports_it_switched_on(
    tmp_path: Path,
) -> None:
    x = keras.Input((4, 4, 1), name="x")
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(layers.RandomFlip()(x))))
    assert layers_of(model)  # where it is off
    text = refusal(models.saved_model(model, tmp_path))
    assert "the model is not deterministic" in text
    assert "random augmentation" in text
    assert "Save the model as .keras" in text


# ------------------------------------------------------------ preprocessing that is no arithmetic


def with_words(lookup: Any, dtype: str) -> Any:
    x = keras.Input((2,) if isinstance(lookup, layers.IntegerLookup) else (), dtype=dtype, name="words")
    h = layers.Flatten()(layers.Embedding(8, 3)(lookup(x)))
    return keras.Model(x, layers.Dense(2)(h))


@pytest.mark.parametrize(
    ("make", "dtype", "words"),
    [
        (
            lambda: layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=2),
            "string",
            "string",
        ),
        (lambda: layers.StringLookup(vocabulary=["a", "b"]), "string", "found string"),
        (lambda: layers.IntegerLookup(vocabulary=[3, 5]), "int64", "lookup table"),
    ],
)
def test_tables_of_words_are_refused_with_what_to_do(
    make: Callable[[], Any], dtype: str, words: str, tmp_path: Path
) -> None:
    model = with_words(make(), dtype)
    for source in (model, saved(model, tmp_path)):
        text = refusal(source)
        assert words in text
        assert "Cut the model behind its preprocessing" in text
    text = refusal(models.saved_model(model, tmp_path))
    assert "lookup tables or files" in text
    assert "--trust-model" in text


def test_a_saved_model_inside_a_model_is_one_op_that_is_named_as_skipped(tmp_path: Path) -> None:
    inner = layers.TFSMLayer(str(models.saved_model(models.mlp(), tmp_path)), call_endpoint="serve")
    head = [layers.Dense(5, activation="tanh", name="head"), layers.Dense(2, name="out")]
    model = keras.Sequential([keras.Input((4,), name="x"), inner, *head])
    x = models.normal(5, 4)
    model(x)
    adapter = opened(model)
    assert [layer.name for layer in adapter.layers()] == ["head", "out"]
    have = adapter.run({"x": x}, adapter.layers(), samples=np.arange(5))
    assert np.abs(have["L001"] - np.asarray(model(x))).max() < 1e-6
    assert ["called as a whole" in item["why"] for item in adapter.provenance()["skipped"]] == [True]
    text = refusal(saved(model, tmp_path))
    assert "would run code from its file" in text
    assert "TFSMLayer" in text


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
