"""Every operation on the disk fails once, or is interrupted: what is finished stays, and is gone on with."""

import errno
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repstat import open_store
from repstat.errors import ResourceError
from repstat.store import disk
from tests.store.disks import OPERATIONS, Faulty, Killed, Mortal, careless, through
from tests.store.making import LAYERS, flat, record, writer
from tests.store.scenarios import SCENARIOS, Scenario

STEPS = {"file": (0, 10), "overwrite-folder": (0, 10)}


def fault(number: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(number, "injected")

    return fail


def interrupt() -> None:
    raise KeyboardInterrupt


def signalled() -> None:
    """Ctrl-C as it arrives: in the middle of what HDF5 calls."""
    signal.raise_signal(signal.SIGINT)


FAULTS = {
    "full": (("create", "write", "truncate", "sync", "make_folder"), fault(errno.ENOSPC), ResourceError),
    "broken": (OPERATIONS, fault(errno.EIO), ResourceError),
    "interrupted": (OPERATIONS, interrupt, KeyboardInterrupt),
    "signalled": (OPERATIONS, signalled, KeyboardInterrupt),
}


def small(name: str) -> Scenario:
    known = SCENARIOS[name]
    return Scenario(STEPS[name], before=known.before, options=known.options)


def fail_at(scenario: Scenario, root: Path, faulty: Faulty, kind: type[BaseException]) -> list[Any]:
    """Run into the fault; return what was promised before."""
    promised: list[Any] = []
    caught: BaseException | None = None
    with through(faulty):
        try:
            scenario.run(root, promised.append)
        except kind as error:
            caught = error
    if isinstance(caught, ResourceError):
        assert caught.exit_code == 6
        assert "same command again" in str(caught)
    return promised


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("how", FAULTS)
def test_a_fault_at_any_operation(tmp_path: Path, how: str, name: str) -> None:
    """Some of the operations here; all with `make crash-test`."""
    check_faults(tmp_path, how, name, every=31)


@pytest.mark.crash
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("how", FAULTS)
def test_a_fault_at_every_operation(tmp_path: Path, how: str, name: str, capsys: Any) -> None:
    count = check_faults(tmp_path, how, name)
    with capsys.disabled():
        print(f"\n{how}, {name}: {count} faults, 0 committed checkpoints lost")


def check_faults(tmp_path: Path, how: str, name: str, every: int = 1) -> int:
    scenario = small(name)
    names, fail, kind = FAULTS[how]
    with careless():
        expected = scenario.expected(tmp_path)
        counter = Faulty(names, -1, fail)
        (tmp_path / "all").mkdir()
        scenario.prepare(tmp_path / "all")
        with through(counter):
            scenario.run(tmp_path / "all", lambda _: None)
        assert counter.count > 20
        for at in range(0, counter.count, every):
            root = tmp_path / f"at-{at}"
            root.mkdir()
            scenario.prepare(root)
            promised = fail_at(scenario, root, Faulty(names, at, fail), kind)
            if how != "broken":
                assert not list(root.rglob("*.tmp-*")), f"operation {at}"
            scenario.check(root, promised, expected)
    return counter.count


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = disk.write
    monkeypatch.setattr(disk, "write", lambda d, data, at: write(d, data[: max(1, len(data) // 2)], at))
    scenario = small("file")
    scenario.run(tmp_path, lambda _: None)
    monkeypatch.undo()
    with open_store(tmp_path / "acts.h5") as store:
        assert {k: view.at(step=10).read().tobytes() for k, view in store.layers.items()} == {
            one.key: flat(10, one).tobytes() for one in LAYERS
        }


@pytest.mark.parametrize("name", STEPS)
def test_a_disk_that_stays_full(tmp_path: Path, name: str) -> None:
    """Nothing works from some write on, removing included: nothing finished is touched."""
    scenario = small(name)
    with careless():
        expected = scenario.expected(tmp_path)
        root = tmp_path / "run"
        root.mkdir()
        scenario.prepare(root)
        faulty = Faulty(OPERATIONS, 130, fault(errno.EIO), lasting=True)
        promised = fail_at(scenario, root, faulty, ResourceError)
        assert promised == [0]
        scenario.check(root, promised, expected)


def test_a_dead_process_writes_no_more(tmp_path: Path) -> None:
    """The double of a kill: nothing after it reaches the disk, not even the tidying up."""
    with through(Mortal(40)), pytest.raises(Killed), writer(tmp_path / "acts.h5") as into:
        record(into, 0)
    parts = tmp_path / "acts.h5.parts"
    assert [p.name.partition("tmp-")[0] for p in parts.iterdir()] == ["step-000000000000.h5."]
    assert (tmp_path / "acts.h5.lock").exists()
    with writer(tmp_path / "acts.h5") as into:
        assert into.done == set()
        assert not parts.exists() or not list(parts.iterdir())


def test_all_writing_goes_through_one_door() -> None:
    """No module of the store but `disk` changes anything on the disk."""
    folder = Path(disk.__file__).parent
    calls = (
        "os.open(",
        "os.pwrite",
        "os.fsync",
        "os.ftruncate",
        ".unlink(",
        ".rename(",
        ".mkdir(",
        ".rmdir(",
    )
    calls += ("write_text", "write_bytes", ".touch(", "shutil.rm", "os.remove", "os.replace")
    found = {
        (path.name, call)
        for path in folder.glob("*.py")
        for call in calls
        if path.name != "disk.py"
        for line in path.read_text().splitlines()
        if call in line and "disk." not in line
    }
    assert found == {("lock.py", "os.open(")}
