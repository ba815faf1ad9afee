"""What a writer takes over, refuses and leaves alone."""

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat import open_store
from repstat.errors import (
    InputRefusedError,
    LockedError,
    ResourceError,
    StoreIncompleteError,
    UsageError,
)
from repstat.store import predicted_bytes, verify
from repstat.store.lock import OutputLock
from tests.optional import require
from tests.store.making import (
    LAYERS,
    checkpoint,
    contents,
    layer,
    record,
    samples,
    write,
    writer,
)

STEPS = (0, 10, 200)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture(params=["file", "folder"])
def folder(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "folder")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "acts.h5"


def test_nothing_but_the_output_is_left(path: Path, folder: bool) -> None:
    assert write(path, folder=folder) == path
    assert names(path.parent) == ["acts.h5"]
    if folder:
        assert names(path) == ["step-000000000000.h5", "step-000000000010.h5", "step-000000000200.h5"]


def test_a_folder_is_the_same_trajectory(tmp_path: Path) -> None:
    with (
        open_store(write(tmp_path / "acts.h5")) as file,
        open_store(write(tmp_path / "acts", folder=True)) as folder,
    ):
        assert contents(file) == contents(folder)
        assert file.steps == (0, 10, 200)


def test_steps_may_come_in_any_order(tmp_path: Path) -> None:
    with (
        open_store(write(tmp_path / "a.h5", (200, 0, 10))) as one,
        open_store(write(tmp_path / "b.h5")) as other,
    ):
        assert contents(one) == contents(other)


def test_overwrite_spares_what_is_no_store(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"the only copy")
    with pytest.raises(UsageError, match=r"will not overwrite .*: it is not an activation store"):
        write(model, overwrite=True)
    assert model.read_bytes() == b"the only copy"
    folder = tmp_path / "acts"
    write(folder, folder=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"it contains 'notes.txt', which repstat did not write"):
        write(folder, folder=True, overwrite=True)
    assert len(names(folder)) == 4


def test_a_damaged_store_may_be_overwritten(path: Path) -> None:
    write(path)
    os.truncate(path, 1000)
    write(path, overwrite=True)
    assert verify(path) == []


def test_outputs_that_cannot_be(tmp_path: Path, path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.h5").symlink_to(path)
    for output, options, text in (
        (tmp_path / "none" / "acts.h5", {}, "none does not exist. Create it"),
        (tmp_path / "folder", {"overwrite": True}, "folder is a folder"),
        (tmp_path / "link.h5", {"overwrite": True}, "is a link"),
        (tmp_path / "link.h5", {"folder": True}, "is not a folder"),
        (Path("/"), {}, "cannot write a store to '/'"),
        (path, {"resume": True, "overwrite": True}, "exclude each other"),
        (path, {"steps": ()}, "no checkpoints"),
        (path, {"steps": (1, 2, 1)}, "step 1 occurs twice"),
        (path, {"n_realizations": 0}, "0 realizations"),
    ):
        with pytest.raises(UsageError, match=text):
            writer(output, **options).__enter__()
    assert names(tmp_path) == ["folder", "link.h5"]


def test_a_folder_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UsageError, match="is not writable"), writer(tmp_path / "acts.h5"):
        pass


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ((), "no layers"),
        ((layer("../x"),), "a key is L or R and three digits"),
        ((layer("L000\n"),), "a key is L or R"),
        ((LAYERS[0], LAYERS[0]), "the key occurs twice"),
        ((layer(unit_shape=(3, 0)),), "no units"),
        ((layer(dtype="int64"),), "its dtype is int64, expected float16, float32 or float64"),
        ((layer(dtype="bool"),), "its dtype is bool"),
        ((layer(dtype="complex64"),), "its dtype is complex64"),
        ((layer(kind="gate"),), "its kind is 'gate'"),
    ],
)
def test_layers_that_cannot_be_stored(path: Path, layers: Any, text: str) -> None:
    with pytest.raises(InputRefusedError, match=text):
        writer(path, layers=layers)


def test_bfloat16_is_to_be_widened(path: Path) -> None:
    ml_dtypes = require("ml_dtypes")
    with pytest.raises(InputRefusedError, match=r"bfloat16.*widened to float32 first"):
        writer(path, layers=(layer(dtype=ml_dtypes.bfloat16),))


def test_identity_must_be_json(path: Path) -> None:
    with pytest.raises(InputRefusedError, match="the identity cannot be written as JSON"):
        writer(path, identity={"x": object()})


BATCHES = [
    ("L002", np.zeros((1, 3), "f4"), {}, "the store has the layers L000, L001"),
    ("L000", np.zeros((1, 3), "f8"), {}, "found dtype float64, expected float32"),
    ("L000", np.zeros((1, 4), "f4"), {}, r"found shape \(1, 4\), expected \(batch, 3\)"),
    ("L000", np.float32(0), {}, r"found shape \(\), expected \(batch, 3\)"),
    ("L000", np.zeros((21, 3), "f4"), {}, "found 21 samples, expected 20"),
    ("L000", np.zeros((1, 3), "f4"), {"realization": 1}, "there is no realization 1"),
]


@pytest.mark.parametrize(("key", "array", "options", "text"), BATCHES)
def test_batches_that_do_not_fit(path: Path, key: str, array: Any, options: Any, text: str) -> None:
    with (
        writer(path) as into,
        pytest.raises(InputRefusedError, match=f"step 0, layer {key}: {text}"),
        into.checkpoint(checkpoint(0)) as part,
    ):
        part.write(key, array, **options)
    assert not path.with_name("acts.h5.parts").exists()


