"""Build one store file from rows that arrive in order, and commit it once it has been read back."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from repstat.store.encode import write_header, write_records
from repstat.store.header import Header, Records
from repstat.store.signals import uninterrupted
from repstat.store.staging import StagedFile
from repstat.store.storefile import StoreFile, load, value_problems
from repstat.store.structure import broken, check_structure
from repstat.store.values import ValueTally, put_rows


class StoreFileBuilder:
    """A store file in the making: `append` rows, then `commit` or `discard`.

    Parameters
    ----------
    final
        The name the file gets on `commit`.
    header
        All that is known beforehand.
    records
        Of all values, if they are known: of a copy, they are compared when it is read back, and the values
        need not be hashed on the way.

    Raises
    ------
    OSError
        From every method, if the disk failed; `discard` it then.
    """

    def __init__(self, final: Path, header: Header, records: Records | None = None) -> None:
        self._final = final
        self._records = records
        self._tables = header.tables
        self._tallies = {
            key: [ValueTally(table.n_streams) for _ in header.checkpoints]
            for key, table in self._tables.items()
        }
        self._staged = StagedFile(final)
        try:
            with uninterrupted():
                self._values = write_header(self._staged.h5, header)
                self._staged.check()
        except BaseException as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> NoReturn:
        """Discard the file; what the disk said explains more than what HDF5 made of it."""
        cause = self._staged.failure
        self._staged.discard()
        raise error if cause is None else cause

    def append(self, key: str, rows: NDArray[Any], *, checkpoint: int = 0, stream: int = 0) -> None:
        """Append rows, shape (rows, units), of the layer's dtype, to the table `key`."""
        dataset = self._values[key]
        tally = self._tallies[key][checkpoint]
        stored = np.ascontiguousarray(rows, dtype=dataset.dtype)
        first = stream * self._tables[key].n_rows + tally.n_rows[stream]
        with uninterrupted():
            put_rows(dataset, checkpoint, first, stored)
        self._staged.check()
        tally.add(stream, stored, hashed=self._records is None)

    def n_rows(self, key: str, *, checkpoint: int = 0, stream: int = 0) -> int:
        """Count the rows so far."""
        return self._tallies[key][checkpoint].n_rows[stream]

    def commit(self) -> StoreFile:
        """Complete the file, see it on the disk, read all of it back, and give it its name.

        Returns
        -------
        StoreFile
            The file under its final name.

        Raises
        ------
        StoreDamagedError
            If what was read back is not what was written.
        """
        try:
            records = self._records
            if records is None:
                records = {key: tuple(t.record() for t in tallies) for key, tallies in self._tallies.items()}
            with uninterrupted():
                write_records(self._staged.h5, records)
                for dataset in self._values.values():
                    dataset.flush()
                self._staged.close()
            self._staged.sync()
            written = self._read_back(records)
            self._staged.commit()
        except BaseException as error:
            self._give_up(error)
        return replace(written, path=self._final)

    def _read_back(self, records: Records) -> StoreFile:
        written = load(self._staged.path, check_structure)  # our own file: no gate in another process
        if written.records != records:
            raise broken(written.path, "layers", "the hashes that were written read differently")
        for problem in value_problems(written):
            raise problem
        return written

    def discard(self) -> None:
        """Remove what was written. After `commit` there is nothing to do."""
        self._staged.discard()
