"""The errors a user can meet: what was found, why that is refused, and what to do.

Every error that repstat raises on purpose is a `RepstatError`. It carries an exit code for the command
line and reads ``WHAT in FILE: PLACE: WHY. WHAT TO DO.`` Anything else that escapes is a bug.
"""

from collections.abc import Callable, Mapping
from os import PathLike, fspath
from typing import Any


class RepstatError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    what
        What is wrong, as a noun phrase or short clause, without the file's name.
    why
        What was found and what was expected.
    fix
        What the user can do about it.
    path
        The file or folder concerned, if any.
    place
        Where inside it: a checkpoint, a layer, a column.
    """

    exit_code = 1

    def __init__(
        self,
        *,
        what: str,
        why: str = "",
        fix: str = "",
        path: str | PathLike[str] | None = None,
        place: str = "",
    ) -> None:
        self.what, self.why, self.fix, self.path, self.place = what, why, fix, path, place
        head = what if path is None else f"{what} in {fspath(path)}"
        text = ": ".join(part for part in (head, place, why) if part)
        sentences = [text, fix] if fix else [text]
        self._facts = {"what": what, "why": why, "fix": fix, "path": path, "place": place}
        super().__init__(" ".join(s if s.endswith((".", "?", "!")) else f"{s}." for s in sentences))

    def __reduce__(self) -> tuple[Callable[..., "RepstatError"], tuple[Any, ...]]:
        """Rebuild from the keywords, so that an error crosses from a worker process."""
        return _rebuild, (type(self), self._facts)


def _rebuild(kind: type[RepstatError], facts: Mapping[str, Any]) -> RepstatError:
    return kind(**facts)


class UsageError(RepstatError, ValueError):
    """An argument cannot be right, or a file it names does not exist."""

    exit_code = 2


class InputRefusedError(RepstatError, ValueError):
    """A model or array is invalid or unsafe."""

    exit_code = 3


class StoreDamagedError(RepstatError, ValueError):
    """A store is not one of ours, or breaks a rule of the format."""

    exit_code = 4


class StoreIncompleteError(RepstatError):
    """A store lacks checkpoints that were asked for; extraction can be resumed."""

    exit_code = 5


class ResourceError(RepstatError):
    """Disk, memory or time ran out, or would run out."""

    exit_code = 6


class LockedError(RepstatError):
    """Another process is writing the same output."""

    exit_code = 7


class DeviceUnavailableError(RepstatError):
    """The execution provider or device asked for cannot be used here."""

    exit_code = 2


class AdapterUnavailableError(RepstatError):
    """No installed adapter reads this model."""

    exit_code = 2
