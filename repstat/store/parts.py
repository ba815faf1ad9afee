"""Finished checkpoints, one file each, in the folder where an extraction collects them."""

import contextlib
import re
from collections.abc import Callable
from itertools import chain
from os import PathLike
from pathlib import Path

from repstat.errors import StoreDamagedError, UsageError
from repstat.store import disk
from repstat.store.lock import output_lock
from repstat.store.output import located
from repstat.store.reader import check_disjoint
from repstat.store.staging import stale_files
from repstat.store.storefile import StoreFile, load, value_problems

_PART = re.compile(r"step-[0-9]{12,}\.h5")


def part_name(step: int) -> str:
    """Name the file of one checkpoint, so that names sort like steps."""
    return f"step-{step:012d}.h5"


class Parts:
    """The files of finished checkpoints in `folder`, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[StoreFile] = []
        self._made = False

    def create(self) -> None:
        """Make the folder, durably, if it is not there."""
        if not self.folder.is_dir():
            disk.make_folder(self.folder)
            self._made = True
            disk.sync_folder(self.folder.parent)

    def give_back(self) -> None:
        """Remove the folder if it was made here for nothing."""
        if self._made and not self.files:
            with contextlib.suppress(OSError):
                disk.remove_folder(self.folder)
                self._made = False

    def load(
        self,
        take_over: Callable[[StoreFile], StoreFile],
        *,
        discard: bool = False,
        verify: bool = True,
    ) -> None:
        """Take over what an earlier run left. The caller holds the lock.

        Parameters
        ----------
        take_over
            Returns the file to keep; raises UsageError for one that was made differently.
        discard
            Remove such files, and damaged ones, instead of refusing them.
        verify
            Check the activations too.

        Raises
        ------
        StoreDamagedError, UsageError
            For a file that is damaged, made differently, or of a step that another one has.
        """
        self.files = []
        if not self.folder.is_dir():
            return
        # Whoever renamed them may have died before the folder was synced, or made it and died.
        disk.sync_folder(self.folder)
        disk.sync_folder(self.folder.parent)
        for stale in stale_files(self.folder):
            disk.remove(stale)
        for path in sorted(entry for entry in self.folder.iterdir() if entry.suffix == ".h5"):
            try:
                file = take_over(load(path))
                for problem in value_problems(file) if verify else ():
                    raise problem
            except (StoreDamagedError, UsageError):
                if not (discard and _PART.fullmatch(path.name)):
                    raise
                disk.remove(path)
            else:
                self.files.append(file)
        check_disjoint(self.files)

    def remove(self, steps: frozenset[int]) -> None:
        """Remove the files whose steps are all among `steps`, and the folder if nothing is left in it."""
        gone = [file for file in self.files if steps.issuperset(file.header.steps)]
        for file in gone:
            disk.remove(file.path)
            self.files.remove(file)
        if self.folder.is_dir():
            # A step that was given up must not come back after a loss of power.
            disk.sync_folder(self.folder)
            with contextlib.suppress(OSError):
                disk.remove_folder(self.folder)


def tidy_up(path: str | PathLike[str]) -> int:
    """Remove what a writer that was killed has left half-written.

    Returns
    -------
    int
        How many checkpoints it has finished that are not in the output yet.

    Raises
    ------
    LockedError
        Another writer is at work there.
    """
    output = located(path)
    parts = FolderSwap(output).staging
    folders = [folder for folder in (parts, output) if folder.is_dir()]
    with output_lock(output):
        for stale in [*stale_files(output.parent, output.name), *chain(*map(stale_files, folders))]:
            disk.remove(stale)
        with contextlib.suppress(OSError):
            disk.remove_folder(parts)
    return sum(
        _PART.fullmatch(entry.name) is not None
        for folder in folders
        if folder.is_dir()
        for entry in folder.iterdir()
    )


class FolderSwap:
    """Replace a folder by another one that is complete (docs/store-format.md, section 6)."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self.staging = output.with_name(f"{output.name}.parts")
        # Not a name that somebody gives to a copy of his own.
        self._old = output.with_name(f"{output.name}.replaced")

    def recover(self) -> None:
        """Complete a swap that a crash interrupted.

        Raises
        ------
        UsageError
            If the output is not a folder, or what is there is not ours.
        """
        if self._output.is_symlink() or (self._output.exists() and not self._output.is_dir()):
            raise UsageError(what=f"{self._output} is not a folder", fix="Give another output (-o, store=).")
        if not self._old.is_dir():
            return
        if self._output.exists():
            disk.sync_folder(self._output.parent)
            self._remove_old()
        else:
            disk.rename(self._old, self._output)
            disk.sync_folder(self._output.parent)

    def in_use(self) -> bool:
        """Whether the output holds checkpoints.

        Raises
        ------
        UsageError
            If it holds anything else too: it is not a store, and overwriting would destroy that.
        """
        if not self._output.is_dir():
            return False
        names = [entry.name for entry in self._output.iterdir()]
        foreign = [name for name in names if not _PART.match(name.partition(".tmp-")[0])]
        if foreign:
            raise UsageError(
                what=f"will not write into the folder {self._output}",
                why=f"it contains {foreign[0]!r}, which repstat did not write",
                fix="Give another output (-o, store=), or remove it yourself.",
            )
        return bool(names)

    def commit(self) -> None:
        """Let the staged folder take the place of the output."""
        self._remove_old()
        if self._output.exists():
            disk.rename(self._output, self._old)
        disk.rename(self.staging, self._output)
        disk.sync_folder(self._output.parent)
        self._remove_old()

    def _remove_old(self) -> None:
        if not self._old.is_dir():
            return
        for entry in self._old.iterdir():
            if not _PART.match(entry.name):
                raise UsageError(
                    what=f"{self._old} is in the way",
                    why=f"it contains {entry.name!r}, which repstat did not write",
                    fix="Move it away and run the same command again.",
                )
        for entry in self._old.iterdir():
            disk.remove(entry)
        disk.remove_folder(self._old)
