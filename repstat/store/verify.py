"""Find everything that is wrong with a store or a results file."""

from os import PathLike
from pathlib import Path

from repstat.errors import StoreDamagedError, UsageError
from repstat.store.reader import check_agreement, check_disjoint, store_paths
from repstat.store.results_file import is_results, open_results
from repstat.store.storefile import StoreFile, load, value_problems


def verify(path: str | PathLike[str]) -> list[str]:
    """Check every rule of the format and every hash, of a store or of a results file.

    Returns
    -------
    list of str
        The problems, each with file, checkpoint and layer; empty if it is sound.

    Raises
    ------
    UsageError
        If there is nothing at `path`.
    """
    if is_results(path := Path(path)):
        return _results_problems(path)
    problems: list[str] = []
    sound: list[StoreFile] = []
    for file_path in store_paths(path):
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


def _results_problems(path: Path) -> list[str]:
    """One hash covers all of a results file, and reading it checks every rule."""
    try:
        open_results(path)
    except StoreDamagedError as error:
        return [str(error)]
    return []
