"""What all that fill a store checkpoint by checkpoint share: what is left to do, and what a checkpoint is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isnan, nan
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from repstat.errors import RepstatError, ResourceError, UsageError
from repstat.progress import Progress
from repstat.steps import assign_steps
from repstat.store import Checkpoint, StoreWriter

T = TypeVar("T")
_LISTED = 4


def remaining(
    writer: StoreWriter, output: str | PathLike[str], sources: Iterable[tuple[T, int]], progress: Progress
) -> list[tuple[T, int]] | None:
    """Say what an earlier run has finished, and return the rest.

    Parameters
    ----------
    writer
        Of `output`, entered.
    sources
        What checkpoints are made from, each with its step.

    Returns
    -------
    rest
        None if the output is complete; an empty list if its checkpoints are only to be joined.
    """
    if writer.complete:
        progress.note(f"{output} is complete already: nothing to do")
        return None
    every = list(sources)
    rest = [(source, step) for source, step in every if step not in writer.done]
    if len(rest) < len(every):
        progress.note(f"resuming: {len(every) - len(rest)} of {len(every)} checkpoints are there")
    return rest


@contextmanager
def told_how_to_go_on(
    writer: StoreWriter, sources: Sequence[str], steps: Sequence[int], step: int
) -> Iterator[None]:
    """Say of a checkpoint that is refused what the finished ones beside it are still good for.

    Parameters
    ----------
    writer
        Which has the finished ones.
    sources, steps
        Name and step of every checkpoint.
    step
        Of the one that is being recorded.
    """
    try:
        yield
    except ResourceError:
        raise  # says itself what helps
    except RepstatError as error:
        if writer.done:
            refused = sources[list(steps).index(step)]
            others = [(s, at) for s, at in zip(sources, steps, strict=True) if at != step]
            error.add_note(f"To go on, mend {refused}, or take it away{_steps_of(others)}, and run again.")
        raise


def _steps_of(checkpoints: Sequence[tuple[str, int]]) -> str:
    """Name the steps of checkpoints whose names do not tell them, or not if they are alone."""
    try:
        told = assign_steps([Path(source) for source, _ in checkpoints])
    except UsageError:
        told = ()
    if told == tuple(step for _, step in checkpoints):
        return ""
    shown = ", ".join(f"{step} for {source}" for source, step in checkpoints[:_LISTED])
    return f" and give --steps (steps=) for the rest, {shown}{', ...' if len(checkpoints) > _LISTED else ''}"


def checkpoint_of(step: int, metrics: Mapping[str, float], **facts: Any) -> Checkpoint:
    """Return a checkpoint; a metric ``epoch`` is its epoch, and NaN there means unknown."""
    others = dict(metrics)
    epoch = others.pop("epoch", nan)
    return Checkpoint(step=step, epoch=None if isnan(epoch) else epoch, metrics=others, **facts)
