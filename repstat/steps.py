"""Which training step each file stands for, read from the file names or given by the user."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from repstat.errors import UsageError
from repstat.numbers import step_numbers

_NUMBER = re.compile(
    r"(?P<label>step|global_step|iter(?:ation)?|epoch|ckpt|checkpoint)?[-_=.]?"
    r"(?:(?P<decimal>\d+\.\d+(?:e[-+]?\d+)?|\d+e[-+]\d+)|(?P<digits>\d+))",
    re.IGNORECASE,
)
"""A decimal is seen whole and left out, or the digits of a loss would be a step."""
_PREFERRED = ("step", "global_step", "iter", "iteration", "ckpt", "checkpoint", "epoch")
_SHOWN = 3


def parse_steps(text: str) -> tuple[int, ...]:
    """Read a list of steps such as ``0,10,100``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            what=f"cannot read the steps {text!r}",
            why="integers separated by commas were expected",
            fix="Write for example --steps 0,100,1000",
        ) from None


def assign_steps(
    paths: Sequence[Path], given: Sequence[int] | int | None = None, *, noun: str = "model"
) -> tuple[int, ...]:
    """Return the step of each model file, one per path.

    Parameters
    ----------
    paths
        Model files, in any order.
    given
        Steps named by the user, in the order of `paths`; of one model its step alone will do.
    noun
        What the files are, for messages.

    Returns
    -------
    tuple of int
        Steps, distinct. One model alone without a number in its name is step 0.

    Raises
    ------
    UsageError
        The steps are not distinct, not as many as the models, negative, or not to be read off the names.
    """
    steps = step_numbers(given) if given is not None else _from_names(paths)
    if len(steps) != len(paths):
        raise UsageError(
            what=f"--steps does not fit the {noun}s",
            why=f"found {len(steps)} steps for {len(paths)} {noun}s",
            fix=f"Give one step per {noun}, in the same order",
        )
    first_with: dict[int, Path] = {}
    for path, step in zip(paths, steps, strict=True):
        if step in first_with:
            raise UsageError(
                what=f"two {noun}s stand for step {step}",
                why=_told_apart(first_with[step], path),
                fix="Leave one out, or tell them apart with --steps",
            )
        first_with[step] = path
    return steps


def unnamed_step(path: Path) -> Iterator[str]:
    """Yield a note if one model alone is step 0 though a number is in its name."""
    name = _stem(path)
    numbers = _numbers(name)
    if numbers and not any(_labelled([numbers])):
        number = numbers[-1]["digits"]
        yield (
            f"{path.name} is taken for step 0, since {number} may be a size or a version; if it is the step, "
            f"say so with --steps {int(number)} (steps={int(number)})"
        )


def _told_apart(first: Path, second: Path) -> str:
    if first.name == second.name:
        return f"{first} and {second}"
    return f"{first.name} and {second.name}"


def _from_names(paths: Sequence[Path]) -> tuple[int, ...]:
    """Read the one whole number that tells the file names apart, preferring one labelled as a step.

    Files all called alike or without numbers, ``checkpoint-500/model.safetensors``, are told apart by their
    folders.
    """
    by_folder = len({path.parent.name for path in paths}) > 1 and (
        len({path.name for path in paths}) == 1 or not any(_numbers(_stem(path)) for path in paths)
    )
    found = [_numbers(path.parent.name if by_folder else _stem(path)) for path in paths]
    labelled = list(_labelled(found))
    for steps in labelled:
        if len(paths) == 1 or len(set(steps)) > 1:  # one number for all tells none apart
            return steps
    if len(paths) == 1:
        return (0,)  # a number alone may be a size or a version: resnet50
    columns = list(zip(*[[int(m["digits"]) for m in ms] for ms in found], strict=False))
    varying = [column for column in columns if len(set(column)) == len(paths)]
    if len(varying) == 1 and len({len(ms) for ms in found}) == 1:
        return varying[0]
    if labelled:
        return labelled[0]  # copies of one step: `assign_steps` says so
    names = ", ".join(path.name for path in paths[:_SHOWN])
    raise UsageError(
        what="cannot tell the training steps from the file names",
        why=f"one whole number that differs from file to file was expected in {names}",
        fix=f"Name them like step-000100{paths[0].suffix}, or give --steps 0,100,... (steps=), one for each "
        "in the order given; files of a folder or pattern count in the order of their names, in which 2 "
        f"comes before 10: here {names}{', ...' if len(paths) > _SHOWN else ''}",
    )


def _numbers(name: str) -> list[re.Match[str]]:
    """Return the whole numbers in a name."""
    return [match for match in _NUMBER.finditer(name) if match["digits"]]


def _stem(path: Path) -> str:
    """Return the name without its suffix, which a number after a point is not: a prefix ``e1-0.723``."""
    return path.name if path.suffix[1:].isdecimal() else path.stem


def _labelled(found: Sequence[Sequence[re.Match[str]]]) -> Iterator[tuple[int, ...]]:
    """Yield the numbers after each word for steps that comes once in every name."""
    for label in _PREFERRED:
        labelled = [[m for m in ms if (m["label"] or "").lower() == label] for ms in found]
        if all(len(ms) == 1 for ms in labelled):
            yield tuple(int(ms[0]["digits"]) for ms in labelled)
