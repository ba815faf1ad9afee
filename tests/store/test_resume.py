"""An interrupted run is taken up again, an existing output completed or replaced; nothing is mixed."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat import open_store
from repstat.errors import (
    InputRefusedError,
    StoreDamagedError,
    UsageError,
)
from repstat.store import verify
from tests.store.making import (
    IDENTITY,
    LAYERS,
    checkpoint,
    contents,
    flat,
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


def interrupted(path: Path, done: tuple[int, ...] = (0, 10), **options: Any) -> None:
    """Write some of the checkpoints and die in the next one."""
    with writer(path, STEPS, **options) as into:
        for step in done:
            record(into, step)
        broken = (layer("L000"), layer("L009"))
        with pytest.raises(InputRefusedError, match="step 200, layer L009"):
            record(into, 200, broken)


def test_an_interrupted_run_is_resumed(path: Path, folder: bool, tmp_path: Path) -> None:
    interrupted(path, folder=folder)
    staged = path if folder else path.with_name("acts.h5.parts")
    assert names(staged) == ["step-000000000000.h5", "step-000000000010.h5"]
    assert names(tmp_path) == [staged.name]
    before = {entry.name: entry.stat().st_mtime_ns for entry in staged.iterdir()}
    with writer(path, folder=folder) as into:
        assert into.done == {0, 10}
        assert into.finished[10].source == "step-10.onnx"
        assert not into.complete
        with pytest.raises(UsageError, match=r"cannot write step 10 in .*: it is there already"):
            record(into, 10)
        assert {e.name: e.stat().st_mtime_ns for e in staged.iterdir()} == before
        record(into, 200)
        into.finish()
        assert into.complete
    assert names(tmp_path) == ["acts.h5"]
    with open_store(path) as resumed, open_store(write(tmp_path / "whole.h5")) as whole:
        assert contents(resumed) == contents(whole)


DIFFERENCES = [
    ({"identity": {"noise_std": 0.2}}, r"layers was \['L000.*now missing; noise_std was 0.1, now 0.2"),
    ({"identity": IDENTITY | {"layers": ["L000 linear>tanh", "x"]}},
     r"layers\[1\] was 'L001 conv', now 'x'"),
    ({"identity": IDENTITY | {"options": {"opt_level": 1}}},
     r"options.opt_level was 'none', now 1"),
    ({"samples": samples(19)}, "number of samples was 20, now 19"),
    ({"samples": samples(inputs_sha256="cd" * 32)}, "inputs_sha256 was 'abab.*', now 'cdcd"),
    ({"samples": samples(labels=None)}, "labels was 'some', now 'none'"),
    ({"samples": samples(labels=np.arange(20))}, "label of sample 3 was 0, now 3"),
    ({"samples": samples(index=np.arange(20) * 2)}, "index of sample 1 was 1, now 2"),
    ({"samples": samples(synthetic=True)}, "synthetic was False, now True"),
    ({"samples": samples(input_entropy=1.0)}, "input_entropy was 2.99.*, now 1.0"),
    ({"samples": samples(class_names=())}, "class_names was"),
    ({"layers": LAYERS[:1]}, r"layer keys\[1\] was 'L001', now missing"),
    ({"layers": LAYERS[::-1]}, r"layer keys\[0\] was 'L000', now 'L001'"),
    ({"layers": (LAYERS[0], layer("L001", (8,), "float64", signature="conv"))},
     r"L001 unit_shape was \(2, 2, 2\), now \(8,\)"),
    ({"layers": (layer("L000", dtype="float16"), LAYERS[1])},
     "L000 source_dtype was 'float32', now 'float16'; L000 dtype was 'float32', now 'float16'"),
    ({"layers": (layer("L000", signature="linear>relu"), LAYERS[1])},
     "L000 signature was 'linear>tanh', now 'linear>relu'"),
    ({"n_realizations": 2}, "n_realizations was 1, now 2"),
    ({"checkpoint_sha256": {10: "f" * 64}}, "the sha256 of step 10 was 00.*0a, now ff"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "text"), DIFFERENCES)
def test_another_identity_is_refused(path: Path, options: dict[str, Any], text: str) -> None:
    interrupted(path)
    with pytest.raises(UsageError, match=text) as caught, writer(path, **options):
        pass
    assert "Pass --overwrite (overwrite=True) to start again, or give another output (-o, store=)." in str(
        caught.value
    )
    with writer(path) as into:
        assert into.done == {0, 10}


def test_decoration_and_equal_hashes_are_no_difference(path: Path) -> None:
    interrupted(path)
    layers = (layer("L000", name="renamed", op="MatMul+Add+Tanh"), LAYERS[1])
    table = samples(inputs_source="elsewhere.npz", input_entropy=np.log(20) * (1 + 1e-12))
    with writer(
        path, layers=layers, samples=table, checkpoint_sha256={10: f"{10:064x}", 200: "f" * 64}
    ) as into:
        assert into.done == {0, 10}


def test_an_existing_output_is_left_alone(path: Path, folder: bool) -> None:
    write(path, folder=folder)
    before = path.stat().st_mtime_ns
    with (
        pytest.raises(
            UsageError,
            match=r"acts.h5 already exists. Pass --overwrite \(overwrite=True\), or give another output",
        ),
        writer(path, folder=folder),
    ):
        pass
    assert path.stat().st_mtime_ns == before
    assert names(path.parent) == ["acts.h5"]


def test_a_complete_output_leaves_nothing_to_resume(path: Path, folder: bool) -> None:
    write(path, folder=folder)
    with writer(path, folder=folder, resume=True) as into:
        assert into.complete
        assert into.done == {0, 10, 200}
        assert into.required_bytes == 0
        assert into.finish() == path
    with writer(path, (10,), folder=folder, resume=True) as into:
        assert into.complete


def test_missing_steps_are_added(path: Path, folder: bool, tmp_path: Path) -> None:
    write(path, (0, 10), folder=folder)
    with writer(path, folder=folder, resume=True) as into:
        assert into.done == {0, 10}
        assert not into.complete
        with open_store(path) as store:
            assert store.steps == (0, 10)
        record(into, 200)
        into.finish()
    assert names(tmp_path) == ["acts.h5"]
    with open_store(path) as added, open_store(write(tmp_path / "whole.h5")) as whole:
        assert contents(added) == contents(whole)


def test_parts_left_behind_by_a_crash_after_the_rename_are_removed(path: Path) -> None:
    interrupted(path)
    shutil.move(path.with_name("acts.h5.parts"), path.with_name("kept"))
    write(path)
    shutil.move(path.with_name("kept"), path.with_name("acts.h5.parts"))
    with writer(path, resume=True) as into:
        assert into.complete
    assert names(path.parent) == ["acts.h5"]


def test_an_interrupt_leaves_no_trace_of_its_checkpoint(path: Path) -> None:
    with writer(path) as into:
        record(into, 0)
        with pytest.raises(KeyboardInterrupt), into.checkpoint(checkpoint(10)):
            raise KeyboardInterrupt
        assert names(path.with_name("acts.h5.parts")) == ["step-000000000000.h5"]


def test_finished_parts_beyond_the_steps_asked_for_are_kept(path: Path) -> None:
    interrupted(path)
    with writer(path, (0, 5)) as into:
        assert into.done == {0, 10}
        record(into, 5)
        into.finish()
    with open_store(path) as store:
        assert store.steps == (0, 5, 10)


def test_resuming_an_output_of_another_identity(path: Path, folder: bool) -> None:
    write(path, folder=folder)
    options = {"identity": {"noise_std": 0.1}, "folder": folder, "resume": True}
    with pytest.raises(UsageError, match="was made differently"), writer(path, **options):
        pass


def test_overwriting_spares_the_old_output_until_the_end(path: Path, folder: bool) -> None:
    write(path, (5,), folder=folder)
    interrupted(path, overwrite=True, folder=folder)
    with open_store(path) as store:
        assert store.steps == (5,)
    assert names(path.parent) == ["acts.h5", "acts.h5.parts"]
    with writer(path, overwrite=True, folder=folder) as into:
        assert into.done == {0, 10}
        record(into, 200)
        into.finish()
    assert names(path.parent) == ["acts.h5"]
    with open_store(path) as store:
        assert store.steps == STEPS
    assert verify(path) == []


def test_overwriting_discards_parts_of_another_identity_and_damaged_ones(path: Path) -> None:
    interrupted(path)
    with writer(path, overwrite=True, identity={}) as into:
        assert into.done == set()
    interrupted(path)
    part = path.with_name("acts.h5.parts") / "step-000000000010.h5"
    part.write_bytes(b"torn")
    with writer(path, overwrite=True) as into:
        assert into.done == {0}
    assert not part.exists()


def test_a_damaged_part_is_named(path: Path) -> None:
    interrupted(path)
    part = path.with_name("acts.h5.parts") / "step-000000000010.h5"
    content = bytearray(part.read_bytes())
    content[content.index(flat(10, LAYERS[0]).tobytes()) + 1] ^= 1
    part.write_bytes(content)
    with pytest.raises(StoreDamagedError, match=r"step-000000000010.h5: step 10, layer L000"), writer(path):
        pass


def test_stale_files_of_dead_writers_are_removed(path: Path) -> None:
    interrupted(path)
    stale = [
        path.with_name("acts.h5.tmp-99"),
        path.with_name("acts.h5.parts") / "step-000000000200.h5.tmp-99",
    ]
    other = path.with_name("acts.h5.tmp-99.txt")
    for file in (*stale, other):
        file.write_bytes(b"torn")
    path.with_name("acts.h5.lock").touch()
    with writer(path):
        assert not any(file.exists() for file in stale)
    assert names(path.parent) == ["acts.h5.parts", other.name]


def test_an_interrupted_swap_of_folders_is_undone(path: Path) -> None:
    write(path, (5,), folder=True)
    interrupted(path, overwrite=True, folder=True)
    path.rename(path.with_name("acts.h5.replaced"))
    with writer(path, overwrite=True, folder=True) as into:
        with open_store(path) as store:
            assert store.steps == (5,)
        record(into, 200)
        into.finish()
    with open_store(path) as store:
        assert store.steps == STEPS
    assert names(path.parent) == ["acts.h5"]


def test_what_an_interrupted_addition_finished_is_joined_by_the_next_resume(tmp_path: Path) -> None:
    path = tmp_path / "acts.h5"
    with writer(path, [10]) as into:
        record(into, 10)
        into.finish()
    with writer(path, [0], resume=True) as into:
        record(into, 0)  # and dies before it is joined
    before = path.read_bytes()
    with pytest.raises(UsageError, match="already exists"), writer(path, [10]):
        pass
    assert path.read_bytes() == before
    with writer(path, [10], resume=True) as into:
        assert not into.complete
        into.finish()
    with open_store(path) as store:
        assert store.steps == (0, 10)
    assert not (tmp_path / "acts.h5.parts").exists()
