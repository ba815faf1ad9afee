"""Join stores of one trajectory into one file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from repstat.errors import StoreDamagedError, UsageError
from repstat.store import disk
from repstat.store.builder import StoreFileBuilder
from repstat.store.header import CREATOR, Records
from repstat.store.layout import predicted_bytes
from repstat.store.lock import output_lock
from repstat.store.output import (
    check_replaceable,
    check_space,
    disk_errors,
    located,
)
from repstat.store.reader import joined_checkpoints, load_all, store_paths
from repstat.store.signals import uninterrupted
from repstat.store.staging import stale_files
from repstat.store.storefile import StoreFile, reading, value_problems
from repstat.store.values import blocks


def merge(
    paths: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    overwrite: bool = False,
) -> Path:
    """Join stores with the same samples and layers and disjoint steps into one file.

    All activations are checked. A single path rewrites a folder as a file.

    Parameters
    ----------
    paths
        Files or folders.
    out
        The file to write; it may be one of `paths` if `overwrite` is given.
    overwrite
        Replace `out` if it exists, once the new file is complete.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    UsageError
        If the stores are not of one trajectory, naming what differs, or `out` exists.
    StoreDamagedError
        If one of them is not sound.
    ResourceError, LockedError
        If the disk is full, or another process writes `out`.
    """
    output = located(out)
    if not paths:
        raise UsageError(what="there is nothing to merge", fix="Name at least one store.")
    with output_lock(output), disk_errors(output):
        check_replaceable(output, overwrite=overwrite)
        for stale in stale_files(output.parent, output.name):
            disk.remove(stale)
        files = load_all([file for path in paths for file in store_paths(Path(path))])
        header = files[0].header
        n_checkpoints = sum(len(file.header.checkpoints) for file in files)
        check_space(
            output,
            predicted_bytes(
                header.samples.n, header.layers, n_checkpoints, header.n_realizations, header.conditional
            ),
        )
        join(files, output)
    return Path(out)


def join(files: Sequence[StoreFile], output: Path) -> StoreFile:
    """Copy the checkpoints of `files`, which are known to belong together, to a new file `output`.

    The caller holds the lock. Memory: a few MiB, whatever the size.

    Raises
    ------
    StoreDamagedError
        If activations differ from their hash; `output` is then as it was.
    OSError
        If the disk failed; likewise.
    """
    checkpoints = joined_checkpoints(files)
    first = min(files, key=lambda file: file.header.steps[0]).header
    position = {checkpoint.step: index for index, checkpoint in enumerate(checkpoints)}
    header = replace(first, checkpoints=checkpoints, created_at="", creator=CREATOR)
    builder: StoreFileBuilder | None = None
    try:
        with uninterrupted():
            builder = StoreFileBuilder(output, header, _joined_records(files, position))
        for file in files:
            _copy(file, builder, position)
        return builder.commit()
    except StoreDamagedError:
        # What was read back is not what the sources record. If one of them is to blame, it is named.
        for problem in (found for file in files for found in value_problems(file)):
            raise problem from None
        raise
    finally:
        if builder is not None:
            builder.discard()


def _joined_records(files: Sequence[StoreFile], position: Mapping[int, int]) -> Records:
    """Return the records of the joined file: those of the sources, in its order."""
    found = {
        position[step]: {key: records[source] for key, records in file.records.items()}
        for file in files
        for source, step in enumerate(file.header.steps)
    }
    return {key: tuple(found[i][key] for i in range(len(position))) for key in files[0].records}


def _copy(file: StoreFile, builder: StoreFileBuilder, position: Mapping[int, int]) -> None:
    with file.open() as handle:
        for source, step in enumerate(file.header.steps):
            for key, table in file.header.tables.items():
                values = handle["layers"][key]["value"]
                place = f"step {step}, layer {key}"
                for stream, rows in _rows(file.path, place, values, source, table.n_streams):
                    builder.append(key, rows, checkpoint=position[step], stream=stream)


def _rows(
    path: Path, place: str, values: h5py.Dataset, index: int, n_streams: int
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Read in blocks. What fails in here is the source's fault, not that of the disk written to."""
    with reading(path, place):
        for stream, _, rows in blocks(values, index, n_streams):
            yield stream, rows
