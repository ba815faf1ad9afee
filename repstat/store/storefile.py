"""One file of a store, checked on loading and held by its metadata rather than by an open handle."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py

from repstat.errors import RepstatError, StoreDamagedError
from repstat.store.decode import read_header
from repstat.store.gate import judge
from repstat.store.header import Header, Records
from repstat.store.rules import STORE, Form
from repstat.store.schema import Samples
from repstat.store.structure import HDF5_ERRORS, broken, describe, open_for_reading
from repstat.store.values import tally

Gate = Callable[[Path], object]
"""Judges a file before this process reads it; raises StoreDamagedError."""
Stamp = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class StoreFile:
    """A checked file: its header, the records of its activations, and how it looked on the disk."""

    path: Path
    header: Header
    records: Records
    stamp: Stamp = field(repr=False)

    def open(self) -> h5py.File:
        """Open the file again for its activations.

        Raises
        ------
        StoreDamagedError
            If it is not the file that was checked.
        """
        with reading(self.path):
            handle = open_for_reading(self.path)
        try:
            _check_same(self.path, self.stamp)
        except BaseException:
            handle.close()
            raise
        return handle

    def sharing(self, samples: Samples) -> "StoreFile":
        """Return this file with `samples`, known to be equal, for its own: many files, one table."""
        return replace(self, header=replace(self.header, samples=samples))


def load(path: Path, gate: Gate = judge) -> StoreFile:
    """Check a file and read all but its activations.

    Parameters
    ----------
    path
        The file.
    gate
        Judges it before this process reads it: in a process of its own unless we have just written it.

    Raises
    ------
    UsageError
        If there is no such file.
    StoreDamagedError
        If it is not a sound store.
    """
    with unchanged(path) as stamp:
        gate(path)
        with reading(path), open_for_reading(path) as handle:
            header, records = read_header(path, handle)
    return StoreFile(path, header, records, stamp)


def value_problems(file: StoreFile) -> Iterator[StoreDamagedError]:
    """Read all activations of a file; yield what differs from its records."""
    with file.open() as handle:
        for index, step in enumerate(file.header.steps):
            for key, table in file.header.tables.items():
                recorded = file.records[key][index]
                try:
                    with reading(file.path, f"step {step}, layer {key}"):
                        found = tally(handle["layers"][key]["value"], index, table.n_streams)
                except StoreDamagedError as error:
                    yield error
                    continue
                if found.sha256 != recorded.sha256:
                    yield wrong_hash(file.path, step, key, found.sha256, recorded.sha256)
                elif found != recorded:
                    yield broken(file.path, f"step {step}, layer {key}", "the counts of NaN or Inf are wrong")


def wrong_hash(path: Path, step: int, key: str, found: str, recorded: str) -> StoreDamagedError:
    """Return the error for activations that are not those once written."""
    return StoreDamagedError(
        what="the activations are damaged",
        path=path,
        place=f"step {step}, layer {key}",
        why=f"their SHA-256 is {found[:12]}…, recorded is {recorded[:12]}…",
        fix="Take another copy, or extract this checkpoint again.",
    )


@contextmanager
def reading(path: Path, place: str = "", form: Form = STORE) -> Iterator[None]:
    """Turn what HDF5 cannot read into a StoreDamagedError."""
    try:
        yield
    except RepstatError:
        raise
    except MemoryError:
        raise
    except HDF5_ERRORS as error:
        raise broken(path, place, f"HDF5 cannot read it ({describe(error)})", form) from error


@contextmanager
def unchanged(path: Path) -> Iterator[Stamp]:
    """Refuse a file that is replaced in the meantime; yield how it looks on the disk.

    Of a file that is not there, nothing is said here.
    """
    stamp = _stamp(path)
    yield stamp
    _check_same(path, stamp)


def _check_same(path: Path, stamp: Stamp) -> None:
    if _stamp(path) != stamp:
        raise StoreDamagedError(
            what="the store was replaced while it was open", path=path, fix="Open it again."
        )


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return -1, -1, -1, -1
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
