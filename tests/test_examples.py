"""The examples run from end to end in small, and train what they say."""

import csv
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray

import repstat
from tests.optional import require

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "szt_noisy" / "run.py"
LINE = re.compile(
    r"^ *(?P<epoch>\d*) \|.*\| +L(?P<layer>\d) +(?P<value>[\d.]+) ± +(?P<error>[\d.]+) +(?P<bias>[\d.]+)  "
    r"(?P<status>\w+)$",
    re.M,
)


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    before = {name: sys.modules.get(name) for name in ("szt_noisy", "task", "make")}
    spec = importlib.util.spec_from_file_location("szt_noisy", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["szt_noisy"] = module
    spec.loader.exec_module(module)
    yield module
    for name, old in before.items():
        sys.modules.pop(name, None)
        if old is not None:
            sys.modules[name] = old


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, data_file: Path) -> Path:
    """200 inputs of the task, without a split."""
    path = tmp_path_factory.mktemp("data") / "small.npz"
    with np.load(data_file) as file:
        chosen = np.random.default_rng(3).permutation(len(file["labels"]))[:200]
        np.savez(path, inputs=file["inputs"][chosen], labels=file["labels"][chosen])
    return path


def test_the_noisy_experiment_runs_from_training_to_table(tmp_path: Path, small: Path) -> None:
    require("torch")
    words = ["--epochs", "3", "--checkpoints", "2", "--data", str(small), "--output", str(tmp_path)]
    words += ["--realizations", "3", "--conditional-samples", "20", "--conditional-realizations", "30"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")])}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [match.groupdict() for match in LINE.finditer(done.stdout)]
    assert [line["epoch"] for line in lines] == ["0", "", "", "", "", "3", "", "", "", ""]
    assert [line["layer"] for line in lines] == [*"12345"] * 2
    for line in (lines[0], lines[5]):  # 200 inputs in ten units are far apart at this noise
        assert float(line["value"]) == pytest.approx(np.log(200), abs=2e-3)
        assert line["status"] == "saturated"
    assert float(lines[4]["value"]) < np.log(200)
    assert "data processing inequality: 0 alarms in 8 pairs" in done.stdout
    assert f"200 inputs: ln n = {np.log(200):.3f}" in done.stdout
    assert [path.name for path in sorted(tmp_path.glob("*.onnx"))] == ["step-000000.onnx", "step-000003.onnx"]
    with (tmp_path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "3"]
    assert all(f"{float(row['train_loss']):.4f}" in done.stdout for row in rows)
    with repstat.open_store(tmp_path / "activations.h5") as store:
        assert store.noise is not None
        assert set(store.noise.noise_std.values()) == {0.005}
        assert store.n_realizations == 3


def weights(example: ModuleType, data: Any, **changes: Any) -> list[NDArray[np.float32]]:
    """Return the weight matrices after ten epochs."""
    options = {"activation": "tanh", "beta": 0.0, "orthonormal": False, "seed": 1, "epochs": (10,)} | changes
    (checkpoint,) = example.train(example.Training(**options), data)
    return [w for w, _ in checkpoint.weights]


def test_noise_and_seed_change_the_training(example: ModuleType, small: Path) -> None:
    require("torch")
    data = example.load_data(small, 0)
    plain = weights(example, data)
    for changes, same in (({}, True), ({"beta": 0.1}, False), ({"seed": 2}, False)):
        assert np.array_equal(plain[0], weights(example, data, **changes)[0]) is same


def test_orthonormal_rows_but_in_the_last_layer(example: ModuleType, small: Path) -> None:
    require("torch")
    data = example.load_data(small, 0)
    for orthonormal in (False, True):
        found = weights(example, data, orthonormal=orthonormal, epochs=(400,))
        errors = [np.abs(w @ w.T - np.eye(len(w))).max() for w in found]
        assert bool(max(errors[:-1]) < 0.1) is orthonormal
        assert errors[-1] > 0.2


def test_the_original_file_of_the_task(example: ModuleType, tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (50, 12)).astype(np.uint8)
    scipy.io.savemat(tmp_path / "bits.mat", {"F": bits, "y": bits[:, :1].T})
    data = example.load_data(tmp_path / "bits.mat", 5)
    assert np.array_equal(data.inputs, np.where(bits == 1, 1.0, -1.0))
    assert np.array_equal(data.labels, bits[:, 0])
    assert data.train.sum() == 40
    assert np.array_equal(data.train, example.load_data(tmp_path / "bits.mat", 5).train)
    assert not np.array_equal(data.train, example.load_data(tmp_path / "bits.mat", 6).train)


def test_the_split_of_the_fixture_is_kept(example: ModuleType, data_file: Path) -> None:
    with np.load(data_file) as file:
        assert np.array_equal(example.load_data(data_file, 1).train, file["train"])


@pytest.mark.parametrize(("last", "count"), [(1, 2), (3, 2), (8000, 7), (100, 12)])
def test_epochs_are_log_spaced_with_both_ends(example: ModuleType, last: int, count: int) -> None:
    epochs = example.log_spaced(last, count)
    assert (epochs[0], epochs[-1]) == (0, last)
    assert list(epochs) == sorted(set(epochs))
    assert len(epochs) <= count
    if last == 8000:
        assert np.ptp(np.diff(np.log(epochs[1:]))) < 0.02
