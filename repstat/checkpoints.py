"""Find the checkpoints of a training: in a folder, by a pattern, or named one by one.

What a file is its content tells (`repstat.discovery.reader_of`), not its suffix alone; from the name comes
only what no content shows, that it is the state of an optimizer. What is left out is said, with the reason.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from glob import has_magic
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from repstat.adapter import AdapterModule
from repstat.discovery import existing_model, find_adapters, reader_of
from repstat.errors import UsageError
from repstat.naming import by_reason, natural_key

_NOT_WEIGHTS = re.compile(
    r"(?P<what>optimi[sz]er|optim|scheduler|scaler|rng[-_]?state|random[-_]?states?|training[-_]args|"
    r"trainer[-_]state)([-_.0-9].*)?",
    re.IGNORECASE,
)
_SIDE_FILES = re.compile(r"\.data-\d{5}-of-\d{5}$|\.onnx[._]data$")
"""Belong to a file that is a checkpoint itself: shards of TensorFlow, external weights of ONNX."""
_NO_MATCH = "nothing matches it"

Reader = Callable[[object], AdapterModule | None]
"""Tells which adapter accepts a path. Looking for the adapters takes milliseconds: once for all paths."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was left out, and why."""

    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class Found:
    """Models in the order of their names, and what is said of the rest."""

    models: tuple[Any, ...]
    notes: tuple[str, ...] = ()


def find_models(arguments: Sequence[Any]) -> Found:
    """Return the models that `arguments` stand for.

    Parameters
    ----------
    arguments
        Each a live model, a file, a folder that is a model, a folder of checkpoints (or of folders that hold
        one each), or a pattern with ``*``, ``?`` or ``[]``.

    Raises
    ------
    UsageError
        A path does not exist, a pattern matches nothing, or there is no checkpoint in a folder.
    """
    reader = partial(reader_of, found=find_adapters())
    models = list[Any]()
    notes = list[str]()
    for argument in arguments:
        if not isinstance(argument, str | PathLike):
            models.append(argument)
            continue
        path = Path(fspath(argument))
        matches = matching(path)
        if matches is not None:
            candidates = matches
            place, empty = f"the pattern {path}", _NO_MATCH
        elif path.is_dir() and reader(path) is None:
            candidates = list(path.iterdir())
            place, empty = f"the folder {path}", "it is empty"
        else:
            models.append(existing_model(path))
            continue
        chosen, skipped = _among(candidates, reader)
        if not chosen:
            raise _nothing(place, empty, skipped)
        models.extend(chosen)
        notes.extend(f"skipped in {place}: {note}" for note in _notes(skipped))
    return Found(tuple(models), tuple(notes))


def matching(path: Path) -> list[Path] | None:
    """Return what a pattern with ``*``, ``?`` or ``[]`` stands for, sorted; None if it is no pattern.

    Raises
    ------
    UsageError
        Nothing matches it.
    """
    if not has_magic(str(path)) or path.exists():
        return None
    found = _in_sight(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not found:
        place = f"the pattern {path}"
        raise _nothing(place, _NO_MATCH, ())
    return found


def _among(candidates: Sequence[Path], reader: Reader) -> tuple[list[Path], list[Skipped]]:
    """Return the checkpoints among files and folders, and what is none."""
    chosen, skipped = list[tuple[Path, Path]](), list[Skipped]()
    for path in _in_sight(candidates):
        model, why = _model_at(path, reader)
        if model is None:
            skipped.append(Skipped(path, why))
        else:
            chosen.append((path, model))
    numbered = [pair for pair in chosen if re.search(r"\d", pair[0].stem)]
    if numbered:
        others = [path for path, model in chosen if (path, model) not in numbered]
        skipped += [Skipped(path, "there is no step in its name") for path in others]
    return [model for _, model in numbered or chosen], skipped


def _in_sight(paths: Iterable[Path]) -> list[Path]:
    """Sort what is neither hidden nor belongs to another file."""
    seen = (path for path in paths if not (path.name.startswith(".") or _SIDE_FILES.search(path.name)))
    return sorted(seen, key=lambda path: natural_key(str(path)))


def _model_at(path: Path, reader: Reader) -> tuple[Path | None, str]:
    """Return the model that a file or folder is, or that a folder holds, or None and why there is none."""
    if match := _NOT_WEIGHTS.fullmatch(path.name):
        return None, f"it is named as the state of something else ({match['what']})"
    if reader(path) is not None:
        return path, ""
    if not path.is_dir():
        return None, "no installed adapter reads it"
    inside = [entry for entry in _in_sight(path.iterdir()) if not _NOT_WEIGHTS.fullmatch(entry.name)]
    models = [entry for entry in inside if reader(entry) is not None]
    if len(models) == 1:
        return models[0], ""
    return None, f"it holds {'no' if not models else len(models)} model files, expected one"


def _notes(skipped: Sequence[Skipped]) -> Iterator[str]:
    return by_reason([(one.path.name, one.why) for one in skipped])


def _nothing(place: str, empty: str, skipped: Sequence[Skipped]) -> UsageError:
    return UsageError(
        what=f"there is no checkpoint in {place}",
        why="; ".join(_notes(skipped)) or empty,
        fix="Name the checkpoints themselves; `repstat info` tells which adapters are installed"
        if skipped
        else "Check the spelling",
    )
