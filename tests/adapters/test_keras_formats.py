"""Every format of Keras and TensorFlow gives the live model's layers and activations."""

import gc
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from repstat.adapter import AdapterOptions
from repstat.errors import InputRefusedError, UsageError
from repstat_adapters import keras as entry
from repstat_adapters.keras import engine
from tests.adapters.contract import AdapterContract, Case
from tests.optional import require

tf: Any = require("tensorflow")
require("keras")

from tests.adapters import keras_models as models  # noqa: E402
from tests.adapters.keras_models import (  # noqa: E402
    checkpoint,
    keras,
    layers,
    layers_of,
    normal,
    opened,
    other,
    saved,
    saved_model,
    stacked,
    values_of,
)

X = normal(7, 4)


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


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_compiled_model_with_a_loss_and_an_optimizer_of_its_own(name: str, tmp_path: Path) -> None:
    """Nobody else has the function, nor the optimizer, and nothing here needs them."""

    class Descent(keras.optimizers.SGD):  # type: ignore[misc]
        pass

    model = models.mlp(seed=3)
    model.compile(Descent(0.1), lambda y, z: tf.reduce_mean((y - z) ** 2))
    models.quietly(lambda: model.fit(X, normal(7, 3), verbose=0))
    want, have = values_of(model, {"x": X}), values_of(saved(model, tmp_path, name), {"x": X})
    assert all(np.array_equal(have[key], value) for key, value in want.items())


@pytest.mark.parametrize("make", [models.mlp, models.subclassed])
def test_a_model_that_has_predicted_is_read_like_a_new_one(make: Callable[..., Any]) -> None:
    """Functions that were traced before do not see what is done to layers later."""
    model, name = make(seed=3), "x" if make is models.mlp else "inputs"
    want = values_of(model, {name: X})
    models.quietly(lambda: model.predict(X, verbose=0))
    have = values_of(model, {name: X})
    assert all(np.array_equal(have[key], value) for key, value in want.items())
    assert have.keys() == want.keys() != set()


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


def normalised(seed: int) -> Any:
    """A model with the statistics of its own data, as the weights of a layer without a gradient."""
    norm = layers.Normalization(name="norm")
    norm.adapt(normal(30, 4, seed=seed) * seed)
    x = keras.Input((4,), name="x")
    h = layers.Dense(6, activation="tanh", name="fc")(norm(x))
    return keras.Model(x, layers.Dense(2, name="out")(h))


def put(form: str, model: Any, folder: Path) -> Path:
    folder.mkdir()
    return FORMATS[form][0](model, folder)


def test_the_statistics_of_a_normalization_are_those_of_each_checkpoint(form: str, tmp_path: Path) -> None:
    """It computes with copies of its weights; TensorFlow does not renew them, and a graph holds them."""
    first, second = normalised(2), normalised(5)
    paths = [put(form, model, tmp_path / str(i)) for i, model in enumerate((first, second))]
    options = {"model_factory": lambda: normalised(9)} if FORMATS[form][1] else {}
    adapter: Any = opened(paths[0], **options)
    found = adapter.layers()
    for i, model in enumerate((first, second)):
        if i and not adapter.reload(paths[i]):
            assert form == "SavedModel"
            adapter = opened(paths[i])
        have = adapter.run({"x": X}, found, samples=np.arange(7))
        assert np.abs(have["L001"] - np.asarray(model(X))).max() < 1e-6


def test_numbers_that_a_live_model_holds_beside_its_weights_are_read_again() -> None:
    class Scaled(layers.Layer):  # type: ignore[misc]
        factor = 1.0

        def call(self, x: Any) -> Any:
            return x * self.factor

    model, scaled = normalised(2), Scaled()
    scaled.factor = 2.0
    whole = stacked(model, scaled, layers.Dense(2))
    adapter: Any = opened(whole)
    found = adapter.layers()
    scaled.factor = 3.0
    model.get_layer("norm").adapt(normal(30, 4, seed=4))
    assert adapter.reload(whole)
    have = adapter.run({"x": X}, found, samples=np.arange(7))
    assert np.abs(have[found[-1].key] - np.asarray(whole(X))).max() < 1e-6


def test_a_graph_is_made_once_for_all_checkpoints(form: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Weights are put into it; made anew each time it would take a thousand times as long."""
    if form == "SavedModel":
        return  # every file has a graph of its own
    made, real = [], engine.trace

    def counted(*given: Any) -> Any:
        made.append(given)
        return real(*given)

    monkeypatch.setattr(engine, "trace", counted)
    paths = [put(form, models.mlp(seed=i), tmp_path / str(i)) for i in range(3)]
    adapter: Any = opened(paths[0], **stored(form, models.mlp(), tmp_path)[1])
    for path in paths[1:]:
        adapter.run({"x": X}, adapter.layers(), samples=np.arange(7))
        assert adapter.reload(path)
        adapter.run({"x": X}, adapter.layers(), samples=np.arange(7))
    assert len(made) == 1


def test_a_saved_model_outlives_its_loader_and_its_folder(tmp_path: Path) -> None:
    """TensorFlow frees the variables with the object that was loaded, which a signature does not hold."""
    model = models.mlp(seed=3)
    path = saved_model(model, tmp_path)
    adapter = opened(path)
    gc.collect()
    shutil.rmtree(path)
    have = adapter.run({"x": X}, adapter.layers(), samples=np.arange(7))
    gc.collect()
    again = adapter.run({"x": X}, adapter.layers(), samples=np.arange(7))
    want = values_of(model, {"x": X})
    assert all(np.array_equal(have[key], value) for key, value in want.items())
    assert all(np.array_equal(again[key], value) for key, value in want.items())


def test_a_saved_model_in_bfloat16_is_the_live_model(tmp_path: Path) -> None:
    kinds = {"dtype": "mixed_bfloat16"}
    model = stacked(layers.Dense(6, activation="tanh", **kinds), layers.Dense(2, **kinds))
    path = saved_model(model, tmp_path)
    assert {(x.source_dtype, x.dtype.name) for x in layers_of(path).values()} == {("bfloat16", "float32")}
    want, have = values_of(model, {"x": X}), values_of(path, {"x": X})
    assert all(np.array_equal(have[key], value) for key, value in want.items())


@pytest.mark.parametrize("mask_zero", [False, True])
def test_recurrent_layers_of_a_saved_model_are_named_as_skipped(mask_zero: bool, tmp_path: Path) -> None:
    """With a mask Keras computes the first step before the loop, for its shape: that is no layer."""
    model = stacked(
        layers.Embedding(10, 4, mask_zero=mask_zero), layers.GRU(3, name="gru"), layers.Dense(2, name="out"),
        shape=(6,), dtype="int32",
    )  # fmt: skip
    adapter = opened(saved_model(model, tmp_path))
    assert [(x.key, x.signature, x.kind) for x in adapter.layers()] == [("L000", "linear", "output")]
    skipped = adapter.provenance()["skipped"]
    assert [item["why"].partition(",")[0] for item in skipped] == ["it is inside a loop"]
    assert "gru" in skipped[0]["name"]


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