def test_a_checkpoint_must_be_whole(path: Path) -> None:
    with writer(path) as into:
        with pytest.raises(InputRefusedError, match="step 0, layer L001: got 0 of 20 samples"):
            record(into, 0, LAYERS[:1])
        assert into.done == set()
        record(into, 0)
        assert into.done == {0}


def test_steps_must_be_announced(path: Path) -> None:
    with (
        writer(path) as into,
        pytest.raises(UsageError, match=r"cannot write step 7 .*: it was not announced"),
    ):
        record(into, 7)


def test_finishing_needs_every_step(path: Path, folder: bool) -> None:
    with writer(path, folder=folder) as into:
        record(into, 10)
        with pytest.raises(StoreIncompleteError, match="2 of 3 steps are missing, the first is 0") as caught:
            into.finish()
    assert caught.value.exit_code == 5


def test_arrays_of_any_layout_and_byte_order(path: Path) -> None:
    expected = np.arange(60, dtype=np.float32).reshape(20, 3)
    with writer(path, (0,), layers=LAYERS[:1]) as into:
        with into.checkpoint(checkpoint(0)) as part:
            part.write("L000", np.asfortranarray(expected[:8]))
            part.write("L000", expected[8:8])
            part.write("L000", expected[8:].astype(">f4"))
        into.finish()
    with open_store(path) as store:
        np.testing.assert_array_equal(store.layers["L000"].at(step=0).read(), expected)


def test_a_second_writer_is_kept_out(path: Path) -> None:
    script = (
        "import sys\n"
        "from tests.store.making import writer\n"
        "from pathlib import Path\n"
        "with writer(Path(sys.argv[1])):\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == b"locked\n"
        with (
            pytest.raises(LockedError, match=r"another process is writing in .*acts.h5") as caught,
            writer(path),
        ):
            pass
        assert caught.value.exit_code == 7
        other.stdin.close()
        assert other.wait(20) == 0
    write(path)


def test_a_second_writer_of_the_same_process_is_kept_out_too(path: Path) -> None:
    """HDF5 itself would let both write."""
    with writer(path) as into:
        with pytest.raises(LockedError, match=r"another process is writing in .*acts\.h5"), writer(path):
            pass
        for step in STEPS:
            record(into, step)
        into.finish()
    assert verify(path) == []


@pytest.mark.parametrize("successor", [False, True])
def test_a_lock_on_a_removed_file_is_none(
    path: Path, monkeypatch: pytest.MonkeyPatch, successor: bool
) -> None:
    """Between opening the lock file and locking it its holder removed it, and perhaps a third one came."""
    flock, lock = fcntl.flock, path.with_name(f"{path.name}.lock")
    with ExitStack() as held:

        def late(descriptor: int, operation: int) -> None:
            monkeypatch.undo()
            flock(descriptor, operation)
            lock.unlink()
            if successor:
                held.enter_context(OutputLock(path))

        monkeypatch.setattr(fcntl, "flock", late)
        if successor:
            with pytest.raises(LockedError, match="another process is writing"), OutputLock(path):
                pass
            assert lock.exists()
        else:
            with OutputLock(path), pytest.raises(LockedError), OutputLock(path):
                pass
    assert not lock.exists()


@pytest.mark.parametrize("folder", [False, True])
def test_a_store_is_synced_renamed_and_synced(
    path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    """Each file reaches the disk before its name does, and the folder after."""
    events: list[str] = []
    sync, rename = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def note_rename(source: Path, target: Path) -> Path:
        events.append("rename")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    write(path, (0, 10), folder=folder)
    before, after = ["folder", "folder"], [] if folder else ["folder"]  # what was found, made, and removed
    assert events == before + ["file", "rename", "folder"] * (2 if folder else 3) + after


def test_too_little_space_is_found_before_the_work(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(path.parent)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=4_100_000_000))
    big = (layer("L000", (4096,)),)
    table = samples(100_000)
    with pytest.raises(ResourceError, match=r"not enough space for .*: need 9.8 GB, 4.1 GB free") as caught:
        writer(path, layers=big, samples=table).__enter__()
    assert caught.value.exit_code == 6
    assert names(path.parent) == []
    with writer(path, (0,), layers=big, samples=table):
        pass


@pytest.mark.parametrize("steps", [(0,), (0, 10, 200)])
@pytest.mark.parametrize("shape", [(3,), (700, 1000)])
def test_sizes_are_predicted(path: Path, steps: tuple[int, ...], shape: tuple[int, ...]) -> None:
    layers = (layer("L000", shape),)
    with writer(path, steps, layers=layers, samples=samples(2)) as into:
        announced = into.required_bytes
        for step in steps:
            with into.checkpoint(checkpoint(step)) as part:
                part.write("L000", np.zeros((2, *shape), np.float32))
        assert into.required_bytes == (0 if len(steps) == 1 else predicted_bytes(2, layers, len(steps)))
        into.finish()
    predicted = predicted_bytes(2, layers, len(steps))
    assert path.stat().st_size <= predicted <= path.stat().st_size * 1.01 + 40_000
    assert announced == (predicted if steps == (0,) else predicted + 3 * predicted_bytes(2, layers, 1))
