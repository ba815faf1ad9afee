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


def test_a_known_file_of_another_framework_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    register(monkeypatch, a=toy(False))
    (tmp_path / "model.keras").write_text("x")
    with pytest.raises(AdapterUnavailableError, match=r"looks like a Keras file.*model.export"):
        discovery.open_model(tmp_path / "model.keras")


def test_a_live_object_nobody_knows_is_named_by_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, a=toy(False))
    with pytest.raises(AdapterUnavailableError, match=r"cannot read a model of type builtins.dict"):
        discovery.open_model({})


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        discovery.open_model(tmp_path / "nothing.onnx")
