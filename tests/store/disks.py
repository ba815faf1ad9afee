"""Disks for tests: one that records all that is done to it, and what a crash may leave of that.

The model of a power loss: a write survives if its file was synced afterwards; a new name, a new folder or a
removal if its folder was (of a rename between folders: both). Of everything else any part may be lost or
torn, in any order, but a rename happens as a whole or not at all. That is what POSIX promises and less than
any journaling file system does.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repstat.store import disk

OPERATIONS = (
    "create", "write", "truncate", "sync", "rename", "remove", "make_folder", "remove_folder", "sync_folder",
)  # fmt: skip
Handler = Callable[..., Any]
"""Gets an operation's name, the function that does it, and its arguments."""


@contextmanager
def through(handle: Handler) -> Iterator[None]:
    """Let every operation on the disk pass through `handle`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(disk, name, partial(handle, name, getattr(disk, name)))
        yield


@contextmanager
def careless() -> Iterator[None]:
    """Sync nothing: faster, and the tests that use it read what they wrote in the same run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "sync", lambda _: None)
        patch.setattr(disk, "sync_folder", lambda _: None)
        yield


@dataclass(frozen=True, slots=True)
class Change:
    """One operation of a recording: what it changes, by numbers of files and folders."""

    name: str
    target: int = -1
    """The file or folder concerned."""
    places: tuple[tuple[int, str], ...] = ()
    """Entries (folder, name): the one made or removed; of a rename the old and the new one."""
    data: bytes = b""
    position: int = 0


@dataclass
class Tree:
    """Folders and files by number; 0 is the root."""

    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    files: dict[int, bytearray] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path, numbers: Iterator[int]) -> "Tree":
        tree, known = cls(), {root: 0}
        for path in sorted(root.rglob("*")):
            number = known[path] = next(numbers)
            tree.folders[known[path.parent]][path.name] = number
            if path.is_dir():
                tree.folders[number] = {}
            else:
                tree.files[number] = bytearray(path.read_bytes())
        return tree

    def copy(self) -> "Tree":
        return Tree(
            {n: dict(e) for n, e in self.folders.items()}, {n: bytearray(c) for n, c in self.files.items()}
        )

    def apply(self, change: Change) -> None:
        content = self.files.setdefault(change.target, bytearray()) if change.name in _DATA else bytearray()
        if change.name == "write":
            content.extend(bytes(max(0, change.position - len(content))))
            content[change.position : change.position + len(change.data)] = change.data
        elif change.name == "truncate":
            del content[change.position :]
            content.extend(bytes(change.position - len(content)))
        elif change.name in _NAMES:
            if change.name == "make_folder":
                self.folders.setdefault(change.target, {})
            *gone, (folder, name) = change.places
            for place, old in gone if change.name == "rename" else change.places:
                self.folders.setdefault(place, {}).pop(old, None)
            if change.name in ("create", "rename", "make_folder"):
                self.folders.setdefault(folder, {})[name] = change.target

    def write(self, root: Path, folder: int = 0) -> None:
        """Make it real. What no folder has a name for is lost."""
        root.mkdir(exist_ok=True)
        for name, number in self.folders[folder].items():
            if number in self.folders:
                self.write(root / name, number)
            else:
                (root / name).write_bytes(self.files.get(number, b""))

    def key(self, folder: int = 0, *, temporary: bool = True) -> Any:
        """Return what tells two trees apart; without `temporary`, whatever temporary files contain."""
        found = []
        for name, number in sorted(self.folders[folder].items()):
            if number in self.folders:
                found.append((name, self.key(number, temporary=temporary)))
            else:
                kept = temporary or ".tmp-" not in name
                found.append((name, bytes(self.files.get(number, b"")) if kept else b""))
        return tuple(found)


_DATA = ("write", "truncate")
_NAMES = ("create", "rename", "remove", "make_folder", "remove_folder")


