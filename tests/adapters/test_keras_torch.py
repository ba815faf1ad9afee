"""Keras on PyTorch: the same files give the same layers and numbers, and the contract is kept."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat.adapter import Noise
from tests.optional import require

tf: Any = require("tensorflow")
require("keras")
require("torch")
require("onnxscript")  # Keras exports with it

from tests.adapters import keras_models as models  # noqa: E402
from tests.adapters.keras_models import normal, opened, saved  # noqa: E402

ROOT = Path(__file__).parents[2]
CASES = (
    "plain",
    "functional_activations",
    "shared_layer",
    "residual",
    "two_inputs",
    "ids",
    "cnn",
    "recurrent",
)


def on_torch(*words: str) -> str:
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("torch")
    model = models.mlp(seed=3)
    np.savez(here / "inputs.npz", x=normal(7, 4))
    for name in ("model.keras", "model.h5", "model.weights.h5"):
        saved(model, here, name)
    tf.train.Checkpoint(model=model).save(str(here / "ckpt"))
    on_torch("-m", "tests.adapters.keras_on_torch", str(here))
    return here


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.weights.h5"])
def test_a_file_gives_the_same_on_both_backends(name: str, folder: Path, report: dict[str, Any]) -> None:
    adapter = opened(models.mlp(seed=3))
    found = adapter.layers()
    assert report["layers"][name] == [[x.key, x.name, x.kind, x.signature] for x in found]
    x = normal(7, 4)
    for kind, noise in (("clean", None), ("noisy", Noise({"L000": 0.3, "L001": 0.2}, seed=7))):
        want = adapter.run({"x": x}, found, samples=np.arange(7), noise=noise)
        with np.load(folder / f"{name}.{kind}.npz") as have:
            assert sorted(have) == sorted(want)
            assert all(np.abs(have[key] - value).max() < 1e-6 for key, value in want.items())


def test_provenance_names_the_backend(report: dict[str, Any]) -> None:
    assert report["backend"] == "torch"
    assert set(report["versions"]) == {"keras", "torch", "numpy"}
    facts = opened(models.mlp(seed=3)).provenance()
    assert facts["backend"] == "tensorflow"
    assert report["weights_sha256"] == facts["weights_sha256"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("random", ["the model is not deterministic", "outside of training", "random"]),
        ("counting", ["the model is not deterministic", "calls", "changes its own state"]),
        ("checkpoint", ["need Keras on TensorFlow", "KERAS_BACKEND=tensorflow"]),
        ("weights", ["do not fit the model that the factory builds"]),
        ("cuda", ["cuda cannot be used here"]),
    ],
)
def test_what_is_refused_is_refused_here_too(case: str, words: list[str], report: dict[str, Any]) -> None:
    import torch

    if case == "cuda" and torch.cuda.is_available():
        words = ["nothing was refused"]
    assert all(word in report["texts"][case] for word in words), report["texts"][case]


def test_a_model_made_for_inference_alone_is_read(report: dict[str, Any]) -> None:
    assert report["texts"]["inference"] == "nothing was refused"


def test_a_model_is_not_disturbed(report: dict[str, Any]) -> None:
    assert report["undisturbed"] == {"after": True, "failed": True}


def test_convolutions_outside_of_layers_are_recorded_channels_first(report: dict[str, Any]) -> None:
    assert report["axes"]["shapes"] == [[3, 3, 4, 3], [3, 3, 4, 3]]
    assert report["axes"]["off"] < 1e-5


@pytest.mark.parametrize("way", ["result", "argument", "argument, activated", "wrapped"])
def test_what_is_done_in_place_is_in_the_layer_and_its_noise_is_felt(
    way: str, report: dict[str, Any]
) -> None:
    (first, last), off, felt = report["in place"][way]
    words = {"argument": "linear", "argument, activated": "linear>tanh"}
    assert (first, last) == (words.get(way, "linear>relu"), "linear")
    assert all(value < 1e-6 for value in off)
    assert felt > 0.1


def test_a_module_of_pytorch_inside_a_model_is_seen_through(report: dict[str, Any]) -> None:
    found = report["of pytorch"]
    assert found["layers"] == [["net#0", "linear>tanh"], ["net#1", "linear"], ["out", "linear"]]
    assert found["off"] < 1e-6
    assert "would run code from its file" in found["file"]
    assert "TorchModuleWrapper" in found["file"]


def test_a_lookup_that_leaves_pytorch_is_refused(report: dict[str, Any]) -> None:
    text = report["of pytorch"]["lookup"]
    assert "cannot be followed back to its inputs" in text
    assert "Cut the model behind its preprocessing" in text


def test_a_model_and_its_own_export(report: dict[str, Any]) -> None:
    found = report["own export"]
    assert found["ours"] == found["theirs"] == ["linear>tanh", "linear>clip", "linear"]
    assert found["off"] < 1e-6


@pytest.mark.slow
def test_models_as_users_have_them() -> None:
    out = on_torch("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/adapters/test_keras_cases.py")
    assert " passed" in out
    assert "skipped" not in out


@pytest.mark.slow
def test_the_contract_is_kept() -> None:
    path = "tests/adapters/test_keras_contract.py"
    out = on_torch("-m", "pytest", "-q", "-p", "no:cacheprovider", path, "-k", " or ".join(CASES))
    assert " passed" in out
    assert "skipped" not in out
