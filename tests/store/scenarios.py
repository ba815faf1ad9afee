"""Small extractions to be cut off anywhere, and what must hold afterwards."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repstat import open_store
from repstat.errors import UsageError
from repstat.store import StoreWriter, merge, verify
from tests.store.disks import Recording, careless
from tests.store.making import NOISY, contents, record, record_noisy, write, writer

Note = Callable[[Any], None]
FINISHED = "finished"


@dataclass(frozen=True)
class Scenario:
    """An extraction to `acts.h5`: what is there before, what is asked for, what comes of it."""

    steps: tuple[int, ...]
    before: tuple[int, ...] = ()
    """Steps of the store that is there already."""
    options: dict[str, Any] = field(default_factory=dict)
    parts: tuple[int, ...] = ()
    """Steps that an interrupted run has left."""
    noisy: bool = False

    @property
    def known(self) -> dict[str, Any]:
        return NOISY if self.noisy else {}

    @property
    def replaces(self) -> bool:
        return bool(self.options.get("overwrite"))

    def prepare(self, root: Path) -> None:
        path, folder = root / "acts.h5", bool(self.options.get("folder"))
        if self.before:
            write(path, self.before, folder=folder)
        if self.parts:
            self.run(root, lambda _: None, only=self.parts)

    def run(self, root: Path, note: Note, only: tuple[int, ...] | None = None) -> StoreWriter:
        """Do what the command does; `note` what the user may rely on from then on."""
        with writer(root / "acts.h5", self.steps, **(self.known | self.options)) as into:
            self.fill(into, note, only)
        return into

    def fill(self, into: StoreWriter, note: Note, only: tuple[int, ...] | None = None) -> None:
        """Compute what is missing, and finish unless `only` some steps are wanted."""
        for step in self.steps if only is None else only:
            if step not in into.done:
                (record_noisy if self.noisy else record)(into, step)
                note(step)
        if only is None:
            into.finish()
            note(FINISHED)

    def expected(self, root: Path) -> Any:
        """Return the contents that an uninterrupted run leaves."""
        steps = tuple(sorted({*self.steps, *(() if self.replaces else self.before)}))
        with writer(root / "whole.h5", steps, **self.known) as into:
            for step in steps:
                (record_noisy if self.noisy else record)(into, step)
            into.finish()
        with open_store(root / "whole.h5") as store:
            return contents(store)

    def check(self, root: Path, promised: list[Any], expected: Any) -> None:
        """Assert that nothing promised is lost, and that the same command completes the store."""
        path = root / "acts.h5"
        for final in [p for p in root.rglob("*.h5") if p.is_file()]:
            assert verify(final) == [], f"{final.name} has its name and is not sound"
        committed = {what for what in promised if what != FINISHED}
        if FINISHED in promised:
            assert found_steps(path) == tuple(expected["steps"])
        try:
            with writer(path, self.steps, **(self.known | self.options)) as into:
                if self.before and not into.complete and not self.options.get("resume"):
                    assert found_steps(path) in (self.before, tuple(expected["steps"]))
                if not (self.replaces and found_steps(path) == tuple(expected["steps"])):
                    lost = committed - into.done
                    assert not lost, f"the steps {lost} are lost"
                self.fill(into, lambda _: None)
        except UsageError as error:
            if "already exists" not in str(error):
                raise
        with open_store(path) as store:
            assert contents(store) == expected
        left = {p.name for p in root.iterdir()}
        assert left == {"acts.h5"}, left


@dataclass(frozen=True)
class Merge(Scenario):
    """Two stores that become one; their files are inputs and must stay."""

    def prepare(self, root: Path) -> None:
        write(root / "first.h5", self.steps[:1])
        write(root / "second.h5", self.steps[1:])

    def run(self, root: Path, note: Note, only: tuple[int, ...] | None = None) -> Any:
        merge([root / "first.h5", root / "second.h5"], root / "acts.h5")
        note(FINISHED)

    def check(self, root: Path, promised: list[Any], expected: Any) -> None:
        path = root / "acts.h5"
        for final in root.rglob("*.h5"):
            assert verify(final) == [], f"{final.name} has its name and is not sound"
        if FINISHED in promised:
            assert path.exists()
        if not path.exists():
            self.run(root, lambda _: None)
        with open_store(path) as store:
            assert contents(store) == expected
        # A lock and a temporary file may be left: the result is there, nobody has to run the command again.
        assert {"acts.h5", "first.h5", "second.h5"} <= {p.name for p in root.iterdir()}


def found_steps(path: Path) -> tuple[int, ...]:
    """Return the steps of the store at `path`; none if there is none."""
    with suppress(UsageError), open_store(path) as store:
        return tuple(store.steps)
    return ()


SCENARIOS = {
    "file": Scenario((0, 10, 200)),
    "one": Scenario((10,)),
    "folder": Scenario((0, 10, 200), options={"folder": True}),
    "resumed": Scenario((0, 10), before=(0,), options={"resume": True}),
    "parts": Scenario((0, 10), parts=(10,)),
    "overwrite": Scenario((0, 10), before=(5, 10), options={"overwrite": True}),
    "overwrite-folder": Scenario((0, 10), before=(5, 10), options={"overwrite": True, "folder": True}),
    "noisy": Scenario((10,), noisy=True),
    "merge": Merge((0, 10, 200)),
}


def recorded(scenario: Scenario, root: Path) -> Recording:
    """Run a scenario to its end and return what it did to the disk."""
    root.mkdir()
    with careless():
        scenario.prepare(root)
    recording = Recording(root)
    with recording():
        scenario.run(root, recording.mark)
    return recording


def survives(scenario: Scenario, recording: Recording, tree: Any, at: int, root: Path, expected: Any) -> str:
    """Return what is wrong with the disk `tree` that a crash before change `at` has left, if anything is."""
    shutil.rmtree(root, ignore_errors=True)
    tree.write(root)
    try:
        with careless():
            scenario.check(root, recording.promised(at), expected)
    except Exception as error:
        return f"before change {at} of {len(recording.changes)}: {type(error).__name__}: {error}"
    return ""
