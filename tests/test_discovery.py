"""Adapters are found by entry point; what is missing or broken is said."""

from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from repstat import discovery
from repstat.errors import AdapterUnavailableError, UsageError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.toy"
    path.write_text("toy")
    return path


def register(monkeypatch: pytest.MonkeyPatch, **modules: object) -> None:
    """Make `modules` the registered adapters; an exception instance is raised on loading."""

    class Point(EntryPoint):
        def load(self) -> object:
            module = modules[self.name]
            if isinstance(module, Exception):
                raise module
            return module

    points = [Point(name, f"toy_{name}", discovery.GROUP) for name in modules]
    monkeypatch.setattr(discovery, "entry_points", lambda group: points)


def toy(accepts: bool) -> SimpleNamespace:
    return SimpleNamespace(
        accepts=lambda source: accepts, open_model=lambda source, options: source, describe=str
    )


def test_the_installed_package_registers_onnx() -> None:
    found = {adapter.name: adapter for adapter in discovery.find_adapters()}
    assert found["onnx"].module is not None
    assert found["onnx"].distribution == "repstat"


def test_the_adapter_that_accepts_opens(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    register(monkeypatch, a=toy(False), b=toy(True))
    assert discovery.open_model(model) == model


def test_a_broken_adapter_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    register(monkeypatch, a=ImportError("no module named toy"), b=toy(True))
    assert discovery.open_model(model) == model
    register(monkeypatch, a=ImportError("no module named toy"), b=toy(False))
    with pytest.raises(
        AdapterUnavailableError,
        match=r"adapters \(b\) reads it; adapter a failed to load \(ImportError: no module",
    ):
        discovery.open_model(model)


def test_an_adapter_without_its_verbs_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, a=SimpleNamespace(accepts=len))
    assert discovery.find_adapters()[0].problem == "toy_a has no open_model and no describe"


def test_no_adapter_at_all_means_a_broken_installation(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    register(monkeypatch)
    with pytest.raises(AdapterUnavailableError, match="not installed completely"):
        discovery.open_model(model)


@pytest.mark.parametrize(
    ("name", "framework", "extra"),
    [
        *((f"model{suffix}", "PyTorch", "torch") for suffix in (".pt", ".pth", ".pt2", ".safetensors")),
        *((f"model{suffix}", "Keras or TensorFlow", "tensorflow") for suffix in (".keras", ".h5", ".pb")),
    ],
)
def test_the_missing_adapter_of_a_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, framework: str, extra: str
) -> None:
    (tmp_path / name).write_text("x")
    text = rf"a file of {framework}, and none of the.*force-reinstall 'repstat\[{extra}\]'"
    for others in ({}, {extra: ImportError("half an installation")}):
        register(monkeypatch, onnx=toy(False), **others)
        with pytest.raises(AdapterUnavailableError, match=text) as caught:
            discovery.open_model(tmp_path / name)
        assert ("half an installation" in str(caught.value)) == bool(others)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("acts.h5", r"no model and no weights that Keras wrote.*activation store goes to `repstat analyze`"),
        ("saved_model.pb", r"one file of a SavedModel, or a frozen graph.*Name the folder.*tf2onnx"),
        ("ckpt-1.index", r"no checkpoint that tf\.train\.Checkpoint wrote.*prefix.*--model-factory"),
        ("ckpt-1.data-00000-of-00001", r"one shard of a TensorFlow checkpoint.*prefix.*--model-factory"),
        ("model.tflite", r"\(onnx, tensorflow, torch\) reads it\. Export it to ONNX, write an adapter.*info"),
    ],
)
def test_a_file_that_its_adapter_does_not_take_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str
) -> None:
    register(monkeypatch, onnx=toy(False), tensorflow=toy(False), torch=toy(False))
    (tmp_path / name).write_text("x")
    with pytest.raises(AdapterUnavailableError, match=text):
        discovery.open_model(tmp_path / name)


def test_a_store_given_for_a_model_is_told_apart_by_the_adapters_themselves(
    tmp_path: Path, models: Path
) -> None:
    import repstat

    store = repstat.extract(models / "residual.onnx", store=tmp_path / "acts.h5")
    with pytest.raises(AdapterUnavailableError, match="an activation store goes to `repstat analyze`"):
        discovery.open_model(store)


def test_a_live_object_nobody_knows_is_named_by_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, a=toy(False))
    with pytest.raises(AdapterUnavailableError, match=r"builtins.dict.*the model that has these weights"):
        discovery.open_model({})
    with pytest.raises(AdapterUnavailableError, match=r"type builtins.int.*Export it to ONNX, write an ad"):
        discovery.open_model(3)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        discovery.open_model(tmp_path / "nothing.onnx")
