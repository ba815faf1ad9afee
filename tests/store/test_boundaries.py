"""Cut an extraction off before, and in the middle of, every single change it makes to the disk.

A few here; all of them with ``make crash-test``. The mutants at the end show that the tests can fail.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat.store import disk
from repstat.store.staging import StagedFile
from tests.store.disks import Recording, Tree, careless
from tests.store.scenarios import SCENARIOS, recorded, survives

SEED = 11
EVERY = int(os.environ.get("REPSTAT_CRASH_EVERY", "20"))
"""Of states that differ in temporary files only, one in so many is run."""
State = tuple[int, Tree]


def kills(recording: Recording) -> Iterator[State]:
    """Every boundary: before each change, within each write, and after the last."""
    for at in range(len(recording.changes) + 1):
        yield at, recording.killed(at)
        if at < len(recording.changes) and recording.changes[at].name == "write":
            yield at, recording.killed(at, torn=True)


def losses(recording: Recording, n_random: int = 3) -> Iterator[State]:
    """Distinct disks after a loss of power at each boundary."""
    rng = np.random.default_rng(SEED)
    seen = set()
    for at in range(len(recording.changes) + 1):
        for tree in recording.powerless(at, rng, n_random):
            key = hash((tree.key(), len(recording.promised(at))))
            if key not in seen:
                seen.add(key)
                yield at, tree


def problems(
    name: str, root: Path, states: Callable[[Recording], Iterator[State]], every: int, fresh: bool
) -> tuple[int, int, list[str]]:
    """Check every n-th state of a scenario and, with `fresh`, each that is new but for temporary files.

    The next writer removes those unread: states that differ only in their bytes are one to it. Returned are
    how many states there are, how many were checked, and what went wrong.
    """
    scenario = SCENARIOS[name]
    recording = recorded(scenario, root / "recorded")
    with careless():
        expected = scenario.expected(root)
    count, checked, found, seen = 0, 0, [], set()
    for at, tree in states(recording):
        key = hash((tree.key(temporary=False), len(recording.promised(at))))
        if count % every == 0 or (fresh and key not in seen):
            checked += 1
            found += filter(None, [survives(scenario, recording, tree, at, root / "crashed", expected)])
        seen.add(key)
        count += 1
    return count, checked, found


@pytest.mark.parametrize("states", [kills, losses])
@pytest.mark.parametrize("name", SCENARIOS)
def test_some_crashes_lose_nothing(tmp_path: Path, name: str, states: Any) -> None:
    _, checked, found = problems(name, tmp_path, states, every=61, fresh=False)
    assert found == []
    assert checked >= 3


@pytest.mark.crash
@pytest.mark.parametrize(("states", "least"), [(kills, 1000), (losses, 2000)])
def test_no_crash_loses_anything(tmp_path: Path, capsys: Any, states: Any, least: int) -> None:
    total = checked = 0
    for name in SCENARIOS:
        (tmp_path / name).mkdir()
        counts = problems(name, tmp_path / name, states, EVERY, fresh=True)
        assert counts[2] == []
        total, checked = total + counts[0], checked + counts[1]
    with capsys.disabled():
        print(f"\n{states.__name__}: {total:,} states, {checked:,} of them run: 0 checkpoints lost")
    assert total >= least


def test_the_double_writes_what_the_disk_got(tmp_path: Path) -> None:
    """Replayed to the end, a recording is the folder itself; after the last sync nothing is loose."""
    for name, scenario in SCENARIOS.items():
        recording = recorded(scenario, tmp_path / name)
        end = len(recording.changes)
        real = Tree.read(tmp_path / name, iter(range(1, 99)))
        assert recording.killed(end).key() == real.key(), name
        loose = [c.name for c, safe in zip(recording.changes, recording.safe(end), strict=True) if not safe]
        assert not {"write", "truncate"} & set(loose), name


def without_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StagedFile, "sync", lambda self: None)


def without_folder_sync(patch: pytest.MonkeyPatch) -> None:
    """Its operations are the writer's but for these."""
    note = Recording._handle

    def deaf(self: Recording, name: str, original: Any, *args: Any) -> Any:
        return None if name == "sync_folder" else note(self, name, original, *args)

    patch.setattr(Recording, "_handle", deaf)


def sync_after_rename(patch: pytest.MonkeyPatch) -> None:
    commit = StagedFile.commit

    def late(self: StagedFile) -> None:
        descriptor = os.dup(self._descriptor)
        commit(self)
        os.fsync(descriptor)
        os.close(descriptor)

    patch.setattr(StagedFile, "sync", lambda self: None)
    patch.setattr(StagedFile, "commit", late)


def in_place(patch: pytest.MonkeyPatch) -> None:
    """No temporary name: the file is written under its own."""
    patch.setattr(Path, "with_name", _own_name(Path.with_name))
    patch.setattr(disk, "rename", lambda path, target: None if path == target else path.replace(target))


def _own_name(original: Callable[[Path, str], Path]) -> Callable[[Path, str], Path]:
    return lambda self, name: self if ".tmp-" in name else original(self, name)


MUTANTS = [
    (without_sync, "file", losses),
    (without_folder_sync, "file", losses),
    (without_folder_sync, "overwrite-folder", losses),
    (sync_after_rename, "file", losses),
    (in_place, "file", kills),
    (in_place, "folder", losses),
]


@pytest.mark.parametrize(("mutant", "name", "states"), MUTANTS)
def test_a_careless_writer_is_caught(tmp_path: Path, mutant: Any, name: str, states: Any) -> None:
    """What is recorded is the mutant's; what comes after the crash is the real thing."""
    scenario = SCENARIOS[name]
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        recording = recorded(scenario, tmp_path / "recorded")
    with careless():
        expected = scenario.expected(tmp_path)
    for at, tree in list(states(recording))[::-7]:
        if survives(scenario, recording, tree, at, tmp_path / "crashed", expected):
            return
    pytest.fail("no crash has shown the mistake")
