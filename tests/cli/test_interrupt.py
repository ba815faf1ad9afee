"""SIGINT and SIGTERM: the exit code, a sentence, finished checkpoints kept, nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import repstat
from tests.interrupts import hear_interrupts


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_extraction_is_interrupted_and_goes_on(
    tmp_path: Path, trajectory: list[Path], number: int, code: int, word: str
) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).choice([-1, 1], (3000, 12)).astype(np.float32))
    command = [sys.executable, "-m", "repstat", "extract", *map(str, trajectory[:4])]
    command += ["--inputs", "x.npy", "--batch-size", "1"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts
    )
    finished = tmp_path / "acts.h5.parts" / "step-000000000000.h5"
    deadline = time.monotonic() + 60
    while not finished.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert f"repstat: error: {word}. Nothing half-written is left" in error
    assert "Traceback" not in error
    assert finished.exists()
    assert not list(tmp_path.rglob("*.tmp-*"))
    assert not (tmp_path / "acts.h5").exists()
    again = subprocess.run(command[:-2], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "resuming: " in again.stderr
    with repstat.open_store(tmp_path / "acts.h5") as store:
        assert len(store.steps) == 4
