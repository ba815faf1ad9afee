"""Real processes on real checkpoints: killed at any time, out of disk, two at once."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repstat
from tests.store.making import contents

REPSTAT = [sys.executable, "-m", "repstat"]
SEED = 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any, trajectory: list[Path], data_file: Path) -> tuple[list[str], Any, int]:
    """Return the command without its output, what an uninterrupted run stores, and the bytes of one part."""
    folder = tmp_path_factory.mktemp("whole")
    # Small batches: most of a run is writing. The same in all runs: another size changes the last digits.
    command = [*REPSTAT, "extract", *map(str, trajectory), "--inputs", str(data_file), "--batch-size", "32"]
    subprocess.run([*command, "-o", f"{folder}/acts/"], check=True, capture_output=True)
    size = max(path.stat().st_size for path in (folder / "acts").iterdir())
    return command, stored(folder / "acts"), size


def stored(path: Path) -> Any:
    """Return what a store says, but for the command line that its provenance quotes."""
    with repstat.open_store(path) as store:
        found = dict(contents(store))
        found["checkpoints"] = repr([replace(checkpoint, provenance={}) for checkpoint in store.checkpoints])
    del found["provenance"]
    return found


def kill_at_random(place: Path, command: list[str], expected: Any, n_kills: int) -> tuple[int, int, int]:
    """Kill and resume until enough were killed. Whatever has got its name must keep its bytes.

    Returned are the stores completed meanwhile, the checkpoints that killed runs had finished, and the kills
    in the middle of a file. The time to the kill adapts, so that most fall into the writing.
    """
    rng = np.random.default_rng(SEED)
    kills = stores = gained = torn = 0
    longest, completed = 1.5, False
    parts = place / "acts.h5.parts"
    while kills < n_kills or not completed:
        before = {p.name: p.read_bytes() for p in parts.glob("*.h5")} if parts.exists() else {}
        process = subprocess.Popen([*command, "-o", "acts.h5"], cwd=place, stderr=subprocess.PIPE, text=True)
        if kills < n_kills:
            deadline = time.monotonic() + 60
            while not (place / "acts.h5.lock").exists() and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(rng.uniform(0, longest))
            process.kill()
        error = process.communicate(timeout=300)[1]
        killed = process.returncode == -signal.SIGKILL
        kills += killed
        assert killed or process.returncode == 0 or "already exists" in error, error
        torn += killed and any(place.rglob("*.tmp-*"))
        completed = (place / "acts.h5").exists() and not parts.exists()
        if not (place / "acts.h5").exists():
            left = {p.name: p.read_bytes() for p in parts.glob("*.h5")} if parts.exists() else {}
            assert before.items() <= left.items(), "a finished checkpoint is lost or was changed"
            gained += len(left) - len(before)
            longest = min(3.0, longest * 1.3) if len(left) == len(before) else longest
        elif completed:
            assert stored(place / "acts.h5") == expected
            stores += 1
            longest *= 1.0 if killed else 0.7
            (place / "acts.h5").unlink()
    assert {p.name for p in place.iterdir()} <= {"acts.h5.lock"}
    return stores, gained, torn


def test_a_few_kills(tmp_path: Path, whole: Any) -> None:
    assert kill_at_random(tmp_path, whole[0], whole[1], 3)[0] >= 1


@pytest.mark.crash
def test_two_hundred_kills(tmp_path: Path, whole: Any, capsys: Any) -> None:
    stores, gained, torn = kill_at_random(tmp_path, whole[0], whole[1], 200)
    with capsys.disabled():
        print(
            f"\n200 kills, {torn} of them within a file; {gained} checkpoints finished by killed runs, "
            f"0 lost; {stores} stores completed and compared"
        )
    assert gained > 100
    assert torn > 20


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("output", ["acts.h5", "acts/"])
def test_a_full_disk(tmp_path: Path, whole: Any, share: float, output: str) -> None:
    """A limit for each file, at a share of a part: no part fits. The same command then completes."""
    command, expected, size = whole
    command = [*command, "-o", output]
    parts = tmp_path / ("acts" if output == "acts/" else "acts.h5.parts")
    limit = int(share * size)
    found = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert found.returncode == 6
    assert "repstat: error: the disk is full in " in found.stderr
    assert "0 of 20 checkpoints are finished and kept" in found.stderr
    assert "Free some space and run the same command again." in found.stderr
    assert "Traceback" not in found.stderr
    assert not parts.exists() or not list(parts.iterdir())
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert stored(tmp_path / output) == expected


def test_a_disk_too_small_for_the_joined_file(tmp_path: Path, whole: Any) -> None:
    """Parts fit, the joined file does not: all twenty are kept, and only joined afterwards."""
    command, expected, size = [*whole[0], "-o", "acts.h5"], whole[1], 3 * whole[2]
    found = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip
    assert found.returncode == 6
    assert "20 of 20 checkpoints are finished and kept" in found.stderr
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "acts.h5.parts").iterdir()}
    assert len(kept) == 20
    again = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "resuming: 20 of 20 checkpoints are there" in again.stderr
    assert stored(tmp_path / "acts.h5") == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk")
@pytest.mark.parametrize("finished", [4, 10, 18])
def test_a_disk_that_fills_up(tmp_path: Path, whole: Any, finished: int) -> None:
    """A real file system, on which somebody takes the rest after 20, 50 and 90 % of the checkpoints."""
    command, expected, size = [*whole[0], "-o", "acts.h5"], whole[1], whole[2]
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={60 * size}", "none", str(disk)]
    if subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted")
    try:
        process = subprocess.Popen(command, cwd=disk, stderr=subprocess.PIPE, text=True)
        parts = disk / "acts.h5.parts"
        while len(list(parts.glob("*.h5"))) < finished and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        fill(disk / "ballast")
        process.send_signal(signal.SIGCONT)
        error = process.communicate(timeout=120)[1]
        assert process.returncode == 6, error
        kept = {p.name: p.read_bytes() for p in parts.iterdir()}
        assert finished <= len(kept) < 20
        assert f"{len(kept)} of 20 checkpoints are finished and kept in" in error
        refused = subprocess.run(command, cwd=disk, capture_output=True, text=True)
        assert refused.returncode == 6
        assert re.search(r"not enough space for .*: need .*B, .* free", refused.stderr)
        (disk / "ballast").unlink()
        again = subprocess.run(command, cwd=disk, check=True, capture_output=True, text=True)
        assert f"resuming: {len(kept)} of 20" in again.stderr
        assert stored(disk / "acts.h5") == expected
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


@pytest.mark.parametrize("locking", ["", "FALSE"])
def test_a_second_extraction_is_told_at_once(tmp_path: Path, whole: Any, locking: str) -> None:
    environment = {**os.environ, "HDF5_USE_FILE_LOCKING": locking} if locking else dict(os.environ)
    command = [*whole[0], "-o", "acts.h5"]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("acts.h5.parts/*.h5")) and time.monotonic() < deadline:
        time.sleep(0.002)
    first.send_signal(signal.SIGSTOP)  # in the middle of it, for as long as the second needs
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 7
    assert re.search(r"repstat: error: another process is writing in .*acts.h5: it holds", second.stderr)
    assert "layers" not in second.stderr, "the model was opened before the lock"
    error = first.communicate(timeout=120)[1]
    assert first.returncode == 0, error
    assert stored(tmp_path / "acts.h5") == whole[1]
