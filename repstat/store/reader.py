"""Open a store, one file or a folder of files, as one trajectory."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py

from repstat.errors import UsageError
from repstat.store.agreement import differences, summary
from repstat.store.gate import judge
from repstat.store.noise import Conditional, NoiseRecord
from repstat.store.schema import Checkpoint, Samples, metric_table, to_json
from repstat.store.storefile import Gate, StoreFile, load
from repstat.store.views import Layers, LayerView

MAX_OPEN_FILES = 64
"""A folder of more files is opened file by file, as they are read."""


class Store:
    """An open store. Made by `open_store`; a context manager.

    Attributes
    ----------
    path
        What was opened.
    samples
        The inputs.
    checkpoints, steps
        By increasing step. Every checkpoint has the metrics of all, NaN where it had none.
    layers
        By key, in forward order.
    identity
        What the extraction recorded for being resumed.
    noise
        What a noisy network's layers added to their activations; None for a deterministic one.
    conditional
        Which inputs were repeated; None if none were.
    provenance
        The distinct records of how checkpoints were extracted.
    """

    def __init__(self, path: Path, files: Sequence[StoreFile]) -> None:
        self.path = path
        self.files = tuple(sorted(files, key=lambda file: file.header.steps[0]))
        first = self.files[0].header
        self.samples: Samples = first.samples
        self.identity: Mapping[str, Any] = first.identity
        self.schema_version: tuple[int, int] = max(f.header.schema_version for f in self.files)
        self.n_realizations: int = first.n_realizations
        self.noise: NoiseRecord | None = first.noise
        self.conditional: Conditional | None = first.conditional
        self.checkpoints: tuple[Checkpoint, ...] = joined_checkpoints(self.files)
        self.provenance: tuple[Mapping[str, Any], ...] = _distinct(
            [checkpoint.provenance for checkpoint in self.checkpoints]
        )
        self._handles: dict[Path, h5py.File] = {}
        self._closed = False
        places = dict(sorted(_places(self.files).items()))
        self.layers: Mapping[str, LayerView] = Layers(
            {
                layer.key: LayerView(layer, index, places, self._opened)
                for index, layer in enumerate(first.layers)
            }
        )

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the checkpoints, increasing."""
        return tuple(checkpoint.step for checkpoint in self.checkpoints)

    @property
    def synthetic(self) -> bool:
        """Whether the inputs were drawn, not measured."""
        return self.samples.synthetic

    def close(self) -> None:
        """Close the files. Activations can no longer be read."""
        self._closed = True
        while self._handles:
            self._handles.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"<Store {str(self.path)!r}: {len(self.checkpoints)} checkpoints, {len(self.layers)} layers, "
            f"{self.samples.n} samples>"
        )

    @contextmanager
    def _opened(self, file: StoreFile) -> Iterator[h5py.File]:
        if self._closed:
            raise UsageError(what=f"the store {self.path} is closed", fix="Read before closing it.")
        if len(self.files) > MAX_OPEN_FILES:
            with file.open() as handle:
                yield handle
            return
        if file.path not in self._handles:
            self._handles[file.path] = file.open()
        yield self._handles[file.path]


def open_store(path: str | PathLike[str], *, gate: Gate = judge) -> Store:
    """Open an activation store: a file, or a folder of files as one trajectory.

    Structure and metadata are checked here, activations when they are read.

    Parameters
    ----------
    path
        The file or folder.
    gate
        Judges each file before this process reads it; by default in a process of its own, which starts once.

    Raises
    ------
    UsageError
        If there is nothing at `path`, or the files of the folder are not of one trajectory.
    StoreDamagedError
        If a file is not an activation store, or not a sound one.
    """
    path = Path(path)
    return Store(path, load_all(store_paths(path), gate))


def load_all(paths: Sequence[Path], gate: Gate = judge) -> list[StoreFile]:
    """Check the files of one trajectory, of a store or of several.

    Raises
    ------
    UsageError
        If one is missing, or they are not of one trajectory.
    StoreDamagedError
        If one is not a sound store.
    """
    files: list[StoreFile] = []
    for path in paths:
        file = load(path, gate)
        if files:
            check_agreement(files[0], file)
            file = file.sharing(files[0].header.samples)
        files.append(file)
    check_disjoint(files)
    return files


def store_paths(path: Path) -> list[Path]:
    """List the files of a store, which need not exist.

    Raises
    ------
    UsageError
        If it is a folder without any, or cannot be looked at.
    """
    try:
        if not path.is_dir():
            return [path]
        files = sorted(entry for entry in path.iterdir() if entry.suffix == ".h5")
    except OSError as error:
        raise UsageError(what=f"cannot open {path}", why=error.strerror or str(error)) from error
    if not files:
        raise UsageError(what=f"there is no store in the folder {path}", why="it has no file *.h5")
    return files


def check_agreement(first: StoreFile, other: StoreFile) -> None:
    """Refuse two files that are not of one trajectory.

    Raises
    ------
    UsageError
        Naming what differs.
    """
    found = differences(first.header, other.header)
    if found:
        raise UsageError(
            what=f"{other.path} is not of the same trajectory as {first.path}",
            why=summary(found, "{name} is {second}, expected {first}"),
            fix="Keep them apart.",
        )


def check_disjoint(files: Sequence[StoreFile]) -> None:
    """Refuse a step that occurs twice.

    Raises
    ------
    UsageError
        Naming the step and its files.
    """
    steps = sorted((step, str(file.path)) for file in files for step in file.header.steps)
    for (step, path), (following, other) in pairwise(steps):
        if step == following:
            raise UsageError(
                what=f"step {step} occurs twice",
                why=f"it is in {path} and in {other}",
                fix="Leave one of them out.",
            )


def joined_checkpoints(files: Sequence[StoreFile]) -> tuple[Checkpoint, ...]:
    """All checkpoints by step, each with the metrics of all."""
    checkpoints = sorted(
        (checkpoint for file in files for checkpoint in file.header.checkpoints),
        key=lambda checkpoint: checkpoint.step,
    )
    table = metric_table(checkpoints)
    return tuple(
        replace(checkpoint, metrics={name: float(values[i]) for name, values in table.items()})
        for i, checkpoint in enumerate(checkpoints)
    )


def _places(files: Sequence[StoreFile]) -> dict[int, tuple[StoreFile, int]]:
    return {step: (file, i) for file in files for i, step in enumerate(file.header.steps)}


def _distinct(records: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    return tuple({to_json(record, what="provenance"): record for record in records}.values())
