"""A checkpoint that is refused after others were finished: what is said to help does help."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import repstat
from tests.adapters.onnx_models import Net, mlp
from tests.cli.conftest import RunCli

X = np.random.default_rng(0).standard_normal((20, 4), dtype=np.float32)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make two checkpoints of one training, and inputs."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    (tmp_path / "run").mkdir()
    for step in (1, 2):
        onnx.save(mlp(), tmp_path / "run" / f"step-{step}.onnx")
    return tmp_path / "run"


def _write(kind: str, path: Path) -> None:
    if kind == "damaged":
        path.write_bytes(b"\x08\x07" + bytes(30))
        return
    net = Net()
    hidden = net.op("Tanh", net.bare("x", 4, 9, "fc1"))
    models = {
        "architecture": lambda: net.build(net.bare(hidden, 9, 2, "out")),
        "inputs": lambda: mlp((7, 5, 3, 2)),
    }
    onnx.save(models[kind](), path)


@pytest.mark.parametrize("kind", ["damaged", "architecture", "inputs"])
def test_without_the_file_the_command_goes_on(run_cli: RunCli, run: Path, kind: str) -> None:
    _write(kind, run / "step-3.onnx")
    refused = run_cli("extract", *sorted(run.iterdir()), "--inputs", "x.npy")
    assert refused.code == 3
    parts = run.parent / "acts.h5.parts"
    assert refused.err.endswith(
        f" To go on, mend {run / 'step-3.onnx'}, or take it away, and run again. 2 of 3 checkpoints are "
        f"finished and kept in {parts}. Remove that folder to start anew.\n"
    )
    assert "same command" not in refused.err
    (run / "step-3.onnx").unlink()
    again = run_cli("extract", *sorted(run.iterdir()), "--inputs", "x.npy")
    assert again.code == 0, again.err
    assert "resuming: 2 of 2 checkpoints are there" in again.err
    assert not parts.exists()
    with repstat.open_store("acts.h5") as store:
        assert store.steps == (1, 2)


def test_a_mended_file_is_recorded_with_the_others(run_cli: RunCli, run: Path) -> None:
    _write("damaged", run / "step-3.onnx")
    assert run_cli("extract", "run", "--inputs", "x.npy").code == 3
    onnx.save(mlp(), run / "step-3.onnx")
    again = run_cli("extract", "run", "--inputs", "x.npy")
    assert "resuming: 2 of 3 checkpoints are there" in again.err
    assert again.code == 0


def test_one_that_is_left_alone_keeps_its_step(run_cli: RunCli, run: Path) -> None:
    first, second = (run / f"step-{i}.onnx" for i in (1, 2))
    a, b = first.rename(run / "a1.onnx"), second.rename(run / "a2.onnx")
    _write("damaged", b)
    refused = run_cli("extract", a, b, "--inputs", "x.npy")
    assert f"or take it away and give --steps (steps=) for the rest, 1 for {a}, and run again." in refused.err
    again = run_cli("extract", a, "--steps", "1", "--inputs", "x.npy")
    assert "resuming: 1 of 1 checkpoints are there" in again.err
    with repstat.open_store("acts.h5") as store:
        assert store.steps == (1,)


def test_a_folder_that_is_the_store_is_not_to_be_removed(run_cli: RunCli, run: Path) -> None:
    _write("damaged", run / "step-3.onnx")
    refused = run_cli("extract", *sorted(run.iterdir()), "--inputs", "x.npy", "-o", "acts/")
    assert refused.err.endswith(f"2 of 3 checkpoints are finished and kept in {run.parent / 'acts'}.\n")
