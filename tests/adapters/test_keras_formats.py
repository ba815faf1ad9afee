"""Every format of Keras and TensorFlow gives the live model's layers and activations."""

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
from tests.adapters.contract import AdapterContract, Case
from tests.optional import require

tf: Any = require("tensorflow")
require("keras")

from tests.adapters import keras_models as models  # noqa: E402
from tests.adapters.keras_models import (  # noqa: E402
    checkpoint,
    layers_of,
    normal,
    opened,
    other,
    saved,
    saved_model,
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
def test_a_compiled_model_with_a_loss_of_its_own(name: str, tmp_path: Path) -> None:
    """Nobody else has the function, and nothing here needs it."""
    model = models.mlp(seed=3)
    model.compile("adam", lambda y, z: tf.reduce_mean((y - z) ** 2))
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
