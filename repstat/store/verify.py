"""Find everything that is wrong with a store."""

from os import PathLike
from pathlib import Path

from repstat.errors import StoreDamagedError, UsageError
from repstat.store.reader import check_agreement, check_disjoint, store_paths
from repstat.store.storefile import StoreFile, load, value_problems


def verify(path: str | PathLike[str]) -> list[str]:
    """Check every rule of the format and every hash.

    Returns
    -------
    list of str
        The problems, each with file, checkpoint and layer; empty if the store is sound.

    Raises
    ------
    UsageError
        If there is nothing at `path`.
    """
    problems: list[str] = []
    sound: list[StoreFile] = []
    for file_path in store_paths(Path(path)):
        try:
            file = load(file_path)
            problems += [str(problem) for problem in value_problems(file)]
            if sound:
                check_agreement(sound[0], file)
                file = file.sharing(sound[0].header.samples)
            sound.append(file)
        except UsageError as error:
            if not file_path.exists():
                raise
            problems.append(str(error))
        except StoreDamagedError as error:
            problems.append(str(error))
    try:
        check_disjoint(sound)
    except UsageError as error:
        problems.append(str(error))
    return problems
