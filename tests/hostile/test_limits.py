"""``--timeout`` and ``--max-memory``: what is finished is kept, and the watcher ends as the watched does."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import repstat
from tests.hostile.onnx_limits import body, loop
from tests.hostile.onnx_making import added, model, write
from tests.hostile.running import REPSTAT
from tests.interrupts import hear_interrupts


def typed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*REPSTAT, *words], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((50, 3), dtype=np.float32))
    return tmp_path


def renamed(folder: Path, name: str) -> None:
    (folder / "model.onnx").rename(folder / name)


def test_what_is_finished_before_time_runs_out_is_kept(folder: Path) -> None:
    write(folder, model())
    renamed(folder, "step-1.onnx")
    added(*loop(body()))(folder)
    renamed(folder, "step-2.onnx")
    extract = ["extract", "step-1.onnx", "step-2.onnx", "--inputs", "x.npy"]
    stopped = typed(folder, *extract, "--timeout", "5")
    assert stopped.returncode == 6
    assert "time ran out: it took longer than --timeout allows" in stopped.stderr
    assert "1 of 2 checkpoints are finished and kept" in stopped.stderr
    assert [p.name for p in (folder / "acts.h5.parts").iterdir()] == ["step-000000000001.h5"]
    assert repstat.verify(folder / "acts.h5.parts") == []
    assert not [p for p in folder.iterdir() if ".tmp-" in p.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_a_model_that_never_returns(folder: Path, number: signal.Signals) -> None:
    added(*loop(body()))(folder)
    words = [*REPSTAT, "extract", "model.onnx", "--inputs", "x.npy"]
    with subprocess.Popen(
        words,
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    ) as run:
        try:
            time.sleep(6)
            begun = time.monotonic()
            os.kill(run.pid, number)
            _, said = run.communicate(timeout=30)
        finally:
            with suppress(ProcessLookupError):  # or the end of the block waits for ever
                os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 128 + number
    assert time.monotonic() - begun < 20
    assert "Nothing half-written is left." in said
    assert sorted(p.name for p in folder.iterdir()) == ["model.onnx", "x.npy"]


def test_memory_is_predicted_before_it_is_taken(folder: Path) -> None:
    write(folder, model())
    found = typed(folder, "extract", "model.onnx", "--inputs", "x.npy", "--max-memory", "1kB")
    assert found.returncode == 6
    assert "--max-memory is 1.0 kB" in found.stderr
    assert typed(folder, "extract", "model.onnx", "--inputs", "x.npy", "--max-memory", "1GB").returncode == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--max-memory", "much"], "'much' is no size. Write for example 4GB, 512MB or 2GiB"),
        (["--timeout", "-1"], "--timeout"),
        (["--timeout", "nan"], "--timeout"),
    ],
)
def test_limits_that_are_none(folder: Path, words: list[str], text: str) -> None:
    write(folder, model())
    found = typed(folder, "extract", "model.onnx", "--inputs", "x.npy", *words)
    assert found.returncode == 2
    assert text in found.stderr
