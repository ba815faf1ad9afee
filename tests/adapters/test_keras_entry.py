"""The entry point is light and quiet, and says what is missing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repstat.adapter import AdapterOptions
from repstat.errors import AdapterUnavailableError
from repstat_adapters import keras as entry
from repstat_adapters.keras import framework
from tests.optional import require

ROOT = Path(__file__).parents[2]


def python(code: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command, environment = [sys.executable, "-c", code, *words], {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_judging_a_path_imports_no_framework(tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04")
    (tmp_path / "acts.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    code = (
        "import sys\nfrom repstat_adapters import keras as entry\n"
        "print(entry.accepts(sys.argv[1]), entry.accepts(sys.argv[2]), entry.accepts(object()))\n"
        "print(*(name for name in ('keras', 'tensorflow', 'torch') if name in sys.modules))"
    )
    done = python(code, str(tmp_path / "model.keras"), str(tmp_path / "acts.h5"))
    assert done.stdout.splitlines() == ["True False False", ""]


def test_the_entry_point_has_the_training_layer_and_nothing_else_that_it_has_not() -> None:
    require("keras")
    assert entry.ActivationNoise.__name__ == "ActivationNoise"
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        entry.Nothing  # noqa: B018


@pytest.mark.slow
def test_a_model_is_read_without_a_word(tmp_path: Path) -> None:
    """TensorFlow logs on its own account; stdout is data, and stderr is for what concerns the user."""
    require("tensorflow")
    code = (
        "import os, sys\nbefore = dict(os.environ)\n"
        "from repstat_adapters import keras as entry\nfrom repstat.adapter import AdapterOptions\n"
        "from tests.adapters.keras_models import mlp, quietly\nmodel = mlp()\n"
        "quietly(lambda: model.export(sys.argv[1], verbose=False))\n"
        "print('-----', file=sys.stderr)\n"
        "for source in (model, sys.argv[1]):\n"
        "    entry.open_model(source, AdapterOptions()).layers()\n"
        "print(entry.describe())\nassert before == dict(os.environ)"
    )
    done = python(code, str(tmp_path / "exported"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("keras 3.")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr.partition("-----\n")[2] == ""


@pytest.mark.parametrize("missing", ["keras", "tensorflow"])
def test_what_is_not_installed_is_named_with_its_extra(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04")
    framework.import_keras.cache_clear()
    real = framework.importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name == missing or (name == "keras" and missing == "tensorflow"):
            raise ModuleNotFoundError(name=missing)
        return real(name, *rest)

    monkeypatch.setattr(framework.importlib, "import_module", without)
    with pytest.raises(AdapterUnavailableError) as caught:
        entry.open_model(tmp_path / "model.keras", AdapterOptions())
    assert f"{missing} is not installed" in str(caught.value)
    assert "pip install 'repstat[tensorflow]'" in str(caught.value)
    framework.import_keras.cache_clear()


def test_a_backend_that_is_not_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keras = require("keras")
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04")
    for attribute, value, words in (
        ("backend", lambda: "jax", ["runs on the backend 'jax'", "Set KERAS_BACKEND=tensorflow"]),
        ("__version__", "2.15.0", ["Keras is too old", "found 2.15.0"]),
    ):
        framework.import_keras.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(keras.backend if attribute == "backend" else keras, attribute, value)
            with pytest.raises(AdapterUnavailableError) as caught:
                entry.open_model(tmp_path / "model.keras", AdapterOptions())
        assert all(word in str(caught.value) for word in words)
    framework.import_keras.cache_clear()


@pytest.mark.parametrize("backend", ["numpy", "jax", "tensorflwo"])
def test_the_users_backend_is_named_where_keras_cannot_even_import_it(backend: str, tmp_path: Path) -> None:
    """And it stays the user's: nothing sets it."""
    require("keras")
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04")
    code = (
        "import os, sys\nfrom repstat_adapters import keras as entry\n"
        "from repstat.adapter import AdapterOptions\nfrom repstat.errors import AdapterUnavailableError\n"
        "try:\n    entry.open_model(sys.argv[1], AdapterOptions())\n"
        "except AdapterUnavailableError as error:\n    print(error)\nprint(os.environ['KERAS_BACKEND'])"
    )
    done = python(code, str(tmp_path / "model.keras"), KERAS_BACKEND=backend)
    text, kept = done.stdout.splitlines()
    assert kept == backend
    assert f"runs on the backend {backend!r}" in text
    assert "Set KERAS_BACKEND=tensorflow (or torch) before Python starts, or export the model" in text


def test_other_lines_on_stderr_come_out_after_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    with framework.without_log_lines():
        framework.os.write(2, b"I0000 00:00:1.5 1 port.cc:153] oneDNN\nsomething else\n")
    assert capfd.readouterr().err == "something else\n"