class Recording:
    """All changes to the disk below `root` while it is entered, and `mark`s between them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changes: list[Change] = []
        self.marks: list[tuple[int, Any]] = []
        self._numbers = itertools.count(1)
        self.before = Tree.read(root, self._numbers)
        self._tree = self.before.copy()
        self._open: dict[int, int] = {}

    def mark(self, what: Any) -> None:
        """Note that `what` has happened for the user: from here on it must not be lost."""
        self.marks.append((len(self.changes), what))

    @contextmanager
    def __call__(self) -> Iterator["Recording"]:
        with through(self._handle):
            yield self

    def _handle(self, name: str, original: Handler, *args: Any) -> Any:
        change = self._change(name, *args)
        result = original(*args)
        if name == "create":
            self._open[result] = change.target
        if name == "remove" and change.target < 0:
            return result  # it was not there
        self.changes.append(change)
        self._tree.apply(change)
        return result

    def _change(self, name: str, where: Any, *args: Any) -> Change:
        if name in ("write", "truncate", "sync"):
            number = self._open[where]
            if name == "write":
                return Change(name, number, data=bytes(args[0]), position=args[1])
            return Change(name, number, position=args[0] if args else 0)
        if name == "sync_folder":
            return Change(name, self._folder(where))
        place = self._folder(where.parent), where.name
        if name in ("create", "make_folder"):
            return Change(name, next(self._numbers), (place,))
        number = self._tree.folders[place[0]].get(place[1], -1)
        if name == "rename":
            return Change(name, number, (place, (self._folder(args[0].parent), args[0].name)))
        return Change(name, number, (place,))

    def _folder(self, path: Path) -> int:
        number = 0
        for part in path.relative_to(self.root).parts:
            number = self._tree.folders[number][part]
        return number

    def promised(self, at: int) -> list[Any]:
        """Return what had happened before change number `at`."""
        return [what for position, what in self.marks if position <= at]

    def killed(self, at: int, *, torn: bool = False) -> Tree:
        """Return the disk after a kill before change number `at`, or in the middle of it."""
        tree = self.before.copy()
        for change in self.changes[:at]:
            tree.apply(change)
        if torn:
            tree.apply(_half(self.changes[at]))
        return tree

    def safe(self, at: int) -> list[bool]:
        """Whether each change before `at` must survive a loss of power there."""
        last: dict[int, int] = {}
        for i, change in enumerate(self.changes[:at]):
            if change.name in ("sync", "sync_folder"):
                last[change.target] = i
        return [
            all(last.get(folder, -1) > i for folder, _ in change.places)
            if change.name in _NAMES
            else last.get(change.target, -1) > i
            for i, change in enumerate(self.changes[:at])
        ]

    def powerless(self, at: int, rng: np.random.Generator, n_random: int) -> Iterator[Tree]:
        """Yield disks after a loss of power before change number `at`.

        All that is not safe is lost; only the data is; only the names are; any one change of names is; and
        `n_random` mixtures, in which writes may also be torn.
        """
        safe = self.safe(at)
        names = [change.name in _NAMES for change in self.changes[:at]]
        loose = [i for i, kept in enumerate(safe) if not kept]
        yield self._rest(at, dict.fromkeys(loose, 0.0))
        yield self._rest(at, {i: float(names[i]) for i in loose})
        yield self._rest(at, {i: float(not names[i]) for i in loose})
        for lost in [i for i in loose if names[i]]:
            yield self._rest(at, {lost: 0.0})
        for _ in range(n_random):
            yield self._rest(at, {i: float(rng.choice([0.0, 0.5, 1.0])) for i in loose})

    def _rest(self, at: int, share: dict[int, float]) -> Tree:
        tree = self.before.copy()
        for i, change in enumerate(self.changes[:at]):
            kept = share.get(i, 1.0)
            if kept == 1.0 or (kept == 0.5 and change.name in _NAMES):
                tree.apply(change)
            elif kept == 0.5:
                tree.apply(_half(change))
        return tree


def _half(change: Change) -> Change:
    """Return a write of which only the first half arrived; of anything else, nothing."""
    half = change.data[: len(change.data) // 2] if change.name == "write" else b""
    return Change(
        "write" if change.name in _DATA else "sync", change.target, data=half, position=change.position
    )


class Killed(BaseException):
    """The process is gone: nothing it still tries reaches the disk."""


class Mortal:
    """A disk whose process dies before the operation number `at`."""

    def __init__(self, at: int) -> None:
        self._left = at

    def __call__(self, name: str, original: Handler, *args: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise Killed
        return original(*args)


class Faulty:
    """A disk on which the operation number `at` among those called `names` fails, or is cut short."""

    def __init__(
        self, names: tuple[str, ...], at: int, fault: Callable[[], None], *, lasting: bool = False
    ) -> None:
        self._names, self._at, self._fault, self._lasting = names, at, fault, lasting
        self.count = 0

    def __call__(self, name: str, original: Handler, *args: Any) -> Any:
        if name in self._names:
            self.count += 1
            if self.count - 1 == self._at or (self._lasting and self.count > self._at >= 0):
                self._fault()
        return original(*args)
