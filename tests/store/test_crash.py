"""A killed process, a full disk, little memory: what is finished stays, what is not leaves no trace."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from repstat import open_store
from repstat.errors import ResourceError, StoreDamagedError
from repstat.store import verify
from tests.store.making import LAYERS, checkpoint, contents, flat, layer, record, write, writer

ROOT = Path(__file__).parents[2]
STEPS = range(40)


def run(script: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "error", "-X", "faulthandler", "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


KILL = """
import os, random, signal, sys, time
from pathlib import Path
from repstat.store import disk, verify
from tests.store.making import record, writer
path, folder, moments = Path(sys.argv[1]), sys.argv[2] == "True", random.Random(7)
longest, write = 0.3, disk.write
def die_at(left):
    def write_or_die(descriptor, data, position):
        nonlocal left
        left -= 1
        if left == 0:
            write(descriptor, data[:len(data) // 2], position)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(descriptor, data, position)
    return write_or_die
staged = path if folder else path.with_name("acts.h5.parts")
for kills in range(12):
    in_a_write, at, moment = kills % 3 > 0, moments.randint(1, 400), moments.uniform(0, longest)
    committed = {p.name: p.read_bytes() for p in staged.glob("*.h5")} if staged.is_dir() else {}
    child = os.fork()
    if child == 0:
        if in_a_write:
            disk.write = die_at(at)
        with writer(path, range(40), folder=folder, resume=True) as into:
            for step in range(40):
                if step not in into.done:
                    record(into, step)
            into.finish()
        os._exit(0)
    if not in_a_write:
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    if os.WIFEXITED(os.waitpid(child, 0)[1]):
        break
    if path.is_file():
        assert verify(path) == []
    elif staged.is_dir():
        assert not any(staged.glob("*.h5")) or verify(staged) == []
        assert all((staged / name).read_bytes() == content for name, content in committed.items())
    if not committed:
        longest *= 1.5  # on a busy machine the first checkpoint takes its time
print(kills, len(committed))
"""


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_kill_at_any_time(tmp_path: Path, folder: bool) -> None:
    """Up to 12 kills, two in three half-way through a write; each run takes over from the last.

    Of kills at a moment few hit a write where starting takes most of the time, as on a busy machine.
    """
    path = tmp_path / "acts.h5"
    with run(KILL, path, folder) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    kills, finished = map(int, output.split())
    assert kills > 3
    assert finished >= 5
    with writer(path, STEPS, folder=folder, resume=True) as into:
        for step in STEPS:
            if step not in into.done:
                record(into, step)
        into.finish()
    assert verify(path) == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["acts.h5"]
    with open_store(path) as found, open_store(write(tmp_path / "whole.h5", STEPS)) as expected:
        assert contents(found) == contents(expected)


FULL = """
import resource, sys
from pathlib import Path
from repstat.errors import ResourceError
from tests.store.making import record, write, writer
path, limit = Path(sys.argv[1]), int(sys.argv[2])
with writer(path) as into:
    record(into, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        record(into, 10)
        record(into, 200)
        into.finish()
    except ResourceError as error:
        print(error.exit_code, error)
"""


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.99, 1.05])
def test_a_full_disk(tmp_path: Path, share: float) -> None:
    """A limit on the size of files acts like a full disk; above 1 only the joined file exceeds it."""
    part = write(tmp_path / "one.h5", (0,)).stat().st_size
    path = tmp_path / "acts.h5"
    with run(FULL, path, int(part * share)) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    finished = 1 if share < 1 else 3
    assert output.startswith("6 the disk is full in ")
    assert f"File too large. {finished} of 3 checkpoints are finished and kept in {path}.parts" in output
    assert "Free some space and run the same command again." in output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["acts.h5.parts", "one.h5"]
    assert len(list((tmp_path / "acts.h5.parts").iterdir())) == finished
    assert write(path) == path
    assert verify(path) == []


def test_a_disk_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with writer(tmp_path / "acts.h5") as into:
        record(into, 0)
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(ResourceError, match=r"the disk failed in .*: Input/output error. 1 of 3"):
            record(into, 10)
    assert [p.name for p in (tmp_path / "acts.h5.parts").iterdir()] == ["step-000000000000.h5"]


def test_the_disk_s_fault_is_not_a_model_s(tmp_path: Path) -> None:
    with (
        writer(tmp_path / "acts.h5") as into,
        pytest.raises(FileNotFoundError, match="model"),
        into.checkpoint(checkpoint(0)),
    ):
        raise FileNotFoundError(2, "model")


def test_what_is_read_back_must_be_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that stores one bit otherwise, unnoticed by HDF5: the checkpoint is not committed."""
    original, needle = os.pwrite, flat(10, LAYERS[0])[:2].tobytes()

    def write_wrongly(descriptor: int, data: memoryview, position: int) -> int:
        content = bytearray(data)
        if needle in content:
            content[content.index(needle) + 5] ^= 1
        return original(descriptor, content, position)

    monkeypatch.setattr(os, "pwrite", write_wrongly)
    with writer(tmp_path / "acts.h5") as into:
        with pytest.raises(StoreDamagedError, match="step 10, layer L000: their SHA-256"):
            record(into, 10)
        assert into.done == set()


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from tests.store.making import checkpoint, layer, samples, writer
from repstat import open_store
from repstat.store import verify
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
n, d = 20_000, 1024
path = Path(sys.argv[1])
batch = np.ones((256, d), np.float32)
before = peak()
with writer(path, (0, 1), samples=samples(n), layers=(layer("L000", (d,)), layer("L001", (d,)))) as into:
    for step in (0, 1):
        with into.checkpoint(checkpoint(step)) as part:
            for start in range(0, n, 256):
                part.write("L000", batch[:n - start])
                part.write("L001", batch[:n - start])
    into.finish()
with open_store(path) as store:
    view = store.layers["L000"].at(step=0)
    assert view[::100, 7].sum() == 200
    assert sum(rows[0, 0] * len(rows) for _, _, rows in view.blocks()) == n
assert verify(path) == []
print(peak() - before)
"""


def test_memory_is_a_few_batches(tmp_path: Path) -> None:
    """Layers of 78 MiB, four of them, written in batches of 1 MiB, joined, verified and sliced."""
    with run(MEMORY, tmp_path / "acts.h5") as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert int(output) < 40


def test_reading_a_layer_takes_little_more_than_the_layer(tmp_path: Path) -> None:
    n_units = 4000
    with writer(tmp_path / "acts.h5", (0,), layers=(layer("L000", (n_units,)),)) as into:
        with into.checkpoint(checkpoint(0)) as part:
            part.write("L000", np.ones((20, n_units), np.float32))
        into.finish()
    with open_store(tmp_path / "acts.h5") as store:
        view = store.layers["L000"].at(step=0)
        tracemalloc.start()
        view.read()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2.5 * view.nbytes
